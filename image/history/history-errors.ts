/**
 * What a history refuses, and how it fails: the errors of `History`, each made in one place. Those of the segments are
 * theirs.
 */
import type { Sequence } from "../../protocol/ids.ts";
import { errorText, OperationalError } from "../../runtime/errors.ts";
import type { AppliedPosition } from "../marker.ts";

/** Records a log can give; `first` is behind `last` when it has none. */
export interface LogRange {
  readonly first: Sequence;
  readonly last: Sequence;
}

export function rollBackFailed(
  target: AppliedPosition,
  reaction: "reopen" | "stop",
  cause: unknown,
): OperationalError {
  return new OperationalError({
    code: "ROLL_BACK_FAILED",
    message: `the images could not be taken back to ${target.sequence}`,
    reaction,
    hint:
      reaction === "reopen"
        ? "It is finished when the images are opened again; look at the disks of images and history."
        : "The images are between two points, and the history cannot take them to one: make them anew.",
    cause,
  });
}

export function undoImpossible(log: LogRange, target: Sequence): OperationalError {
  return new OperationalError({
    code: "HISTORY_UNDO_IMPOSSIBLE",
    message: `the images may hold more than their log, ${log.first} to ${log.last}, and can only be taken back to ${target}`,
    reaction: "stop",
    hint: "The images are as they were. Bring the log back, or make the images anew.",
  });
}

export function indexUnwritten(cause: unknown): OperationalError {
  return new OperationalError({
    code: "HISTORY_FAILED",
    message: `before-images: rows could not be written: ${errorText(cause)}`,
    reaction: "reopen",
    cause,
  });
}

export function pointUnknown(sequence: Sequence): OperationalError {
  return refused("POINT_UNKNOWN", `${sequence} is not a point that can be opened`);
}

export function refused(code: string, message: string): OperationalError {
  return new OperationalError({ code, message, reaction: "refuse" });
}
