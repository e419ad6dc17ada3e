/** The chain depends on content and order only, and on nothing else. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ChainWalker, genesisChain } from "../../protocol/chain.ts";
import { buildFrame } from "../../protocol/frame.ts";
import { arbitraryBytes, arbitraryRecord, naiveRecord } from "./naive/arbitrary.ts";
import * as naive from "./naive/formats.ts";

const volumes = [
  { number: 1, name: "log", sizeBytes: 2 ** 28 },
  { number: 0, name: "data", sizeBytes: 2 ** 40 },
];

test("the naive twin gets the same genesis, whatever the order of the table", () => {
  const lineage = new Uint8Array(16).fill(5);
  const wanted = naive.genesis([...lineage], volumes);
  assert.deepEqual([...genesisChain(lineage, volumes)], wanted);
  assert.deepEqual([...genesisChain(lineage, [...volumes].reverse())], wanted);
});

test("genesis differs with lineage, number, name and size", () => {
  const lineage = new Uint8Array(16).fill(5);
  const one = { number: 0, name: "data", sizeBytes: 512 };
  const values = [
    genesisChain(lineage, [one]),
    genesisChain(new Uint8Array(16), [one]),
    genesisChain(lineage, [{ ...one, number: 1 }]),
    genesisChain(lineage, [{ ...one, name: "datb" }]),
    genesisChain(lineage, [{ ...one, sizeBytes: 1024 }]),
    genesisChain(lineage, [one, { ...one, number: 1 }]),
  ].map((value) => Buffer.from(value).toString("hex"));
  assert.equal(new Set(values).size, values.length);
});

test("any packing of the same records leads to the same value", () => {
  fc.assert(
    fc.property(
      arbitraryBytes(32),
      fc.array(arbitraryRecord, { minLength: 1, maxLength: 8 }),
      fc.nat(7),
      (start, records, cut) => {
        const input = { lineage: new Uint8Array(16), dataBytesBefore: 0, openedAtMs: 0, closedAtMs: 0 };
        const whole = buildFrame({ ...input, first: 1, chainBefore: start, records });
        const at = Math.min(cut, records.length - 1);
        let chain: Uint8Array = start;
        for (const part of [records.slice(0, at), records.slice(at)]) {
          if (part.length === 0) continue;
          chain = buildFrame({
            ...input,
            lineage: new Uint8Array(16).fill(9),
            openedAtMs: 77,
            first: 500,
            chainBefore: chain,
            records: part,
          }).chainAfter;
        }
        assert.deepEqual(chain, whole.chainAfter);
        assert.deepEqual([...chain], naive.walk([...start], records.map(naiveRecord)));
      },
    ),
  );
});

test("a value taken from a walker does not change when it walks on", () => {
  const walker = new ChainWalker(new Uint8Array(32));
  const before = walker.value;
  walker.advance(new Uint8Array(16));
  assert.deepEqual(before, new Uint8Array(32));
  assert.notDeepEqual(walker.value, before);
});
