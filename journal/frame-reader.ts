/**
 * Reads the frames of a log: from memory where they are there, else from the store, one fetch ahead of what is being decoded.
 * Believes nothing that is stored before its checksums, its chain and its index row say the same. Never writes.
 */
import assert from "node:assert/strict";
import type { Frame } from "../protocol/frame.ts";
import type { LineageBytes, Sequence } from "../protocol/ids.ts";
import { decodeStored, endOf, requireChain, requireIndexed } from "./continuity.ts";
import type { FrameIndex, IndexRow } from "./frame-index.ts";
import type { LogPosition } from "./frame-log.ts";
import { journalDamaged, journalTrimmed } from "./journal-errors.ts";
import type { MemoryTail } from "./memory-tail.ts";
import type { FrameStore } from "./store.ts";

/** Frames fetched in one read of the store: with `fetchBytesMax`, twice, what a read holds beside its result. */
const fetchFramesMax = 256;
export const fetchBytesMax = 2 * 1024 * 1024;

/** Frames being read from the store. */
interface Fetch {
  readonly from: Sequence;
  readonly rows: readonly IndexRow[];
  readonly storedBytes: number;
  readonly values: Promise<(Uint8Array | undefined)[]>;
}

export interface FrameReaderParts {
  /** The store, with what is on its way into it. */
  readonly stored: Pick<FrameStore, "frames">;
  readonly index: FrameIndex;
  readonly memory: MemoryTail;
  readonly lineage: LineageBytes;
  /** What is trimmed, and what there is, now: both move while something is read. */
  readonly head: () => Sequence;
  readonly tail: () => Sequence;
}

export class FrameReader {
  readonly #parts: FrameReaderParts;

  constructor(parts: FrameReaderParts) {
    this.#parts = parts;
  }

  /** As `FrameLog.frames`. */
  async frames(from: Sequence, rawBytesMax: number): Promise<Frame[]> {
    if (from > this.#parts.tail()) return [];
    if (from <= this.#parts.head()) throw journalTrimmed(from, this.#parts.head());
    if (from >= this.#parts.memory.first) return this.#parts.memory.from(from, rawBytesMax);
    const found: Frame[] = [];
    let next = from;
    let left = rawBytesMax;
    let ahead: Fetch | undefined;
    try {
      while (next <= this.#parts.tail() && (found.length === 0 || left > 0)) {
        const bytesMax = Math.min(left, fetchBytesMax);
        const fetch: Fetch = ahead?.from === next ? ahead : this.#beginFetch(next, bytesMax);
        // What follows is read while these are decoded.
        const after = fetch.rows.at(-1)!.last + 1;
        const leftAfter = left - fetch.storedBytes;
        const goesOn = after <= this.#parts.tail() && leftAfter > 0;
        ahead = goesOn ? this.#beginFetch(after, Math.min(leftAfter, fetchBytesMax)) : undefined;
        for (const frame of await this.#endFetch(fetch, bytesMax)) {
          const before = found.at(-1);
          if (before !== undefined) {
            if (left < frame.body.byteLength) return found;
            requireChain(frame.chainBefore, before.chainAfter, frame.first, "frame");
          }
          found.push(frame);
          left -= frame.body.byteLength;
          next = frame.last + 1;
        }
      }
      return found;
    } finally {
      // Nothing is being read when this settles.
      await ahead?.values.catch(() => undefined);
    }
  }

  #beginFetch(from: Sequence, bytesMax: number): Fetch {
    const rows: IndexRow[] = [];
    let storedBytes = 0;
    for (const row of this.#parts.index.rowsFrom(from)) {
      if (rows.length > 0 && (storedBytes + row.storedBytes > bytesMax || rows.length === fetchFramesMax))
        break;
      rows.push(row);
      storedBytes += row.storedBytes;
    }
    const values = this.#parts.stored.frames(rows.map((row) => row.first));
    // Met by whoever ends it; until then it must not count as unhandled.
    values.catch(() => undefined);
    return { from, rows, storedBytes, values };
  }

  async #endFetch({ rows, values: reading }: Fetch, bytesMax: number): Promise<Frame[]> {
    const values = await reading;
    // Trimmed while it was read: that is no hole.
    if (rows[0]!.first <= this.#parts.head()) throw journalTrimmed(rows[0]!.first, this.#parts.head());
    const frames: Frame[] = [];
    let bytes = 0;
    for (const [at, row] of rows.entries()) {
      // Compressed frames may unpack to far more than was fetched: decode no more than asked for.
      if (at > 0 && bytes >= bytesMax) break;
      const value = values[at];
      if (value === undefined) throw journalDamaged("hole", row.first);
      const frame = decodeStored(row.first, value, this.#parts.lineage);
      requireIndexed(frame, row);
      frames.push(frame);
      bytes += frame.body.byteLength;
    }
    return frames;
  }

  /** The end of the frame that begins with `first`, which is above the head and not behind the tail. */
  async endOfFrameAt(first: Sequence): Promise<LogPosition> {
    const { memory } = this.#parts;
    const [frame] =
      first >= memory.first ? memory.from(first, 0) : await this.#endFetch(this.#beginFetch(first, 0), 0);
    assert(frame?.first === first, "an indexed frame is there or damaged");
    return endOf(frame);
  }
}
