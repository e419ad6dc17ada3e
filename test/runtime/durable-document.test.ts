/**
 * Durable documents: the order of the steps by which one is replaced, what a failure at each of them leaves, and that
 * damage is never taken for absence.
 */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { systemDisk } from "../../runtime/disk.ts";
import { readDocument, writeDocument } from "../../runtime/durable-document.ts";
import { observeDisk } from "../../runtime/failpoints.ts";
import { SimWorld } from "../sim/world/driven.ts";
import { diskError, hookedDisk } from "../support/hooked-disk.ts";

const folder = mkdtempSync(join(tmpdir(), "splitsite-document-"));
after(() => rmSync(folder, { recursive: true }));
const read = (path: string) => readDocument(systemDisk, path, (value) => value);

test("content is durable before it gets its name, and the name before the call settles", async () => {
  const path = join(folder, "state.json");
  const steps: string[] = [];
  const disk = observeDisk(systemDisk, "agent", (name) => steps.push(name));
  await writeDocument(disk, path, { epoch: 1 });
  assert.deepEqual(
    steps.filter((step) => step.endsWith(".after")),
    [
      "agent.state.write.after",
      "agent.state.sync.after",
      "agent.state.rename.after",
      "agent.folder.sync.after",
    ],
  );
  assert.deepEqual(await read(path), { epoch: 1 });
});

test("what was read survives a loss of power, also where its writer was killed before the name was durable", async () => {
  const world = new SimWorld(1);
  const writer = world.life();
  const disk = world.disk.view(writer);
  await world.drive(writeDocument(disk, "/state.json", { epoch: 1 }));
  let isRenamed = false;
  world.disk.onOperation = (_, __, operation, when) => {
    if (operation !== "rename" || when !== "after") return;
    isRenamed = true;
    world.disk.kill(writer);
  };
  // Nobody is told how it ends: its process is gone.
  void writeDocument(disk, "/state.json", { epoch: 2 });
  await world.scheduler.run({ stop: () => isRenamed });
  assert.ok(isRenamed);
  world.disk.onOperation = undefined;
  const reader = world.disk.view(world.life());
  const believed = await world.drive(readDocument(reader, "/state.json", (value) => value));
  world.disk.powerCut("nothing");
  const found = await world.drive(
    readDocument(world.disk.view(world.life()), "/state.json", (value) => value),
  );
  assert.deepEqual(found, believed);
});

test("a step that fails leaves the old document or the new one, never neither", async () => {
  const path = join(folder, "kept.json");
  await writeDocument(systemDisk, path, { epoch: 1 });
  for (const operation of ["open", "write", "sync", "rename"] as const) {
    for (const nth of [1, 2]) {
      let left = nth;
      const disk = hookedDisk((step) => {
        if (step !== operation) return;
        left -= 1;
        if (left === 0) throw diskError("EIO");
      });
      const outcome = await writeDocument(disk, path, { epoch: 2 }).then(
        () => "written",
        () => "failed",
      );
      assert.equal(outcome, left <= 0 ? "failed" : "written", `${operation} ${nth}`);
      const found = (await read(path)) as { epoch: number };
      assert.ok([1, 2].includes(found.epoch));
      if (outcome === "written") assert.equal(found.epoch, 2);
      await writeDocument(systemDisk, path, { epoch: 1 });
    }
  }
});

test("any changed byte is damage or changes nothing; only a missing file is no document", async () => {
  const path = join(folder, "damaged.json");
  assert.equal(await read(join(folder, "absent.json")), undefined);
  await writeDocument(systemDisk, path, { epoch: 17, owner: "primary" });
  const good = readFileSync(path);
  for (let at = 0; at < good.length; at += 1) {
    for (const bit of [1, 2, 16]) {
      const bytes = Buffer.from(good);
      bytes[at]! ^= bit;
      writeFileSync(path, bytes);
      const found = await read(path).catch((error: { code: string }) => error.code);
      if (found !== "DOCUMENT_DAMAGED")
        assert.deepEqual(found, { epoch: 17, owner: "primary" }, `byte ${at}`);
    }
  }
  for (const length of [0, 1, good.length - 3]) {
    writeFileSync(path, good.subarray(0, length));
    await assert.rejects(read(path), { code: "DOCUMENT_DAMAGED" });
  }
});
