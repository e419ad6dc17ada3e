/**
 * F47, F51, F66: batches come twice, answers are lost after the batch was applied, and whole recorded batches come again
 * long after: the next day, after a restart of the gateway, after a failover and after the new owner has written. They
 * come over TLS with the primary's own certificate, so nothing but the product's checks stands in their way. Exactly
 * one effect, and later none at all.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseBatchAnswer, wanRoutes } from "../../protocol/control.ts";
import { ExpectedRecord } from "../support/expected.ts";
import { judgePrefix } from "../support/prefix-oracle.ts";
import { SeededRandom, seedFromEnvironment } from "../support/seeded.ts";
import { groupName, TwoSites } from "../support/sites.ts";
import { stampData } from "../support/stamp.ts";
import { imageFile, readGroup } from "../support/state-reader.ts";
import { until } from "../support/wait.ts";
import { enoughWork, runWorkload, workWanted } from "../support/workload.ts";
import { imageDigest } from "./image-digest.ts";
import { lineRounds } from "./rounds.ts";
import { pemsOf, TlsMiddle } from "./tls-middle.ts";

const seed = seedFromEnvironment();
const mebibyte = 1 << 20;
const sizes = [8 * mebibyte, 2 * mebibyte];

test(`doubled, unanswered and recorded batches have one effect, and after a failover none (F47, F51, F66, SEED=${seed})`, async (t) => {
  const random = new SeededRandom(seed, 1);
  let middle: TlsMiddle | undefined;
  const sites = await TwoSites.create({
    volumes: { data: sizes[0]!, log: sizes[1]! },
    line: async (port, folder) => {
      middle = new TlsMiddle(port, pemsOf(folder));
      return middle.listen();
    },
  });
  t.after(async () => {
    await sites.dispose();
    await middle?.close();
  });
  await Promise.all([sites.start("dr"), sites.start("primary")]);
  await sites.waitServing("primary");
  const thief = middle!;

  const record = new ExpectedRecord(seed, sizes);
  const clients = await sites.connect("primary", 2);
  const stop = new AbortController();
  const load = runWorkload({ record, clients, depth: 8, bytesPerSecond: 4e6, signal: stop.signal });
  const wanted = lineRounds(25, 2_000);
  thief.treat = () => {
    const lot = random.fraction();
    return { kind: lot < 0.3 ? "twice" : lot < 0.6 ? "loseAnswer" : "pass" };
  };
  await until(
    "enough doubled batches and lost answers",
    () => (thief.done.twice >= wanted && thief.done.loseAnswer >= wanted ? true : undefined),
    60_000,
  );
  thief.treat = () => ({ kind: "pass" });
  const beforeEnd = (await sites.owner("primary")).position.acknowledged;
  await until("more to be acknowledged", async () =>
    (await sites.owner("primary")).position.acknowledged > beforeEnd ? true : undefined,
  );
  await enoughWork(record);
  stop.abort();
  const result = await load;
  assert.equal(result.refused + result.unknown, 0, JSON.stringify(result));
  assert.deepEqual(result.problems, []);
  for (const client of clients.flat()) await client.close();
  const sequence = await sites.waitIdle("primary", "dr");
  const judge = async () => {
    const images = [];
    for (const { name, sizeBytes } of sites.volumes)
      images.push(imageFile(await sites.standbyImage("dr", name), sizeBytes));
    const verdict = judgePrefix({
      record,
      state: await readGroup(images, seed),
      required: ({ outcome }) => outcome === "answered",
      sequence,
    });
    assert.ok(verdict.consistent, `SEED=${seed}: ${JSON.stringify(verdict)}`);
  };
  await judge();

  let replayed = 0;
  /** Recorded batches, some of them twice, in any order. */
  const replay = async () => {
    const kinds = new Map<string, number>();
    const count = lineRounds(60, 4_000);
    const chosen = random.shuffle([...thief.stored, ...thief.stored]).slice(0, count);
    // The newest and the oldest are the likeliest to be taken for something new.
    for (const { path, body } of [...chosen, thief.stored.at(-1)!, thief.stored[0]!]) {
      const reply = await thief.post(path, body);
      assert.equal(reply.status, 200, reply.body.toString());
      const answer = parseBatchAnswer(reply.body);
      if (answer.kind === "acknowledged") assert.equal(answer.durable, sequence);
      kinds.set(answer.kind, (kinds.get(answer.kind) ?? 0) + 1);
      replayed += 1;
    }
    return [...kinds.keys()];
  };
  const unchanged = async (digest: string, context: string) => {
    assert.equal(await imageDigest(sites, "dr", "standby"), digest, `SEED=${seed} ${context}: bytes changed`);
    const { position } = await sites.standby("dr");
    assert.deepEqual(position, { received: sequence, durable: sequence, applied: sequence }, context);
  };
  const digest = await imageDigest(sites, "dr", "standby");
  assert.deepEqual(await replay(), ["acknowledged"]);
  await unchanged(digest, "right after");
  await sites.stop("dr");
  await sites.start("dr");
  assert.deepEqual(await replay(), ["acknowledged"]);
  await unchanged(digest, "after a restart of the gateway");
  await judge();

  await sites.kill("primary");
  const failover = await sites.failover("dr");
  assert.equal(failover.point.sequence, sequence);
  await sites.waitServing("dr");
  // The images stay where they are; the agent of this site keeps them now.
  assert.deepEqual(await replay(), ["superseded"]);
  assert.equal(
    await imageDigest(sites, "dr", "standby"),
    digest,
    `SEED=${seed} after a failover: bytes changed`,
  );
  for (const [what, path] of [
    ["hello", wanRoutes.hello(groupName)],
    ["heartbeat", wanRoutes.heartbeat(groupName)],
  ] as const) {
    const { lineage } = await sites.owner("dr");
    const message = {
      lineage,
      token: { epoch: 1, owner: "primary" },
      volumes: sites.volumes.map(({ name, sizeBytes }, number) => ({ number, name, sizeBytes })),
      durable: { sequence, chain: "00".repeat(32) },
      genesis: "00".repeat(32),
      create: true,
      answered: sequence,
      dataBytesTotal: 0,
      wallMs: 0,
    };
    const reply = await thief.post(path, Buffer.from(JSON.stringify(message)));
    const { kind } = JSON.parse(reply.body.toString()) as { kind: string };
    assert.equal(kind, "superseded", `${what}: ${reply.body.toString()}`);
  }

  // The new owner writes; then, days later and after another restart, the old batches come again.
  const [promoted] = await sites.connect("dr");
  const data = stampData(seed + 1, 1, 0, 0, 4096);
  assert.equal((await promoted![0]!.write(0, data, true)).outcome, "answered");
  assert.deepEqual(await replay(), ["superseded"]);
  assert.deepEqual((await promoted![0]!.read(0, 4096)) as unknown, { outcome: "answered", data });
  await promoted![0]!.close();
  await sites.stop("dr");
  await sites.start("dr");
  await sites.waitServing("dr");
  assert.deepEqual(await replay(), ["superseded"]);
  const [again] = await sites.connect("dr");
  assert.deepEqual((await again![0]!.read(0, 4096)) as unknown, { outcome: "answered", data });
  await again![0]!.close();
  assert.equal((await sites.owner("dr")).position.written, sequence + 1, "nothing but the new owner's write");

  const figures = `${thief.done.twice} doubled, ${thief.done.loseAnswer} answers lost, ${replayed} recorded batches sent again, ${record.count("answered")} writes answered, ${record.flushes} flushes`;
  t.diagnostic(figures);
  assert.ok(
    record.count("answered") >= workWanted.writes && record.flushes >= workWanted.flushes,
    `invalid run, too little work: ${figures}`,
  );
});
