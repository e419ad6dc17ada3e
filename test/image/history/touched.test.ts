/** Which blocks a step touches: against a naive walk over every block. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { foldRecords } from "../../../image/fold.ts";
import { touchedBlocks } from "../../../image/history/touched.ts";
import { recordOf, recordShapes } from "../frames.ts";

const sectorCount = 200;
const blockCount = Math.ceil(sectorCount / 8);

test("touched blocks are those that a naive walk finds, ascending, disjoint and of one kind", () => {
  fc.assert(
    fc.property(
      fc.array(fc.array(recordShapes(3, sectorCount, 40), { maxLength: 12 }), { maxLength: 5 }),
      (portions) => {
        const folded = portions.map((shapes) => foldRecords(shapes.map(recordOf)));
        const naive = new Map<string, boolean>();
        for (const portion of folded) {
          for (const [volume, changes] of portion) {
            for (const { offset, length, data } of changes) {
              for (let at = offset; at < offset + length; at += 512) {
                const key = `${volume} ${Math.floor(at / 4096)}`;
                naive.set(key, (naive.get(key) ?? true) && data === null);
              }
            }
          }
        }
        const found = new Map<string, boolean>();
        let volumeBefore = -1;
        for (const [volume, runs] of touchedBlocks(folded)) {
          assert.ok(volume > volumeBefore && runs.length > 0);
          volumeBefore = volume;
          let end = 0;
          for (const { first, blocks, zeroedOnly } of runs) {
            assert.ok(first >= end && blocks > 0 && first + blocks <= blockCount);
            end = first + blocks;
            for (let block = first; block < end; block += 1) found.set(`${volume} ${block}`, zeroedOnly);
          }
        }
        assert.equal(found.size, naive.size);
        for (const [key, zeroedOnly] of naive) assert.equal(found.get(key), zeroedOnly, key);
      },
    ),
    { numRuns: 500 },
  );
});

test("a range of any length costs one run", () => {
  const record = { kind: "trim", volume: 3, offset: 512, length: 2 ** 31 } as const;
  assert.deepEqual(
    [...touchedBlocks([foldRecords([record])])],
    [[3, [{ first: 0, blocks: 2 ** 19 + 1, zeroedOnly: true }]]],
  );
});
