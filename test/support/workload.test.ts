/**
 * The client and the workload against servers that are not ours: what they say was written is what a plain NBD server
 * then holds, and a killed server leaves unknown requests, not wrong answers.
 */
import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Child } from "./child.ts";
import { ExpectedRecord } from "./expected.ts";
import { judgeLocal } from "./local-oracle.ts";
import { exportReader, NbdClient, NbdRefused } from "./nbd-client.ts";
import { judgePrefix } from "./prefix-oracle.ts";
import { seedFromEnvironment } from "./seeded.ts";
import { readGroup } from "./state-reader.ts";
import { requireTools } from "./tools.ts";
import { waitForSocket } from "./wait.ts";
import { runWorkload } from "./workload.ts";

const seed = seedFromEnvironment();
const mebibyte = 1 << 20;

test(`what the workload records is what a plain server holds (SEED=${seed})`, {
  skip: requireTools("nbdkit"),
}, async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "splitsite-workload-"));
  const sizes = [8 * mebibyte, 3 * mebibyte];
  const servers = sizes.map(
    (size, index) =>
      new Child(`nbdkit ${index}`, "nbdkit", [
        "-f",
        "-U",
        join(folder, `s${index}`),
        "memory",
        `size=${size}`,
      ]),
  );
  t.after(async () => {
    for (const server of servers) await server.kill();
    await rm(folder, { recursive: true });
  });
  const clients: NbdClient[][] = [];
  for (const index of sizes.keys()) {
    const path = join(folder, `s${index}`);
    await waitForSocket({ path }, servers[index]!.exited);
    clients.push([await NbdClient.connect({ path }, ""), await NbdClient.connect({ path }, "")]);
  }
  assert.deepEqual(
    clients.map(([client]) => client!.sizeBytes),
    sizes,
  );
  const record = new ExpectedRecord(seed, sizes);
  const result = await runWorkload({ record, clients, depth: 16, requestsMax: 1_500 });
  assert.equal(result.answered, 1_500);
  const state = await readGroup(
    clients.map(([client]) => exportReader(client!)),
    seed,
  );
  const answered = record.count("answered");
  assert.deepEqual(judgeLocal(record, state, "answered"), []);
  const verdict = judgePrefix({
    record,
    state,
    required: ({ outcome }) => outcome === "answered",
    sequence: answered,
  });
  assert.ok(verdict.consistent, JSON.stringify(verdict));

  const killed = runWorkload({
    record,
    clients,
    depth: 16,
    onAnswered: (count) => {
      if (count === 200) for (const server of servers) server.signal("SIGKILL");
    },
  });
  const { unknown } = await killed;
  assert.ok(unknown > 0);
  assert.equal(record.count("unknown") > 0, true);
  assert.equal(record.count("flying"), 0);
});

test("an export that is not served is refused by code", { skip: requireTools("qemu-nbd") }, async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "splitsite-workload-"));
  const path = join(folder, "s");
  const image = join(folder, "image");
  await writeFile(image, Buffer.alloc(mebibyte));
  const server = new Child("qemu-nbd", "qemu-nbd", [
    "-k",
    path,
    "-x",
    "one",
    "-f",
    "raw",
    "-e",
    "4",
    "-t",
    image,
  ]);
  t.after(async () => {
    await server.kill();
    await rm(folder, { recursive: true });
  });
  await waitForSocket({ path }, server.exited);
  await assert.rejects(NbdClient.connect({ path }, "other"), NbdRefused);
});
