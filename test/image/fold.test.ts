/** Folding against plain application, byte for byte. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { foldRecords } from "../../image/fold.ts";
import type { ClientRecord } from "../../protocol/record.ts";
import { applyNaively, recordOf, recordShapes } from "./frames.ts";

const sectorCount = 128;

test("folded changes leave the same bytes as the records one after another, each byte written once", () => {
  fc.assert(
    fc.property(fc.array(recordShapes(2, sectorCount, 40), { maxLength: 60 }), (shapes) => {
      const expected = [0, 1].map(() => new Uint8Array(sectorCount * 512).fill(0xee));
      const actual = expected.map((image) => image.slice());
      const touched = expected.map(() => new Uint8Array(sectorCount * 512));
      const records = shapes.map(recordOf);
      for (const record of records) applyNaively(expected, record);
      for (const [volume, changes] of foldRecords(records)) {
        let end = 0;
        for (const change of changes) {
          assert(change.offset >= end && change.length > 0, "ascending and disjoint");
          end = change.offset + change.length;
          touched[volume]!.fill(1, change.offset, end);
          if (change.data === null) actual[volume]!.fill(0, change.offset, end);
          else actual[volume]!.set(change.data, change.offset);
          if (change.data !== null) assert.equal(change.data.byteLength, change.length);
        }
      }
      assert.deepEqual(actual, expected);
      for (const record of records) {
        const range = touched[record.volume]!.subarray(record.offset, record.offset + record.length);
        assert(
          range.every((byte) => byte === 1),
          "every record's range is covered",
        );
      }
    }),
    { numRuns: 500 },
  );
});

test("a record that nothing overlaps is passed on without a copy", () => {
  const data = new Uint8Array(4096).fill(3);
  const changes = foldRecords([{ kind: "write", volume: 0, offset: 8192, length: 4096, data }]).get(0)!;
  assert.equal(changes.length, 1);
  assert.equal(changes[0]!.data, data);
});

test("neighbouring ranges of zeroes become one change, whatever made them", () => {
  const records: ClientRecord[] = [
    { kind: "trim", volume: 0, offset: 4096, length: 4096 },
    { kind: "zeroes", volume: 0, offset: 0, length: 4096 },
    { kind: "trim", volume: 0, offset: 8192, length: 2 ** 32 - 512 },
  ];
  assert.deepEqual(foldRecords(records).get(0), [{ offset: 0, length: 8192 + 2 ** 32 - 512, data: null }]);
});

test("a rewritten block costs one change, the newest", () => {
  const data = Array.from({ length: 9 }, (_, index) => new Uint8Array(4096).fill(index));
  const changes = foldRecords(
    data.map((bytes) => ({ kind: "write", volume: 5, offset: 2 ** 40, length: 4096, data: bytes }) as const),
  ).get(5)!;
  assert.deepEqual(changes, [{ offset: 2 ** 40, length: 4096, data: data[8] }]);
});
