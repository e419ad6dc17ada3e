/**
 * Reads which records a frame carries, by docs/formats/frame.md and record.md alone: the order in which an owner
 * journals is what the model cannot know beforehand, since a scan puts its own records in between and may hold a
 * request back. Judges nothing, and shares no code with the product: what does not read is thrown.
 */
import { uncompressSync } from "lz4-napi";
import { stampBytes } from "../../support/stamp.ts";

export type MarkKind = "begin" | "end" | "given-up";
export type MarkPurpose = "verify" | "first-sync" | "resync" | "repair" | "volume-sync";

/** A client's record. */
export interface JournalledChange {
  readonly kind: "write" | "zeroing";
  readonly volume: number;
  /** Bytes. */
  readonly offset: number;
  readonly length: number;
  /** The op that the data is stamped with; undefined where nothing is stamped. */
  readonly number: number | undefined;
}

/** A volume joins the group, or grows. */
export interface JournalledTable {
  readonly kind: "table";
  readonly volume: number;
  readonly name: string;
  /** Bytes. */
  readonly sizeBytes: number;
  /** Its image at the owner held data before. */
  readonly holdsData: boolean;
}

/** What a scan or an operator put into the order: it changes no sector at the owner. */
export type JournalledScan =
  | JournalledTable
  | { readonly kind: "digest" }
  | { readonly kind: "content"; readonly volume: number; readonly offset: number; readonly length: number }
  | {
      readonly kind: "mark";
      readonly mark: MarkKind;
      readonly purpose: MarkPurpose;
      /** The begin that it names; 0 in a begin. */
      readonly begin: number;
    }
  /** Stands for this many entries, which whoever reads it never gets. Only on its way, in no owner's journal. */
  | { readonly kind: "gap"; readonly span: number };

export type Journalled = JournalledChange | JournalledScan;

const headerBytes = 140;
const recordHeaderBytes = 16;
const purposes: readonly MarkPurpose[] = ["verify", "first-sync", "resync", "repair"];
/** Of marks with bit 4 in their flags. */
const morePurposes: readonly MarkPurpose[] = ["volume-sync"];
const marks: readonly MarkKind[] = ["begin", "end", "given-up"];
const chunkBytes = 1024 * 1024;
const leafBytes = 4096;
/** Room for a volume's name. */
const nameBytes = 64;

export function isChange(record: Journalled): record is JournalledChange {
  return record.kind === "write" || record.kind === "zeroing";
}

/** Records of one encoded frame, in order. */
export function readFrame(value: Uint8Array): Journalled[] {
  const frame = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  const stored = frame.subarray(headerBytes);
  const body = frame[5] === 1 ? uncompressSync(stored) : stored;
  const records: Journalled[] = [];
  let at = 0;
  for (let left = frame.readUInt32BE(32); left > 0; left -= 1) {
    const { record, payloadBytes } = readRecord(body, at);
    records.push(record);
    at += recordHeaderBytes + payloadBytes;
  }
  if (at !== body.byteLength) throw new RangeError(`${body.byteLength - at} bytes behind a frame's records`);
  return records;
}

function readRecord(body: Buffer, at: number): { record: Journalled; payloadBytes: number } {
  const kind = body.readUInt8(at);
  const flags = body.readUInt8(at + 1);
  const volume = body.readUInt16BE(at + 2);
  const length = body.readUInt32BE(at + 4);
  const offset = Number(body.readBigUInt64BE(at + 8));
  switch (kind) {
    case 1: {
      // The number in the stamp of the first sector.
      const number = body.readUIntBE(at + recordHeaderBytes + 8, 6);
      if (length < stampBytes) throw new RangeError(`a write of ${length} bytes`);
      return { record: { kind: "write", volume, offset, length, number }, payloadBytes: length };
    }
    case 2:
    case 3:
      return { record: { kind: "zeroing", volume, offset, length, number: undefined }, payloadBytes: 0 };
    case 4: {
      const payloadBytes =
        flags === 1 ? Math.ceil(length / leafBytes) * 16 : Math.ceil(length / chunkBytes) * 32;
      return { record: { kind: "digest" }, payloadBytes };
    }
    case 5:
      return { record: { kind: "content", volume, offset, length }, payloadBytes: flags === 0 ? length : 0 };
    case 8: {
      const name = body.toString("latin1", at + recordHeaderBytes, at + recordHeaderBytes + nameBytes);
      const table = { name: name.replace(/\0+$/, ""), sizeBytes: offset, holdsData: flags === 1 };
      return { record: { kind: "table", volume, ...table }, payloadBytes: nameBytes };
    }
    case 9: {
      const span = Number(body.readBigUInt64BE(at + recordHeaderBytes));
      return { record: { kind: "gap", span }, payloadBytes: 48 };
    }
    case 10: {
      const mark = marks[(flags >> 2) & 3];
      const purpose = (flags >> 4 === 1 ? morePurposes : purposes)[flags & 3];
      if (mark === undefined || purpose === undefined) throw new RangeError(`a mark with flags ${flags}`);
      return { record: { kind: "mark", mark, purpose, begin: offset }, payloadBytes: 0 };
    }
    default:
      throw new RangeError(`a record of kind ${kind}`);
  }
}

/** The frame in a record that is written ahead of the store, and its first sequence (docs/formats/write-ahead.md). */
export function readAhead(record: Uint8Array): { first: number; value: Uint8Array } {
  const bytes = Buffer.from(record.buffer, record.byteOffset, record.byteLength);
  if (bytes.toString("latin1", 0, 4) !== "SSWA") throw new RangeError("no record of a write-ahead half");
  return { first: Number(bytes.readBigUInt64BE(16)), value: bytes.subarray(32, 32 + bytes.readUInt32BE(24)) };
}

/** Sequence of the head value that a journal stores (docs/formats/head.md). */
export function readHead(value: Uint8Array): number {
  return Number(Buffer.from(value.buffer, value.byteOffset, value.byteLength).readBigUInt64BE(24));
}

/** Chunks marked in a note of an overflow, as `VOLUME CHUNK`; undefined when it is no page (docs/formats/overflow.md). */
export function readDirtyPage(value: Uint8Array): string[] | undefined {
  const note = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  if (note.toString("latin1", 0, 4) !== "SSDP") return undefined;
  const volume = note.readUInt16BE(6);
  const first = note.readUInt32BE(8) * 32_768;
  const chunks: string[] = [];
  for (let byte = 0; byte < 4096; byte += 1) {
    const bits = note[12 + byte]!;
    for (let bit = 0; bits >> bit > 0; bit += 1)
      if (((bits >> bit) & 1) === 1) chunks.push(`${volume} ${first + byte * 8 + bit}`);
  }
  return chunks;
}
