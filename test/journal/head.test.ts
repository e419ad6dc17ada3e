/** The head value: round trip, refusal of damage, and thinning of its pairs. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { addPair, decodeHead, encodeHead, headPairsMax } from "../../journal/head.ts";
import type { ChainPosition } from "../../protocol/ids.ts";
import { RemoteProtocolError } from "../../protocol/remote-error.ts";
import { lineage } from "./support/scratch-log.ts";

const pair = (sequence: number): ChainPosition => ({
  sequence,
  chain: new Uint8Array(32).fill(sequence % 251),
});
const head = {
  lineage,
  position: { ...pair(5_000), dataBytesTotal: 77, closedAtMs: 88 },
  pairs: [pair(0), pair(7), pair(4_999)],
};

test("heads come back as written; every flipped bit and every cut is refused", () => {
  const bytes = encodeHead(head);
  assert.deepEqual(decodeHead(bytes), head);
  for (let bit = 0; bit < bytes.byteLength * 8; bit += 1) {
    const flipped = Uint8Array.from(bytes);
    flipped[bit >> 3]! ^= 1 << (bit & 7);
    assert.throws(() => decodeHead(flipped), RemoteProtocolError, `bit ${bit}`);
  }
  for (let length = 0; length < bytes.byteLength; length += 1) {
    assert.throws(() => decodeHead(bytes.subarray(0, length)), RemoteProtocolError, `length ${length}`);
  }
});

test("pairs out of order or beyond the head are refused", () => {
  for (const pairs of [[pair(7), pair(7)], [pair(9), pair(3)], [pair(5_000)]]) {
    assert.throws(() => decodeHead(encodeHead({ ...head, pairs })), { code: "HEAD_ORDER" });
  }
});

test("pairs stay bounded, keep the oldest and the newest, and get sparser with age", () => {
  let pairs: ChainPosition[] = [];
  for (let sequence = 0; sequence < 10_000; sequence += 1) pairs = addPair(pairs, pair(sequence));
  assert.ok(pairs.length <= headPairsMax);
  assert.equal(pairs[0]?.sequence, 0);
  assert.equal(pairs.at(-1)?.sequence, 9_999);
  const recent = pairs.slice(-headPairsMax / 4).map((one) => one.sequence);
  assert.deepEqual(
    recent,
    recent.map((_, at) => 10_000 - recent.length + at),
    "the newest are all there",
  );
  assert.deepEqual(
    decodeHead(encodeHead({ ...head, position: { ...head.position, sequence: 10_000 }, pairs })).pairs,
    pairs,
  );
});
