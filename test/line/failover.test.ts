/**
 * F63, F64, F65, F69: the standby takes over while the line is bad and the old owner is alive and writing. Several
 * operators order it at once, at both sites; one order does it. The old owner returns, ends with ESHUTDOWN, changes
 * nothing at the new owner, and keeps what it had not sent, also after a restart.
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import type { FailoverResult } from "../../protocol/admin.ts";
import type { Finished } from "../support/child.ts";
import { ExpectedRecord } from "../support/expected.ts";
import { judgeLocal } from "../support/local-oracle.ts";
import { exportReader, NbdRefused } from "../support/nbd-client.ts";
import { judgePrefix } from "../support/prefix-oracle.ts";
import type { Relay } from "../support/relay.ts";
import { startRelay } from "../support/relay.ts";
import { seedFromEnvironment } from "../support/seeded.ts";
import type { SiteName } from "../support/sites.ts";
import { groupName, lastJson, TwoSites } from "../support/sites.ts";
import { imageFile, readGroup } from "../support/state-reader.ts";
import { until } from "../support/wait.ts";
import { enoughWork, runWorkload, workWanted } from "../support/workload.ts";
import { imageDigest } from "./image-digest.ts";

const seed = seedFromEnvironment();
const mebibyte = 1 << 20;
const sizes = [8 * mebibyte, 2 * mebibyte];
const eshutdown = 108;
const fencedWithinMs = 15_000;
/** Records that must be unsent when the standby takes over, or the run says nothing about a tail. */
const tailMin = 50;

function order(sites: TwoSites, site: SiteName): Promise<Finished> {
  return sites.cli(site, "failover", "run", groupName, "--yes", "--json", "--reason", "no line");
}

function refusalOf(finished: Finished): unknown {
  const line = finished.output.trimEnd().split("\n").at(-1) ?? "";
  return (JSON.parse(line) as { id?: unknown }).id;
}

test(`taken over once, whoever orders it, while the old owner writes; it comes back fenced with its tail (F63, F64, F65, F69, SEED=${seed})`, async (t) => {
  let relay: Relay | undefined;
  const sites = await TwoSites.create({
    volumes: { data: sizes[0]!, log: sizes[1]! },
    line: async (port) => {
      relay = await startRelay({
        listenPort: 0,
        target: { host: "127.0.0.1", port },
        delayMs: 20,
        resetPerMebibyte: 0.1,
        seed,
      });
      return relay.port;
    },
  });
  t.after(async () => {
    await sites.dispose();
    await relay?.close();
  });
  await Promise.all([sites.start("dr"), sites.start("primary")]);
  await sites.waitServing("primary");
  const record = new ExpectedRecord(seed, sizes);
  const clients = await sites.connect("primary", 2);
  const load = runWorkload({ record, clients, depth: 8, bytesPerSecond: 3e6 });
  await until("some protection", async () =>
    (await sites.owner("primary")).position.acknowledged > 200 ? true : undefined,
  );

  await enoughWork(record);
  relay!.cut();
  const cutAt = record.count("answered");
  await until("an unsent tail", () => (record.count("answered") >= cutAt + tailMin ? true : undefined));
  const { acknowledged } = (await sites.owner("primary")).position;
  // Two at the standby's site at once, and one who mistakes the site.
  const [one, other, mistaken] = await Promise.all([
    order(sites, "dr"),
    order(sites, "dr"),
    order(sites, "primary"),
  ]);
  assert.equal(mistaken.code, 6, mistaken.output);
  const done = [one, other].filter(({ code }) => code === 0);
  assert.equal(done.length, 1, `${one.output}\n${other.output}`);
  const late = one.code === 0 ? other : one;
  assert.equal(late.code, 6, late.output);
  assert.match(String(refusalOf(late)), /^FAILOVER_(RUNNING|DONE)$/);
  const result = lastJson(done[0]!.stdout) as FailoverResult;
  assert.equal(result.epoch, 2);
  const again = await order(sites, "dr");
  assert.deepEqual([again.code, refusalOf(again)], [6, "FAILOVER_DONE"], again.output);
  const point = result.point.sequence;
  assert.ok(
    point >= acknowledged,
    `point ${point} is before ${acknowledged}, which was reported acknowledged`,
  );

  // The old owner cannot know yet, and its clients are served: what they write now is the divergence.
  const atFailover = record.count("answered");
  await until("the old owner to write on", () =>
    record.count("answered") > atFailover + 20 ? true : undefined,
  );
  const promoted = await sites.connect("dr");
  const judge = async (context: string) => {
    const state = await readGroup(
      promoted.map(([client]) => exportReader(client!)),
      seed,
    );
    const verdict = judgePrefix({ record, state, sequence: point });
    assert.ok(verdict.consistent, `SEED=${seed} ${context}: ${JSON.stringify(verdict)}`);
    const lost = record.mutations.length - point;
    assert.ok(
      result.loss.writesMin <= lost,
      `${result.loss.writesMin} stated as lost at least, ${lost} at most`,
    );
  };
  await judge("after the failover");
  const digest = await imageDigest(sites, "dr", "standby");

  relay!.restore();
  const fenced = await until(
    "the old owner to find itself fenced",
    async () => {
      const status = await sites.owner("primary");
      return status.state === "fenced" ? status : undefined;
    },
    fencedWithinMs,
  );
  assert.equal(fenced.io, "refused");
  const outcome = await load;
  for (const client of clients.flat()) await client.destroy();
  record.settle();
  assert.deepEqual([...outcome.errnos], outcome.refused > 0 ? [eshutdown] : [], JSON.stringify(outcome));
  assert.ok(outcome.refused + outcome.unknown > 0, "invalid run: no writer met the fence");
  const answered = record.count("answered");
  assert.ok(fenced.position.written >= answered, `${fenced.position.written} kept of ${answered} answered`);
  assert.ok(answered > point + tailMin, `invalid run: the tail was ${answered - point} writes`);

  const tailKept = async (context: string) => {
    const status = await until(`${context}: the old owner fenced`, async () => {
      const each = await sites.owner("primary").catch(() => undefined);
      return each?.state === "fenced" ? each : undefined;
    });
    assert.ok(status.position.written >= answered, `${context}: ${JSON.stringify(status.position)}`);
    assert.ok(existsSync(`${sites.dataDir("primary")}/agent/${groupName}/journal-1`), context);
    const images = [];
    for (const { name, sizeBytes } of sites.volumes)
      images.push(imageFile(await sites.homeImage("primary", name), sizeBytes));
    const problems = judgeLocal(record, await readGroup(images, seed), "answered");
    assert.deepEqual(problems, [], `SEED=${seed} ${context}`);
    await assert.rejects(sites.connect("primary"), NbdRefused, context);
  };
  // Closing is part of being fenced: until the images have it all, the journal does.
  await sites.stop("primary");
  await sites.start("primary");
  await tailKept("after a restart");
  await sites.kill("primary");
  await sites.start("primary");
  await tailKept("after a kill");

  await judge("after the old owner's return");
  assert.equal(
    await imageDigest(sites, "dr", "standby"),
    digest,
    `SEED=${seed}: the old owner changed bytes`,
  );
  const owner = await sites.owner("dr");
  assert.deepEqual([owner.epoch, owner.io, owner.position.written], [2, "serving", point]);
  for (const [client] of promoted) await client!.close();
  const figures = `point ${point}, ${acknowledged} known acknowledged, ${answered} answered, ${outcome.refused} refused, ${outcome.unknown} unknown, stated lost at least ${result.loss.writesMin}, ${record.flushes} flushes`;
  t.diagnostic(figures);
  assert.ok(
    answered >= workWanted.writes && record.flushes >= workWanted.flushes,
    `invalid run, too little work: ${figures}`,
  );
});
