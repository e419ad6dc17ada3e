/** Digests against images: exactly the chunks and leaves that differ are found, in bounded pieces and short turns. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { BlockErrno, BlockError } from "../../../block/device.ts";
import { ScanComparer } from "../../../gateway/scan/compare.ts";
import { Findings } from "../../../gateway/scan/findings.ts";
import type { ScanDigestRecord } from "../../../protocol/record.ts";
import { chunkDigest, leafDigests, scanChunkBytes } from "../../../protocol/scan-digest.ts";

const kibibyte = 1024;
/** The most that is in memory at once. */
const pieceBytesMax = scanChunkBytes;

function digestRecord(content: Uint8Array, level: "chunk" | "leaf", offset = 0): ScanDigestRecord {
  const chunks: Uint8Array[] = [];
  for (let at = 0; at < content.byteLength; at += scanChunkBytes) {
    const leaves = leafDigests(content.subarray(at, at + scanChunkBytes));
    chunks.push(level === "leaf" ? leaves : chunkDigest(leaves));
  }
  return {
    kind: "scanDigest",
    volume: 0,
    offset,
    length: content.byteLength,
    level,
    digests: Buffer.concat(chunks),
  };
}

/** Bits as a person would count them: which units of `unitBytes` are not the same bytes. */
function naiveBits(ours: Uint8Array, theirs: Uint8Array, unitBytes: number): string {
  const bits = new Uint8Array(Math.ceil(Math.ceil(ours.byteLength / unitBytes) / 8));
  for (let at = 0, index = 0; at < ours.byteLength; at += unitBytes, index += 1)
    if (Buffer.compare(ours.subarray(at, at + unitBytes), theirs.subarray(at, at + unitBytes)) !== 0)
      bits[index >> 3]! |= 1 << (index & 7);
  return Buffer.from(bits).toString("hex");
}

function comparerOf(image: Uint8Array, findings: Findings, hasTime: () => boolean = () => true) {
  const reads: number[] = [];
  const comparer = new ScanComparer({
    read: async (_volume, offset, length) => {
      reads.push(length);
      assert.ok(offset + length <= image.byteLength, "reads stay in the volume");
      return image.subarray(offset, offset + length);
    },
    findings,
    hasTime,
    reopens: () => true,
  });
  return { comparer, reads };
}

test("exactly the chunks and leaves that differ are found, also at the end of an odd volume", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 5 * 2_048 }),
      fc.array(fc.double({ min: 0, max: 0.999_999, noNaN: true }), { maxLength: 4 }),
      async (sectors, flips) => {
        const theirs = Buffer.alloc(sectors * 512, 7);
        const ours = Buffer.from(theirs);
        for (const share of flips) ours[Math.floor(share * ours.byteLength)]! ^= 4;
        const findings = new Findings(0);
        const { comparer, reads } = comparerOf(ours, findings);
        const offset = scanChunkBytes * Math.floor((theirs.byteLength - 1) / scanChunkBytes);
        await comparer.compare(digestRecord(theirs, "chunk"), 3);
        await comparer.compare(digestRecord(theirs.subarray(offset), "leaf", offset), 5);
        const answer = findings.collect(0);
        const bits = (sequence: number) =>
          answer.differing.find((row) => row.sequence === sequence)?.bits ?? "";
        const zeroless = (hex: string) => (/^0*$/.test(hex) ? "" : hex);
        assert.equal(answer.through, 5);
        assert.equal(bits(3), zeroless(naiveBits(ours, theirs, scanChunkBytes)));
        assert.equal(
          bits(5),
          zeroless(naiveBits(ours.subarray(offset), theirs.subarray(offset), 4 * kibibyte)),
        );
        assert.ok(Math.max(...reads) <= pieceBytesMax);
      },
    ),
    { numRuns: 40 },
  );
});

test("however much there is to hash, the event loop has its turn after every quarter of a MiB", async () => {
  const image = Buffer.alloc(8 * scanChunkBytes);
  const { comparer } = comparerOf(image, new Findings(0));
  let turns = 0;
  let over = false;
  const count = (): void => {
    turns += 1;
    if (!over) setImmediate(count);
  };
  setImmediate(count);
  await comparer.compare(digestRecord(image, "chunk"), 1);
  over = true;
  assert.ok(turns >= 31, `${turns} turns`);
});

test("digests that are short and many leave turns too: the limit is not one of each digest", async () => {
  const image = Buffer.alloc(16 * 4 * kibibyte);
  const record = digestRecord(image, "leaf");
  const { comparer } = comparerOf(image, new Findings(0));
  let turns = 0;
  let over = false;
  const count = (): void => {
    turns += 1;
    if (!over) setImmediate(count);
  };
  setImmediate(count);
  for (let sequence = 1; sequence <= 64; sequence += 1) await comparer.compare(record, sequence);
  over = true;
  assert.ok(turns >= 15, `${turns} turns`);
});

test("a digest is passed over while somebody waits, also in its middle, and is then neither equal nor different", async () => {
  const image = Buffer.alloc(4 * scanChunkBytes);
  const findings = new Findings(0);
  let asked = 0;
  const { comparer, reads } = comparerOf(image, findings, () => {
    asked += 1;
    return asked < 4;
  });
  await comparer.compare(digestRecord(image, "chunk"), 2);
  assert.equal(reads.length, 8, "two of four chunks");
  assert.deepEqual([findings.collect(0).since, findings.collect(0).through], [2, 2]);
});

const medium = () =>
  new BlockError(BlockErrno.EIO, "read", Object.assign(new Error("medium error"), { code: "EIO" }));

test("a sector that cannot be read opens the images again at first, and is then told as that, bounded", async () => {
  const theirs = Buffer.alloc(2 * scanChunkBytes + 512, 3);
  const ours = Buffer.from(theirs);
  ours[7 * 4_096] = 9;
  const bad = new Set([5, 6, 300, 512]);
  let reopens = true;
  let reads = 0;
  const findings = new Findings(0);
  const comparer = new ScanComparer({
    read: async (_volume, offset, length) => {
      reads += 1;
      for (let at = offset; at < offset + length; at += 4_096) if (bad.has(at / 4_096)) throw medium();
      return ours.subarray(offset, offset + length);
    },
    findings,
    hasTime: () => true,
    reopens: () => reopens,
  });
  await assert.rejects(comparer.compare(digestRecord(theirs, "chunk"), 1), { code: "IMAGE_READ_FAILED" });
  reopens = false;
  await comparer.compare(digestRecord(theirs, "chunk"), 2);
  await comparer.compare(digestRecord(theirs.subarray(0, scanChunkBytes), "leaf"), 3);
  const [chunks, leaves] = findings.collect(0).differing;
  assert.deepEqual(chunks, { sequence: 2, bits: "07" });
  const bits = (marked: readonly number[]) => {
    const bytes = Buffer.alloc(32);
    for (const leaf of marked) bytes[leaf >> 3]! |= 1 << (leaf & 7);
    return bytes.toString("hex");
  };
  assert.deepEqual(leaves, { sequence: 3, bits: bits([5, 6, 7]), unreadable: bits([5, 6]) });
  // Nine pieces and four, leaves of those with bad ones, and those three times.
  assert.ok(reads < 1 + 9 + 4 + 5 * 64 + 3 * 6, `${reads} reads`);
});

test("what cannot be read for another reason is an error of the images, not a difference", async () => {
  const findings = new Findings(0);
  const comparer = new ScanComparer({
    read: () => Promise.reject(new BlockError(BlockErrno.EIO, "medium error")),
    findings,
    hasTime: () => true,
    reopens: () => false,
  });
  await assert.rejects(comparer.compare(digestRecord(Buffer.alloc(4_096), "chunk"), 1), {
    code: "IMAGE_READ_FAILED",
  });
  assert.deepEqual([findings.collect(0).through, findings.collect(0).differing], [0, []]);
});
