/** Retention: what is held stays, what is left is bounded, and nothing goes that still has a reason to stay. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { decideRetention } from "../../../image/history/retention.ts";
import type { Segment } from "../../../image/history/segments.ts";

const segmentLists = fc
  .array(
    fc.record({
      bytes: fc.integer({ min: 1, max: 100 }),
      sets: fc.integer({ min: 1, max: 9 }),
      ms: fc.nat(50),
    }),
    { maxLength: 12 },
  )
  .map((shapes) => {
    const segments: Segment[] = [];
    let from = 1;
    let timeMs = 1_000;
    for (const [index, { bytes, sets, ms }] of shapes.entries()) {
      segments.push({ number: index + 1, bytes, from, timeMs });
      from += sets;
      timeMs += ms;
    }
    return segments;
  });

test("F72: a held point keeps all it needs; otherwise exactly what is too much or too old goes", () => {
  fc.assert(
    fc.property(
      segmentLists,
      fc.array(fc.nat(60), { maxLength: 3 }),
      fc.nat(400),
      fc.integer({ min: 1, max: 600 }),
      fc.integer({ min: 1_000, max: 1_700 }),
      (segments, held, windowMs, bytesMax, nowMs) => {
        const answer = decideRetention(segments, held, { windowMs, bytesMax }, nowMs);
        assert.ok(answer.segments <= Math.max(0, segments.length - 1), "the newest stays");
        const left = segments.slice(answer.segments);
        for (const [index, gone] of segments.slice(0, answer.segments).entries()) {
          const next = segments[index + 1]!;
          // The point S needs sets that begin behind S: the last one in here begins at `next.from - 1` at most.
          for (const point of held) assert.ok(point >= next.from - 1, "a held point lost a set");
          const before = segments.slice(gone.number - 1).reduce((sum, { bytes }) => sum + bytes, 0);
          assert.ok(before > bytesMax || next.timeMs < nowMs - windowMs, "it had no reason to go");
        }
        if (answer.segments > 0) assert.equal(answer.oldest, left[0]!.from - 1);
        else assert.equal(answer.oldest, undefined);
        const bytes = left.reduce((sum, segment) => sum + segment.bytes, 0);
        const next = left[1];
        if (next !== undefined) {
          const isHeld = held.some((point) => point < next.from - 1);
          assert.ok(isHeld || (bytes <= bytesMax && next.timeMs >= nowMs - windowMs), "it should have gone");
          assert.equal(answer.heldBeyond === "100%", isHeld && bytes >= bytesMax);
          assert.equal(answer.heldBeyond === "80%", isHeld && bytes < bytesMax && bytes >= 0.8 * bytesMax);
        }
      },
    ),
    { numRuns: 2_000 },
  );
});
