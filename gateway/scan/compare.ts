/**
 * Compares a scan's digests with what the images hold, as apply comes past them. Reads in pieces and keeps one in memory,
 * whatever range a digest covers. It never changes the images, and what it could not read it tells as that: different, and
 * unreadable.
 */
import type { CompareScanned } from "../../image/group-image.ts";
import { isUnreadable } from "../../image/history/before-images.ts";
import { blockBytes, type Sequence, type VolumeNumber } from "../../protocol/ids.ts";
import type { ScanDigestRecord } from "../../protocol/record.ts";
import {
  chunkDigest,
  chunkDigestBytes,
  differingBits,
  digestsBytes,
  leafDigestBytes,
  leafDigests,
  scanChunkBytes,
  setBit,
} from "../../protocol/scan-digest.ts";
import { errorText, OperationalError } from "../../runtime/errors.ts";
import type { Findings } from "./findings.ts";

/** Hashed in one turn of the event loop: at 3.4 us a leaf (10 us where the processor has no help for it) below 0.7 ms. */
const leavesPerTurn = 64;
const pieceBytes = leavesPerTurn * blockBytes;
/** Reads of a leaf until it is called unreadable. */
const leafReadsMax = 3;

export interface ScanComparerOptions {
  /** What the images hold now. */
  readonly read: (volume: VolumeNumber, offset: number, length: number) => Promise<Uint8Array>;
  readonly findings: Findings;
  /** False while somebody waits for apply: a digest is then passed over, and so is the rest of one being compared. */
  readonly hasTime: () => boolean;
  /**
   * Whether sectors that cannot be read are to end the step, so that the images are opened again, instead of being told: once
   * in a while, for what passes by itself.
   */
  readonly reopens: () => boolean;
}

/** Digests as the images have them, and which leaves could not be read; with those no digest means anything. */
interface Ours {
  readonly digests: Uint8Array;
  /** By leaf from the range's start. */
  readonly unreadable: readonly number[];
}

export class ScanComparer {
  readonly #options: ScanComparerOptions;
  /** Leaves hashed since the event loop had its last turn from here. */
  #hashed = 0;

  constructor(options: ScanComparerOptions) {
    this.#options = options;
  }

  /** For `GroupImage.apply`. OperationalError `IMAGE_READ_FAILED`, reaction `reopen`. */
  readonly compare: CompareScanned = async (record, sequence) => {
    const { findings, hasTime } = this.#options;
    const ours = findings.takes && hasTime() ? await this.#digestsOf(record, sequence) : undefined;
    if (ours === undefined) {
      findings.missed(sequence);
      return;
    }
    const { level, digests } = record;
    const differing = differingBits(level, ours.digests, digests);
    if (ours.unreadable.length === 0) {
      findings.compared(sequence, differing);
      return;
    }
    // What nobody can read is not what the owner has, whatever its digest.
    const units = ours.digests.byteLength / (level === "chunk" ? chunkDigestBytes : leafDigestBytes);
    const bits = differing ?? new Uint8Array(Math.ceil(units / 8));
    const unreadable = new Uint8Array(bits.byteLength);
    for (const leaf of ours.unreadable) {
      const unit = level === "chunk" ? Math.floor((leaf * blockBytes) / scanChunkBytes) : leaf;
      setBit(bits, unit);
      setBit(unreadable, unit);
    }
    findings.compared(sequence, bits, level === "leaf" ? unreadable : undefined);
  };

  /** Undefined: given up, somebody waits. */
  async #digestsOf(record: ScanDigestRecord, sequence: Sequence): Promise<Ours | undefined> {
    const { volume, offset, length, level } = record;
    if (level === "leaf") return this.#leavesOf(volume, offset, length, sequence);
    const digests = new Uint8Array(digestsBytes("chunk", length));
    const unreadable: number[] = [];
    for (let at = 0, out = 0; at < length; at += scanChunkBytes, out += chunkDigestBytes) {
      if (!this.#options.hasTime()) return undefined;
      const leaves = await this.#leavesOf(
        volume,
        offset + at,
        Math.min(scanChunkBytes, length - at),
        sequence,
      );
      digests.set(chunkDigest(leaves.digests), out);
      for (const leaf of leaves.unreadable) unreadable.push(at / blockBytes + leaf);
    }
    return { digests, unreadable };
  }

  /** Of at most one chunk. */
  async #leavesOf(volume: VolumeNumber, offset: number, length: number, sequence: Sequence): Promise<Ours> {
    const digests = new Uint8Array(digestsBytes("leaf", length));
    const unreadable: number[] = [];
    for (let at = 0, out = 0; at < length; at += pieceBytes) {
      const bytes = Math.min(pieceBytes, length - at);
      const content = await this.#readPiece(volume, offset + at, bytes, sequence);
      for (const leaf of content.unreadable) unreadable.push(at / blockBytes + leaf);
      const leaves = Math.ceil(bytes / blockBytes);
      await this.#takeTurns(leaves);
      digests.set(leafDigests(content.bytes), out);
      out += leaves * leafDigestBytes;
    }
    return { digests, unreadable };
  }

  /** A piece, or leaf by leaf what of it can be read: each a few times, then it is called unreadable. */
  async #readPiece(volume: VolumeNumber, offset: number, length: number, sequence: Sequence) {
    const { read, reopens } = this.#options;
    try {
      return { bytes: await read(volume, offset, length), unreadable: [] };
    } catch (cause) {
      if (!isUnreadable(cause) || reopens()) throw readFailed(volume, offset, sequence, cause);
    }
    const bytes = new Uint8Array(length);
    const unreadable: number[] = [];
    for (let at = 0; at < length; at += blockBytes) {
      const leaf = await this.#readLeaf(volume, offset + at, Math.min(blockBytes, length - at), sequence);
      if (leaf === undefined) unreadable.push(at / blockBytes);
      else bytes.set(leaf, at);
    }
    return { bytes, unreadable };
  }

  /** Undefined: it cannot be read. */
  async #readLeaf(volume: VolumeNumber, offset: number, length: number, sequence: Sequence) {
    for (let attempt = 0; attempt < leafReadsMax; attempt += 1) {
      try {
        return await this.#options.read(volume, offset, length);
      } catch (cause) {
        if (!isUnreadable(cause)) throw readFailed(volume, offset, sequence, cause);
      }
    }
    return undefined;
  }

  /** What is in the page cache is read without a turn of the event loop, so reading alone does not give any. */
  async #takeTurns(leaves: number): Promise<void> {
    if (this.#hashed + leaves > leavesPerTurn) {
      await new Promise<void>((resolve) => {
        setImmediate(resolve);
      });
      this.#hashed = 0;
    }
    this.#hashed += leaves;
  }
}

function readFailed(
  volume: VolumeNumber,
  offset: number,
  sequence: Sequence,
  cause: unknown,
): OperationalError {
  return new OperationalError({
    code: "IMAGE_READ_FAILED",
    message: `the image of volume ${volume} could not be read at ${offset}: ${errorText(cause)}`,
    reaction: "reopen",
    hint: "Look at the disk of the images; they are opened again and applying goes on by itself.",
    cause,
    details: { volume, offset, sequence },
  });
}
