/**
 * Digests of a scan, both levels: of leaves (blocks of 4 KiB) and of chunks (1 MiB, over the digests of their leaves). Pure.
 * Sizes and what they cost: docs/scan.md.
 */
import { strict as assert } from "node:assert";
import { hash } from "node:crypto";
import { blockBytes } from "./ids.ts";

/** Unit in which volumes are walked. */
export const scanChunkBytes = 1024 * 1024;
export const leafDigestBytes = 16;
export const chunkDigestBytes = 32;

/** Length of all digests of a range of `length` bytes that begins with a chunk. */
export function digestsBytes(level: "chunk" | "leaf", length: number): number {
  return level === "chunk"
    ? Math.ceil(length / scanChunkBytes) * chunkDigestBytes
    : Math.ceil(length / blockBytes) * leafDigestBytes;
}

/** Digests of the leaves of a chunk, in order; `content` is the whole chunk, shorter only at a volume's end. */
export function leafDigests(content: Uint8Array): Uint8Array {
  assert(content.byteLength > 0 && content.byteLength <= scanChunkBytes, "the content of one chunk");
  const digests = Buffer.allocUnsafe(digestsBytes("leaf", content.byteLength));
  for (let at = 0, out = 0; at < content.byteLength; at += blockBytes, out += leafDigestBytes) {
    // Digests pass as strings: cheaper than a buffer with memory of its own for each.
    digests.write(
      hash("sha256", content.subarray(at, at + blockBytes), "binary").slice(0, leafDigestBytes),
      out,
      "latin1",
    );
  }
  return digests;
}

/** Digest of a chunk from those of its leaves. */
export function chunkDigest(leaves: Uint8Array): Uint8Array {
  return Buffer.from(hash("sha256", leaves, "binary"), "latin1");
}

/** A bit for each digest of `length` bytes that differs, lowest bit of the first byte first; undefined: none does. */
export function differingBits(
  level: "chunk" | "leaf",
  ours: Uint8Array,
  theirs: Uint8Array,
): Uint8Array | undefined {
  assert(ours.byteLength === theirs.byteLength, "digests of one range");
  const size = level === "chunk" ? chunkDigestBytes : leafDigestBytes;
  const count = ours.byteLength / size;
  let bits: Uint8Array | undefined;
  for (let index = 0; index < count; index += 1) {
    const start = index * size;
    if (Buffer.compare(ours.subarray(start, start + size), theirs.subarray(start, start + size)) === 0)
      continue;
    bits ??= new Uint8Array(Math.ceil(count / 8));
    setBit(bits, index);
  }
  return bits;
}

/** A bit for a chunk or leaf, as `differingBits` numbers them; false behind the end. */
export function hasBit(bits: Uint8Array, index: number): boolean {
  return ((bits[index >> 3] ?? 0) & (1 << (index & 7))) !== 0;
}

export function setBit(bits: Uint8Array, index: number): void {
  bits[index >> 3]! |= 1 << (index & 7);
}
