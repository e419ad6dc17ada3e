/** The format of the write-ahead halves: what was written is read, what was not written whole is never believed. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  aheadHeaderBytes,
  aheadRecordBytes,
  aheadRecordBytesMax,
  aheadValueBytesMax,
  encodeAheadInto,
  scanAhead,
} from "../../journal/write-ahead-frames.ts";
import { decodeAhead } from "../protocol/naive/write-ahead.ts";

interface Given {
  readonly first: number;
  readonly value: Uint8Array;
}

/** Frames of rising sequence with values of a few hundred bytes. */
const frames = fc
  .array(fc.tuple(fc.integer({ min: 1, max: 2 ** 40 }), fc.uint8Array({ maxLength: 300 })), {
    minLength: 1,
    maxLength: 12,
  })
  .map((found): Given[] => {
    let first = 0;
    return found.map(([step, value]) => {
      first += step;
      return { first, value };
    });
  });
const filling = fc.integer({ min: 1, max: 2 ** 50 });

function half(bytes: number, number: number, given: readonly Given[], into = Buffer.alloc(bytes)) {
  const record = Buffer.alloc(aheadRecordBytesMax);
  let at = 0;
  const ends: number[] = [];
  for (const { first, value } of given) {
    const encoded = encodeAheadInto(record, number, first, value);
    assert.equal(encoded.byteLength, aheadRecordBytes(value.byteLength));
    into.set(encoded, at);
    at += encoded.byteLength;
    ends.push(at);
  }
  return { bytes: into, used: at, ends };
}

function plain(found: readonly { first: number; value: Uint8Array }[]) {
  return found.map(({ first, value }) => [first, Buffer.from(value).toString("hex")]);
}

test("what was written is read, by us and by the naive decoder, and nothing behind it", () => {
  fc.assert(
    fc.property(frames, filling, fc.integer({ min: 0, max: 100 }), (given, number, room) => {
      const { bytes } = half(16 * 1024 + room, number, given);
      assert.deepEqual(plain(scanAhead(bytes)), plain(given));
      const naive = decodeAhead([...bytes]);
      assert.deepEqual(
        naive.map(({ filling: found, first, value }) => [found, first, value]),
        given.map(({ first, value }) => [number, first, [...value]]),
      );
    }),
  );
});

test("a half that is cut anywhere holds the records before the cut", () => {
  fc.assert(
    fc.property(frames, filling, fc.double({ min: 0, max: 1, noNaN: true }), (given, number, share) => {
      const { bytes, used } = half(16 * 1024, number, given);
      const cut = Math.floor(used * share);
      const ends = given.map(
        (_, at) =>
          given.slice(0, at).reduce((sum, { value }) => sum + aheadRecordBytes(value.byteLength), 0) +
          aheadHeaderBytes +
          given[at]!.value.byteLength,
      );
      const whole = given.slice(0, ends.filter((end) => end <= cut).length);
      assert.deepEqual(plain(scanAhead(bytes.subarray(0, cut))), plain(whole));
    }),
  );
});

test("with bits flipped, or sectors that never came to the disk, what is read is a part of what was written, from the start", () => {
  fc.assert(
    fc.property(
      frames,
      filling,
      fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 7 })), { maxLength: 4 }),
      fc.array(fc.nat(), { maxLength: 4 }),
      (given, number, flips, sectors) => {
        const { bytes, used } = half(16 * 1024, number, given);
        for (const [at, bit] of flips) bytes[at % used]! ^= 1 << bit;
        for (const sector of sectors) {
          const start = (sector % Math.ceil(used / 512)) * 512;
          bytes.fill(0, start, start + 512);
        }
        const found = plain(scanAhead(bytes));
        assert.deepEqual(found, plain(given).slice(0, found.length));
      },
    ),
    { numRuns: 1_000 },
  );
});

test("leftovers of an earlier filling do not follow the records of a later one", () => {
  fc.assert(
    fc.property(frames, frames, filling, (older, newer, number) => {
      // All sequences of the newer are larger, as they are: only the filling tells a leftover.
      const base = older.at(-1)!.first;
      const later = newer.map(({ first, value }) => ({ first: base + first, value }));
      const before = half(16 * 1024, number, older);
      const kept = Buffer.from(before.bytes);
      half(0, number + 1, later, kept);
      assert.deepEqual(plain(scanAhead(kept)), plain(later));
    }),
  );
});

test("a leftover of a larger sequence that follows exactly is not believed either", () => {
  const value = new Uint8Array(100).fill(7);
  const before = half(
    16 * 1024,
    1,
    [1, 2, 3, 4].map((first) => ({ first, value })),
  );
  half(0, 3, [{ first: 1, value }], before.bytes);
  assert.deepEqual(
    scanAhead(before.bytes).map(({ first }) => first),
    [1],
  );
});

test("sequences that do not rise end a half, and a length beyond the limit is no record", () => {
  const value = new Uint8Array(10);
  const { bytes } = half(
    16 * 1024,
    1,
    [5, 5, 6].map((first) => ({ first, value })),
  );
  assert.equal(scanAhead(bytes).length, 1);
  const record = Buffer.alloc(aheadRecordBytesMax + 8);
  const longest = encodeAheadInto(record, 1, 1, new Uint8Array(aheadValueBytesMax));
  assert.equal(longest.byteLength, aheadRecordBytesMax);
  assert.equal(scanAhead(longest).length, 1);
  const longer = Buffer.alloc(aheadRecordBytesMax + 8);
  encodeAheadInto(longer, 1, 1, new Uint8Array(aheadValueBytesMax + 1));
  assert.equal(scanAhead(longer).length, 0);
});

test("a whole record of another version is refused, not skipped", async () => {
  const { crc32 } = await import("node:zlib");
  const { bytes } = half(4096, 1, [{ first: 1, value: new Uint8Array(20) }]);
  bytes[4] = 2;
  bytes.writeUInt32BE(crc32(bytes.subarray(32, 52), crc32(bytes.subarray(0, 28))), 28);
  assert.throws(() => scanAhead(bytes), { code: "AHEAD_VERSION" });
});
