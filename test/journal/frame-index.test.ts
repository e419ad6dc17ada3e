/** The frame index against a plain array: whatever is pushed and dropped, the same rows are found. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { IndexRow } from "../../journal/frame-index.ts";
import { FrameIndex } from "../../journal/frame-index.ts";

type Step =
  | { kind: "push"; rows: number; records: number; jumpMs: number; dataBytes: number }
  | { kind: "drop"; rows: number };

const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({
    kind: fc.constant("push" as const),
    rows: fc.integer({ min: 1, max: 1500 }),
    records: fc.integer({ min: 1, max: 131_073 }),
    // Clocks jump, also by more than 32 bits of milliseconds, which begins a new segment.
    jumpMs: fc.oneof(fc.integer({ min: -5_000, max: 5_000 }), fc.integer({ min: -(2 ** 40), max: 2 ** 40 })),
    dataBytes: fc.nat(2 ** 21),
  }),
  fc.record({ kind: fc.constant("drop" as const), rows: fc.nat(2_000) }),
);

test("rows are found as in a plain array", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 8 }), fc.maxSafeNat(), (steps, probe) => {
      const index = new FrameIndex();
      let rows: IndexRow[] = [];
      let last = 2 ** 45;
      let clock = 1.7e12;
      let total = 2 ** 45;
      for (const one of steps) {
        if (one.kind === "drop") {
          index.dropFirst(one.rows);
          rows = rows.slice(one.rows);
          continue;
        }
        clock += one.jumpMs;
        for (let count = 0; count < one.rows; count += 1) {
          total += one.dataBytes;
          const row = {
            first: last + 1,
            last: last + one.records,
            openedAtMs: clock,
            closedAtMs: clock + count,
            dataBytesTotal: total,
            storedBytes: count,
          };
          index.push(row);
          rows.push(row);
          last = row.last;
        }
      }
      assert.equal(index.length, rows.length);
      assert.deepEqual([...index.rowsFrom(0)], rows);
      if (rows.length === 0) return;
      const wanted = rows[probe % rows.length]!;
      for (const sequence of [wanted.first, wanted.last]) {
        assert.deepEqual(index.rowsFrom(sequence).next().value, wanted);
      }
      assert.equal(index.rowsFrom(last + 1).next().done, true);
    }),
    { numRuns: 40 },
  );
});
