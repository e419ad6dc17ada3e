/** Joined frames are the same history: same records, same chain, same totals, whatever the frames were. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { genesisChain } from "../../protocol/chain.ts";
import type { Frame } from "../../protocol/frame.ts";
import {
  buildFrame,
  buildGapFrame,
  decodeFrame,
  encodeFrame,
  frameBodyBytesTarget,
  gapOf,
  volumeChangeOf,
} from "../../protocol/frame.ts";
import { joinFrames } from "../../protocol/frame-join.ts";
import type { BlockRecord } from "../../protocol/record.ts";
import { recordHeaderBytes } from "../../protocol/record.ts";

const lineage = new Uint8Array(16).fill(7);

const change: BlockRecord = {
  kind: "volumeChange",
  volume: 1,
  offset: 0,
  length: 0,
  sizeBytes: 512,
  name: "log",
  holdsData: false,
};

const write = (count: number, index: number): BlockRecord => ({
  kind: "write",
  volume: 0,
  offset: index * 512,
  length: count * 512,
  data: new Uint8Array(count * 512).fill(count),
});

/** One frame a list; a record a number of sectors; an empty list is a gap, `[0]` a change of the volume table. The wall clock may run in any direction: it is a label. */
function history(lists: readonly (readonly number[])[], stepMs = 10): Frame[] {
  const frames: Frame[] = [];
  for (const sectors of lists) {
    const before = frames.at(-1);
    if (sectors.length === 0) {
      const sequence = before?.last ?? 0;
      const chain = before?.chainAfter ?? genesisChain(lineage, []);
      const dataBytesTotal = before?.dataBytesTotal ?? 0;
      const to = {
        sequence: sequence + 7,
        chain: new Uint8Array(32).fill(3),
        dataBytesTotal: dataBytesTotal + 9,
      };
      const after = { sequence, chain, dataBytesTotal };
      frames.push(buildGapFrame({ lineage, after, to, closedAtMs: 1_000_005 + frames.length * stepMs }));
      continue;
    }
    frames.push(
      buildFrame({
        lineage,
        first: (before?.last ?? 0) + 1,
        chainBefore: before?.chainAfter ?? genesisChain(lineage, []),
        dataBytesBefore: before?.dataBytesTotal ?? 0,
        openedAtMs: 1_000_000 + frames.length * stepMs,
        closedAtMs: 1_000_005 + frames.length * stepMs,
        records: sectors.map((count, index) => (count === 0 ? change : write(count, index))),
      }),
    );
  }
  return frames;
}

const standsAlone = (frame: Frame): boolean =>
  gapOf(frame) !== undefined || volumeChangeOf(frame) !== undefined;

test("joined frames decode, hold the same records in order and end in the same place", () => {
  const writes = fc.array(fc.integer({ min: 1, max: 600 }), { maxLength: 6 });
  const lists = fc.array(fc.oneof({ arbitrary: writes, weight: 6 }, fc.constant([0])), {
    minLength: 1,
    maxLength: 20,
  });
  fc.assert(
    fc.property(lists, fc.constantFrom(10, 0, -10), (sizes, stepMs) => {
      const frames = history(sizes, stepMs);
      const joined = joinFrames(frames);
      let next = 1;
      for (const frame of joined) {
        assert.equal(frame.first, next);
        next = frame.last + 1;
        if (standsAlone(frame)) assert.ok(frames.includes(frame), "it stands as it was");
        const decoded = decodeFrame(encodeFrame(frame, "lz4"));
        assert.equal(decoded.count, frame.records.length);
      }
      assert.deepEqual(
        joined.flatMap((frame) => frame.records),
        frames.flatMap((frame) => frame.records),
      );
      const [end, was] = [joined.at(-1)!, frames.at(-1)!];
      assert.deepEqual(
        [end.last, end.chainAfter, end.dataBytesTotal, end.closedAtMs],
        [was.last, was.chainAfter, was.dataBytesTotal, was.closedAtMs],
      );
      // No two neighbours would have fitted into one.
      for (let index = 1; index < joined.length; index += 1) {
        const first = frames.find((frame) => frame.first === joined[index]!.first)!;
        if ([joined[index - 1]!, first].some(standsAlone)) continue;
        assert(joined[index - 1]!.body.byteLength + first.body.byteLength > frameBodyBytesTarget);
      }
    }),
  );
});

test("frames of one small record become one frame", () => {
  const frames = history(Array.from({ length: 200 }, () => [8]));
  const joined = joinFrames(frames);
  assert.equal(joined.length, 1);
  assert.equal(joined[0]!.body.byteLength, 200 * (recordHeaderBytes + 4096));
});

test("a frame that stands alone is returned as it is", () => {
  const frames = history([[2000], [2000]]);
  assert.deepEqual(joinFrames(frames), frames);
  assert.equal(joinFrames(frames)[0], frames[0]);
});
