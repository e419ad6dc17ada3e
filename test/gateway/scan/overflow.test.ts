/**
 * A standby that is told of gaps by an owner driven by hand, under kills at random moments: it says that it can be opened at
 * the point before the first gap and nowhere else, a failover at any moment of the resync opens exactly that and states what
 * lies behind it as lost, and at the end of the resync the images are the owner's and the point is given back.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { afterEach, beforeEach, test } from "node:test";
import { parseStandbyDocument } from "../../../gateway/state.ts";
import { Pins } from "../../../image/history/pins.ts";
import type { PointList } from "../../../protocol/admin.ts";
import { parseHandoverRecord } from "../../../protocol/handover.ts";
import { blockBytes } from "../../../protocol/ids.ts";
import type { ScanPurpose } from "../../../protocol/record.ts";
import { systemDisk } from "../../../runtime/disk.ts";
import { readDocument } from "../../../runtime/durable-document.ts";
import { SeededRandom, seedFromEnvironment } from "../../support/seeded.ts";
import { until } from "../../support/wait.ts";
import { StandbySite, volumes } from "../standby-site.ts";
import { bitsOf, chunks, HandOwner, unlessGone } from "./hand-owner.ts";

const seed = seedFromEnvironment();
let site: StandbySite;
let random: SeededRandom;
beforeEach(async () => {
  site = await StandbySite.make();
  random = new SeededRandom(seed);
});
afterEach(async () => site.remove());

const emptyDisks = (): Buffer[] => volumes.map(({ sizeBytes }) => Buffer.alloc(sizeBytes));

/** What the owner's disks and its history held where a failover should open. */
interface Point {
  readonly sequence: number;
  readonly dataBytesTotal: number;
  readonly disks: readonly Buffer[];
}

function pointOf(owner: HandOwner): Point {
  owner.cut();
  const dataBytesTotal = owner.source.frames.at(-1)?.dataBytesTotal ?? 0;
  return {
    sequence: owner.source.last,
    dataBytesTotal,
    disks: owner.standby.map((disk) => Buffer.from(disk)),
  };
}

/** Digests of every chunk; content of those that differ. `step` sends what was put, and goes on in its own way. */
async function walk(
  owner: HandOwner,
  purpose: ScanPurpose,
  step: (learn: number | undefined) => Promise<string | undefined>,
): Promise<number> {
  const begin = owner.mark("begin", purpose);
  for (const chunk of chunks) {
    let bits: string | undefined;
    while (bits === undefined) {
      owner.write(random.below(10));
      bits = await step(owner.digest(chunk, "chunk"));
    }
    if (bits === "") continue;
    let leaves: string | undefined;
    while (leaves === undefined) leaves = await step(owner.digest(chunk, "leaf"));
    for (const leaf of bitsOf(leaves))
      owner.content(chunk.volume, chunk.offset + leaf * blockBytes, blockBytes);
    await step(undefined);
  }
  return begin;
}

const sendAndLearn =
  (owner: HandOwner) =>
  async (sequence: number | undefined): Promise<string | undefined> => {
    await owner.send(site);
    return sequence === undefined ? undefined : owner.learn(site, sequence);
  };

const standing = () => readDocument(systemDisk, site.paths.state, parseStandbyDocument);
async function points(): Promise<number[]> {
  const answer = await site.admin("GET", "/v1/groups/erp/gateway/points");
  assert.ok("json" in answer);
  return (answer.json as PointList).points.map(({ sequence }) => sequence);
}

const pins = () => site.role!.statuses()[0]!.history.pins.map(({ sequence }) => sequence);

test(`a gap, a second one, and the resync between: what can be opened is the point before the first (SEED=${seed})`, async () => {
  const owner = new HandOwner(seed, emptyDisks(), emptyDisks());
  await site.start();
  await site.hello(owner.source);
  owner.write(40);
  const point = pointOf(owner);
  owner.drop(1_000);
  owner.write(3);
  await owner.send(site);
  await owner.applied(site);
  const requirePoint = async (): Promise<void> => {
    await owner.applied(site);
    await site.heartbeat(owner.source);
    const status = site.role!.statuses()[0]!;
    assert.deepEqual([status.state, status.reason?.code], ["catching-up", "RESYNC"]);
    assert.equal(status.consistent?.sequence, point.sequence);
    assert.match(status.reason?.message ?? "", new RegExp(`sequence ${point.sequence} `));
    assert.deepEqual([status.history.oldest, status.history.newest], [point.sequence, point.sequence]);
    assert.deepEqual(pins(), [point.sequence]);
    assert.equal((await owner.greet(site)).lacks, "resync");
    const answer = await site.admin("GET", "/v1/groups/erp/failover/plan");
    assert.ok("json" in answer);
    // biome-ignore lint/suspicious/noExplicitAny: looked at field by field.
    const plan = answer.json as any;
    assert.deepEqual([plan.point.sequence, plan.toApply.records], [point.sequence, 0]);
    const total = owner.source.frames.at(-1)!.dataBytesTotal;
    assert.equal(plan.loss.writesMin, owner.source.last - point.sequence);
    assert.equal(plan.loss.bytesMin, total - point.dataBytesTotal);
    const { incomplete } = (await standing())!;
    assert.equal(incomplete?.since, point.sequence + 1);
    assert.equal((await points()).at(-1), point.sequence, "ends of steps behind it are no points");
  };
  await requirePoint();
  const first = await walk(owner, "resync", sendAndLearn(owner));
  await owner.send(site);
  await requirePoint();
  // Dropped again while it walks: what it has walked may have changed, and its end is not to be believed.
  owner.drop(7);
  owner.mark("end", "resync", first);
  await owner.send(site);
  await requirePoint();
  assert.deepEqual(
    [(await standing())?.incomplete?.scan, (await standing())?.incomplete?.until],
    [null, null],
  );
  await site.stop();
  await site.start();
  await owner.greet(site);
  await requirePoint();
  const second = await walk(owner, "resync", sendAndLearn(owner));
  assert.ok(owner.differed > 0, "what was dropped is found");
  const end = owner.mark("end", "resync", second);
  await owner.send(site);
  await owner.applied(site);
  assert.equal((await standing())?.incomplete?.until, end);
  assert.equal((await owner.greet(site)).lacks, undefined);
  await until("the pin is given back", () => (pins().length === 0 ? true : undefined));
  assert.deepEqual(site.images(), owner.disks);
  assert.equal(site.role!.statuses()[0]!.consistent?.sequence, end);
  const listed = await points();
  assert.equal(listed.at(-1), end);
  assert.deepEqual(
    listed.filter((sequence) => sequence > point.sequence && sequence < end),
    [],
    "nor are they afterwards",
  );
  assert.equal((await site.failover()).at(-1)?.result.point.sequence, end);
  assert.deepEqual(site.images(), owner.disks);
});

test(`killed at random under gaps and resyncs: equal in the end, and the point before the last gap was kept (SEED=${seed})`, async () => {
  const owner = new HandOwner(seed, emptyDisks(), emptyDisks());
  let child = await site.startChild();
  await site.hello(owner.source);
  let kills = 0;
  const alive = async (work: () => Promise<void>): Promise<void> => {
    for (;;) {
      const exited = once(child, "exit");
      const isKilled = random.chance(kills < 16 ? 0.4 : 0);
      const timer = isKilled ? setTimeout(() => child.kill("SIGKILL"), random.below(40)) : undefined;
      const whole = await unlessGone(work);
      if (timer === undefined) {
        assert.ok(whole, "nobody killed it");
        return;
      }
      await exited;
      kills += 1;
      await site.client?.destroy();
      child = await site.startChild();
      assert.equal((await owner.greet(site)).kind, "attached");
      if (whole) return;
    }
  };
  const step = async (sequence: number | undefined): Promise<string | undefined> => {
    let bits: string | undefined;
    await alive(async () => {
      bits = await sendAndLearn(owner)(sequence);
    });
    return bits;
  };
  for (let round = 0; round < 3; round += 1) {
    owner.write(20);
    await step(undefined);
    owner.drop(1 + random.below(50));
    await step(undefined);
    if (random.chance(0.5)) {
      owner.mark("begin", "resync");
      owner.write(5);
      owner.drop(1 + random.below(50));
    }
    const begin = await walk(owner, "resync", step);
    owner.mark("end", "resync", begin);
    await step(undefined);
  }
  await owner.applied(site);
  const point = pointOf(owner);
  owner.drop(20);
  owner.write(30);
  await step(undefined);
  await owner.applied(site);
  const exited = once(child, "exit");
  child.kill("SIGKILL");
  await exited;
  await site.client?.destroy();
  await site.start();
  await owner.greet(site);
  assert.deepEqual(pins(), [point.sequence]);
  await owner.applied(site);
  assert.deepEqual(site.images(), owner.standby, "the images are what the model says");
  assert.ok(kills > 0);
  const result = (await site.failover()).at(-1)!.result;
  assert.equal(result.point.sequence, point.sequence);
  assert.deepEqual(site.images(), point.disks);
});

const moments = ["", "raise", "seal", "apply", "record", "adopt", "report"] as const;
for (const killAt of moments) {
  const when = killAt === "" ? "not killed" : `killed at ${killAt}`;
  test(`a failover in the midst of a resync, ${when}, opens the prefix that was pinned (SEED=${seed})`, async () => {
    random = new SeededRandom(seed, 10 + moments.indexOf(killAt));
    const owner = new HandOwner(seed + moments.indexOf(killAt), emptyDisks(), emptyDisks());
    const child = killAt === "" ? undefined : await site.startChild(killAt);
    if (child === undefined) await site.start();
    await site.hello(owner.source);
    owner.write(30 + random.below(30));
    const point = pointOf(owner);
    owner.drop(1 + random.below(500));
    await owner.send(site);
    const stopAt = random.below(2 * chunks.length);
    let steps = 0;
    const isOver = new Error("far enough");
    await walk(owner, "resync", async (sequence) => {
      if (steps === stopAt) throw isOver;
      steps += 1;
      if (random.chance(0.1)) owner.drop(3);
      return sendAndLearn(owner)(sequence);
    }).catch((error: unknown) => assert.equal(error, isOver));
    owner.write(random.below(40));
    await owner.send(site);
    await site.heartbeat(owner.source);
    if (child === undefined) {
      const { result } = (await site.failover()).at(-1)!;
      assert.equal(result.point.sequence, point.sequence);
      assert.equal(result.loss.writesMin, owner.source.last - point.sequence);
      const total = owner.source.frames.at(-1)!.dataBytesTotal;
      assert.equal(result.loss.bytesMin, total - point.dataBytesTotal);
    } else {
      const exited = once(child, "exit");
      child.stdin!.write("run\n");
      await exited;
      await site.client?.destroy();
      await site.start();
      // Begun and therefore finished by the start; or not begun, and the order is gone.
      await until("an end", async () => {
        const document = await standing();
        return document?.failover === null || document?.failover?.progress === "adopted" ? true : undefined;
      });
      if ((await standing())?.failover === null) await site.failover();
    }
    const record = await readDocument(systemDisk, site.paths.handover, parseHandoverRecord);
    assert.deepEqual([record?.sealed, record?.dataBytesTotal], [point.sequence, point.dataBytesTotal]);
    assert.equal((await standing())?.failover?.received?.sequence, owner.source.last);
    assert.deepEqual(site.images(), point.disks);
    const left = await Pins.open(systemDisk, `${site.paths.history}/pins.json`);
    assert.deepEqual(left.list, [], "nothing is pinned for whoever takes over");
  });
}
