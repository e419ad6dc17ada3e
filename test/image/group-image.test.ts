/** The group image on real files and under simulated power loss: redo from the marker always repairs. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import fc from "fast-check";
import type { BlockDevice } from "../../block/device.ts";
import { BlockErrno } from "../../block/device.ts";
import { openFileDevice } from "../../block/file-device.ts";
import { FaultDevice, failNth } from "../../block/layers/fault.ts";
import { GroupImage } from "../../image/group-image.ts";
import type { AppliedPosition } from "../../image/marker.ts";
import type { Frame } from "../../protocol/frame.ts";
import type { VolumeEntry } from "../../protocol/ids.ts";
import { systemDisk } from "../../runtime/disk.ts";
import { errorCode, OperationalError } from "../../runtime/errors.ts";
import { silentLog } from "../../runtime/log.ts";
import { CrashDevice } from "./crash-device.ts";
import { applyNaively, FrameSource, lineage, originOf, recordOf, recordShapes } from "./frames.ts";

const sectorCount = 256;
const sizeBytes = sectorCount * 512;
const volumes: readonly VolumeEntry[] = [0, 1].map((number) => ({ number, name: `v${number}`, sizeBytes }));
const origin = originOf(volumes);
let folder = "";
let markers = 0;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "splitsite-group-"));
});
after(() => rm(folder, { recursive: true, force: true }));

function newMarkerPath(): string {
  markers += 1;
  return join(folder, `marker-${markers}`);
}

function openOn(
  devices: readonly BlockDevice[],
  markerPath: string,
  mode: "create" | "open" = "create",
  table: readonly VolumeEntry[] = volumes,
): Promise<GroupImage> {
  const pairs = table.map((entry, index) => ({ entry, device: devices[index]! }));
  return GroupImage.open({
    disk: systemDisk,
    volumes: pairs,
    markerPath,
    lineage,
    mode,
    origin,
    log: silentLog,
  });
}

function write(offset: number, fill: number, volume = 0) {
  return { kind: "write", volume, offset, length: 4096, data: new Uint8Array(4096).fill(fill) } as const;
}

function memory(): CrashDevice[] {
  return volumes.map(() => new CrashDevice(new Uint8Array(sizeBytes)));
}

function codeIs(code: string, reaction?: string): (error: unknown) => boolean {
  return (error) =>
    error instanceof OperationalError &&
    error.code === code &&
    (reaction === undefined || error.reaction === reaction);
}

const framesOfShapes = fc.array(fc.array(recordShapes(2, sectorCount, 40), { minLength: 1, maxLength: 8 }), {
  minLength: 1,
  maxLength: 8,
});

test("image files hold what the records say, whatever is applied together", async () => {
  await fc.assert(
    fc.asyncProperty(
      framesOfShapes,
      fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 8, maxLength: 8 }),
      async (plan, steps) => {
        const markerPath = newMarkerPath();
        const paths = volumes.map(({ name }) => `${markerPath}-${name}.img`);
        const devices = await Promise.all(
          paths.map((path) => openFileDevice({ path, sizeBytes, create: "sparse" })),
        );
        const image = await openOn(devices, markerPath);
        const source = new FrameSource(origin);
        const model = volumes.map(() => new Uint8Array(sizeBytes));
        const frames = plan.map((shapes) => source.next(shapes.map(recordOf)));
        for (const frame of frames) for (const record of frame.records) applyNaively(model, record);
        const left = [...frames];
        for (const step of steps) {
          const taken = left.splice(0, step);
          const last = taken.at(-1);
          if (last === undefined) break;
          await image.begin(last.last);
          await image.apply(taken);
          await image.commit(await image.sync());
          assert.deepEqual(image.applied, image.held);
        }
        await image.apply(left);
        assert.deepEqual(image.held, source.position);
        for (const { number } of volumes) {
          assert.equal(Buffer.compare(await image.read(number, 0, sizeBytes), model[number]!), 0);
        }
        await image.close();
        await Promise.all(paths.map((path) => rm(path)));
      },
    ),
    { numRuns: 40 },
  );
});

type CrashAt = "begin" | "apply" | "sync" | "commit" | "never";

test("F08: after power loss at any step, applying again from the marker gives the source's bytes", async () => {
  await fc.assert(
    fc.asyncProperty(
      framesOfShapes,
      fc.nat(7),
      fc.constantFrom<CrashAt>("begin", "apply", "sync", "commit", "never"),
      fc.infiniteStream(fc.boolean()),
      async (plan, crashFrame, crashAt, coins) => {
        const markerPath = newMarkerPath();
        const devices = memory();
        const image = await openOn(devices, markerPath);
        const source = new FrameSource(origin);
        const model = volumes.map(() => new Uint8Array(sizeBytes));
        const frames = plan.map((shapes) => source.next(shapes.map(recordOf)));
        for (const frame of frames) for (const record of frame.records) applyNaively(model, record);
        const touchedLast = await runUntilCrash(image, frames, crashFrame, crashAt);
        await image.close();
        // Power loss: the marker keeps what was synced, the devices any part of what was not.
        const left = devices.map((device) => device.crashed(() => coins.next().value));
        const again = await openOn(left, markerPath, "open");
        assert(again.applyingLast >= touchedLast, "whatever may be in the images was declared before");
        const redo = frames.filter((frame) => frame.first > again.applied.sequence);
        assert.equal(redo.length, frames.filter((frame) => frame.last > again.applied.sequence).length);
        await again.apply(redo);
        await again.commit(await again.sync());
        assert.deepEqual(again.applied, source.position);
        assert.equal(again.applyingLast, source.position.sequence);
        for (const { number } of volumes)
          assert.equal(Buffer.compare(left[number]!.durable, model[number]!), 0);
        await again.close();
      },
    ),
    { numRuns: 250 },
  );
});

/** Runs the gateway's steps frame by frame and stops behind the named one; returns the last sequence it wrote. */
async function runUntilCrash(
  image: GroupImage,
  frames: readonly Frame[],
  crashFrame: number,
  crashAt: CrashAt,
): Promise<number> {
  let touchedLast = 0;
  for (const [index, frame] of frames.entries()) {
    const crashes = (step: CrashAt) => index === crashFrame && step === crashAt;
    await image.begin(frame.last);
    if (crashes("begin")) break;
    touchedLast = frame.last;
    await image.apply([frame]);
    if (crashes("apply")) break;
    const position = await image.sync();
    if (crashes("sync")) break;
    await image.commit(position);
    if (crashes("commit")) break;
  }
  return touchedLast;
}

test("only volumes written since the last sync are synced", async () => {
  const devices = memory();
  const image = await openOn(devices, newMarkerPath());
  const source = new FrameSource(origin);
  await image.apply([source.next([write(0, 1, 1)])]);
  await image.sync();
  await image.sync();
  assert.deepEqual(
    devices.map(({ flushes }) => flushes),
    [0, 1],
  );
  await image.close();
});

test("a sync beside an apply covers only what was applied before, and the next one covers the rest", async () => {
  const devices = memory();
  const image = await openOn(devices, newMarkerPath());
  const source = new FrameSource(origin);
  await image.apply([source.next([write(0, 1)])]);
  const applying = image.apply([source.next([write(4096, 2)])]);
  const covered = await image.sync();
  assert.equal(covered.sequence, 1);
  await applying;
  assert.equal((await image.sync()).sequence, 2);
  assert.equal(devices[0]!.durable[4096], 2);
  await image.commit(covered);
  assert.equal(image.applied.sequence, 1);
  await image.close();
});

test("what is written while a sync runs is not taken for synced", async () => {
  const devices = memory();
  let letWrite: (() => void) | undefined;
  const late = new CrashDevice(new Uint8Array(sizeBytes));
  const lateWrite = late.write.bind(late);
  late.write = async (offset, data) => {
    await new Promise<void>((resolve) => {
      letWrite = resolve;
    });
    await lateWrite(offset, data);
  };
  const image = await openOn([late, devices[1]!], newMarkerPath());
  const source = new FrameSource(origin);
  const applying = image.apply([source.next([write(4096, 2)])]);
  assert.equal((await image.sync()).sequence, 0);
  letWrite?.();
  await applying;
  assert.equal((await image.sync()).sequence, 1);
  assert.equal(late.durable[4096], 2);
  await image.close();
});

test("a sync claims no frame that was applied after it had begun, although it is there when the sync ends", async () => {
  const devices = memory();
  let letFlush: (() => void) | undefined;
  const slow = new CrashDevice(new Uint8Array(sizeBytes));
  const flush = slow.flush.bind(slow);
  slow.flush = async () => {
    await flush();
    await new Promise<void>((resolve) => {
      letFlush = resolve;
    });
  };
  const image = await openOn([slow, devices[1]!], newMarkerPath());
  const source = new FrameSource(origin);
  await image.apply([source.next([write(0, 1)])]);
  const syncing = image.sync();
  await image.apply([source.next([write(4096, 2)])]);
  assert.equal(image.held.sequence, 2);
  letFlush?.();
  assert.equal((await syncing).sequence, 1);
  assert.equal(slow.durable[4096], 0, "power loss here would take the second frame");
  slow.flush = flush;
  assert.equal((await image.sync()).sequence, 2);
  assert.equal(slow.durable[4096], 2);
  await image.close();
});

test("an intention stands until the marker has reached it", async () => {
  const image = await openOn(memory(), newMarkerPath());
  const source = new FrameSource(origin);
  await image.begin(2);
  await image.apply([source.next([write(0, 1)])]);
  const first = await image.sync();
  await image.apply([source.next([write(0, 2)])]);
  await image.commit(first);
  assert.deepEqual([image.applied.sequence, image.applyingLast], [1, 2]);
  await image.commit(await image.sync());
  assert.deepEqual([image.applied.sequence, image.applyingLast], [2, 2]);
  await image.close();
});

test("a failed sync is told once and for ever, and the marker stays", async () => {
  const devices = memory();
  const markerPath = newMarkerPath();
  const faulty = [new FaultDevice(devices[0]!, failNth("flush", 1)), devices[1]!];
  const image = await openOn(faulty, markerPath);
  const source = new FrameSource(origin);
  await image.apply([source.next([write(0, 1)])]);
  const failed = codeIs("IMAGE_SYNC_FAILED", "stop");
  await assert.rejects(image.sync(), failed);
  await assert.rejects(image.sync(), failed);
  await assert.rejects(image.apply([source.next([write(0, 2)])]), failed);
  await assert.rejects(image.begin(5), failed);
  await assert.rejects(image.commit(image.held), failed);
  assert.equal(image.applied.sequence, 0);
  await image.close();
});

test("F22: a full image stops at the batch, says retry, and the same frames go in once there is space", async () => {
  const devices = memory();
  const image = await openOn(
    [new FaultDevice(devices[0]!, failNth("write", 2, BlockErrno.ENOSPC)), devices[1]!],
    newMarkerPath(),
  );
  const source = new FrameSource(origin);
  const frames = [source.next([write(0, 1), write(8192, 2), write(16384, 3)])];
  await assert.rejects(image.apply(frames), codeIs("IMAGE_FULL", "retry"));
  assert.equal(image.held.sequence, 0);
  await image.apply(frames);
  assert.equal(image.held.sequence, 3);
  assert.deepEqual(
    [0, 8192, 16384].map((at) => devices[0]!.content[at]),
    [1, 2, 3],
  );
  await image.close();
});

test("F24: a write error stops, and nothing is claimed", async () => {
  const devices = memory();
  const image = await openOn(
    [new FaultDevice(devices[0]!, failNth("zero", 1)), devices[1]!],
    newMarkerPath(),
  );
  const source = new FrameSource(origin);
  const frame = source.next([{ kind: "trim", volume: 0, offset: 0, length: 4096 }]);
  await assert.rejects(image.apply([frame]), codeIs("IMAGE_WRITE_FAILED", "stop"));
  assert.equal(image.held.sequence, 0);
  await image.close();
});

test("a record beyond its volume or of no volume is refused before anything is written", async () => {
  const devices = memory();
  const image = await openOn(devices, newMarkerPath());
  for (const stray of [write(sizeBytes - 512, 9), write(0, 9, 7)]) {
    const frame = new FrameSource(origin).next([write(0, 1), stray]);
    await assert.rejects(image.apply([frame]), codeIs("IMAGE_RECORD_RANGE", "stop"));
  }
  assert(devices[0]!.content.every((byte) => byte === 0));
  await image.close();
});

test("frames that do not continue what is held are our own mistake", async () => {
  const image = await openOn(memory(), newMarkerPath());
  const source = new FrameSource(origin);
  source.next([write(0, 1)]);
  await assert.rejects(image.apply([source.next([write(0, 2)])]), assert.AssertionError);
  const forked: AppliedPosition = { ...origin, chain: new Uint8Array(32).fill(1) };
  await assert.rejects(image.apply([new FrameSource(forked).next([write(0, 1)])]), assert.AssertionError);
  await assert.rejects(image.commit(source.position), assert.AssertionError);
  assert.equal(image.applied.sequence, 0);
  await image.close();
});

test("F76: an image of another size, or images of another history, are refused", async () => {
  const markerPath = newMarkerPath();
  const small = [new CrashDevice(new Uint8Array(4096)), new CrashDevice(new Uint8Array(sizeBytes))];
  await assert.rejects(openOn(small, markerPath), (error) => errorCode(error) === "IMAGE_SIZE");
  await (await openOn(memory(), markerPath)).close();
  const pairs = volumes.map((entry) => ({ entry, device: new CrashDevice(new Uint8Array(sizeBytes)) }));
  const other = {
    disk: systemDisk,
    volumes: pairs,
    markerPath,
    lineage: new Uint8Array(16).fill(8),
    origin,
    log: silentLog,
  } as const;
  await assert.rejects(GroupImage.open({ ...other, mode: "open" }), codeIs("MARKER_LINEAGE", "stop"));
  await assert.rejects(GroupImage.open({ ...other, mode: "create" }), codeIs("MARKER_LINEAGE", "stop"));
});

test("many small records are written in portions with the same outcome", async () => {
  const table = [{ number: 0, name: "v0", sizeBytes: 64 * 1024 * 1024 }];
  const device = new CrashDevice(new Uint8Array(table[0]!.sizeBytes));
  const image = await openOn([device], newMarkerPath(), "create", table);
  const records = Array.from({ length: 20_000 }, (_, index) =>
    index % 3 === 0
      ? ({ kind: "zeroes", volume: 0, offset: (index % 7_000) * 512, length: 512 } as const)
      : ({
          kind: "write",
          volume: 0,
          offset: (index % 7_000) * 512,
          length: 512,
          data: new Uint8Array(512).fill(index),
        } as const),
  );
  const model = [new Uint8Array(device.sizeBytes)];
  for (const record of records) applyNaively(model, record);
  const source = new FrameSource(origin);
  const frames = Array.from({ length: 10 }, (_, index) =>
    source.next(records.slice(index * 2_000, (index + 1) * 2_000)),
  );
  await image.apply(frames);
  assert.equal(Buffer.compare(device.content, model[0]!), 0);
  await image.close();
});
