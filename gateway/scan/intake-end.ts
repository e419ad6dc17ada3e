/**
 * Completeness and the volume table at the end of what was received, where a seal would be, and the last position before it
 * that could be opened. Pure. Nothing of it is durable: it is folded anew from the intake whenever that is opened.
 */
import type { AppliedPosition } from "../../image/marker.ts";
import type { Frame } from "../../protocol/frame.ts";
import { sliceFrame } from "../../protocol/frame-split.ts";
import type { Sequence } from "../../protocol/ids.ts";
import { recordDataBytes } from "../../protocol/record.ts";
import { type HeldVolume, tableAfterReceived } from "../volumes/table.ts";
import { changesIn, type Incomplete } from "./completeness.ts";

export interface IntakeEnd {
  /** Whether the images can be opened once everything that was received is applied. */
  readonly incomplete: Incomplete | null;
  /** The position right before what made them incomplete, if that is among the frames seen here. */
  readonly before: AppliedPosition | undefined;
  /** The table once everything that was received is applied. */
  readonly table: readonly HeldVolume[];
  /** When the newest frame was closed: a label. */
  readonly timeMs: number | undefined;
}

/** From what the document says, which the frames to come may be partly in already. */
export function intakeEndFrom(incomplete: Incomplete | null, table: readonly HeldVolume[]): IntakeEnd {
  return { incomplete, before: undefined, table, timeMs: undefined };
}

/** `end` after one more frame of the intake. */
export function afterReceived(end: IntakeEnd, frame: Frame): IntakeEnd {
  let { incomplete, before } = end;
  for (const { sequence, after, isLoss } of changesIn(frame, incomplete)) {
    incomplete = after;
    if (isLoss) before = positionBefore(frame, sequence, end.timeMs);
  }
  return { incomplete, before, table: tableAfterReceived(end.table, frame), timeMs: frame.closedAtMs };
}

function positionBefore(frame: Frame, sequence: Sequence, timeBeforeMs: number | undefined): AppliedPosition {
  if (sequence > frame.first) {
    const { last, chainAfter, dataBytesTotal, closedAtMs } = sliceFrame(frame, frame.first, sequence - 1);
    return { sequence: last, chain: chainAfter, dataBytesTotal, timeMs: closedAtMs };
  }
  let dataBytes = 0;
  for (const record of frame.records) dataBytes += recordDataBytes(record);
  return {
    sequence: frame.first - 1,
    chain: frame.chainBefore,
    dataBytesTotal: frame.dataBytesTotal - dataBytes,
    timeMs: timeBeforeMs ?? frame.openedAtMs,
  };
}
