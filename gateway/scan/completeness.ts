/**
 * Whether a standby's images can be opened at all: what gaps, and the marks of first syncs and resyncs, in the write order
 * make of it. Pure. It errs towards *cannot*: an end completes only the scan that it names. What is durable of it, and when, is
 * the caller's; docs/scan.md, "Completeness".
 */
import type { StandbyLack } from "../../protocol/control.ts";
import type { Frame } from "../../protocol/frame.ts";
import { gapOf } from "../../protocol/frame.ts";
import type { Sequence } from "../../protocol/ids.ts";
import type { ScanMarkRecord } from "../../protocol/record.ts";
import type { Stretch } from "../../protocol/stretch.ts";
import { isOutside, withStretch } from "../../protocol/stretch.ts";
import { rfc3339 } from "../../runtime/clock.ts";

export interface Incomplete {
  /** Which scan has to end. A first sync stands above a resync: it alone brings what was there before the history. */
  readonly purpose: "first-sync" | "resync";
  /**
   * Positions at or behind this cannot be opened. The one before it could, unless this is 0: what made the images
   * incomplete is the first of a step, so that it was a point.
   */
  readonly since: Sequence;
  /** From here on they can; null: the end was not seen. */
  readonly until: Sequence | null;
  /** The begin that the end has to name; null: no such scan is under way. */
  readonly scan: Sequence | null;
  /** Newest mark, or end of a gap, taken in: a step that a crash cut short is taken in again, perhaps in parts, and must change nothing. */
  readonly seen: Sequence;
  /** `empty`: nothing but this history ever wrote to the images. `unknown`: they may hold anything. */
  readonly holds: "empty" | "unknown";
  /** Earlier times that are over: positions in them are no points. Absent: there were none. */
  readonly earlier?: readonly Stretch[];
}

/**
 * Of a standby that is made for a history whose beginning its images do not have, by an owner that had come to `position`:
 * scans that began up to there compared and brought what another standby lacked.
 */
export function incompleteFromStart(holds: Incomplete["holds"], position: Sequence): Incomplete {
  return { purpose: "first-sync", since: 0, until: null, scan: null, seen: position, holds };
}

/** `state` after a mark. */
export function afterMark(
  state: Incomplete | null,
  record: ScanMarkRecord,
  sequence: Sequence,
): Incomplete | null {
  const { purpose, mark, begin } = record;
  // The others bring nothing that a point of before would lack: of a volume's own content docs/volumes.md speaks.
  if (purpose !== "first-sync" && purpose !== "resync") return state;
  if (sequence <= (state?.seen ?? 0)) return state;
  switch (mark) {
    case "begin":
      return {
        ...afterBegin(unopenable(state, sequence - 1), purpose, sequence),
        ...earlierOf(state, sequence - 1),
      };
    case "end":
      return state === null || state.purpose !== purpose || state.scan !== begin
        ? state
        : { ...state, until: sequence, seen: sequence };
    case "given-up":
      return state === null || state.until !== null || state.scan !== begin
        ? state
        : { ...state, scan: null, seen: sequence };
  }
}

/**
 * `state` after a gap. What it stands for will never come, so the images lack it until a resync that begins behind it
 * has ended: one that is under way may have walked past what the gap holds.
 */
function afterGap(state: Incomplete | null, first: Sequence, last: Sequence): Incomplete | null {
  if (last <= (state?.seen ?? 0)) return state;
  const before = unopenable(state, first - 1);
  return {
    ...earlierOf(state, first - 1),
    purpose: before !== null && before.until === null ? before.purpose : "resync",
    since: before?.since ?? first,
    until: null,
    scan: null,
    seen: last,
    holds: "unknown",
  };
}

/** `state`, unless it is over where the images hold `position`. */
function unopenable(state: Incomplete | null, position: Sequence): Incomplete | null {
  return isOpenable(state, position) ? null : state;
}

/** What is over where the images hold `position`: with it, the time that `state` speaks of. */
function earlierOf(state: Incomplete | null, position: Sequence): Pick<Incomplete, "earlier"> {
  if (state === null) return {};
  const { earlier, since, until } = state;
  if (until === null || !isOpenable(state, position)) return earlier === undefined ? {} : { earlier };
  return { earlier: withStretch(earlier ?? [], { since, until }) };
}

/** All that is over when the images are handed over at `position`. */
export function stretchesUpTo(state: Incomplete | null, position: Sequence): readonly Stretch[] {
  return earlierOf(state, position).earlier ?? [];
}

/** `before`: what cannot be opened where the scan begins. */
function afterBegin(
  before: Incomplete | null,
  purpose: Incomplete["purpose"],
  sequence: Sequence,
): Incomplete {
  return {
    purpose: before?.purpose === "first-sync" ? "first-sync" : purpose,
    // What could not be opened before cannot be now.
    since: before?.since ?? sequence,
    until: null,
    scan: sequence,
    seen: sequence,
    // A resync says that frames were dropped: the images then lack what the history wrote.
    holds: purpose === "first-sync" ? (before?.holds ?? "unknown") : "unknown",
  };
}

/** `state` after all gaps and marks in `frames`. Frames that were taken in before change nothing. */
export function afterFrames(state: Incomplete | null, frames: Iterable<Frame>): Incomplete | null {
  let next = state;
  for (const frame of frames) for (const change of changesIn(frame, next)) next = change.after;
  return next;
}

/** What a frame does to completeness at one of its records. */
export interface CompletenessChange {
  readonly sequence: Sequence;
  readonly after: Incomplete | null;
  /** The images could be opened right before it, and cannot behind it. */
  readonly isLoss: boolean;
}

/** What `frame` makes of `state`, record by record; nothing for those that change nothing. */
export function* changesIn(frame: Frame, state: Incomplete | null): Generator<CompletenessChange> {
  let before = state;
  const change = (sequence: Sequence, after: Incomplete | null): CompletenessChange => {
    const isLoss = isOpenable(before, sequence - 1) && after?.until === null;
    before = after;
    return { sequence, after, isLoss };
  };
  if (gapOf(frame) !== undefined) {
    const after = afterGap(before, frame.first, frame.last);
    if (after !== before) yield change(frame.first, after);
    return;
  }
  for (const [index, record] of frame.records.entries()) {
    if (record.kind !== "scanMark") continue;
    const after = afterMark(before, record, frame.first + index);
    if (after !== before) yield change(frame.first + index, after);
  }
}

/** The images, when they hold exactly the records up to `position` and held none behind it, are the source at it. */
export function isOpenable(state: Incomplete | null, position: Sequence): boolean {
  return state === null || (state.until !== null && position >= state.until);
}

/** Whether `position` was one that could be opened when the images held it. */
export function wasOpenable(state: Incomplete | null, position: Sequence): boolean {
  if (state === null) return true;
  return isOutside(state.earlier ?? [], position) && (position < state.since || isOpenable(state, position));
}

/** What a greeting says of it; undefined: no scan is needed. */
export function lackOf(state: Incomplete | null): StandbyLack | undefined {
  if (state === null || state.until !== null) return undefined;
  return state.purpose === "first-sync" ? state.holds : "resync";
}

export function sameCompleteness(a: Incomplete | null, b: Incomplete | null): boolean {
  if (a === null || b === null) return a === b;
  return (
    a.purpose === b.purpose &&
    a.since === b.since &&
    a.until === b.until &&
    a.scan === b.scan &&
    a.seen === b.seen &&
    a.holds === b.holds
  );
}

/**
 * Why the newest position cannot be opened, as the first words of a sentence that status and failover both say;
 * `pinned`: what can be opened instead.
 */
export function describeIncomplete(
  { purpose, scan }: Incomplete,
  pinned?: { readonly sequence: Sequence; readonly timeMs: number },
): string {
  const scanned = purpose === "first-sync" ? "the first sync" : "a resync";
  const why = `${scanned} has ${scan === null ? "not begun" : "not ended"}`;
  return pinned === undefined
    ? `not recoverable yet: ${why}`
    : `recoverable only at sequence ${pinned.sequence} of ${rfc3339(pinned.timeMs)}: ${why}`;
}
