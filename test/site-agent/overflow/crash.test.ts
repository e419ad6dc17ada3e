/**
 * A journal that overflows, crashed before every step of its disk in every way: whatever comes back, every record of a frame
 * that is gone has its bit, what the standby may be at can be proven, and the journal goes on (OV1).
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { FrameLog } from "../../../journal/frame-log.ts";
import { openFrameLog } from "../../../journal/open.ts";
import type { Frame } from "../../../protocol/frame.ts";
import type { BlockRecord } from "../../../protocol/record.ts";
import { systemClock } from "../../../runtime/clock.ts";
import { syncDirectory } from "../../../runtime/disk.ts";
import { silentLog } from "../../../runtime/log.ts";
import { Overflow } from "../../../site-agent/overflow/overflow.ts";
import { frameAfter, lineage, noise, origin } from "../../journal/support/scratch-log.ts";
import type { DiskSnapshot } from "../../sim/world/disk.ts";
import { SimWorld } from "../../sim/world/driven.ts";
import type { PowerCut } from "../../sim/world/tree.ts";
import { SeededRandom, seedFromEnvironment } from "../../support/seeded.ts";

const seed = seedFromEnvironment();
const mebibyte = 2 ** 20;
const bytesMax = 48 * 1024;
const models: readonly (PowerCut | "kill")[] = ["kill", "everything", "nothing", "subset", "torn"];

interface Point {
  readonly what: string;
  readonly disk: DiskSnapshot;
  readonly acknowledged: number;
  /** Newest position that was called durable. */
  readonly durable: number;
}

async function open(world: SimWorld, mode: "create" | "open") {
  const life = world.life();
  const disk = world.disk.view(life);
  if (mode === "create") {
    await world.drive(disk.makeDirectory("/data"));
    await world.drive(syncDirectory(disk, "/"));
  }
  const stores = {
    open: world.disk.store(life),
    guard: <T>(_directory: string, _watermark: string, _bytes: number, run: () => Promise<T>) => run(),
  };
  const { log } = await world.drive(
    openFrameLog(
      {
        directory: "/data/journal",
        watermarkPath: "/data/watermark",
        // So short that each half is filled many times.
        ahead: { directory: "/data/ahead", halfBytes: 8 * 1024 },
        lineage,
        origin,
        mode,
        compression: "none",
        bytesMax,
        reserveBytes: 0,
        memoryTailBytes: 8_192,
        writeBufferBytes: 64 * 1024,
        bootId: world.disk.bootId,
      },
      silentLog,
      { disk, stores, clock: systemClock },
    ),
  );
  return { log, life };
}

function overflowOf(journal: FrameLog, acknowledged: () => number, gapEnds: number[]) {
  return Overflow.open({
    journal,
    journalBytesMax: bytesMax,
    acknowledged,
    gapEnds,
    dropping: () => {},
    dropped: () => {},
    log: silentLog,
  });
}

function randomRecords(random: SeededRandom): BlockRecord[] {
  return Array.from({ length: 1 + random.below(4) }, (): BlockRecord => {
    const volume = random.below(2);
    // Each record in some chunk of its own, so that a bit that is missing is missed.
    const offset = random.below(60_000) * mebibyte + random.below(2_000) * 512;
    if (random.chance(0.2)) return { kind: "zeroes", volume, offset, length: 3 * mebibyte };
    const data = noise(512 * (1 + random.below(3)), random.below(1e6));
    return { kind: "write", volume, offset, length: data.byteLength, data };
  });
}

/** A short life in which the journal is full all the time; a copy of the disk before every step. */
async function live(random: SeededRandom): Promise<{ points: Point[]; frames: Frame[] }> {
  const world = new SimWorld(random.below(2 ** 31));
  const { log } = await open(world, "create");
  const points: Point[] = [];
  const frames: Frame[] = [];
  const gapEnds: number[] = [];
  let acknowledged = 0;
  let cleared = 0;
  const overflow = await world.drive(overflowOf(log, () => acknowledged, gapEnds));
  world.disk.onOperation = (_life, path, operation, when) => {
    if (when === "before")
      points.push({
        what: `${operation} ${path}`,
        disk: world.disk.snapshot(),
        acknowledged,
        durable: log.durable.sequence,
      });
  };
  for (let round = 0; round < 110; round += 1) {
    const frame = frameAfter(log.tail, randomRecords(random));
    while (log.roomFor(frame.body.byteLength + 200) !== "ok") {
      await world.drive(log.sync());
      const checkpoint = log.durable.sequence - random.below(3);
      let freed = 0;
      const enough = await world.drive(overflow.dropBehind(checkpoint, () => (freed += 1)));
      assert.ok(enough && freed > 0 && log.bytes <= (bytesMax * 3) / 4);
    }
    await world.drive(log.append(frame));
    frames.push(frame);
    if (random.chance(0.3)) await world.drive(log.sync());
    const step = random.below(14);
    const { note } = overflow;
    if (step === 0 && note !== null) await world.drive(overflow.declare(acknowledged + 1));
    // Drawn, and due at last: one life in thirty draws none.
    const clears = step === 1 || (round === 100 && cleared === 0);
    if (clears && note !== null && round > 60) {
      // The standby has everything: acknowledged first, as it is said before anything is cleared.
      acknowledged = Math.max(acknowledged, note.through);
      assert.ok(await world.drive(overflow.clear(note.through)));
      cleared += 1;
    }
    if (step === 2 && round < 25) acknowledged = Math.max(acknowledged, log.durable.sequence - 2, 0);
  }
  assert.ok(cleared > 0 && frames.length > 100);
  world.disk.onOperation = undefined;
  return { points, frames };
}

async function judge(point: Point, model: PowerCut | "kill", frames: readonly Frame[], random: SeededRandom) {
  const world = new SimWorld(random.below(2 ** 31));
  world.disk.restore(point.disk);
  if (model !== "kill") world.disk.powerCut(model);
  const { log } = await open(world, "open");
  const gapEnds: number[] = [];
  const overflow = await world.drive(overflowOf(log, () => point.acknowledged, gapEnds));
  const { head } = log;
  assert.ok(log.tail.sequence >= point.durable);
  for (const { first, last, records } of frames) {
    if (last > head.sequence || last <= point.acknowledged) continue;
    for (const [index, { volume, offset, length }] of records.entries()) {
      for (let chunk = Math.floor(offset / mebibyte); chunk * mebibyte < offset + length; chunk += 1)
        assert.ok(overflow.map.has(volume, chunk), `record ${first + index} is gone without its bit`);
    }
  }
  const lacks = head.sequence > point.acknowledged;
  if (lacks) assert.equal(overflow.note?.through, head.sequence, "how far was dropped is noted");
  // Wherever it may be by now: what was durable may have been sent.
  for (const frame of frames) {
    if (frame.last < point.acknowledged || frame.last > point.durable) continue;
    const position = await world.drive(log.positionAt(frame.last));
    assert.deepEqual(position?.chain, frame.chainAfter, `the standby may be at ${frame.last}`);
    assert.equal(position?.dataBytesTotal, frame.dataBytesTotal);
  }
  assert.ok(log.floor.sequence <= Math.max(point.acknowledged, log.head.sequence));
  // It goes on: full again, and dropped again.
  for (let count = 0; count < 60; count += 1) {
    if (log.roomFor(8_000) !== "ok") {
      await world.drive(log.sync());
      assert.ok(await world.drive(overflow.dropBehind(log.durable.sequence, () => {})));
    }
    await world.drive(log.append(frameAfter(log.tail, randomRecords(random))));
  }
  await world.drive(log.close("clean"));
}

test(`a frame is never gone without its bits, whatever crash (SEED=${seed})`, async (t) => {
  const random = new SeededRandom(seed, 71);
  const { points, frames } = await live(random);
  let judged = 0;
  const wanted = Number(process.env["SPLITSITE_OVERFLOW_STATES"] ?? 600);
  const share = wanted / (points.length * models.length);
  for (const point of points) {
    for (const model of models) {
      if (!random.chance(share)) continue;
      try {
        await judge(point, model, frames, random);
      } catch (error) {
        throw new Error(`before ${point.what}, ${model}: ${String(error)}`, { cause: error });
      }
      judged += 1;
    }
  }
  t.diagnostic(`${judged} states of ${points.length} steps`);
  assert.ok(judged > wanted / 2);
});

test("after a start the standby may have been told of a gap, whatever a rotten journal kept of that", async () => {
  const world = new SimWorld(1);
  const { log } = await open(world, "create");
  const random = new SeededRandom(1, 72);
  const overflow = await world.drive(overflowOf(log, () => 0, []));
  while (overflow.note === null) {
    const frame = frameAfter(log.tail, randomRecords(random));
    if (log.roomFor(frame.body.byteLength + 200) === "ok") await world.drive(log.append(frame));
    else {
      await world.drive(log.sync());
      await world.drive(overflow.dropBehind(log.durable.sequence, () => {}));
    }
  }
  assert.equal(overflow.note.declared, false, "nobody was told yet");
  // What is put from here on is what LevelDB drops without an error when a bit of its log has turned over.
  const before = world.disk.snapshot();
  assert.ok((await world.drive(overflow.declare(1))) !== undefined);
  assert.equal(overflow.note.declared, true);
  const again = new SimWorld(1);
  again.disk.restore(before);
  const { log: reopened } = await open(again, "open");
  const { note } = await again.drive(overflowOf(reopened, () => 0, []));
  assert.deepEqual([note?.through, note?.declared], [overflow.note.through, true]);
});
