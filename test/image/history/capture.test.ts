/**
 * A set captured by the thread is, byte for byte, the set that is captured without it; and what the thread cannot have is
 * captured all the same.
 */
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { BlockErrno, BlockError } from "../../../block/device.ts";
import type { FileDevice } from "../../../block/file-device.ts";
import { openFileDevice } from "../../../block/file-device.ts";
import type { ImageReads } from "../../../image/history/before-images.ts";
import { appendSet } from "../../../image/history/capture.ts";
import type { SetIdentity } from "../../../image/history/chunk.ts";
import { Segments } from "../../../image/history/segments.ts";
import type { TouchedRun } from "../../../image/history/touched.ts";
import { systemDisk } from "../../../runtime/disk.ts";
import { SeededRandom, seedFromEnvironment } from "../../support/seeded.ts";

const blockBytes = 4096;
const blocks = 600;
/** The last block is three sectors long. */
const sizeBytes = (blocks - 1) * blockBytes + 3 * 512;
const lineage = new Uint8Array(16).fill(7);

interface Rig {
  readonly folder: string;
  readonly devices: readonly FileDevice[];
}

/** Two volumes of noise, text and zeroes, block by block, with a hole at the end of the second. */
async function makeRig(random: SeededRandom): Promise<Rig> {
  const folder = await mkdtemp(join(tmpdir(), "splitsite-capture-"));
  const devices: FileDevice[] = [];
  for (const name of ["a", "b"]) {
    const device = await openFileDevice({ path: join(folder, name), sizeBytes, create: "sparse" });
    devices.push(device);
    for (let block = 0; block < (name === "a" ? blocks : blocks - 150); block += 1) {
      const length = Math.min(blockBytes, sizeBytes - block * blockBytes);
      const kind = random.below(4);
      const bytes =
        kind === 0 ? Buffer.alloc(length) : Buffer.from(Array.from({ length }, () => random.below(256)));
      if (kind === 1) bytes.fill("a line of a log, and another one\n");
      await device.write(block * blockBytes, bytes, { fua: false });
    }
  }
  return { folder, devices };
}

function touchedBy(random: SeededRandom, chance: number): ReadonlyMap<number, readonly TouchedRun[]> {
  const touched = new Map<number, TouchedRun[]>();
  for (const volume of [0, 1]) {
    const runs: TouchedRun[] = [];
    for (let block = 0; block < blocks; ) {
      const length = Math.min(blocks - block, 1 + random.below(random.chance(0.1) ? 200 : 6));
      if (random.chance(chance)) runs.push({ first: block, blocks: length, zeroedOnly: random.chance(0.2) });
      block += length + 1;
    }
    if (runs.length > 0) touched.set(volume, runs);
  }
  return touched;
}

/** The bytes of a segment with one set of these blocks; `lends`: whether the thread may have the files. */
async function capture(
  { folder, devices }: Rig,
  touched: ReadonlyMap<number, readonly TouchedRun[]>,
  lends: boolean,
): Promise<{ readonly bytes: Buffer; readonly reads: number }> {
  let reads = 0;
  const images: ImageReads = {
    sizeBytes: () => sizeBytes,
    extents: (volume, offset, length) => devices[volume]!.extents(offset, length),
    read: (volume, offset, length, into) => {
      reads += 1;
      return devices[volume]!.read(offset, length, into);
    },
    lendDescriptor: (volume, work) => (lends ? devices[volume]!.lendDescriptor(work) : undefined),
  };
  const directory = await mkdtemp(join(folder, "segments-"));
  const segments = await Segments.open({ disk: systemDisk, directory, lineage });
  const set: SetIdentity = {
    lineage,
    first: 4,
    position: {
      sequence: 9,
      chain: new Uint8Array(32).fill(3),
      dataBytesTotal: 77,
      timeMs: 1_700_000_000_000,
    },
  };
  const chunks = await appendSet(segments, set, touched, images);
  await segments.close();
  assert.deepEqual(
    chunks.map(({ head }) => head.isLast),
    chunks.map((_, number) => number === chunks.length - 1),
  );
  return { bytes: await readFile(join(directory, "00000001")), reads };
}

const seed = seedFromEnvironment();

test(`what the thread captures is what is captured without it (SEED=${seed})`, async (context) => {
  const random = new SeededRandom(seed);
  const rig = await makeRig(random);
  try {
    let readsBeside = 0;
    let readsWithout = 0;
    for (let round = 0; round < 12; round += 1) {
      const touched = touchedBy(random, [0.02, 0.3, 0.9][round % 3]!);
      const beside = await capture(rig, touched, true);
      const without = await capture(rig, touched, false);
      assert.equal(Buffer.compare(beside.bytes, without.bytes), 0, `round ${round}`);
      readsBeside += beside.reads;
      readsWithout += without.reads;
    }
    assert.ok(readsWithout > 100, "there was something to read");
    // Files just written are in the page cache. What is left are chunks of both volumes, or with holes.
    if (readsBeside === readsWithout)
      context.skip("this file system does not say what is in its page cache: the thread has nothing to do");
    else assert.ok(readsBeside < readsWithout / 2, `${readsBeside} of ${readsWithout} reads`);
  } finally {
    for (const device of rig.devices) await device.close();
    await rm(rig.folder, { recursive: true });
  }
});

test("a device that may not be read any more fails the capture", async () => {
  const rig = await makeRig(new SeededRandom(1));
  try {
    await rig.devices[0]!.close();
    await assert.rejects(
      capture(rig, new Map([[0, [{ first: 0, blocks: 300, zeroedOnly: false }]]]), true),
      (error: unknown) => error instanceof BlockError && error.errno === BlockErrno.ESHUTDOWN,
    );
  } finally {
    await rig.devices[1]!.close();
    await rm(rig.folder, { recursive: true });
  }
});
