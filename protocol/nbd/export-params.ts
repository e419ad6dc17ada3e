/**
 * What the session must know of the export it serves: size, block sizes, flags. Derives the transmission flags, so
 * that INFO, GO and EXPORT_NAME cannot disagree. Pure; knows no device.
 */
import { NbdTransmissionFlag } from "./constants.ts";

export interface NbdExportParams {
  /** Bytes; a multiple of `blockBytesMin`. */
  readonly sizeBytes: number;
  /** Power of two, at most 65,536: requests not aligned to it are refused. */
  readonly blockBytesMin: number;
  readonly blockBytesPreferred: number;
  /** Longest READ or WRITE, bytes. */
  readonly payloadBytesMax: number;
  readonly readOnly: boolean;
  readonly flush: boolean;
  readonly fua: boolean;
  readonly trim: boolean;
  readonly zero: boolean;
  readonly fastZero: boolean;
  readonly cache: boolean;
  /** Offers `base:allocation`. */
  readonly extents: boolean;
  readonly multiConn: boolean;
}

/** Transmission flags of an export for a session with or without structured replies (`NBD_FLAG_SEND_DF`). */
export function transmissionFlags(params: NbdExportParams, structured: boolean): number {
  const writable = !params.readOnly;
  return (
    NbdTransmissionFlag.hasFlags |
    (params.readOnly ? NbdTransmissionFlag.readOnly : 0) |
    (params.flush ? NbdTransmissionFlag.sendFlush : 0) |
    (params.fua ? NbdTransmissionFlag.sendFua : 0) |
    (writable && params.trim ? NbdTransmissionFlag.sendTrim : 0) |
    (writable && params.zero ? NbdTransmissionFlag.sendWriteZeroes : 0) |
    (writable && params.zero && params.fastZero ? NbdTransmissionFlag.sendFastZero : 0) |
    (structured ? NbdTransmissionFlag.sendDf : 0) |
    (params.multiConn ? NbdTransmissionFlag.canMultiConn : 0) |
    (params.cache ? NbdTransmissionFlag.sendCache : 0)
  );
}
