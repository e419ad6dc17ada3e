/** Bounded reading and writing: never out of range, never a view that outlives its input by accident. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ByteReader, ByteWriter } from "../../protocol/bytes.ts";

test("slices of what a reader gives are copies, even when the input is a Buffer", () => {
  const input = Buffer.from([1, 2, 3, 4]);
  const copy = new ByteReader(input).bytes(4).slice();
  input[0] = 9;
  assert.deepEqual([...copy], [1, 2, 3, 4]);
  assert.notEqual(copy.buffer, input.buffer, "a copy does not keep a whole network buffer alive");
});

test("numbers come back as written", () => {
  fc.assert(
    fc.property(
      fc.nat(0xff),
      fc.nat(0xffff),
      fc.nat(0xffffffff),
      fc.maxSafeNat(),
      fc.uint8Array(),
      (a, b, c, d, e) => {
        const written = new ByteWriter(15 + e.byteLength).u8(a).u16(b).u32(c).u64(d).put(e);
        assert.equal(written.offset, written.bytes.byteLength);
        const reader = new ByteReader(written.bytes);
        assert.deepEqual([reader.u8(), reader.u16(), reader.u32(), reader.u64()], [a, b, c, d]);
        assert.deepEqual([...reader.bytes(e.byteLength)], [...e]);
        assert.equal(reader.remaining, 0);
      },
    ),
  );
});

test("a number that is no safe integer is refused, on both sides", () => {
  const tooLarge = Buffer.from("0020000000000000", "hex");
  assert.throws(() => new ByteReader(tooLarge).u64(), { code: "NUMBER_TOO_LARGE" });
  assert.equal(new ByteReader(Buffer.from("001fffffffffffff", "hex")).u64(), Number.MAX_SAFE_INTEGER);
  for (const value of [-1, 1.5, Number.NaN, 2 ** 53]) {
    assert.throws(() => new ByteWriter(8).u64(value), { code: "ERR_ASSERTION" }, `${value}`);
  }
});

test("reading beyond the end is TRUNCATED at every length", () => {
  const bytes = new Uint8Array(7);
  for (let length = 0; length < 8; length += 1) {
    const reader = () => new ByteReader(bytes.subarray(0, Math.min(length, 7)));
    if (length < 1) assert.throws(() => reader().u8(), { code: "TRUNCATED" });
    if (length < 2) assert.throws(() => reader().u16(), { code: "TRUNCATED" });
    if (length < 4) assert.throws(() => reader().u32(), { code: "TRUNCATED" });
    assert.throws(() => reader().u64(), { code: "TRUNCATED" });
    assert.throws(() => reader().bytes(8), { code: "TRUNCATED" });
  }
});

test("a reader of a view stays inside the view", () => {
  const whole = Buffer.from("aabbccdd", "hex");
  const reader = new ByteReader(whole.subarray(1, 3));
  assert.equal(reader.u16(), 0xbbcc);
  assert.throws(() => reader.u8(), { code: "TRUNCATED" });
});
