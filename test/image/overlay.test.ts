/** The overlay against a dumb model, through inserts, evictions and reads. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { mergeExtents, Overlay } from "../../image/overlay.ts";
import type { ClientRecord } from "../../protocol/record.ts";
import { applyNaively, FrameSource, originOf, recordOf, recordShapes } from "./frames.ts";

const sectorCount = 128;
const sizeBytes = sectorCount * 512;
const volumes = [0, 1].map((number) => ({ number, name: `v${number}`, sizeBytes }));

/** Reads as a client would: the overlay over the image. */
function readThrough(
  overlay: Overlay,
  image: Uint8Array,
  volume: number,
  offset: number,
  length: number,
): Uint8Array {
  const found = overlay.read(volume, offset, length);
  if (found === undefined) return image.slice(offset, offset + length);
  if (found instanceof Uint8Array) {
    assert.equal(found.byteLength, length);
    return found;
  }
  const bytes = new Uint8Array(length).fill(0xdd);
  let end = offset;
  for (const piece of found) {
    assert.equal(piece.offset, end);
    end += piece.length;
    if (piece.source === "image") bytes.set(image.subarray(piece.offset, end), piece.offset - offset);
    else if (piece.source === "zero") bytes.fill(0, piece.offset - offset, end - offset);
    else {
      assert.equal(piece.source.byteLength, piece.length);
      bytes.set(piece.source, piece.offset - offset);
    }
  }
  assert.equal(end, offset + length);
  return bytes;
}

type Step =
  | { readonly kind: "insert"; readonly records: readonly ClientRecord[] }
  | { readonly kind: "evict"; readonly frames: number }
  | { readonly kind: "read"; readonly volume: number; readonly sector: number; readonly sectors: number };

const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    {
      weight: 3,
      arbitrary: fc.record({
        kind: fc.constant("insert" as const),
        records: fc
          .array(recordShapes(2, sectorCount, 40), { minLength: 1, maxLength: 6 })
          .map((shapes) => shapes.map(recordOf)),
      }),
    },
    {
      weight: 1,
      arbitrary: fc.record({ kind: fc.constant("evict" as const), frames: fc.integer({ min: 1, max: 3 }) }),
    },
    {
      weight: 3,
      arbitrary: fc.record({
        kind: fc.constant("read" as const),
        volume: fc.nat(1),
        sector: fc.nat(sectorCount - 1),
        sectors: fc.integer({ min: 1, max: sectorCount }),
      }),
    },
  ),
  { maxLength: 40 },
);

test("reads through the overlay see the newest content, whatever was evicted", () => {
  fc.assert(
    fc.property(steps, (plan) => {
      const overlay = new Overlay();
      const source = new FrameSource(originOf(volumes));
      const images = volumes.map(() => new Uint8Array(sizeBytes).fill(0xaa));
      const newest = images.map((image) => image.slice());
      const waiting: ReturnType<FrameSource["next"]>[] = [];
      for (const step of plan) {
        if (step.kind === "insert") {
          const frame = source.next(step.records);
          overlay.insert(frame);
          waiting.push(frame);
          for (const record of frame.records) applyNaively(newest, record);
        } else if (step.kind === "evict") {
          const frames = waiting.splice(0, step.frames);
          for (const frame of frames) for (const record of frame.records) applyNaively(images, record);
          const last = frames.at(-1);
          if (last !== undefined) overlay.evictThrough(last.last);
        } else {
          const offset = step.sector * 512;
          const length = Math.min(step.sectors * 512, sizeBytes - offset);
          const seen = readThrough(overlay, images[step.volume]!, step.volume, offset, length);
          assert.equal(Buffer.compare(seen, newest[step.volume]!.subarray(offset, offset + length)), 0);
        }
        assert.equal(overlay.frameCount, waiting.length);
      }
      for (const { number } of volumes) {
        const seen = readThrough(overlay, images[number]!, number, 0, sizeBytes);
        assert.equal(Buffer.compare(seen, newest[number]!), 0);
        // Extents: what is told as zero reads as zero, what is told as image is the image's.
        let at = 0;
        for (const { length, state } of overlay.extents(number, 0, sizeBytes)) {
          const range = newest[number]!.subarray(at, at + length);
          if (state === "zero") assert(range.every((byte) => byte === 0));
          if (state === "image")
            assert.equal(Buffer.compare(range, images[number]!.subarray(at, at + length)), 0);
          at += length;
        }
        assert.equal(at, sizeBytes);
      }
      overlay.evictThrough(source.position.sequence);
      assert.deepEqual([overlay.bytes, overlay.rangeCount, overlay.frameCount], [0, 0, 0]);
      for (const { number } of volumes) assert.equal(overlay.read(number, 0, sizeBytes), undefined);
    }),
    { numRuns: 400 },
  );
});

test("a whole block and a run of blocks of one write are handed out as one view of the frame's body", () => {
  const overlay = new Overlay();
  const frame = new FrameSource(originOf(volumes)).next([
    { kind: "write", volume: 0, offset: 4096, length: 16384, data: new Uint8Array(16384).fill(9) },
  ]);
  overlay.insert(frame);
  for (const [offset, length] of [
    [4096, 4096],
    [8192, 12288],
    [8192, 512],
  ] as const) {
    const view = overlay.read(0, offset, length);
    assert(view instanceof Uint8Array);
    assert.equal(view.buffer, frame.body.buffer);
    assert.equal(view.byteLength, length);
  }
  assert.equal(overlay.read(0, 20480, 4096), undefined);
  assert.equal(overlay.read(1, 4096, 4096), undefined);
});

test("bytes handed out stay as they were when the block is written in part afterwards", () => {
  const overlay = new Overlay();
  const source = new FrameSource(originOf(volumes));
  const part = (fill: number): ClientRecord => ({
    kind: "write",
    volume: 0,
    offset: 512,
    length: 512,
    data: new Uint8Array(512).fill(fill),
  });
  overlay.insert(source.next([part(1)]));
  const before = overlay.read(0, 512, 512);
  assert(before instanceof Uint8Array);
  overlay.insert(source.next([part(2)]));
  assert(before.every((byte) => byte === 1));
});

test("a trim of 4 GiB is one range and is gone after eviction", () => {
  const overlay = new Overlay();
  const source = new FrameSource(originOf(volumes));
  overlay.insert(source.next([{ kind: "trim", volume: 0, offset: 512, length: 2 ** 32 - 512 }]));
  assert.equal(overlay.rangeCount, 1);
  assert.deepEqual(overlay.read(0, 2 ** 31, 8192), [{ offset: 2 ** 31, length: 8192, source: "zero" }]);
  assert.deepEqual(overlay.extents(0, 0, 8192), [
    { length: 4096, state: "data" },
    { length: 4096, state: "zero" },
  ]);
  overlay.evictThrough(1);
  assert.equal(overlay.rangeCount, 0);
  assert.equal(overlay.bytes, 0);
});

test("extents of overlay and image are laid over each other and joined", () => {
  const merged = mergeExtents(
    [
      { length: 4096, state: "image" },
      { length: 8192, state: "data" },
      { length: 4096, state: "zero" },
      { length: 8192, state: "image" },
    ],
    [
      { length: 8192, hole: true, zero: true },
      { length: 12288, hole: false, zero: false },
    ],
  );
  assert.deepEqual(merged, [
    { length: 4096, hole: true, zero: true },
    { length: 8192, hole: false, zero: false },
    { length: 4096, hole: true, zero: true },
    { length: 4096, hole: false, zero: false },
  ]);
});
