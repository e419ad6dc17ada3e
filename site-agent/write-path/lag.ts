/**
 * What would be lost if this site died now: from the newest answered write back to the newest position that the
 * standby holds durably. Pure. Remembers a bounded, thinned trail of frame ends; where the trail is coarse the
 * answer errs towards *more* lag, never less (promise 3).
 */
import type { FrameSummary } from "../../journal/frame-log.ts";
import type { Frame } from "../../protocol/frame.ts";
import type { Sequence } from "../../protocol/ids.ts";
import { isOfClient } from "../../protocol/record.ts";

interface Mark {
  readonly last: Sequence;
  readonly dataBytesTotal: number;
  readonly openedAtMs: number;
}

export interface Lag {
  readonly writes: number;
  readonly bytes: number;
  /** Answer time from the oldest write the standby lacks to the newest; 0 when nothing is behind. */
  readonly ageMs: number;
  /** Wall time at or before the answer of the oldest write the standby lacks; null when nothing is behind. */
  readonly oldestAtMs: number | null;
}

/** Marks kept; beyond it neighbours are merged two by two: 4,096 marks of some 60 bytes are a quarter of a MiB. */
const marksMax = 4_096;

export type AnsweredFrame = Pick<FrameSummary, "last" | "dataBytesTotal" | "openedAtMs" | "closedAtMs">;

/**
 * The frame up to its last record of a client; undefined: it has none. What a scan put there was read from these very
 * images, and a change of the table has no content, so without them nothing of a client's is lost.
 */
export function clientsPart(frame: Frame): AnsweredFrame | undefined {
  const { records, first, dataBytesTotal, openedAtMs, closedAtMs } = frame;
  const at = records.findLastIndex(isOfClient);
  return at < 0 ? undefined : { last: first + at, dataBytesTotal, openedAtMs, closedAtMs };
}

export class LagTrail {
  #marks: Mark[] = [];
  #acknowledged: Mark;
  #newest: Mark & { readonly closedAtMs: number };
  /** The oldest answer that anything tells of, wall ms; what the lineage began with may be older. */
  #oldestAtMs: number;

  /**
   * `origin`: position from which nothing behind it matters, normally what is known to be acknowledged. `oldestAtMs`: wall ms
   * of something that was answered before it, as far as that is known.
   */
  constructor(
    origin: {
      readonly sequence: Sequence;
      readonly dataBytesTotal: number;
      readonly closedAtMs: number;
    },
    oldestAtMs: number = Number.POSITIVE_INFINITY,
  ) {
    const mark = {
      last: origin.sequence,
      dataBytesTotal: origin.dataBytesTotal,
      openedAtMs: origin.closedAtMs,
    };
    this.#acknowledged = mark;
    this.#newest = { ...mark, closedAtMs: origin.closedAtMs };
    this.#oldestAtMs = origin.sequence > 0 ? Math.min(oldestAtMs, origin.closedAtMs) : oldestAtMs;
  }

  /** The newest of a client's writes that is answered: what the other site is told, and would state as lost. */
  get newest(): { readonly sequence: Sequence; readonly dataBytesTotal: number } {
    return { sequence: this.#newest.last, dataBytesTotal: this.#newest.dataBytesTotal };
  }

  /** A frame was answered, as `clientsPart` leaves it; frames come in order. */
  answered(frame: AnsweredFrame): void {
    const { last, dataBytesTotal, openedAtMs, closedAtMs } = frame;
    this.#newest = { last, dataBytesTotal, openedAtMs, closedAtMs };
    this.#oldestAtMs = Math.min(this.#oldestAtMs, openedAtMs);
    this.#marks.push({ last, dataBytesTotal, openedAtMs });
    if (this.#marks.length > marksMax) this.#marks = mergePairs(this.#marks);
  }

  /** The standby holds everything up to `sequence`. */
  acknowledged(sequence: Sequence): void {
    let passed = 0;
    while (passed < this.#marks.length && this.#marks[passed]!.last <= sequence) passed += 1;
    if (passed === 0) return;
    this.#acknowledged = this.#marks[passed - 1]!;
    this.#marks.splice(0, passed);
  }

  /**
   * The standby holds nothing after all: everything counts that was answered since the lineage began, which is what record
   * numbers and data bytes count from, also after a failover. What the trail has passed, or never had, becomes one mark.
   */
  nothingHeld(): void {
    const passed = this.#acknowledged;
    if (passed.last === 0) return;
    const openedAtMs = Math.min(this.#oldestAtMs, passed.openedAtMs);
    this.#marks.unshift({ ...passed, openedAtMs });
    this.#acknowledged = { last: 0, dataBytesTotal: 0, openedAtMs };
  }

  /** `acknowledged` exact, so that the count of writes is; bytes and age come from the last mark at or before it. */
  lag(acknowledged: Sequence): Lag {
    const writes = Math.max(0, this.#newest.last - acknowledged);
    if (writes === 0) return { writes: 0, bytes: 0, ageMs: 0, oldestAtMs: null };
    const oldestAtMs = this.#marks[0]?.openedAtMs ?? this.#newest.openedAtMs;
    return {
      writes,
      bytes: this.#newest.dataBytesTotal - this.#acknowledged.dataBytesTotal,
      ageMs: Math.max(0, this.#newest.closedAtMs - oldestAtMs),
      oldestAtMs,
    };
  }
}

/** For how long the standby has acknowledged nothing although something waited for it. Idle time is no stall. Pure. */
export class Stall {
  #sinceMs = 0;

  /** Monotonic ms, here and below: the standby acknowledged something, or was met. */
  moved(nowMs: number): void {
    this.#sinceMs = nowMs;
  }

  /** A frame from `first` on was answered while the standby held everything up to `acknowledged`. */
  answered(first: Sequence, acknowledged: Sequence, nowMs: number): void {
    if (first <= acknowledged + 1) this.#sinceMs = nowMs;
  }

  /** Ms since the last movement; worth saying only while something waits. */
  ms(nowMs: number): number {
    return nowMs - this.#sinceMs;
  }
}

/** Neighbours become one mark with the earlier opening: lag may read larger, never smaller. */
function mergePairs(marks: readonly Mark[]): Mark[] {
  const merged: Mark[] = [];
  for (let index = 0; index < marks.length; index += 2) {
    const early = marks[index]!;
    const late = marks[index + 1] ?? early;
    merged.push({ last: late.last, dataBytesTotal: late.dataBytesTotal, openedAtMs: early.openedAtMs });
  }
  return merged;
}
