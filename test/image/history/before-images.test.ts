/** What is kept of a step is what the naive rule says: every touched block that it can change, and nothing else. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { Extent } from "../../../block/device.ts";
import { BlockErrno, BlockError } from "../../../block/device.ts";
import { foldRecords } from "../../../image/fold.ts";
import type { ImageReads } from "../../../image/history/before-images.ts";
import { readGroup } from "../../../image/history/before-images.ts";
import { chunkBlocksMax, chunkRunsMax } from "../../../image/history/chunk.ts";
import { packGroup } from "../../../image/history/pack.ts";
import { groupsOf } from "../../../image/history/pieces.ts";
import type { TouchedRun } from "../../../image/history/touched.ts";
import { touchedBlocks } from "../../../image/history/touched.ts";
import { recordOf, recordShapes } from "../frames.ts";

/** The last block is three sectors long. */
const sectorCount = 200 * 8 + 3;

class MemoryImages implements ImageReads {
  readonly #images: readonly Uint8Array[];
  readonly #holes: boolean;
  bytesRead = 0;

  constructor(images: readonly Uint8Array[], holes: boolean) {
    this.#images = images;
    this.#holes = holes;
  }

  sizeBytes(volume: number): number {
    return this.#images[volume]!.byteLength;
  }

  async read(volume: number, offset: number, length: number): Promise<Uint8Array> {
    assert.ok(length > 0 && offset + length <= this.sizeBytes(volume));
    this.bytesRead += length;
    return this.#images[volume]!.slice(offset, offset + length);
  }

  /** Told sector by sector, as holes where zeroes are, or all as data. */
  async extents(volume: number, offset: number, length: number): Promise<Extent[]> {
    assert.ok(length > 0 && offset + length <= this.sizeBytes(volume));
    if (!this.#holes) return [{ length, hole: false, zero: false }];
    const extents: Extent[] = [];
    for (let at = offset; at < offset + length && extents.length < 1024; at += 512) {
      const zero = this.#images[volume]!.subarray(at, at + 512).every((byte) => byte === 0);
      extents.push({ length: 512, hole: zero, zero });
    }
    return extents;
  }
}

/** What the chunks of a step would keep. */
async function* packsOf(touched: ReadonlyMap<number, readonly TouchedRun[]>, images: ImageReads) {
  for await (const pieces of groupsOf(touched, images)) {
    const room = new Uint8Array(chunkBlocksMax * 4096).fill(0xee);
    const lost = await readGroup(pieces, images, room);
    const { runs, rawBytes } = packGroup(pieces, room, lost);
    yield { runs, blocks: room.subarray(0, rawBytes) };
  }
}

test("every touched block that the step can change is kept once, with what it held", async () => {
  const before = fc.array(recordShapes(2, sectorCount, 600), { maxLength: 5 });
  const step = fc.array(fc.array(recordShapes(2, sectorCount, 900), { maxLength: 8 }), { maxLength: 3 });
  await fc.assert(
    fc.asyncProperty(before, step, fc.boolean(), async (old, portions, holes) => {
      const images = [0, 1].map(() => new Uint8Array(sectorCount * 512));
      for (const record of old.map(recordOf)) {
        if (record.kind === "write") images[record.volume]!.set(record.data, record.offset);
      }
      const touched = touchedBlocks(portions.map((shapes) => foldRecords(shapes.map(recordOf))));
      const wanted = new Map<string, Uint8Array>();
      for (const [volume, runs] of touched) {
        for (const { first, blocks, zeroedOnly } of runs) {
          for (let block = first; block < first + blocks; block += 1) {
            const bytes = new Uint8Array(4096);
            bytes.set(images[volume]!.subarray(block * 4096, (block + 1) * 4096));
            if (!zeroedOnly || bytes.some((byte) => byte !== 0)) wanted.set(`${volume} ${block}`, bytes);
          }
        }
      }
      let volumeBefore = 0;
      let end = 0;
      for await (const { runs, blocks } of packsOf(touched, new MemoryImages(images, holes))) {
        assert.ok(runs.length <= chunkRunsMax && blocks.byteLength <= chunkBlocksMax * 4096);
        let at = 0;
        for (const run of runs) {
          if (run.volume !== volumeBefore) end = 0;
          assert.ok(run.volume >= volumeBefore && run.first >= end, "in order, from pack to pack");
          volumeBefore = run.volume;
          end = run.first + run.blocks;
          for (let block = run.first; block < end; block += 1) {
            const key = `${run.volume} ${block}`;
            const kept = run.kind === "data" ? blocks.subarray(at, at + 4096) : new Uint8Array(4096);
            if (run.kind === "data") at += 4096;
            assert.equal(Buffer.compare(kept, wanted.get(key)!), 0, key);
            wanted.delete(key);
          }
        }
        assert.equal(at, blocks.byteLength);
      }
      assert.equal(wanted.size, 0, "something was not kept");
    }),
    { numRuns: 150 },
  );
});

test("a trim of a range without data reads and keeps nothing, however long", async () => {
  const image = new MemoryImages([new Uint8Array(1024 * 4096)], true);
  const endless: ImageReads = {
    sizeBytes: () => 2 ** 40,
    read: (volume, offset, length) => image.read(volume, offset, length),
    extents: async (_volume, _offset, length) => [{ length, hole: true, zero: true }],
  };
  const touched = new Map([[0, [{ first: 0, blocks: 2 ** 28, zeroedOnly: true }]]]);
  for await (const pack of packsOf(touched, endless)) assert.fail(`kept ${pack.runs.length} runs`);
  assert.equal(image.bytesRead, 0);
});

test("a block that the disk cannot read is kept as lost, in its order, and no other is", async () => {
  const blocks = 150;
  const content = new Uint8Array(blocks * 4096);
  for (let block = 0; block < blocks; block += 1) if (block % 3 !== 0) content.fill(1 + block, block * 4096);
  await fc.assert(
    fc.asyncProperty(
      fc.uniqueArray(fc.nat(blocks - 1), { maxLength: 12 }),
      fc.boolean(),
      async (bad, zeroedOnly) => {
        const images = new MemoryImages([content], false);
        const failing: ImageReads = {
          sizeBytes: (volume) => images.sizeBytes(volume),
          extents: (volume, offset, length) => images.extents(volume, offset, length),
          read: async (volume, offset, length) => {
            if (bad.some((block) => block * 4096 < offset + length && (block + 1) * 4096 > offset))
              throw new BlockError(
                BlockErrno.EIO,
                "read",
                Object.assign(new Error("medium"), { code: "EIO" }),
              );
            return images.read(volume, offset, length);
          },
        };
        const touched = new Map([[0, [{ first: 0, blocks, zeroedOnly }]]]);
        const kinds = new Map<number, string>();
        for await (const { runs } of packsOf(touched, failing))
          for (const { kind, first, blocks: count } of runs)
            for (let block = first; block < first + count; block += 1) kinds.set(block, kind);
        for (let block = 0; block < blocks; block += 1) {
          const isZero = content[block * 4096] === 0;
          const kept = bad.includes(block) ? "lost" : isZero ? (zeroedOnly ? undefined : "zeroes") : "data";
          assert.equal(kinds.get(block), kept, `${block}`);
        }
      },
    ),
    { numRuns: 40 },
  );
  const broken: ImageReads = {
    sizeBytes: () => 4096,
    extents: async () => [],
    read: () => Promise.reject(new BlockError(BlockErrno.EIO, "the image is closed")),
  };
  const touched = new Map([[0, [{ first: 0, blocks: 1, zeroedOnly: false }]]]);
  await assert.rejects(async () => {
    for await (const pack of packsOf(touched, broken)) assert.fail(`kept ${pack.runs.length} runs`);
  }, BlockError);
});
