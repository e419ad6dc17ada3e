/** Cutting and packing frames: whatever the cuts, the records and the chain stay the same. */
import { strict as assert } from "node:assert";
import { test } from "node:test";
import fc from "fast-check";
import {
  batchHeaderBytes,
  batchRawBytesMax,
  decodeBatchHeader,
  decodeBatchPayload,
  encodeBatch,
} from "../../../protocol/batch.ts";
import { frameHeaderBytes } from "../../../protocol/frame.ts";
import { sliceFrame, splitFrame } from "../../../protocol/frame-split.ts";
import { bytesEqual } from "../../../protocol/ids.ts";
import { packBatch } from "../../../site-agent/ship/packing.ts";
import { MemorySource } from "./memory-source.ts";

test("two halves of a frame are a frame each, and together the whole", () => {
  fc.assert(
    fc.property(fc.integer({ min: 2, max: 40 }), fc.nat(1_000), (count, pick) => {
      const source = new MemorySource();
      source.append(3, 512);
      const frame = source.append(count, 512);
      const cut = frame.first + 1 + (pick % (count - 1));
      const head = sliceFrame(frame, frame.first, cut - 1);
      const tail = splitFrame(frame, cut);
      assert.ok(
        bytesEqual(head.chainAfter, tail.chainBefore) && bytesEqual(tail.chainAfter, frame.chainAfter),
      );
      assert.equal(head.dataBytesTotal, frame.dataBytesTotal - tail.count * 512);
      assert.equal(tail.dataBytesTotal, frame.dataBytesTotal);
      assert.deepEqual(Buffer.concat([head.body, tail.body]), Buffer.from(frame.body));
      assert.equal(head.records.length + tail.records.length, count);
    }),
  );
  const whole = new MemorySource().append(4, 512);
  assert.equal(splitFrame(whole, 1), whole);
});

test("any target: batches carry every record once, in order, verified, within the limits", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 40 })), {
        minLength: 1,
        maxLength: 8,
      }),
      fc.integer({ min: 1, max: 200_000 }),
      fc.nat(5),
      async (shapes, target, start) => {
        const source = new MemorySource();
        for (const [count, sectors] of shapes) source.append(count, sectors * 512);
        const end = source.durable().sequence;
        let next = Math.min(end, 1 + start);
        let chain: Uint8Array | undefined;
        while (next <= end) {
          const packed = packBatch(await source.frames(next, target), next, end, target);
          const bytes = packed.reduce((sum, frame) => sum + frameHeaderBytes + frame.body.byteLength, 0);
          assert.ok(bytes <= batchRawBytesMax);
          assert.ok(
            bytes <= target || (packed.length === 1 && packed[0]!.count === 1),
            "over the target only for one record",
          );
          const encoded = await encodeBatch(packed, source.token, "none");
          const header = decodeBatchHeader(encoded);
          decodeBatchPayload(header, encoded.subarray(batchHeaderBytes));
          assert.equal(header.first, next);
          if (chain !== undefined) assert.ok(bytesEqual(header.chainBefore, chain));
          chain = header.chainAfter;
          next = header.last + 1;
        }
        assert.ok(chain !== undefined && bytesEqual(chain, source.durable().chain));
      },
    ),
    { numRuns: 60 },
  );
});

test("nothing beyond the last durable record is packed, wherever in a frame it lies", async () => {
  const source = new MemorySource();
  for (let frame = 0; frame < 3; frame += 1) source.append(4, 4096);
  const frames = await source.frames(1, 2 ** 20);
  for (let through = 1; through <= 12; through += 1) {
    for (let from = 1; from <= through; from += 1) {
      const held = frames.filter((frame) => frame.last >= from);
      for (const target of [1, 3 * 4096, 2 ** 20]) {
        const last = packBatch(held, from, through, target).at(-1)!.last;
        assert.ok(last <= through, `${from}..${through} packed to ${last}`);
        if (target === 2 ** 20) assert.equal(last, through);
      }
    }
  }
});
