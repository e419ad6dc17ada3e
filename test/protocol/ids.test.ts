/** Names, lineages and tokens: what is legal, and who wins. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  bytesEqual,
  bytesFromHex,
  bytesToHex,
  compareTokens,
  isName,
  lineageFromText,
  lineageToText,
} from "../../protocol/ids.ts";

test("names are short, lower case and never a path", () => {
  for (const name of ["a", "erp", "site-1", "x.y_z", "0", "a".repeat(63)])
    assert.equal(isName(name), true, name);
  for (const name of [
    "",
    "A",
    ".",
    "..",
    "a..b",
    "a/b",
    "-a",
    "_a",
    "a b",
    "a\n",
    "a\0",
    "ä",
    "a".repeat(64),
  ]) {
    assert.equal(isName(name), false, JSON.stringify(name));
  }
});

test("lineages come back from their text, and nothing else is one", () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 16, maxLength: 16 }), (bytes) => {
      assert.deepEqual(lineageFromText(lineageToText(bytes)), bytes);
    }),
  );
  fc.assert(fc.property(fc.string(), (text) => assert.equal(lineageFromText(text), undefined)));
  assert.equal(lineageFromText("00112233-4455-6677-8899-AABBCCDDEEFF"), undefined);
});

test("hex comes back, and nothing else is hex", () => {
  fc.assert(
    fc.property(fc.uint8Array(), (bytes) => assert.deepEqual(bytesFromHex(bytesToHex(bytes)), bytes)),
  );
  for (const text of ["0", "0g", "AB", " ab", "ab\n"])
    assert.equal(bytesFromHex(text), undefined, JSON.stringify(text));
});

test("hex of a view is hex of the view only", () => {
  assert.equal(bytesToHex(new Uint8Array([1, 2, 3, 4]).subarray(1, 3)), "0203");
});

test("bytes are equal only with equal lengths and content", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 8 }), fc.uint8Array({ maxLength: 8 }), (a, b) => {
      assert.equal(bytesEqual(a, b), a.join() === b.join() && a.length === b.length);
      assert.equal(bytesEqual(a, Buffer.from(a)), true);
    }),
  );
});

test("tokens: the higher epoch wins, equal epochs of two owners stop both, and both sides see the same", () => {
  const token = fc.record({ epoch: fc.integer({ min: 1, max: 4 }), owner: fc.constantFrom("a", "b") });
  const mirrored = { same: "same", conflict: "conflict", newer: "older", older: "newer" };
  fc.assert(
    fc.property(token, token, (a, b) => {
      const order = compareTokens(a, b);
      assert.equal(compareTokens(b, a), mirrored[order]);
      assert.equal(order === "newer", a.epoch > b.epoch);
      assert.equal(order === "conflict", a.epoch === b.epoch && a.owner !== b.owner);
    }),
  );
});
