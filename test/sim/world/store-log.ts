/**
 * The log format of LevelDB, as far as its behaviour under damage hangs on it: 32 KiB blocks, records cut at their
 * boundaries, a checksum each, and a reader that drops the rest of a block it cannot make sense of and says nothing.
 * The writer counts on with every record whether it reached the file or not: that is finding 1. Bytes in, bytes out.
 */
import { crc32 } from "node:zlib";

export const logBlockBytes = 32 * 1024;
/** Checksum 4, length 2, type 1. */
export const logHeaderBytes = 7;
const full = 1;
const first = 2;
const middle = 3;
const last = 4;

export class LogWriter {
  #blockOffset = 0;

  /**
   * What to append to the file for one record; the place in the block moves on at once. It lies in `scratch`, which
   * grows as needed, until the next call with the same one.
   */
  encode(payload: Uint8Array, scratch: { bytes: Buffer } = { bytes: Buffer.alloc(0) }): Uint8Array {
    const pieces = Math.ceil((payload.byteLength + 1) / (logBlockBytes - logHeaderBytes)) + 2;
    const bytesMax = payload.byteLength + pieces * (2 * logHeaderBytes);
    if (scratch.bytes.byteLength < bytesMax) scratch.bytes = Buffer.alloc(2 * bytesMax);
    const out = scratch.bytes;
    let end = 0;
    let done = 0;
    let begun = false;
    do {
      const room = logBlockBytes - this.#blockOffset;
      if (room < logHeaderBytes) {
        out.fill(0, end, end + room);
        end += room;
        this.#blockOffset = 0;
      }
      const fits = Math.min(payload.byteLength - done, logBlockBytes - this.#blockOffset - logHeaderBytes);
      const atEnd = done + fits === payload.byteLength;
      const type = begun ? (atEnd ? last : middle) : atEnd ? full : first;
      const piece = payload.subarray(done, done + fits);
      out.writeUInt32LE(checksum(piece, type), end);
      out.writeUInt16LE(fits, end + 4);
      out[end + 6] = type;
      out.set(piece, end + logHeaderBytes);
      end += logHeaderBytes + fits;
      this.#blockOffset += logHeaderBytes + fits;
      done += fits;
      begun = true;
    } while (done < payload.byteLength);
    return out.subarray(0, end);
  }
}

export interface LogContent {
  readonly records: readonly Uint8Array[];
  /** Pieces and blocks that were dropped; LevelDB tells nobody of them when it opens a log. */
  readonly dropped: number;
  /** Something was dropped, and a whole record follows it. */
  readonly hole: boolean;
}

/** A record cut short by the end of the file is no damage: its writer died. */
export function readLog(bytes: Uint8Array): LogContent {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const records: Uint8Array[] = [];
  let begun: Uint8Array[] | undefined;
  let dropped = 0;
  let recordsBeforeDrop = Number.POSITIVE_INFINITY;
  const drop = (): void => {
    dropped += 1;
    recordsBeforeDrop = Math.min(recordsBeforeDrop, records.length);
  };
  const content = (): LogContent => ({ records, dropped, hole: records.length > recordsBeforeDrop });
  for (let start = 0; start < bytes.byteLength; start += logBlockBytes) {
    const blockEnd = Math.min(start + logBlockBytes, bytes.byteLength);
    const atEof = blockEnd - start < logBlockBytes;
    for (let at = start; at + logHeaderBytes <= blockEnd; ) {
      const length = view.readUInt16LE(at + 4);
      const type = view[at + 6]!;
      const end = at + logHeaderBytes + length;
      if (end > blockEnd && atEof) return content();
      const piece = bytes.subarray(at + logHeaderBytes, Math.min(end, blockEnd));
      if (end > blockEnd || (type === 0 && length === 0) || checksum(piece, type) !== view.readUInt32LE(at)) {
        drop();
        begun = undefined;
        break;
      }
      at = end;
      if (type === full || type === first) {
        if (begun !== undefined) drop();
        begun = type === first ? [piece] : undefined;
        if (type === full) records.push(piece);
      } else if (begun === undefined) {
        drop();
      } else {
        begun.push(piece);
        if (type === last) {
          records.push(Buffer.concat(begun));
          begun = undefined;
        }
      }
    }
  }
  return content();
}

/** Of nothing it is the start value, said here because the library's answer hangs on where the nothing lies. */
function checksum(piece: Uint8Array, type: number): number {
  return piece.byteLength === 0 ? type : crc32(piece, type);
}
