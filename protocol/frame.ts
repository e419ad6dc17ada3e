/**
 * The frame: a run of consecutive records, the unit of the journal and of the intake log. Pure.
 *
 *   offset  size  field
 *   0       4     magic          "SSFR"
 *   4       1     version        1
 *   5       1     codec          how the body is stored: 0 as it is, 1 LZ4
 *   6       2     flags          0
 *   8       16    lineage        a frame of another history is refused wherever it turns up
 *   24      8     first          sequence of the first record
 *   32      4     count          records in the body; the last sequence is first + count - 1, of a gap first + span - 1
 *   36      4     bodyLength     bytes of the raw body, so that nothing is allocated on a lie
 *   40      4     storedLength   bytes that follow this header
 *   44      4     bodyCrc        CRC-32 (IEEE) of the raw body: finds rot cheaply before the chain names it
 *   48      8     openedAtMs     wall clock when the first record arrived: a label for people, never order
 *   56      8     closedAtMs     wall clock when the frame was closed
 *   64      8     dataBytesTotal data bytes of all records of the history up to the last one: for lag and loss
 *   72      32    chainBefore    chain value before the first record
 *   104     32    chainAfter     chain value after the last record
 *   136     4     headerCrc      CRC-32 of the 136 bytes before
 *   140           body
 *
 * The raw body is the encoded records one after another. A gap is alone in its frame, and no chain leads over it: its
 * chain value is the owner's word. A change of the volume table is alone in its frame too. See docs/formats/frame.md.
 */
import { strict as assert } from "node:assert";
import { crc32 } from "node:zlib";
import { ByteReader, ByteWriter } from "./bytes.ts";
import { ChainWalker } from "./chain.ts";
import type { ChainValue, LineageBytes, Sequence } from "./ids.ts";
import { bytesEqual } from "./ids.ts";
import { lz4Compress, lz4Decompress } from "./lz4.ts";
import type { BlockRecord, GapRecord, VolumeChangeRecord } from "./record.ts";
import {
  decodeRecord,
  encodeRecordInto,
  recordBytes,
  recordDataBytes,
  recordDataBytesMax,
  recordHeaderBytes,
  withPayload,
} from "./record.ts";
import { RemoteProtocolError } from "./remote-error.ts";

const frameMagic = 0x53534652;
const frameVersion = 1;
export const FrameCodec = { stored: 0, lz4: 1 } as const;
export const frameHeaderBytes = 140;
/** Where an encoded frame names its codec. */
export const frameCodecAt = 5;
/** A frame is closed when its body reaches this. */
export const frameBodyBytesTarget = 1024 * 1024;
/** Largest legal raw body: one record may land on a body just below the target. */
export const frameBodyBytesMax = frameBodyBytesTarget + recordHeaderBytes + recordDataBytesMax;
/** Largest record count: a target-sized body of headers only. */
export const frameRecordsMax = Math.ceil(frameBodyBytesMax / recordHeaderBytes);

export interface FrameHeader {
  readonly lineage: LineageBytes;
  readonly first: Sequence;
  readonly count: number;
  readonly openedAtMs: number;
  readonly closedAtMs: number;
  readonly dataBytesTotal: number;
  readonly chainBefore: ChainValue;
  readonly chainAfter: ChainValue;
}

/** A frame in memory. `records[i]` has sequence `first + i`; write records view into `body`. */
export interface Frame extends FrameHeader {
  /** `first + count - 1`; of a frame that is a gap `first + span - 1`. */
  readonly last: Sequence;
  /** Raw encoded records. */
  readonly body: Uint8Array;
  readonly records: readonly BlockRecord[];
}

export interface BuildFrameInput {
  readonly lineage: LineageBytes;
  readonly first: Sequence;
  readonly chainBefore: ChainValue;
  /** Total before this frame. */
  readonly dataBytesBefore: number;
  readonly openedAtMs: number;
  readonly closedAtMs: number;
  /** At least one; their data is copied into the new body. */
  readonly records: readonly BlockRecord[];
}

/** The gap that `frame` is, or undefined when it holds records. */
export function gapOf(frame: Frame): GapRecord | undefined {
  const record = frame.records[0];
  return record?.kind === "gap" ? record : undefined;
}

/** The change of the volume table that `frame` is, or undefined when it holds other records. */
export function volumeChangeOf(frame: Frame): VolumeChangeRecord | undefined {
  const record = frame.records[0];
  return record?.kind === "volumeChange" ? record : undefined;
}

/** A position in a history, as far as a gap needs it. */
export interface GapEdge {
  readonly sequence: Sequence;
  readonly chain: ChainValue;
  readonly dataBytesTotal: number;
}

export interface BuildGapFrameInput {
  readonly lineage: LineageBytes;
  /** The last position that the reader has. */
  readonly after: GapEdge;
  /** The position behind which it gets records again; behind `after`. */
  readonly to: GapEdge;
  /** A label for people, as of any frame: when what ends at `to` was closed, ms. */
  readonly closedAtMs: number;
}

/** The frame that stands for everything behind `after` up to `to`. */
export function buildGapFrame({ lineage, after, to, closedAtMs }: BuildGapFrameInput): Frame {
  const record: GapRecord = {
    kind: "gap",
    volume: 0,
    offset: 0,
    length: 0,
    span: to.sequence - after.sequence,
    dataBytes: to.dataBytesTotal - after.dataBytesTotal,
    chainAfter: to.chain,
  };
  const body = Buffer.allocUnsafeSlow(recordBytes(record));
  encodeRecordInto(record, body, new DataView(body.buffer, body.byteOffset, body.byteLength), 0);
  return {
    lineage,
    first: after.sequence + 1,
    count: 1,
    last: to.sequence,
    openedAtMs: closedAtMs,
    closedAtMs,
    dataBytesTotal: to.dataBytesTotal,
    chainBefore: after.chain,
    chainAfter: to.chain,
    body,
    records: [record],
  };
}

/**
 * Packs records, none of them a gap, into a frame: copies data into one body and walks the chain over it. A change of the
 * volume table must be the only one.
 */
export function buildFrame(input: BuildFrameInput): Frame {
  let bodyLength = 0;
  let dataBytes = 0;
  for (const record of input.records) {
    assert(record.kind !== "gap", "a gap is a frame of its own");
    assert(
      record.kind !== "volumeChange" || input.records.length === 1,
      "a change of the table stands alone",
    );
    bodyLength += recordBytes(record);
    dataBytes += recordDataBytes(record);
  }
  assert(input.records.length > 0 && bodyLength <= frameBodyBytesMax, "a frame within its limits");
  const body = Buffer.allocUnsafeSlow(bodyLength);
  const view = new DataView(body.buffer, body.byteOffset, bodyLength);
  const walker = new ChainWalker(input.chainBefore);
  const records: BlockRecord[] = [];
  let at = 0;
  for (const record of input.records) {
    const end = encodeRecordInto(record, body, view, at);
    walker.advance(body.subarray(at, end));
    records.push(
      record.kind === "write"
        ? {
            kind: "write",
            volume: record.volume,
            offset: record.offset,
            length: record.length,
            data: body.subarray(at + recordHeaderBytes, end),
          }
        : withPayload(record, body.subarray(at + recordHeaderBytes, end)),
    );
    at = end;
  }
  return {
    lineage: input.lineage,
    first: input.first,
    count: records.length,
    last: input.first + records.length - 1,
    openedAtMs: input.openedAtMs,
    closedAtMs: input.closedAtMs,
    dataBytesTotal: input.dataBytesBefore + dataBytes,
    chainBefore: input.chainBefore,
    chainAfter: walker.value,
    body,
    records,
  };
}

export type FrameCompression = "lz4" | "none";

/** Header and stored body as two buffers of one frame; LZ4 only when it shrinks the body. */
export function encodeFrame(frame: Frame, compression: FrameCompression): Uint8Array {
  let codec: number = FrameCodec.stored;
  let stored = frame.body;
  if (compression === "lz4") {
    const compressed = lz4Compress(frame.body);
    if (compressed.byteLength < frame.body.byteLength) {
      codec = FrameCodec.lz4;
      stored = compressed;
    }
  }
  const out = Buffer.allocUnsafe(frameHeaderBytes + stored.byteLength);
  encodeFrameHeaderInto(out.subarray(0, frameHeaderBytes), frame, codec, stored.byteLength);
  out.set(stored, frameHeaderBytes);
  return out;
}

/** Writes the 140 header bytes, which `target` is, for a body stored in `storedLength` bytes by `codec`. */
export function encodeFrameHeaderInto(
  target: Uint8Array,
  frame: Frame,
  codec: number,
  storedLength: number,
): void {
  assert(frame.count === 1 || !frame.records.some(isAlone), "gaps and changes of the table stand alone");
  const writer = new ByteWriter(target)
    .u32(frameMagic)
    .u8(frameVersion)
    .u8(codec)
    .u16(0)
    .put(frame.lineage)
    .u64(frame.first)
    .u32(frame.count)
    .u32(frame.body.byteLength)
    .u32(storedLength)
    .u32(crc32(frame.body))
    .u64(frame.openedAtMs)
    .u64(frame.closedAtMs)
    .u64(frame.dataBytesTotal)
    .put(frame.chainBefore)
    .put(frame.chainAfter);
  writer.u32(crc32(target.subarray(0, frameHeaderBytes - 4)));
}

/** True for what shares its frame with nothing. */
function isAlone(record: BlockRecord): boolean {
  return record.kind === "gap" || record.kind === "volumeChange";
}

interface ParsedHeader extends FrameHeader {
  readonly codec: number;
  readonly bodyLength: number;
  readonly storedLength: number;
  readonly bodyCrc: number;
}

function parseHeader(bytes: Uint8Array): ParsedHeader {
  if (bytes.byteLength < frameHeaderBytes)
    throw new RemoteProtocolError("FRAME_TRUNCATED", "frame header cut short");
  const head = new ByteReader(bytes.subarray(0, frameHeaderBytes));
  if (head.u32() !== frameMagic) throw new RemoteProtocolError("FRAME_MAGIC", "not a frame");
  const version = head.u8();
  if (version !== frameVersion)
    throw new RemoteProtocolError("FRAME_VERSION", `frame version ${version}`, { version });
  const sum = new DataView(bytes.buffer, bytes.byteOffset).getUint32(frameHeaderBytes - 4);
  if (crc32(bytes.subarray(0, frameHeaderBytes - 4)) !== sum) {
    throw new RemoteProtocolError("FRAME_HEADER_CRC", "frame header is damaged");
  }
  const codec = head.u8();
  const flags = head.u16();
  const parsed = {
    codec,
    lineage: head.bytes(16).slice(),
    first: head.u64(),
    count: head.u32(),
    bodyLength: head.u32(),
    storedLength: head.u32(),
    bodyCrc: head.u32(),
    openedAtMs: head.u64(),
    closedAtMs: head.u64(),
    dataBytesTotal: head.u64(),
    chainBefore: head.bytes(32).slice(),
    chainAfter: head.bytes(32).slice(),
  };
  if (flags !== 0 || (codec !== FrameCodec.stored && codec !== FrameCodec.lz4)) {
    throw new RemoteProtocolError("FRAME_CODEC", `frame codec ${codec} flags ${flags}`);
  }
  if (
    parsed.first < 1 ||
    parsed.count < 1 ||
    parsed.count > frameRecordsMax ||
    !Number.isSafeInteger(parsed.first + parsed.count) ||
    parsed.bodyLength > frameBodyBytesMax ||
    parsed.storedLength > parsed.bodyLength ||
    (codec === FrameCodec.stored && parsed.storedLength !== parsed.bodyLength)
  ) {
    throw new RemoteProtocolError("FRAME_LIMITS", "frame header beyond its limits");
  }
  return parsed;
}

/** Bytes of the whole frame that starts `bytes`, from its header alone; for walking a batch. */
export function encodedFrameLength(bytes: Uint8Array): number {
  return frameHeaderBytes + parseHeader(bytes).storedLength;
}

/** Decodes one whole frame and verifies everything that stands in it: checksums, limits, count and chain. */
export function decodeFrame(bytes: Uint8Array): Frame {
  const head = parseHeader(bytes);
  const stored = bytes.subarray(frameHeaderBytes);
  if (stored.byteLength !== head.storedLength) {
    throw new RemoteProtocolError(
      "FRAME_TRUNCATED",
      `frame body has ${stored.byteLength} of ${head.storedLength} bytes`,
    );
  }
  const body = head.codec === FrameCodec.lz4 ? lz4Decompress(stored, head.bodyLength) : stored;
  const records = recordsOf(head, body);
  const [only] = records;
  return {
    lineage: head.lineage,
    first: head.first,
    count: head.count,
    last: head.first + (only?.kind === "gap" ? only.span : head.count) - 1,
    openedAtMs: head.openedAtMs,
    closedAtMs: head.closedAtMs,
    dataBytesTotal: head.dataBytesTotal,
    chainBefore: head.chainBefore,
    chainAfter: head.chainAfter,
    body,
    records,
  };
}

/**
 * The records of a body that is what its header says. The chain says more of it than its checksum, and is walked anyway; so the
 * checksum is taken where no chain leads over the body, and where something is wrong: it tells what has rotted from what lies.
 */
function recordsOf(head: ParsedHeader, body: Uint8Array): BlockRecord[] {
  let records: BlockRecord[];
  try {
    records = walkRecords(head, body);
  } catch (error) {
    requireBodySum(head, body);
    throw error;
  }
  if (records[0]?.kind === "gap") requireBodySum(head, body);
  return records;
}

function requireBodySum(head: ParsedHeader, body: Uint8Array): void {
  if (crc32(body) !== head.bodyCrc) throw new RemoteProtocolError("FRAME_BODY_CRC", "frame body is damaged");
}

function walkRecords(head: ParsedHeader, body: Uint8Array): BlockRecord[] {
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  const walker = new ChainWalker(head.chainBefore);
  const records: BlockRecord[] = [];
  let dataBytes = 0;
  let at = 0;
  for (let index = 0; index < head.count; index += 1) {
    const { record, end } = decodeRecord(body, view, at);
    if (record.kind === "gap") requireGapOf(head, record);
    else {
      if (record.kind === "volumeChange") requireAlone(head);
      walker.advance(body.subarray(at, end));
    }
    records.push(record);
    dataBytes += recordDataBytes(record);
    at = end;
  }
  if (head.dataBytesTotal < dataBytes) {
    throw new RemoteProtocolError(
      "FRAME_TOTAL",
      `${head.dataBytesTotal} data bytes in all, ${dataBytes} here`,
    );
  }
  if (at !== body.byteLength) throw new RemoteProtocolError("FRAME_TRAILING", "bytes behind the last record");
  if (records[0]?.kind !== "gap" && !bytesEqual(walker.value, head.chainAfter)) {
    throw new RemoteProtocolError("FRAME_CHAIN", "records do not lead to the chain value they claim", {
      first: head.first,
    });
  }
  return records;
}

function requireAlone({ count, first }: ParsedHeader): void {
  if (count === 1) return;
  throw new RemoteProtocolError("FRAME_VOLUME_CHANGE", `a change of the table among ${count} records`, {
    first,
  });
}

/** A gap stands alone, ends at a number that we can hold, and claims the chain value that its frame ends with. */
function requireGapOf(head: ParsedHeader, gap: GapRecord): void {
  if (
    head.count !== 1 ||
    !Number.isSafeInteger(head.first + gap.span) ||
    !bytesEqual(gap.chainAfter, head.chainAfter)
  ) {
    throw new RemoteProtocolError("FRAME_GAP", `a gap of ${gap.span} among ${head.count} records`, {
      first: head.first,
    });
  }
}
