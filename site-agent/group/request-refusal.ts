/** What a client of a group is refused with, and when. Pure. A group that opens again refuses nobody: requests wait. */
import { BlockErrno, BlockError } from "../../block/device.ts";
import type { Phase } from "./status.ts";

/** Null while requests are taken; between two engines they wait. */
export function refusalIn(phase: Phase, isSuperseded: boolean): BlockError | null {
  switch (phase.kind) {
    case "serving":
    case "reopening":
      return isSuperseded ? shutdownError() : null;
    case "stopped":
      return stoppedError();
    default:
      return shutdownError();
  }
}

/** Nobody here will ever answer: the client looks elsewhere. */
export function shutdownError(): BlockError {
  return new BlockError(BlockErrno.ESHUTDOWN, "this site does not serve the group");
}

/** An operator has to look: the client gets an input/output error. */
export function stoppedError(cause?: unknown): BlockError {
  return new BlockError(BlockErrno.EIO, "the group is stopped", cause);
}
