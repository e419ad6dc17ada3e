/** The frame log as its users see it: order, reading, trimming, room, close and reopen. Real LevelDB. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { after, test } from "node:test";
import { journalStats, verifyFrameLog } from "../../journal/inspect.ts";
import type { Frame } from "../../protocol/frame.ts";
import { buildGapFrame, encodeFrame } from "../../protocol/frame.ts";
import { systemDisk } from "../../runtime/disk.ts";
import { hookedDisk } from "../support/hooked-disk.ts";
import { fill, frameAfter, nextFrame, noise, origin, Scratch, write } from "./support/scratch-log.ts";

const made: Scratch[] = [];
function scratch(): Scratch {
  // Halves of a few frames, so that they wrap under every test.
  const one = new Scratch(undefined, 16 * 1024);
  made.push(one);
  return one;
}
after(() => {
  for (const one of made) one.remove();
});

function same(found: readonly Frame[], wanted: readonly Frame[]): void {
  assert.deepEqual(
    found.map((frame) => [frame.first, frame.last, Buffer.from(frame.body).toString("hex").slice(0, 64)]),
    wanted.map((frame) => [frame.first, frame.last, Buffer.from(frame.body).toString("hex").slice(0, 64)]),
  );
}

test("an empty log stands at its origin", async () => {
  const log = await scratch().create();
  assert.deepEqual([log.head.sequence, log.tail.sequence, log.durable.sequence, log.bytes], [0, 0, 0, 0]);
  assert.deepEqual(await log.frames(1, 1000), []);
  assert.deepEqual(await log.chainAt(0), origin.chain);
  await log.close("clean");
});

test("a log may begin at the position of a hand-over", async () => {
  const place = scratch();
  const start = { ...origin, sequence: 500, dataBytesTotal: 4096 * 500, closedAtMs: 77 };
  const log = await place.create({ origin: start });
  await fill(log, 2);
  await log.close("clean");
  const again = await place.open({ origin: start });
  assert.deepEqual(
    [again.log.head.sequence, again.log.tail.sequence, again.log.tail.dataBytesTotal],
    [500, 502, 4096 * 502],
  );
  await again.log.close("clean");
});

for (const memoryTailBytes of [0, 20_000, 1024 * 1024]) {
  test(`frames come back as they were appended, with a memory tail of ${memoryTailBytes} bytes`, async () => {
    const place = scratch();
    const log = await place.create({ memoryTailBytes });
    const appended = await fill(log, 40, 4096, 3);
    same(await log.frames(1, 1e9), appended);
    same(await log.frames(50, 1e9), appended.slice(16));
    same(await log.frames(1, 1), appended.slice(0, 1));
    same(await log.frames(1, appended[0]!.body.byteLength * 5), appended.slice(0, 5));
    assert.deepEqual(await log.frames(121, 1e9), []);
    await log.close("clean");
    const again = await place.open({ memoryTailBytes });
    same(await again.log.frames(1, 1e9), appended);
    assert.equal(again.log.tail.sequence, 120);
    assert.equal(again.log.durable.sequence, 120);
    assert.deepEqual(again.log.tail.chain, appended.at(-1)!.chainAfter);
    await again.log.close("abandon");
  });
}

test("a compressible frame takes less room and comes back whole", async () => {
  const place = scratch();
  const log = await place.create({ memoryTailBytes: 0 });
  const frame = frameAfter(log.tail, [
    write(0, new Uint8Array(1024 * 1024)),
    { kind: "trim", volume: 0, offset: 512, length: 1024 },
  ]);
  await log.append(frame);
  assert.ok(log.bytes < 10_000);
  const [back] = await log.frames(1, 1);
  assert.deepEqual(Buffer.from(back!.body), Buffer.from(frame.body));
  assert.deepEqual(back!.records[1], { kind: "trim", volume: 0, offset: 512, length: 1024 });
  await log.close("clean");
});

test("append refuses what does not continue the tail, and two at once", async () => {
  const log = await scratch().create();
  const frame = nextFrame(log.tail);
  await log.append(frame);
  await assert.rejects(log.append(frame), { code: "ERR_ASSERTION" });
  const good = nextFrame(log.tail);
  await assert.rejects(log.append({ ...good, chainBefore: new Uint8Array(32) }), { code: "ERR_ASSERTION" });
  await assert.rejects(log.append({ ...good, lineage: new Uint8Array(16) }), { code: "ERR_ASSERTION" });
  await assert.rejects(log.append({ ...good, dataBytesTotal: 1 }), { code: "ERR_ASSERTION" });
  // Too long for a half: under way until the store has it.
  const long = nextFrame(log.tail, 69_632);
  const running = log.append(long);
  await assert.rejects(log.append(nextFrame({ ...log.tail, sequence: 2 })), { code: "ERR_ASSERTION" });
  await running;
  assert.equal(log.poisoned, false);
  await log.close("clean");
});

test("sync makes durable what was appended before it, and calls share work", async () => {
  let listings = 0;
  const disk = hookedDisk((operation) => {
    if (operation === "list") listings += 1;
  });
  const log = await scratch().create({}, { disk });
  await fill(log, 3);
  assert.equal(log.durable.sequence, 0);
  listings = 0;
  const first = log.sync();
  await fill(log, 2);
  const rest = await Promise.all([log.sync(), log.sync(), log.sync(), log.sync()]);
  assert.equal((await first).sequence, 3);
  for (const position of rest) assert.equal(position.sequence, 5);
  assert.equal(log.durable.sequence, 5);
  assert.ok(listings <= 2, `${listings} listings`);
  assert.equal((await log.sync()).sequence, 5);
  assert.ok(listings <= 2, "nothing to sync, nothing done");
  await log.close("clean");
});

test("trim drops whole durable frames, keeps the rest, and survives reopening", async () => {
  const place = scratch();
  const log = await place.create({ memoryTailBytes: 30_000 });
  const appended = await fill(log, 20, 4096, 5);
  await log.trim(50);
  assert.equal(log.head.sequence, 0, "nothing is durable yet");
  await log.sync();
  await log.trim(52);
  assert.equal(log.head.sequence, 50);
  assert.deepEqual(log.head.chain, appended[9]!.chainAfter);
  await assert.rejects(log.frames(50, 1), { code: "JOURNAL_TRIMMED" });
  same(await log.frames(51, 1e9), appended.slice(10));
  assert.equal(log.frameCount, 10);
  await log.close("clean");
  const again = await place.open({ memoryTailBytes: 0 });
  assert.equal(again.log.head.sequence, 50);
  same(await again.log.frames(51, 1e9), appended.slice(10));
  assert.deepEqual(await again.log.chainAt(50), appended[9]!.chainAfter);
  assert.deepEqual(await again.log.chainAt(0), origin.chain);
  await again.log.trim(100);
  assert.deepEqual([again.log.head.sequence, again.log.tail.sequence, again.log.bytes], [100, 100, 0]);
  await fill(again.log, 1);
  await again.log.close("clean");
  const third = await place.open();
  assert.deepEqual(
    [third.log.head.sequence, third.log.tail.sequence, third.log.tail.dataBytesTotal],
    [100, 101, 101 * 4096],
  );
  await third.log.close("clean");
});

test("readers and trimming may overlap: a frame that goes is trimmed, never a hole", async () => {
  const log = await scratch().create({ memoryTailBytes: 0 });
  await fill(log, 200);
  await log.sync();
  const readers = Array.from({ length: 20 }, (_, at) =>
    log.frames(1 + at * 5, 1e6).then(
      () => "frames",
      (error: { code: string }) => error.code,
    ),
  );
  const trims = [50, 100, 150].map((through) => log.trim(through));
  for (const outcome of await Promise.all(readers))
    assert.ok(["frames", "JOURNAL_TRIMMED"].includes(outcome), outcome);
  await Promise.all(trims);
  assert.equal(log.head.sequence, 150);
  await log.close("clean");
});

test("trimming gives space back", async () => {
  const log = await scratch().create({ writeBufferBytes: 64 * 1024 });
  const { statSync, readdirSync } = await import("node:fs");
  const directory = made.at(-1)!.options().directory;
  const used = () =>
    readdirSync(directory).reduce((sum, name) => sum + statSync(join(directory, name)).size, 0);
  for (let round = 0; round < 20; round += 1) {
    await fill(log, 20, 65_536);
    await log.sync();
    await log.trim(log.tail.sequence);
  }
  await log.close("clean");
  assert.ok(used() < 8 * 1024 * 1024, `${used()} bytes used of 26 MB written`);
});

test("a gap stands in the log as a frame: no chain value inside it, and everything else goes on", async () => {
  for (const memoryTailBytes of [0, 1024 * 1024]) {
    const place = scratch();
    const log = await place.create({ memoryTailBytes });
    await fill(log, 4, 512, 5);
    const after = log.tail;
    const gap = buildGapFrame({
      lineage: log.lineage,
      after,
      // Beyond 32 bits, which the index must not take for an offset of its columns.
      to: { sequence: 2 ** 40, chain: origin.chain.map((byte) => byte ^ 1), dataBytesTotal: 2 ** 41 },
      closedAtMs: 7,
    });
    await log.append(gap);
    const appended = await fill(log, 3, 512, 5);
    assert.equal(appended[0]!.first, 2 ** 40 + 1);
    await log.close("clean");
    const { log: again } = await place.open({ memoryTailBytes });
    assert.equal(again.tail.sequence, 2 ** 40 + 15);
    assert.equal(again.tail.dataBytesTotal, 2 ** 41 + 15 * 512);
    same(await again.frames(21, 1e9), [gap, ...appended]);
    assert.equal(await again.chainAt(21), undefined);
    assert.equal(await again.chainAt(2 ** 40 - 1), undefined);
    assert.deepEqual(await again.chainAt(20), after.chain);
    assert.deepEqual(await again.chainAt(2 ** 40), gap.chainAfter);
    const verdict = await verifyFrameLog(again);
    assert.deepEqual([verdict.sound, verdict.frames, verdict.last], [true, 8, 2 ** 40 + 15]);
    // Only whole frames go, a gap as well.
    await again.trim(2 ** 40 - 1);
    assert.equal(again.head.sequence, 20);
    await again.trim(2 ** 40);
    assert.equal(again.head.sequence, 2 ** 40);
    assert.deepEqual([again.frameCount, journalStats(again).head], [3, 2 ** 40]);
    await again.close("clean");
    const { log: third } = await place.open({ memoryTailBytes });
    assert.deepEqual([third.head.sequence, third.head.chain], [2 ** 40, gap.chainAfter]);
    same(await third.frames(2 ** 40 + 1, 1e9), appended);
    await third.close("clean");
  }
});

test("chainAt knows head, tail, every record kept, and nothing beyond", async () => {
  const log = await scratch().create({ memoryTailBytes: 0 });
  const appended = await fill(log, 4, 512, 7);
  const { ChainWalker } = await import("../../protocol/chain.ts");
  const walker = new ChainWalker(origin.chain);
  for (const frame of appended) {
    for (let at = 0; at < frame.count; at += 1) {
      walker.advance(frame.body.subarray(at * 528, (at + 1) * 528));
      assert.deepEqual(await log.chainAt(frame.first + at), walker.value);
    }
  }
  assert.equal(await log.chainAt(29), undefined);
  await log.close("clean");
});

test("index tells of frames without their bodies", async () => {
  const log = await scratch().create();
  const appended = await fill(log, 10, 512, 2);
  const rows = await log.index(5);
  assert.deepEqual(
    rows.map((row) => [row.first, row.last, row.openedAtMs, row.closedAtMs, row.dataBytesTotal]),
    appended
      .slice(2)
      .map((frame) => [frame.first, frame.last, frame.openedAtMs, frame.closedAtMs, frame.dataBytesTotal]),
  );
  assert.equal((await log.index(0)).length, 10);
  assert.equal((await log.index(6)).length, 7);
  assert.equal((await log.index(20)).length, 0);
  await log.close("clean");
});

test("a full journal and a nearly full file system refuse before anything is written (F21)", async () => {
  const place = scratch();
  let free = 1e9;
  let nowMs = 0;
  const clock = { monotonicMs: () => nowMs, wallMs: () => 0, after: () => ({ cancel: () => undefined }) };
  const log = await place.create(
    { bytesMax: 20_000, reserveBytes: 100_000 },
    { disk: { ...systemDisk, freeBytes: () => free }, clock },
  );
  await fill(log, 4);
  assert.equal(log.roomFor(4_300), "full");
  await assert.rejects(log.append(nextFrame(log.tail)), { code: "JOURNAL_FULL" });
  assert.equal(log.tail.sequence, 4);
  await log.sync();
  await log.trim(4);
  free = 105_000;
  assert.equal(log.roomFor(4_300), "ok", "one look lasts a second");
  nowMs += 1_000;
  assert.equal(log.roomFor(4_300), "ok");
  await fill(log, 1);
  assert.equal(log.roomFor(4_300), "reserve", "counted down by what was appended");
  await assert.rejects(log.append(nextFrame(log.tail)), { code: "JOURNAL_RESERVE" });
  free = 1e9;
  nowMs += 1_000;
  await fill(log, 1);
  assert.equal(log.poisoned, false);
  await log.close("clean");
  const again = await place.open();
  assert.equal(again.log.tail.sequence, 6);
  await again.log.close("clean");
});

test("many tiny frames are charged for what they cost", async () => {
  const log = await scratch().create();
  await log.append(frameAfter(log.tail, [{ kind: "trim", volume: 0, offset: 0, length: 512 }]));
  assert.equal(log.bytes, 1024);
  await log.close("clean");
});

test("create never replaces, open never makes", async () => {
  const place = scratch();
  await assert.rejects(place.open(), { code: "JOURNAL_MISSING" });
  const log = await place.create();
  await assert.rejects(place.open(), { code: "JOURNAL_LOCKED" });
  await fill(log, 1);
  await log.close("clean");
  await assert.rejects(place.create(), { code: "JOURNAL_EXISTS" });
  const { directory, watermarkPath } = place.options();
  renameSync(watermarkPath, `${watermarkPath}.away`);
  await assert.rejects(place.create(), { code: "JOURNAL_EXISTS" });
  await assert.rejects(place.open(), { code: "WATERMARK_MISSING" });
  renameSync(`${watermarkPath}.away`, watermarkPath);
  renameSync(directory, `${directory}.away`);
  await assert.rejects(place.create(), { code: "JOURNAL_EXISTS" });
  await assert.rejects(place.open(), { code: "JOURNAL_MISSING" });
  mkdirSync(directory);
  await assert.rejects(place.open(), { code: "JOURNAL_MISSING" });
  rmSync(directory, { recursive: true });
  renameSync(`${directory}.away`, directory);
  const again = await place.open();
  assert.equal(again.log.tail.sequence, 1);
  await again.log.close("clean");
});

test("a creation cut short by a crash may be done over", async () => {
  const place = scratch();
  const log = await place.create();
  await log.close("clean");
  const { watermarkPath, directory } = place.options();
  // The state right before the last step: everything there, the watermark still under its preliminary name.
  renameSync(watermarkPath, `${watermarkPath}.new`);
  const again = await place.create();
  await fill(again, 1);
  await again.close("clean");
  assert.ok(existsSync(directory) && existsSync(watermarkPath) && !existsSync(`${watermarkPath}.new`));
});

test("a creation whose folder's parents are missing makes them", async () => {
  const place = scratch();
  const deep = join(place.directory, "a", "b", "journal");
  const log = await place.create({ directory: deep, watermarkPath: join(place.directory, "c", "watermark") });
  await log.close("clean");
  assert.ok(existsSync(dirname(deep)));
});

test("a closed log refuses, and closing twice is nothing", async () => {
  const log = await scratch().create();
  const frame = nextFrame(log.tail);
  await log.close("clean");
  await log.close("clean");
  await assert.rejects(log.append(frame), { code: "JOURNAL_CLOSED" });
  await assert.rejects(log.sync(), { code: "JOURNAL_CLOSED" });
});

test("closing waits for an append and a sync under way", async () => {
  const place = scratch();
  const log = await place.create();
  const append = log.append(frameAfter(log.tail, [write(0, noise(65_536, 3))]));
  const sync = log.sync();
  await log.close("abandon");
  await append;
  await sync;
  const again = await place.open();
  assert.equal(again.log.tail.sequence, 1);
  await again.log.close("clean");
});

test("what is stored is the encoded frame, packed when its body is long", async () => {
  const log = await scratch().create();
  const short = frameAfter(log.tail, [write(0, new Uint8Array(4096))]);
  await log.append(short);
  const long = frameAfter(log.tail, [write(0, new Uint8Array(8192))]);
  await log.append(long);
  const wanted = [encodeFrame(short, "none"), encodeFrame(long, "lz4")].map((value) => Buffer.from(value));
  assert.ok(wanted[1]!.byteLength < 1000);
  const stored: { first: number; value: Buffer }[] = [];
  for await (const { first, value } of log.storedFrames()) stored.push({ first, value: Buffer.from(value) });
  assert.deepEqual(
    stored,
    wanted.map((value, at) => ({ first: at + 1, value })),
  );
  await log.close("clean");
});

test("space that cannot be looked at refuses appends, and says nothing is written (F33)", async () => {
  const freeBytes = () => {
    throw new Error("gone");
  };
  const log = await scratch().create({}, { disk: { ...systemDisk, freeBytes } });
  await assert.rejects(log.append(nextFrame(log.tail)), { code: "JOURNAL_RESERVE" });
  assert.equal(log.poisoned, false);
  await log.close("clean");
});
