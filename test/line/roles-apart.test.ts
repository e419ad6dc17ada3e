/**
 * The standby's site as two processes, agent and gateway, from the first batch to the new owner's writes: either may be
 * killed on the way, the hand-over crosses from one to the other, and an agent that is not there leaves a failover that
 * is fenced, kept and finished when it is (F04, F63, F67, F69).
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { FailoverResult } from "../../protocol/admin.ts";
import type { SiteStatus } from "../../protocol/status.ts";
import { ExpectedRecord } from "../support/expected.ts";
import { exportReader, NbdRefused } from "../support/nbd-client.ts";
import { judgePrefix } from "../support/prefix-oracle.ts";
import { SeededRandom, seedFromEnvironment } from "../support/seeded.ts";
import { groupName, lastJson, TwoSites } from "../support/sites.ts";
import { stampData } from "../support/stamp.ts";
import { readGroup } from "../support/state-reader.ts";
import { until } from "../support/wait.ts";
import { enoughWork, runWorkload, workWanted } from "../support/workload.ts";

const seed = seedFromEnvironment();
const mebibyte = 1 << 20;
const sizes = [8 * mebibyte, 2 * mebibyte];

test(`agent and gateway as two processes: replicate, take over without the agent, go on with it (F63, SEED=${seed})`, async (t) => {
  const random = new SeededRandom(seed, 1);
  const sites = await TwoSites.create({ volumes: { data: sizes[0]!, log: sizes[1]! } });
  t.after(() => sites.dispose());
  await Promise.all([sites.start("dr", "gateway"), sites.start("dr", "agent"), sites.start("primary")]);
  await sites.waitServing("primary");
  await assert.rejects(sites.connect("dr"), NbdRefused, "a site that stands by serves nothing");
  const record = new ExpectedRecord(seed, sizes);
  const clients = await sites.connect("primary", 2);
  const load = runWorkload({ record, clients, depth: 8, bytesPerSecond: 4e6 });
  let acknowledged = 0;
  const advance = (records: number) => {
    const target = acknowledged + records;
    return until(`${records} more to be acknowledged`, async () => {
      acknowledged = Math.max(acknowledged, (await sites.owner("primary")).position.acknowledged);
      return acknowledged >= target ? true : undefined;
    });
  };
  await advance(100 + random.below(100));
  // Neither needs the other while it replicates.
  await sites.kill("dr", "agent");
  await advance(50);
  await sites.kill("dr", "gateway");
  await sites.start("dr", "gateway");
  await advance(100 + random.below(100));
  await enoughWork(record);

  await sites.kill("primary");
  const result = await load;
  record.settle();
  for (const client of clients.flat()) await client.destroy();
  assert.equal(result.refused, 0, `refused with ${result.errnos.join(", ")}`);

  // The agent is down: fenced, sealed, handed over, and not served yet.
  const order = () =>
    sites.cli("dr", "failover", "run", groupName, "--yes", "--json", "--reason", "site gone");
  const without = await order();
  assert.equal(without.code, 8, without.output);
  const standing = await sites.standby("dr");
  assert.notEqual(standing.state, "protected");
  await sites.start("dr", "agent");
  const finished = await order();
  // An agent that starts finds the hand-over by itself; the order then only finishes the report.
  assert.equal(finished.code, 0, finished.output);
  const failover = lastJson(finished.stdout) as FailoverResult;
  const point = failover.point.sequence;
  assert.equal(failover.epoch, 2);
  assert.deepEqual(
    failover.exports.map(({ volume }) => volume),
    sites.volumes.map(({ name }) => name),
  );
  assert.ok(
    point >= acknowledged,
    `point ${point} is before ${acknowledged}, which was reported acknowledged`,
  );
  await sites.waitServing("dr");
  const promoted = await sites.connect("dr");
  const state = await readGroup(
    promoted.map(([client]) => exportReader(client!)),
    seed,
  );
  const verdict = judgePrefix({ record, state, sequence: point });
  assert.ok(verdict.consistent, `SEED=${seed}: ${JSON.stringify(verdict)}`);

  const status = await sites.cli("dr", "status", "--json");
  const { groups } = lastJson(status.stdout) as SiteStatus;
  assert.deepEqual(
    groups.map(({ group, role, epoch }) => [group, role, epoch]),
    [[groupName, "owner", 2]],
    "one group, once, whichever process is asked",
  );
  const once = await order();
  assert.equal(once.code, 6, once.output);

  // The new owner's writes survive the death of both processes, and the agent needs no gateway to serve.
  const data = stampData(seed + 1, 1, 0, 0, 4096);
  assert.equal((await promoted[0]![0]!.write(0, data, true)).outcome, "answered");
  for (const [client] of promoted) await client!.close();
  await sites.kill("dr", "gateway");
  await sites.kill("dr", "agent");
  await sites.start("dr", "agent");
  await sites.waitServing("dr");
  const [reader] = await sites.connect("dr");
  assert.deepEqual(await reader![0]!.read(0, 4096), { outcome: "answered", data });
  for (const client of reader!) await client.close();
  await sites.start("dr", "gateway");

  await sites.start("primary");
  await until("the old owner to find itself fenced", async () => {
    const group = await sites.owner("primary").catch(() => undefined);
    return group?.state === "fenced" && group.io === "refused" ? true : undefined;
  });
  await sites.stop("dr", "agent");
  await sites.stop("dr", "gateway");
  const figures = `point ${point}, ${acknowledged} known acknowledged, ${record.count("answered")} answered, ${record.flushes} flushes`;
  t.diagnostic(figures);
  assert.ok(
    record.count("answered") >= workWanted.writes && record.flushes >= workWanted.flushes,
    `invalid run, too little work: ${figures}`,
  );
});
