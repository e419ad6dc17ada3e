/**
 * The record: one change of one volume, the unit of a group's write order. Pure.
 *
 *   offset  size  field
 *   0       1     kind          what happened; an unknown kind stops the reader
 *   1       1     flags         0; reserved so that a later meaning can be refused by today's reader
 *   2       2     volume        immutable number, never a name, so renaming changes no history
 *   4       4     length        bytes of the range on the volume
 *   8       8     offset        first byte of the range on the volume
 *   16      n     data          `length` bytes for a write, nothing for zeroes and trim
 *
 * The encoded bytes are exactly what the chain hashes; sequence, times, epochs and framing stay out of it, so any
 * re-packing of the same history verifies. See docs/formats/record.md.
 */
import { strict as assert } from "node:assert";
import type { VolumeNumber } from "./ids.ts";
import { sectorBytes } from "./ids.ts";
import { RemoteProtocolError } from "./remote-error.ts";

/** Kinds on the wire and on disk. Those above `trim` are reserved: this version refuses them by code. */
export const RecordKind = {
  write: 1,
  zeroes: 2,
  trim: 3,
  scanDigest: 4,
  scanContent: 5,
  bookmark: 6,
  policyChange: 7,
  volumeChange: 8,
  gap: 9,
} as const;

export const recordHeaderBytes = 16;
/**
 * Largest write in one record. A longer client write becomes several records, answered when the last one is
 * safe: a disk promises atomicity of a sector only, and this bounds a frame (and every buffer that holds one).
 */
export const recordDataBytesMax = 1024 * 1024;
/** Largest range of zeroes or trim: the NBD length field's 32 bits, whole sectors. */
export const recordRangeBytesMax = 2 ** 32 - sectorBytes;

export interface WriteRecord {
  readonly kind: "write";
  readonly volume: VolumeNumber;
  /** Bytes; multiple of the sector size. */
  readonly offset: number;
  /** Length of `data`. */
  readonly length: number;
  /** 1..recordDataBytesMax bytes, whole sectors. A view; the holder of the frame body owns the memory. */
  readonly data: Uint8Array;
}

/** Both read as zeroes afterwards, at both sites; `trim` may also free the space, `zeroes` too unless told not to. */
export interface RangeRecord {
  readonly kind: "zeroes" | "trim";
  readonly volume: VolumeNumber;
  readonly offset: number;
  readonly length: number;
}

export type BlockRecord = WriteRecord | RangeRecord;

/** Bytes that `record` takes when encoded. */
export function recordBytes(record: BlockRecord): number {
  return recordHeaderBytes + (record.kind === "write" ? record.length : 0);
}

/** Data bytes carried: what lag and loss are counted in. Zeroes and trims carry none. */
export function recordDataBytes(record: BlockRecord): number {
  return record.kind === "write" ? record.length : 0;
}

/**
 * Encodes into `target` at `at` and returns the offset behind the record. Copies the data. What `decodeRecord` would
 * refuse is our own mistake and asserted here: once journalled it could never be read back.
 */
export function encodeRecordInto(
  record: BlockRecord,
  target: Uint8Array,
  view: DataView,
  at: number,
): number {
  requireEncodable(record);
  view.setUint8(at, RecordKind[record.kind]);
  view.setUint8(at + 1, 0);
  view.setUint16(at + 2, record.volume);
  view.setUint32(at + 4, record.length);
  view.setUint32(at + 8, Math.floor(record.offset / 2 ** 32));
  view.setUint32(at + 12, record.offset % 2 ** 32);
  if (record.kind !== "write") return at + recordHeaderBytes;
  target.set(record.data, at + recordHeaderBytes);
  return at + recordHeaderBytes + record.length;
}

function requireEncodable(record: BlockRecord): void {
  const { volume, offset, length } = record;
  assert(volume >= 0 && volume <= 0xffff, "volume number");
  assert(offset >= 0 && isSectorRange(offset, length) && length <= recordRangeBytesMax, "record range");
  assert(
    record.kind !== "write" || (record.data.byteLength === length && length <= recordDataBytesMax),
    "record data",
  );
}

/** Not empty, whole sectors, and its end is a safe integer. */
function isSectorRange(offset: number, length: number): boolean {
  return (
    length > 0 &&
    length % sectorBytes === 0 &&
    offset % sectorBytes === 0 &&
    Number.isSafeInteger(offset + length)
  );
}

/** A decoded record and the offset behind it. `data` is a view into `body`. */
export interface DecodedRecord {
  readonly record: BlockRecord;
  readonly end: number;
}

/** Decodes the record at `at`. Throws RemoteProtocolError for anything this version did not write. */
export function decodeRecord(body: Uint8Array, view: DataView, at: number): DecodedRecord {
  if (at + recordHeaderBytes > body.byteLength) {
    throw new RemoteProtocolError("RECORD_TRUNCATED", `record header at ${at} reaches beyond the body`);
  }
  const kind = view.getUint8(at);
  const flags = view.getUint8(at + 1);
  const volume = view.getUint16(at + 2);
  const length = view.getUint32(at + 4);
  const offset = view.getUint32(at + 8) * 2 ** 32 + view.getUint32(at + 12);
  if (kind > RecordKind.gap || kind < RecordKind.write || kind > RecordKind.trim) {
    throw new RemoteProtocolError("RECORD_KIND_UNKNOWN", `record kind ${kind}`, { kind });
  }
  if (flags !== 0) throw new RemoteProtocolError("RECORD_FLAGS_UNKNOWN", `record flags ${flags}`, { flags });
  if (!isSectorRange(offset, length)) {
    throw new RemoteProtocolError("RECORD_RANGE", `record range ${offset}+${length}`, { offset, length });
  }
  const dataAt = at + recordHeaderBytes;
  if (kind !== RecordKind.write) {
    return {
      record: { kind: kind === RecordKind.zeroes ? "zeroes" : "trim", volume, offset, length },
      end: dataAt,
    };
  }
  if (length > recordDataBytesMax || dataAt + length > body.byteLength) {
    throw new RemoteProtocolError("RECORD_TRUNCATED", `record data at ${dataAt}+${length}`, { length });
  }
  const data = body.subarray(dataAt, dataAt + length);
  return { record: { kind: "write", volume, offset, length, data }, end: dataAt + length };
}
