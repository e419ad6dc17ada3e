/**
 * What a role keeps to go back, on real files: points are found by sequence and time, room is made where the disk runs
 * out, damage is given up by name and touches nothing else, and no view outlives the images.
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { systemImageFiles } from "../../block/image-files.ts";
import type { GroupImage } from "../../image/group-image.ts";
import { chunkHeadBytes, decodeChunkHead, runBytes } from "../../image/history/chunk.ts";
import { openImageFiles } from "../../image/open-files.ts";
import { historyOpener, Past } from "../../image/past.ts";
import { openLevelOrderedStore } from "../../journal/level-ordered-store.ts";
import type { Frame } from "../../protocol/frame.ts";
import type { Clock } from "../../runtime/clock.ts";
import { systemDisk } from "../../runtime/disk.ts";
import { type Log, silentLog } from "../../runtime/log.ts";
import { until } from "../support/wait.ts";
import { applyNaively, FrameSource, lineage, originOf, recordOf } from "./frames.ts";

const sectorCount = 2_048;
const sizeBytes = sectorCount * 512;
const volumes = [0, 1].map((number) => ({ number, name: `v${number}`, sizeBytes }));
const origin = originOf(volumes);
const segmentBytes = 2 * 1024;

let folder = "";
let nowMs = 0;
let freeBytes = 2 ** 40;
let bytesMax = 2 ** 30;
let log: Log = silentLog;
let rests: "last for ever" | "are over at once" = "last for ever";
let source: FrameSource;
let copies: Map<number, Uint8Array[]>;
let image: GroupImage;
let past: Past;

const clock: Clock = {
  after: (_delayMs, run) => {
    if (rests === "are over at once") setImmediate(run);
    return { cancel() {} };
  },
  monotonicMs: () => nowMs,
  wallMs: () => nowMs,
};

async function open(windowMs = 1_000_000): Promise<void> {
  const settings = { windowMs, bytesMax };
  const directory = join(folder, "history");
  image = await openImageFiles({
    disk: systemDisk,
    images: systemImageFiles,
    volumes: volumes.map((volume) => ({ ...volume, imagePath: join(folder, `${volume.name}.img`) })),
    markerPath: join(folder, "marker"),
    lineage,
    mode: existsSync(join(folder, "marker")) ? "open" : "create",
    createImages: "sparse",
    origin,
    log,
    openHistory: historyOpener(
      {
        disk: { ...systemDisk, freeBytes: () => freeBytes },
        directory,
        openIndex: (path) => openLevelOrderedStore(path, silentLog),
        settings,
        reserveBytes: 2 ** 20,
        log,
        segmentBytes,
      },
      lineage,
      0,
    ),
  });
  past = new Past(image, settings, clock, silentLog);
  await past.stepped();
}

async function close(): Promise<void> {
  await past.close();
  await image.close();
}

/** `count` steps of one frame, a second apart: each changes 16 KiB in a place of its own and one hot block. */
async function write(count: number): Promise<void> {
  for (let step = 0; step < count; step += 1) {
    const fill = 1 + (source.position.sequence % 255);
    const sector = ((source.position.sequence * 16) % (sectorCount - 64)) & ~7;
    const records = [
      recordOf({ kind: "write", volume: 0, sector, sectors: 32, fill }),
      recordOf({ kind: "write", volume: 1, sector: 0, sectors: 8, fill }),
    ];
    const frame: Frame = { ...source.next(records), closedAtMs: nowMs };
    const copy = copies.get(frame.first - 1)!.map((bytes) => bytes.slice());
    for (const record of records) applyNaively(copy, record);
    copies.set(frame.last, copy);
    await image.begin(frame.last);
    await image.apply([frame]);
    await image.commit(await image.sync());
    nowMs += 1_000;
    await past.stepped();
  }
}

async function check(sequence: number): Promise<void> {
  for (const { number } of volumes) {
    const view = await past.openView(number, sequence);
    const content = await view.read(0, sizeBytes);
    assert.equal(Buffer.compare(content, copies.get(sequence)![number]!), 0, `volume ${number}, ${sequence}`);
    await view.close();
  }
}

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "splitsite-past-"));
  nowMs = 1_000_000;
  freeBytes = 2 ** 40;
  bytesMax = 2 ** 30;
  log = silentLog;
  rests = "last for ever";
  source = new FrameSource(origin);
  copies = new Map([[0, volumes.map(() => new Uint8Array(sizeBytes))]]);
  await open();
});
afterEach(async () => {
  await close();
  await rm(folder, { recursive: true, force: true });
});

test("points are counted, listed, and found by sequence and time, also after a start", async () => {
  await write(12);
  for (const round of ["first", "after a start"]) {
    await until("all points to be counted", () => (past.status?.points === 13 ? true : undefined));
    const { oldest, newest, problem } = past.status!;
    assert.deepEqual([oldest, newest, problem], [0, 24, null], round);
    const sequences = async (from: number | undefined, limit: number) =>
      (await past.points(from, limit)).map(({ sequence }) => sequence);
    assert.deepEqual(await sequences(undefined, 3), [20, 22, 24]);
    assert.deepEqual(await sequences(5, 2), [6, 8]);
    assert.equal((await past.find({ kind: "latest" })).sequence, 24);
    assert.equal((await past.find({ kind: "sequence", sequence: 8 })).sequence, 8);
    assert.equal((await past.find({ kind: "time", timeMs: 1_003_500 })).sequence, 8);
    await assert.rejects(past.find({ kind: "sequence", sequence: 7 }), { code: "POINT_UNKNOWN" });
    await assert.rejects(past.find({ kind: "time", timeMs: -1 }), { code: "POINT_UNKNOWN" });
    for (const sequence of [0, 8, 24]) await check(sequence);
    if (round === "after a start") break;
    await close();
    await open();
  }
});

test("a pinned history that is too long is told of once a minute, or when it gets worse", async () => {
  const told: unknown[] = [];
  await close();
  log = { ...silentLog, warn: (code, _message, details) => void told.push([code, details?.["share"]]) };
  bytesMax = 4 * segmentBytes;
  await open();
  await image.history!.pin({ id: "p", sequence: 0, reason: "test" }, image.held, nowMs);
  // A step a second, more than two minutes of them.
  await write(130);
  assert.deepEqual(told[0], ["HISTORY_PINNED", "80%"]);
  assert.ok(told.length >= 3 && told.length <= 4, `${told.length} times`);
  assert.deepEqual([...new Set(told.slice(1).map(String))], ["HISTORY_PINNED,100%"]);
});

test("where the file system falls below the reserve the oldest points go, and apply goes on", async () => {
  await write(20);
  const { bytes } = past.status!;
  assert.ok(bytes > 4 * segmentBytes, `${bytes}`);
  // Twice the reserve: a log beside it takes nothing more at the reserve itself, and must not have to wait for old points.
  freeBytes = 2 * 2 ** 20 - bytes + 3 * segmentBytes;
  await write(1);
  const { oldest, points, bytes: left } = past.status!;
  assert.ok(left <= 4 * segmentBytes && oldest > 0, `${left} bytes, from ${oldest}`);
  assert.equal(points, (await past.points(0, 100)).length, "exact after some were given back");
  await check(oldest);
  await check(42);
  freeBytes = 0;
  await write(2);
  await check(46);
});

test("a list of pins that cannot be read puts the history aside by name; the images are not touched", async () => {
  await write(3);
  await close();
  await writeFile(join(folder, "history", "pins.json"), "{ half a docu");
  await open();
  assert.equal(past.status?.problem?.code, "HISTORY_DAMAGED");
  assert.ok(existsSync(join(folder, "history.damaged", "segments")), "kept for whoever wants to look");
  assert.equal(image.applied.sequence, 6);
  await write(2);
  for (const sequence of [6, 8, 10]) await check(sequence);
  await assert.rejects(past.openView(0, 4), { code: "POINT_UNKNOWN" });
  await close();
  await open();
  assert.equal(past.status?.problem, null, "told until the next start");
  await check(6);
});

test("turned off it keeps nothing and gives back what there was; turned on again it begins anew", async () => {
  await write(3);
  await close();
  await open(0);
  await write(2);
  assert.deepEqual([past.status?.bytes, past.status?.points], [0, 1]);
  await assert.rejects(past.find({ kind: "latest" }), { code: "POINTS_NONE" });
  await close();
  await open();
  await write(1);
  assert.equal(past.status?.oldest, 10);
  for (const sequence of [10, 12]) await check(sequence);
});

test("no view outlives the images: its reads end with a code, and its point is let go", async () => {
  await write(3);
  const view = await past.openView(0, 2);
  const reading = view.read(0, sizeBytes);
  const closing = past.close();
  assert.equal(Buffer.compare(await reading, copies.get(2)![0]!), 0, "a read under way is finished");
  await closing;
  await assert.rejects(view.read(0, 512), { code: "POINT_CLOSED" });
  await assert.rejects(past.openView(0, 2), { code: "POINT_CLOSED" });
  await view.close();
});

const damagedPath = () => join(folder, "history", "segments", "00000001");

/** Flips a bit of the payload of the first chunk of the first segment. */
async function flip(): Promise<void> {
  const content = await readFile(damagedPath());
  content[chunkHeadBytes + decodeChunkHead(content).runs.length * runBytes]! ^= 1;
  await writeFile(damagedPath(), content);
}

test("a check belongs to the verify that asked for it, outlasts a restart, and loses what is given back", async () => {
  await write(30);
  await flip();
  const check = (verify: number) =>
    until("the check to end", async () => {
      const state = await past.checkFor(verify, null);
      return state.kind === "done" ? state.record : undefined;
    });
  const record = await check(7);
  assert.equal(record.damagedChunks, 1);
  assert.deepEqual(record.damaged[0]?.at, [1, 0]);
  assert.equal(past.status?.check?.code, "HISTORY_DAMAGED");
  await close();
  await open();
  assert.deepEqual(await past.checkFor(7, null), { kind: "done", record }, "it is not made again");
  assert.equal((await past.checkFor(8, null)).kind, "running", "another verify has another check");
  assert.deepEqual((await check(8)).damaged, record.damaged);
  const seen: number[] = [];
  const own = await past.check(null, ({ doneBytes }) => seen.push(doneBytes));
  assert.equal(own.damagedChunks, 1);
  assert.ok(seen.length >= 30 && seen.at(-1) === own.checkedBytes);
  // Older than what is kept by then, so that its segment goes.
  nowMs += 2_000_000;
  await write(30);
  assert.ok(!existsSync(damagedPath()), "the damaged segment was given back");
  assert.deepEqual([past.status?.check?.damagedChunks, past.status?.check?.code], [0, null]);
});

test("a verify that found nothing is followed by the digest of the first point at its end, once, whatever restarts", async () => {
  await write(20);
  rests = "are over at once";
  const list = await past.points(0, 100);
  const at = list[8]!;
  // Its end lies in the middle of a step.
  const digest = { group: "erp", end: list[7]!.sequence + 1 };
  const ended = () =>
    until("the digest", async () =>
      (await past.checkFor(7, null, digest)).kind === "done" ? true : undefined,
    );
  await ended();
  const made = await past.digestOf(at);
  assert.match(made ?? "", /^[0-9a-f]{64}$/);
  for (const point of list) assert.equal(await past.digestOf(point), point === at ? made : undefined);
  await write(3);
  await close();
  await open();
  await ended();
  assert.equal(await past.digestOf(at), made, "it is kept");
  assert.equal(
    (await past.digest("erp", { kind: "sequence", sequence: at.sequence }, null, () => {})).digest,
    made,
  );
  assert.equal((await past.checkFor(7, null)).kind, "done", "one that is not asked for is not made");
});

test("closing does not wait for the pace of a check, and the next ask begins it anew", async () => {
  await write(10);
  assert.equal((await past.checkFor(3, 1)).kind, "running");
  await until("it to wait for its pace", async () => (past.status?.checking ? true : undefined));
  const reading = past.check(1, () => undefined);
  await Promise.all([assert.rejects(reading, { code: "POINT_CLOSED" }), close()]);
  await open();
  assert.equal(past.status?.check, null);
  assert.equal((await past.checkFor(3, null)).kind, "running");
});

test("a pin keeps what it says, beyond the window, and not a segment more; unpinned, that goes", async () => {
  await write(40);
  const pinned = (await past.points(0, 100))[15]!.sequence;
  const pin = await past.pin((sequence) => `pin-${sequence}`, { kind: "sequence", sequence: pinned }, "why");
  assert.deepEqual(past.status?.pins, [pin]);
  assert.ok(pin.keptBytes < past.status!.bytes);
  nowMs += 2_000_000;
  await write(1);
  const { pins, bytes, oldest } = past.status!;
  assert.equal(pins[0]?.keptBytes, bytes, "everything that is left is what it keeps");
  assert.ok(oldest <= pinned);
  await check(pinned);
  await close();
  await open();
  assert.equal(past.status?.pins[0]?.label, "why");
  await check(pinned);
  await assert.rejects(
    past.pin(() => pin.id, { kind: "latest" }, ""),
    { code: "PIN_EXISTS" },
  );
  assert.deepEqual([await past.unpin(pin.id), await past.unpin(pin.id)], [true, false]);
  nowMs += 2_000_000;
  await write(1);
  assert.ok(past.status!.bytes < bytes && past.status!.oldest > pinned);
});
