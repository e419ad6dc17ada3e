/**
 * Whether a standby's images can be opened at all: what the marks of first syncs and resyncs in the write order make of
 * it. Pure. It errs towards *cannot*: an end completes only the scan that it names. What is durable of it, and when, is
 * the caller's; docs/scan.md, "Completeness".
 */
import type { Frame } from "../../protocol/frame.ts";
import type { Sequence } from "../../protocol/ids.ts";
import type { ScanMarkRecord } from "../../protocol/record.ts";

export interface Incomplete {
  /** Which scan has to end. A first sync stands above a resync: it alone brings what was there before the history. */
  readonly purpose: "first-sync" | "resync";
  /** Positions at or behind this cannot be opened. */
  readonly since: Sequence;
  /** From here on they can; null: the end was not seen. */
  readonly until: Sequence | null;
  /** The begin that the end has to name; null: no such scan is under way. */
  readonly scan: Sequence | null;
  /** Newest mark taken in: a step that a crash cut short is taken in again, perhaps in parts, and must change nothing. */
  readonly seen: Sequence;
  /** `empty`: nothing but this history ever wrote to the images. `unknown`: they may hold anything. */
  readonly holds: "empty" | "unknown";
}

/** Of a standby that is made for a history whose beginning its images do not have. */
export function incompleteFromStart(holds: Incomplete["holds"]): Incomplete {
  return { purpose: "first-sync", since: 0, until: null, scan: null, seen: 0, holds };
}

/** `state` after a mark; `applied` is a position that the images are known to have reached before. */
export function afterMark(
  state: Incomplete | null,
  record: ScanMarkRecord,
  sequence: Sequence,
  applied: Sequence,
): Incomplete | null {
  const { purpose, mark, begin } = record;
  if (purpose === "verify" || purpose === "repair" || sequence <= (state?.seen ?? 0)) return state;
  switch (mark) {
    case "begin":
      return afterBegin(isOpenable(state, applied) ? null : state, purpose, sequence);
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

function afterBegin(
  before: Incomplete | null,
  purpose: Incomplete["purpose"],
  sequence: Sequence,
): Incomplete {
  // Its end was seen, though the images are not there yet: what it brought is complete where this one begins.
  const open = before?.until === null ? before : undefined;
  return {
    purpose: open?.purpose === "first-sync" ? "first-sync" : purpose,
    // What could not be opened before cannot be now.
    since: before?.since ?? sequence,
    until: null,
    scan: sequence,
    seen: sequence,
    // A resync says that frames were dropped: the images then lack what the history wrote.
    holds: purpose === "first-sync" ? (open?.holds ?? "unknown") : "unknown",
  };
}

/** `state` after all marks in `frames`. Frames that were taken in before change nothing. */
export function afterFrames(
  state: Incomplete | null,
  frames: Iterable<Frame>,
  applied: Sequence,
): Incomplete | null {
  let next = state;
  for (const frame of frames)
    for (const [index, record] of frame.records.entries())
      if (record.kind === "scanMark") next = afterMark(next, record, frame.first + index, applied);
  return next;
}

/** The images, when they hold exactly the records up to `position` and held none behind it, are the source at it. */
export function isOpenable(state: Incomplete | null, position: Sequence): boolean {
  return state === null || (state.until !== null && position >= state.until);
}

/** What a greeting says of it; undefined: no first sync is needed. */
export function lackOf(state: Incomplete | null): Incomplete["holds"] | undefined {
  return state?.purpose === "first-sync" && state.until === null ? state.holds : undefined;
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

/** Why nothing can be opened, as the first words of a sentence that status and failover both say. */
export function describeIncomplete({ purpose, scan }: Incomplete): string {
  const what = purpose === "first-sync" ? "the first sync" : "a resync";
  return `not recoverable yet: ${what} has ${scan === null ? "not begun" : "not ended"}`;
}
