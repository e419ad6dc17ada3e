/** Documents of scans: what is written is read back, differences become few ranges, and ranges become the leaves they touch. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { damagedListedMax, rangesListedMax } from "../../../protocol/history-check.ts";
import { blockBytes } from "../../../protocol/ids.ts";
import { scanChunkBytes } from "../../../protocol/scan-digest.ts";
import type { VerifyResult } from "../../../protocol/status.ts";
import type { BlockRange } from "../../../site-agent/scan/scan-document.ts";
import {
  leavesIn,
  newScan,
  parseScanDocument,
  parseVerifyResults,
  rangesMax,
  unreadableMax,
  verifyResultsMax,
  withDifferences,
  withResult,
} from "../../../site-agent/scan/scan-document.ts";

const leavesMax = scanChunkBytes / blockBytes;
const sizeBytes = 3 * scanChunkBytes - 512;

test("differences become ranges and are leaves again, up to the bound; beyond it they are counted", () => {
  const leaf = fc.integer({ min: 0, max: leavesMax - 1 });
  fc.assert(
    fc.property(fc.array(fc.uniqueArray(leaf, { maxLength: 250 }), { maxLength: 3 }), (chunks) => {
      let document = newScan("verify", "compare", 4, 5, null);
      let count = 0;
      chunks.forEach((leaves, chunk) => {
        const bits = new Uint8Array(leavesMax / 8);
        for (const each of leaves) bits[each >> 3]! |= 1 << (each & 7);
        count += leaves.length;
        document = withDifferences(document, 2, sizeBytes, chunk, bits);
      });
      assert.equal(document.differingBlocks, count);
      assert(document.differences.length <= rangesMax);
      assert(document.differences.every(({ start, end }) => start < end && end <= sizeBytes));
      assert.deepEqual(parseScanDocument(JSON.parse(JSON.stringify(document))), document);
      if (document.differences.length === rangesMax) return;
      chunks.forEach((leaves, chunk) => {
        const bits = leavesIn(document.differences, 2, chunk);
        const found = Array.from({ length: leavesMax }, (_, each) => each).filter(
          (each) => bits !== null && (bits[each >> 3]! & (1 << (each & 7))) !== 0,
        );
        assert.deepEqual(
          found,
          leaves.toSorted((a, b) => a - b),
        );
        assert.equal(leavesIn(document.differences, 1, chunk), null, "another volume");
      });
    }),
  );
});

function result(begin: number): VerifyResult {
  return {
    begin,
    end: begin + 9,
    outcome: "done",
    startedAt: "2026-03-02T10:14:06.000Z",
    durationMs: 5,
    checkedBytes: 4096,
    uncheckedBytes: 0,
    differingBlocks: rangesMax,
    overwrittenChunks: 1,
    differences: Array.from({ length: rangesMax }, (_, index) => ({
      volume: "v".repeat(60),
      offset: 2 ** 45 + index * 8192,
      length: blockBytes,
    })),
    unreadableBlocks: rangesMax,
    unreadable: Array.from({ length: unreadableMax }, () => ({
      volume: "v".repeat(60),
      offset: 2 ** 45,
      length: blockBytes,
    })),
    history: {
      state: "done",
      check: {
        code: "HISTORY_DAMAGED",
        startedAt: "2026-03-02T10:14:06.000Z",
        durationMs: 5,
        checkedBytes: 2 ** 45,
        chunks: 2 ** 30,
        damagedChunks: 2 ** 30,
        damaged: Array.from({ length: damagedListedMax }, (_, index) => ({
          segment: 99_999_999,
          offset: 2 ** 40 + index,
          part: "padding",
          pointsUpTo: 2 ** 50,
          ranges: Array.from({ length: rangesListedMax / damagedListedMax }, () => ({
            volume: "v".repeat(60),
            offset: 2 ** 45,
            length: 2 ** 40,
          })),
        })),
      },
    },
  };
}

test("as many results as are kept, as long as they can be, fit into a document and are read back", () => {
  let results: VerifyResult[] = [];
  for (let begin = 1; begin <= verifyResultsMax + 5; begin += 1) results = withResult(results, result(begin));
  assert.equal(results.length, verifyResultsMax);
  assert.equal(results[0]?.begin, verifyResultsMax + 5);
  const document = { results };
  // Bound of runtime/durable-document.ts, which writes it as this.
  assert(JSON.stringify({ crc: 2 ** 32, document }, null, 1).length < 1024 * 1024);
  assert.deepEqual(parseVerifyResults(JSON.parse(JSON.stringify(document))), results);
});

test("a result that is told twice is kept once, in its place", () => {
  const results = withResult(withResult([], result(1)), result(1));
  assert.equal(results.length, 1);
});

test("ranges outside a chunk mark nothing in it, and a part of a leaf marks the leaf", () => {
  const range: BlockRange = { volume: 0, start: scanChunkBytes - 512, end: scanChunkBytes + 512 };
  assert.equal(leavesIn([range], 0, 0)?.at(-1), 0x80);
  assert.equal(leavesIn([range], 0, 1)?.[0], 1);
  assert.equal(leavesIn([range], 0, 2), null);
});
