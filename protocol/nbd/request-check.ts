/**
 * Judges one transmission request against what was negotiated: the single place that decides which error a bad request
 * gets. Order of the checks: command, flags, permission, range, alignment, size; the first that fails is told. Pure.
 */
import { NbdCommand, NbdCommandFlag, NbdErrno } from "./constants.ts";
import type { NbdExportParams } from "./export-params.ts";

export interface NbdRejection {
  readonly errno: number;
  readonly message: string;
}

const unknownCommand: NbdRejection = { errno: NbdErrno.EINVAL, message: "unknown command" };
const notAdvertised: NbdRejection = { errno: NbdErrno.EINVAL, message: "command was not advertised" };
const badFlags: NbdRejection = { errno: NbdErrno.EINVAL, message: "flag not allowed for this command" };
const readOnly: NbdRejection = { errno: NbdErrno.EPERM, message: "export is read-only" };
const flushRange: NbdRejection = { errno: NbdErrno.EINVAL, message: "flush with offset or length" };
const statusEmpty: NbdRejection = { errno: NbdErrno.EINVAL, message: "block status of no bytes" };
const statusNotNegotiated: NbdRejection = {
  errno: NbdErrno.EINVAL,
  message: "no metadata context negotiated",
};
const outside: NbdRejection = { errno: NbdErrno.EINVAL, message: "range outside the export" };
const noSpace: NbdRejection = { errno: NbdErrno.ENOSPC, message: "range outside the export" };
const unaligned: NbdRejection = { errno: NbdErrno.EINVAL, message: "range not aligned to the block size" };
const tooLong: NbdRejection = { errno: NbdErrno.EINVAL, message: "payload longer than advertised" };

/** What the session negotiated, as far as requests depend on it. */
export interface NbdNegotiated {
  readonly params: NbdExportParams;
  readonly structured: boolean;
  /** `base:allocation` is selected for this export. */
  readonly blockStatus: boolean;
}

/** Flags each command may carry besides FUA, by command number. */
const ownFlags: readonly number[] = [
  NbdCommandFlag.df, // read
  0, // write
  0xffff, // disc: never judged
  0, // flush
  0, // trim
  0, // cache
  NbdCommandFlag.noHole | NbdCommandFlag.fastZero, // writeZeroes
  NbdCommandFlag.reqOne, // blockStatus
];

/**
 * Null when the request may run. `offset` may be any number, Infinity for one beyond 2^53. A DISC is not judged: it is
 * obeyed whatever its fields say (T20).
 */
export function checkRequest(
  negotiated: NbdNegotiated,
  command: number,
  flags: number,
  offset: number,
  length: number,
): NbdRejection | null {
  const params = negotiated.params;
  const own = ownFlags[command];
  if (own === undefined) return unknownCommand;
  if (flags !== 0) {
    // FUA is legal on every command once advertised, even where it means nothing (T04).
    const legal = own | (params.fua ? NbdCommandFlag.fua : 0);
    if ((flags & ~legal) !== 0) return badFlags;
    if ((flags & NbdCommandFlag.df) !== 0 && !negotiated.structured) return badFlags;
    // EINVAL, not ENOTSUP, as long as the client was never told of fast zeroing (T07).
    if ((flags & NbdCommandFlag.fastZero) !== 0 && !params.fastZero) return badFlags;
  }
  switch (command) {
    case NbdCommand.read:
      break;
    case NbdCommand.write:
      if (params.readOnly) return readOnly;
      break;
    case NbdCommand.flush:
      if (!params.flush) return notAdvertised;
      return offset !== 0 || length !== 0 ? flushRange : null;
    case NbdCommand.trim:
      if (params.readOnly) return readOnly;
      if (!params.trim) return notAdvertised;
      break;
    case NbdCommand.cache:
      if (!params.cache) return notAdvertised;
      break;
    case NbdCommand.writeZeroes:
      if (params.readOnly) return readOnly;
      if (!params.zero) return notAdvertised;
      break;
    default:
      if (!negotiated.blockStatus) return statusNotNegotiated;
      if (length === 0) return statusEmpty;
      break;
  }
  // Subtraction instead of a sum: `offset + length` could round, `sizeBytes - length` cannot.
  if (offset > params.sizeBytes - length) {
    return command === NbdCommand.write || command === NbdCommand.writeZeroes ? noSpace : outside;
  }
  const mask = params.blockBytesMin - 1;
  // Low bits survive `& mask` for any safe integer: ToInt32 is modulo 2^32 and the mask is below 2^16.
  if (((offset & mask) | (length & mask)) !== 0) return unaligned;
  if (length > params.payloadBytesMax && (command === NbdCommand.read || command === NbdCommand.write))
    return tooLong;
  return null;
}
