/**
 * The format of a half of the write-ahead log: records one after another from its start. Pure. What the two halves
 * together mean is write-ahead-log.ts; see docs/formats/write-ahead.md.
 *
 *   offset  size  field
 *   0       4     magic     "SSWA"
 *   4       1     version   1
 *   5       3     reserved  0
 *   8       8     filling   rises whenever a half is begun anew: what an earlier one left behind does not follow
 *   16      8     first     first sequence of the frame
 *   24      4     length    bytes of the value
 *   28      4     crc       CRC-32 of the 28 bytes before and of the value
 *   32      n     value     the frame as LevelDB will hold it
 *           0-7   padding   0, not looked at: the next record begins at a multiple of 8
 */
import { crc32 } from "node:zlib";
import { ByteReader } from "../protocol/bytes.ts";
import type { Sequence } from "../protocol/ids.ts";
import { RemoteProtocolError } from "../protocol/remote-error.ts";
import type { StoredFrame } from "./store.ts";

const aheadMagic = 0x53535741;
const aheadVersion = 1;
export const aheadHeaderBytes = 32;
/** A longer frame costs LevelDB no more than it would cost here, and would fill a half with few of its kind. */
export const aheadValueBytesMax = 64 * 1024;
/** Longest record. */
export const aheadRecordBytesMax = aheadHeaderBytes + aheadValueBytesMax;

/** Bytes of a half that a value of `valueBytes` takes. */
export function aheadRecordBytes(valueBytes: number): number {
  return Math.ceil((aheadHeaderBytes + valueBytes) / 8) * 8;
}

/** Writes the record into `target`, which has `aheadRecordBytes` bytes or more; returns that part of it. */
export function encodeAheadInto(
  target: Buffer,
  filling: number,
  first: Sequence,
  value: Uint8Array,
): Uint8Array {
  const end = aheadHeaderBytes + value.byteLength;
  const padded = aheadRecordBytes(value.byteLength);
  target.writeUInt32BE(aheadMagic, 0);
  target.writeUInt32BE(aheadVersion * 2 ** 24, 4);
  writeU64(target, filling, 8);
  writeU64(target, first, 16);
  target.writeUInt32BE(value.byteLength, 24);
  target.set(value, aheadHeaderBytes);
  target.writeUInt32BE(sumOf(target, end), 28);
  target.fill(0, end, padded);
  return target.subarray(0, padded);
}

/**
 * The frames of the filling that begins the half, by rising sequence, up to the first place that holds no whole record of
 * it. A sync makes a half durable as a whole, so behind such a place nothing was promised. Values are views of `half`.
 * RemoteProtocolError for a whole record that this code never writes.
 */
export function scanAhead(half: Uint8Array): StoredFrame[] {
  const frames: StoredFrame[] = [];
  let filling: number | undefined;
  let last = -1;
  for (let at = 0; at + aheadHeaderBytes <= half.byteLength; ) {
    const record = recordAt(half, at);
    if (record === undefined) break;
    filling ??= record.filling;
    if (record.filling !== filling || record.first <= last) break;
    last = record.first;
    frames.push(record);
    at += aheadRecordBytes(record.value.byteLength);
  }
  return frames;
}

/** Undefined where no whole record begins. */
function recordAt(half: Uint8Array, at: number): (StoredFrame & { filling: number }) | undefined {
  const view = new DataView(half.buffer, half.byteOffset + at, aheadHeaderBytes);
  if (view.getUint32(0) !== aheadMagic) return undefined;
  const length = view.getUint32(24);
  if (length > aheadValueBytesMax || at + aheadHeaderBytes + length > half.byteLength) return undefined;
  const record = half.subarray(at, at + aheadHeaderBytes + length);
  if (sumOf(record, record.byteLength) !== view.getUint32(28)) return undefined;
  const version = view.getUint32(4);
  if (version !== aheadVersion * 2 ** 24)
    throw new RemoteProtocolError("AHEAD_VERSION", `write-ahead record of version ${version.toString(16)}`);
  const numbers = new ByteReader(record.subarray(8, 24));
  return { filling: numbers.u64(), first: numbers.u64(), value: record.subarray(aheadHeaderBytes) };
}

/** Over the header without its sum, and the value that ends at `end`. */
function sumOf(record: Uint8Array, end: number): number {
  return crc32(record.subarray(aheadHeaderBytes, end), crc32(record.subarray(0, 28)));
}

function writeU64(target: Buffer, value: number, at: number): void {
  target.writeUInt32BE(Math.floor(value / 2 ** 32), at);
  target.writeUInt32BE(value % 2 ** 32, at + 4);
}
