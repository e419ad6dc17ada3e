/**
 * The record: one entry of a group's write order: a change of one volume's content, a step of a scan, a gap, or a change
 * of the volume table. Pure.
 *
 *   offset  size  field
 *   0       1     kind          what happened; an unknown kind stops the reader
 *   1       1     flags         0 for a client's records; the others' say what they carry. Any other is refused
 *   2       2     volume        immutable number, never a name, so renaming changes no history
 *   4       4     length        bytes of the range on the volume
 *   8       8     offset        first byte of the range on the volume
 *   16      n     payload       data of a write or of scan content, digests of a scan digest, what a gap stands for,
 *                               the name in a change of the table, else nothing
 *
 * The encoded bytes are exactly what the chain hashes; sequence, times, epochs and framing stay out of it, so any
 * re-packing of the same history verifies. See docs/formats/record.md and, for what a scan's records mean, docs/scan.md.
 */
import { strict as assert } from "node:assert";
import { ByteWriter } from "./bytes.ts";
import type { ChainValue, Sequence, VolumeNumber } from "./ids.ts";
import { isName, sectorBytes } from "./ids.ts";
import { RemoteProtocolError } from "./remote-error.ts";
import { digestsBytes, scanChunkBytes } from "./scan-digest.ts";

/** Kinds on the wire and on disk. Those without a shape below are reserved: this version refuses them by code. */
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
  scanMark: 10,
} as const;

export const recordHeaderBytes = 16;
/** Payload of a gap: span and data bytes in 64 bits each, and a chain value. */
const gapPayloadBytes = 48;
const chainBytes = 32;
/** Payload of a change of the table: a name, padded with NUL. One more than the longest name, so it ends inside. */
const namePayloadBytes = 64;
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

/** What a client changed. */
export type ClientRecord = WriteRecord | RangeRecord;

/** Digests of a range as the owner has it at the record's sequence. Changes nothing. */
export interface ScanDigestRecord {
  readonly kind: "scanDigest";
  readonly volume: VolumeNumber;
  /** Multiple of `scanChunkBytes`. */
  readonly offset: number;
  /** Ends at a chunk's end or at the volume's; `leaf`: at most one chunk. */
  readonly length: number;
  readonly level: DigestLevel;
  /** One per chunk or leaf, in order: 32 or 16 bytes each. A view; the holder of the frame body owns the memory. */
  readonly digests: Uint8Array;
}

/** `chunk`: one digest per MiB. `leaf`: one per block of a single chunk. */
export type DigestLevel = "chunk" | "leaf";

/** Content of a range as the owner has it at the record's sequence: a standby applies it like a write or zeroes. */
export interface ScanContentRecord {
  readonly kind: "scanContent";
  readonly volume: VolumeNumber;
  readonly offset: number;
  /** With data at most `recordDataBytesMax`. */
  readonly length: number;
  /** Null: zeroes. A view; the holder of the frame body owns the memory. */
  readonly data: Uint8Array | null;
}

/** `volume-sync`: content of volumes that joined a running group with data of their own (docs/volumes.md). */
export type ScanPurpose = "verify" | "first-sync" | "resync" | "repair" | "volume-sync";
export type ScanMark = "begin" | "end" | "given-up";

/** A scan begins or is over. It has no range: volume 0, offset 0 and length 0 stand for it. */
export interface ScanMarkRecord {
  readonly kind: "scanMark";
  readonly volume: 0;
  readonly offset: 0;
  readonly length: 0;
  readonly mark: ScanMark;
  readonly purpose: ScanPurpose;
  /** Sequence of the scan's begin, its name; 0 in the begin itself, which cannot know. */
  readonly begin: Sequence;
}

export type ScanRecord = ScanDigestRecord | ScanContentRecord | ScanMarkRecord;

/**
 * Sequences that the reader will never get (docs/overflow.md). It has no range: volume 0, offset 0 and length 0 stand
 * for it. It is the only record that takes more than one sequence, and is always alone in its frame.
 */
export interface GapRecord {
  readonly kind: "gap";
  readonly volume: 0;
  readonly offset: 0;
  readonly length: 0;
  /** Sequences that it stands for, at least 1. */
  readonly span: number;
  /** A client's data bytes in them. */
  readonly dataBytes: number;
  /** Chain value behind the last of them: the owner's word, nothing here leads to it. */
  readonly chainAfter: ChainValue;
}

/**
 * From here on the volume is in the table, at least this large (docs/volumes.md). What it did not have before reads as
 * zeroes, or, with `holdsData`, is unknown until a scan has brought it. It touches no byte range: offset 0 and length 0
 * stand for it. Always alone in its frame, so that an apply step can end in front of it and behind it.
 */
export interface VolumeChangeRecord {
  readonly kind: "volumeChange";
  /** Its number for life. */
  readonly volume: VolumeNumber;
  readonly offset: 0;
  readonly length: 0;
  /** Whole sectors, at least one. */
  readonly sizeBytes: number;
  readonly name: string;
  /** The owner's image held something before this record: content follows in a scan. */
  readonly holdsData: boolean;
}

/** Any entry of the write order. */
export type BlockRecord = ClientRecord | ScanRecord | GapRecord | VolumeChangeRecord;

/** True for what a scan put into the order: whoever made it holds that content at that sequence. */
export function isOfScan(record: BlockRecord): record is ScanRecord {
  return record.kind === "scanDigest" || record.kind === "scanContent" || record.kind === "scanMark";
}

/** True for what a client changed. */
export function isOfClient(record: BlockRecord): record is ClientRecord {
  return record.kind === "write" || record.kind === "zeroes" || record.kind === "trim";
}

const contentFlags = { data: 0, zeroes: 1 } as const;
const levelFlags = { chunk: 0, leaf: 1 } as const;
/** Two low bits stand in bits 0 and 1, the third in bit 4: the two between were the marks' before there were five. */
const purposeFlags = { verify: 0, "first-sync": 1, resync: 2, repair: 3, "volume-sync": 0x10 } as const;
const purposeMask = 0x13;
/** In bits 2 and 3. */
const markFlags = { begin: 0, end: 1, "given-up": 2 } as const;
const tableFlags = { empty: 0, holdsData: 1 } as const;
/** Longest range of chunk digests: as many chunks as fit below the 32 bits of the length, 128 KiB of digests. */
export const digestRangeBytesMax = 2 ** 32 - scanChunkBytes;

function isWithData(record: BlockRecord): record is WriteRecord | (ScanContentRecord & { data: Uint8Array }) {
  return record.kind === "write" || (record.kind === "scanContent" && record.data !== null);
}

function payloadOf(record: BlockRecord): Uint8Array | undefined {
  if (isWithData(record)) return record.data;
  if (record.kind === "gap") return gapPayload(record);
  if (record.kind === "volumeChange") return namePayload(record.name);
  return record.kind === "scanDigest" ? record.digests : undefined;
}

function namePayload(name: string): Uint8Array {
  const bytes = new Uint8Array(namePayloadBytes);
  // A legal name is ASCII: a character is a byte.
  for (let at = 0; at < name.length; at += 1) bytes[at] = name.charCodeAt(at);
  return bytes;
}

function gapPayload({ span, dataBytes, chainAfter }: GapRecord): Uint8Array {
  return new ByteWriter(gapPayloadBytes).u64(span).u64(dataBytes).put(chainAfter).bytes;
}

/** Bytes that `record` takes when encoded. */
export function recordBytes(record: BlockRecord): number {
  if (record.kind === "gap") return recordHeaderBytes + gapPayloadBytes;
  if (record.kind === "volumeChange") return recordHeaderBytes + namePayloadBytes;
  return recordHeaderBytes + (payloadOf(record)?.byteLength ?? 0);
}

/**
 * A client's data bytes: what lag and loss are counted in. Zeroes, trims, a scan's records and changes of the table carry
 * none, a gap those of the records that it stands for.
 */
export function recordDataBytes(record: BlockRecord): number {
  if (record.kind === "gap") return record.dataBytes;
  return record.kind === "write" ? record.length : 0;
}

/** The record with its payload, if it has one that it views, replaced by the same bytes elsewhere. */
export function withPayload(record: BlockRecord, payload: Uint8Array): BlockRecord {
  if (isWithData(record)) return { ...record, data: payload };
  return record.kind === "scanDigest" ? { ...record, digests: payload } : record;
}

function flagsOf(record: BlockRecord): number {
  switch (record.kind) {
    case "scanDigest":
      return levelFlags[record.level];
    case "scanContent":
      return record.data === null ? contentFlags.zeroes : contentFlags.data;
    case "scanMark":
      return purposeFlags[record.purpose] | (markFlags[record.mark] << 2);
    case "volumeChange":
      return record.holdsData ? tableFlags.holdsData : tableFlags.empty;
    default:
      return 0;
  }
}

/**
 * Encodes into `target` at `at` and returns the offset behind the record. Copies the payload. What `decodeRecord` would
 * refuse is our own mistake and asserted here: once journalled it could never be read back.
 */
export function encodeRecordInto(
  record: BlockRecord,
  target: Uint8Array,
  view: DataView,
  at: number,
): number {
  requireEncodable(record);
  const offset = offsetFieldOf(record);
  view.setUint8(at, RecordKind[record.kind]);
  view.setUint8(at + 1, flagsOf(record));
  view.setUint16(at + 2, record.volume);
  view.setUint32(at + 4, record.length);
  view.setUint32(at + 8, Math.floor(offset / 2 ** 32));
  view.setUint32(at + 12, offset % 2 ** 32);
  const payload = payloadOf(record);
  if (payload === undefined) return at + recordHeaderBytes;
  target.set(payload, at + recordHeaderBytes);
  return at + recordHeaderBytes + payload.byteLength;
}

/** What stands where others have an offset: the name of a scan, the size of a volume. */
function offsetFieldOf(record: BlockRecord): number {
  if (record.kind === "scanMark") return record.begin;
  return record.kind === "volumeChange" ? record.sizeBytes : record.offset;
}

function requireEncodable(record: BlockRecord): void {
  const { volume, offset, length } = record;
  assert(volume >= 0 && volume <= 0xffff, "volume number");
  if (record.kind === "scanMark") {
    assert(volume === 0 && offset === 0 && length === 0, "a mark has no range");
    assert(isMarkOfBegin(record.mark, record.begin), "a mark names the begin of its scan");
    return;
  }
  if (record.kind === "gap") {
    assert(volume === 0 && offset === 0 && length === 0, "a gap has no range");
    assert(isGapSize(record.span, record.dataBytes), "size of a gap");
    assert(record.chainAfter.byteLength === chainBytes, "chain value of a gap");
    return;
  }
  if (record.kind === "volumeChange") {
    assert(offset === 0 && length === 0, "a change of the table has no range");
    assert(isVolumeSize(record.sizeBytes), "size of a volume");
    assert(isName(record.name), "name of a volume");
    return;
  }
  assert(offset >= 0 && isSectorRange(offset, length) && length <= recordRangeBytesMax, "record range");
  if (isWithData(record)) {
    assert(record.data.byteLength === length && length <= recordDataBytesMax, "record data");
  } else if (record.kind === "scanDigest") {
    assert(isDigestRange(record.level, offset, length), "digest range");
    assert(record.digests.byteLength === digestsBytes(record.level, length), "record digests");
  }
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

/** Whole sectors, at least one, and a safe integer. */
function isVolumeSize(sizeBytes: number): boolean {
  return Number.isSafeInteger(sizeBytes) && sizeBytes > 0 && sizeBytes % sectorBytes === 0;
}

function isDigestRange(level: DigestLevel, offset: number, length: number): boolean {
  return offset % scanChunkBytes === 0 && length <= (level === "leaf" ? scanChunkBytes : digestRangeBytesMax);
}

function isMarkOfBegin(mark: ScanMark, begin: Sequence): boolean {
  return Number.isSafeInteger(begin) && (mark === "begin" ? begin === 0 : begin > 0);
}

function isGapSize(span: number, dataBytes: number): boolean {
  return Number.isSafeInteger(span) && span >= 1 && Number.isSafeInteger(dataBytes) && dataBytes >= 0;
}

/** A decoded record and the offset behind it. Payloads are views into `body`. */
export interface DecodedRecord {
  readonly record: BlockRecord;
  readonly end: number;
}

interface Header {
  readonly flags: number;
  readonly volume: VolumeNumber;
  readonly length: number;
  readonly offset: number;
}

/** Decodes the record at `at`. Throws RemoteProtocolError for anything this version did not write. */
export function decodeRecord(body: Uint8Array, view: DataView, at: number): DecodedRecord {
  if (at + recordHeaderBytes > body.byteLength) {
    throw new RemoteProtocolError("RECORD_TRUNCATED", `record header at ${at} reaches beyond the body`);
  }
  const kind = view.getUint8(at);
  const header: Header = {
    flags: view.getUint8(at + 1),
    volume: view.getUint16(at + 2),
    length: view.getUint32(at + 4),
    offset: view.getUint32(at + 8) * 2 ** 32 + view.getUint32(at + 12),
  };
  const dataAt = at + recordHeaderBytes;
  switch (kind) {
    case RecordKind.write: {
      requireFlags(header, 0);
      const data = dataOf(body, dataAt, header);
      const { volume, offset, length } = header;
      return { record: { kind: "write", volume, offset, length, data }, end: dataAt + length };
    }
    case RecordKind.zeroes:
    case RecordKind.trim: {
      requireFlags(header, 0);
      requireRange(header);
      const { volume, offset, length } = header;
      return {
        record: { kind: kind === RecordKind.zeroes ? "zeroes" : "trim", volume, offset, length },
        end: dataAt,
      };
    }
    case RecordKind.scanDigest:
      return decodeDigest(body, dataAt, header);
    case RecordKind.scanContent:
      return decodeContent(body, dataAt, header);
    case RecordKind.scanMark:
      return { record: decodeMark(header), end: dataAt };
    case RecordKind.volumeChange:
      return { record: decodeVolumeChange(body, dataAt, header), end: dataAt + namePayloadBytes };
    case RecordKind.gap:
      return { record: decodeGap(body, view, dataAt, header), end: dataAt + gapPayloadBytes };
    default:
      throw new RemoteProtocolError("RECORD_KIND_UNKNOWN", `record kind ${kind}`, { kind });
  }
}

function requireFlags({ flags }: Header, most: number): void {
  if (flags > most) throw new RemoteProtocolError("RECORD_FLAGS_UNKNOWN", `record flags ${flags}`, { flags });
}

function requireRange({ offset, length }: Header): void {
  if (!isSectorRange(offset, length)) throw rangeError(offset, length);
}

function rangeError(offset: number, length: number): RemoteProtocolError {
  return new RemoteProtocolError("RECORD_RANGE", `record range ${offset}+${length}`, { offset, length });
}

function dataOf(body: Uint8Array, dataAt: number, header: Header): Uint8Array {
  requireRange(header);
  const { length } = header;
  if (length > recordDataBytesMax) throw truncated(dataAt, length);
  return payloadAt(body, dataAt, length);
}

function payloadAt(body: Uint8Array, at: number, length: number): Uint8Array {
  if (at + length > body.byteLength) throw truncated(at, length);
  return body.subarray(at, at + length);
}

function truncated(at: number, length: number): RemoteProtocolError {
  return new RemoteProtocolError("RECORD_TRUNCATED", `record data at ${at}+${length}`, { length });
}

function decodeDigest(body: Uint8Array, dataAt: number, header: Header): DecodedRecord {
  requireFlags(header, levelFlags.leaf);
  requireRange(header);
  const { volume, offset, length } = header;
  const level = header.flags === levelFlags.leaf ? "leaf" : "chunk";
  if (!isDigestRange(level, offset, length)) throw rangeError(offset, length);
  const digests = payloadAt(body, dataAt, digestsBytes(level, length));
  return {
    record: { kind: "scanDigest", volume, offset, length, level, digests },
    end: dataAt + digests.byteLength,
  };
}

function decodeContent(body: Uint8Array, dataAt: number, header: Header): DecodedRecord {
  requireFlags(header, contentFlags.zeroes);
  const { volume, offset, length } = header;
  if (header.flags === contentFlags.zeroes) {
    requireRange(header);
    return { record: { kind: "scanContent", volume, offset, length, data: null }, end: dataAt };
  }
  const data = dataOf(body, dataAt, header);
  return { record: { kind: "scanContent", volume, offset, length, data }, end: dataAt + length };
}

function decodeMark(header: Header): ScanMarkRecord {
  const purpose = keyOf(purposeFlags, header.flags & purposeMask);
  const mark = keyOf(markFlags, (header.flags & ~purposeMask) >> 2);
  if (purpose === undefined || mark === undefined) {
    throw new RemoteProtocolError("RECORD_FLAGS_UNKNOWN", `record flags ${header.flags}`, {
      flags: header.flags,
    });
  }
  const { volume, length, offset: begin } = header;
  if (volume !== 0 || length !== 0 || !isMarkOfBegin(mark, begin)) throw rangeError(begin, length);
  return { kind: "scanMark", volume: 0, offset: 0, length: 0, mark, purpose, begin };
}

function decodeGap(body: Uint8Array, view: DataView, dataAt: number, header: Header): GapRecord {
  requireFlags(header, 0);
  const { volume, length, offset } = header;
  if (volume !== 0 || length !== 0 || offset !== 0) throw rangeError(offset, length);
  const payload = payloadAt(body, dataAt, gapPayloadBytes);
  const span = view.getUint32(dataAt) * 2 ** 32 + view.getUint32(dataAt + 4);
  const dataBytes = view.getUint32(dataAt + 8) * 2 ** 32 + view.getUint32(dataAt + 12);
  if (!isGapSize(span, dataBytes)) {
    throw new RemoteProtocolError("RECORD_GAP", `gap of ${span} sequences, ${dataBytes} bytes`);
  }
  // A copy: it becomes a position's chain value, which outlives the body.
  const chainAfter = Uint8Array.from(payload.subarray(gapPayloadBytes - chainBytes));
  return { kind: "gap", volume: 0, offset: 0, length: 0, span, dataBytes, chainAfter };
}

function decodeVolumeChange(body: Uint8Array, dataAt: number, header: Header): VolumeChangeRecord {
  requireFlags(header, tableFlags.holdsData);
  const { volume, length, offset: sizeBytes } = header;
  if (length !== 0 || !isVolumeSize(sizeBytes)) throw rangeError(sizeBytes, length);
  const payload = payloadAt(body, dataAt, namePayloadBytes);
  const end = payload.indexOf(0);
  let name = "";
  for (const byte of payload.subarray(0, end < 0 ? namePayloadBytes : end)) name += String.fromCharCode(byte);
  // Only what we would write: bytes behind the first NUL would be a second meaning that nobody sees.
  if (!isName(name) || payload.subarray(name.length).some((byte) => byte !== 0)) {
    throw new RemoteProtocolError("RECORD_NAME", "a volume's name is none", { volume });
  }
  const holdsData = header.flags === tableFlags.holdsData;
  return { kind: "volumeChange", volume, offset: 0, length: 0, sizeBytes, name, holdsData };
}

function keyOf<Key extends string>(table: Readonly<Record<Key, number>>, value: number): Key | undefined {
  for (const key in table) if (table[key] === value) return key;
  return undefined;
}
