/**
 * The rule by which stored frames are one history: each begins where the one before it ended, in sequence, chain
 * and counters, and belongs to the lineage. Pure. Everything read from the store goes through this.
 */
import type { Frame } from "../protocol/frame.ts";
import { decodeFrame } from "../protocol/frame.ts";
import type { ChainValue, LineageBytes, Sequence } from "../protocol/ids.ts";
import { bytesEqual } from "../protocol/ids.ts";
import { recordDataBytes } from "../protocol/record.ts";
import { RemoteProtocolError } from "../protocol/remote-error.ts";
import type { FrameSummary, LogPosition } from "./frame-log.ts";
import { journalDamaged } from "./journal-errors.ts";

/** Position after the last record of a frame. */
export function endOf(frame: Frame): LogPosition {
  return {
    sequence: frame.last,
    chain: frame.chainAfter,
    dataBytesTotal: frame.dataBytesTotal,
    closedAtMs: frame.closedAtMs,
  };
}

/** Data bytes that a frame's records carry. */
export function frameDataBytes(frame: Frame): number {
  let bytes = 0;
  for (const record of frame.records) bytes += recordDataBytes(record);
  return bytes;
}

/** Decodes a stored frame whose key is `first`. JOURNAL_DAMAGED when it is not what it should be. */
export function decodeStored(first: Sequence, value: Uint8Array, lineage: LineageBytes): Frame {
  let frame: Frame;
  try {
    frame = decodeFrame(value);
  } catch (error) {
    if (error instanceof RemoteProtocolError) throw journalDamaged("frame", first, {}, error);
    throw error;
  }
  if (!bytesEqual(frame.lineage, lineage)) throw journalDamaged("lineage", first);
  if (frame.first !== first) throw journalDamaged("key", first, { frameFirst: frame.first });
  return frame;
}

/** Walks a history from a position on. */
export class ContinuityCheck {
  readonly #lineage: LineageBytes;
  #at: LogPosition;

  constructor(lineage: LineageBytes, start: LogPosition) {
    this.#lineage = lineage;
    this.#at = start;
  }

  /** Position after the frames taken so far. */
  get position(): LogPosition {
    return this.#at;
  }

  /** Takes the next stored frame; JOURNAL_DAMAGED when it does not continue the position. */
  take(first: Sequence, value: Uint8Array): Frame {
    const wanted = this.#at.sequence + 1;
    if (first !== wanted) throw journalDamaged("hole", wanted, { found: first });
    const frame = decodeStored(first, value, this.#lineage);
    this.#requireContinues(frame);
    this.#at = endOf(frame);
    return frame;
  }

  #requireContinues(frame: Frame): void {
    if (!bytesEqual(frame.chainBefore, this.#at.chain)) throw journalDamaged("chain", frame.first);
    if (frame.dataBytesTotal !== this.#at.dataBytesTotal + frameDataBytes(frame)) {
      throw journalDamaged("data-bytes-total", frame.first, { dataBytesTotal: frame.dataBytesTotal });
    }
  }
}

/** The frame read again is the one that was indexed: same extent, counters and times. */
export function requireIndexed(frame: Frame, row: FrameSummary): void {
  if (
    frame.last !== row.last ||
    frame.dataBytesTotal !== row.dataBytesTotal ||
    frame.openedAtMs !== row.openedAtMs ||
    frame.closedAtMs !== row.closedAtMs
  ) {
    throw journalDamaged("index", frame.first, { last: frame.last, indexedLast: row.last });
  }
}

export function requireChain(found: ChainValue, wanted: ChainValue, sequence: Sequence, which: string): void {
  if (!bytesEqual(found, wanted)) throw journalDamaged(`${which}-chain`, sequence);
}
