/**
 * The batch: a run of frames compressed together, the unit of the WAN. Pure.
 *
 *   offset  size  field
 *   0       4     magic          "SSBA"
 *   4       1     version        1
 *   5       1     codec          0 none, 1 LZ4, 2 brotli
 *   6       2     flags          0
 *   8       16    lineage        history the frames belong to
 *   24      8     epoch          fencing token, number: belongs to the sender's right to send, never to a frame
 *   32      64    owner          fencing token, site name, padded with zero bytes
 *   96      8     first          sequence of the first record
 *   104     8     last           sequence of the last record
 *   112     4     frameCount
 *   116     4     rawLength      bytes of the payload when unpacked; compared before anything is allocated
 *   120     4     payloadLength  bytes that follow this header
 *   124     4     payloadCrc     CRC-32 of the payload as sent: a damaged line is told apart from a wrong history
 *   128     32    chainBefore    chain value before `first`
 *   160     32    chainAfter     chain value after `last`
 *   192     4     headerCrc      CRC-32 of the 192 bytes before
 *   196           payload        whole frames, bodies stored raw, one after another, packed by `codec`
 */
import { strict as assert } from "node:assert";
import { brotliCompress, brotliDecompressSync, constants, crc32 } from "node:zlib";
import { ByteReader, ByteWriter } from "./bytes.ts";
import type { Frame } from "./frame.ts";
import {
  decodeFrame,
  encodedFrameLength,
  encodeFrameHeaderInto,
  FrameCodec,
  frameBodyBytesMax,
  frameCodecAt,
  frameHeaderBytes,
} from "./frame.ts";
import type { ChainValue, LineageBytes, Sequence, Token } from "./ids.ts";
import { bytesEqual, isName } from "./ids.ts";
import { lz4Compress, lz4Decompress } from "./lz4.ts";
import { recordDataBytes } from "./record.ts";
import { RemoteProtocolError } from "./remote-error.ts";

const batchMagic = 0x53534241;
const batchVersion = 1;
const ownerBytes = 64;
export const batchHeaderBytes = 196;
/** The shipper closes a batch when the raw frames reach this. */
export const batchRawBytesTarget = 4 * 1024 * 1024;
/** Largest legal payload when unpacked: one frame may land on a batch just below the target. */
export const batchRawBytesMax = batchRawBytesTarget + frameHeaderBytes + frameBodyBytesMax;
/** Largest request body: the header and an incompressible payload (LZ4 adds at most 1/255 and 16 bytes). */
export const batchBytesMax = batchHeaderBytes + batchRawBytesMax + Math.ceil(batchRawBytesMax / 255) + 64;

export const batchCodecs = ["none", "lz4", "brotli"] as const;
export type BatchCodec = (typeof batchCodecs)[number];

export interface BatchHeader {
  readonly codec: BatchCodec;
  readonly lineage: LineageBytes;
  readonly token: Token;
  readonly first: Sequence;
  readonly last: Sequence;
  readonly frameCount: number;
  readonly rawLength: number;
  readonly payloadLength: number;
  readonly payloadCrc: number;
  readonly chainBefore: ChainValue;
  readonly chainAfter: ChainValue;
}

/** Concatenates frames with raw bodies: what a batch's payload unpacks to. At least one frame. Alone in its ArrayBuffer. */
export function packFrames(frames: readonly Frame[]): Uint8Array {
  let length = 0;
  for (const frame of frames) length += frameHeaderBytes + frame.body.byteLength;
  const raw = Buffer.allocUnsafeSlow(length);
  let at = 0;
  for (const frame of frames) {
    const { body } = frame;
    encodeFrameHeaderInto(raw.subarray(at, at + frameHeaderBytes), frame, FrameCodec.stored, body.byteLength);
    raw.set(body, at + frameHeaderBytes);
    at += frameHeaderBytes + body.byteLength;
  }
  return raw;
}

/** A payload as it goes on the line: packed where that is shorter, else the very bytes that were to be packed. */
export interface PackedPayload {
  readonly shrunk: boolean;
  readonly bytes: Uint8Array;
}

/**
 * Packs the payload of a batch. `raw` is given away, alone in its ArrayBuffer, and may be detached from then on: where its bytes
 * are still wanted they are in the answer.
 */
export type CompressBatch = (codec: "lz4" | "brotli", raw: Uint8Array) => Promise<PackedPayload>;

/** Equal length counts as not shrunk: what need not be unpacked is better. */
export function shorterPayload(raw: Uint8Array, packed: Uint8Array): PackedPayload {
  const shrunk = packed.byteLength < raw.byteLength;
  return { shrunk, bytes: shrunk ? packed : raw };
}

/** LZ4 where it is called, brotli on the thread pool. An agent's LZ4 has a thread: `site-agent/ship/compress-aside.ts`. */
export const compressDirectly: CompressBatch = async (codec, raw) =>
  shorterPayload(raw, codec === "brotli" ? await brotli(raw) : lz4Compress(raw));

/**
 * Packs consecutive frames for the line. Falls back to `none` when the codec does not shrink them.
 * The frames must not change until it settles.
 */
export async function encodeBatch(
  frames: readonly Frame[],
  token: Token,
  wanted: BatchCodec,
  compress: CompressBatch = compressDirectly,
): Promise<Uint8Array> {
  requireConsecutive(frames);
  assert(token.epoch >= 1 && isName(token.owner), "a token that somebody can hold");
  const raw = packFrames(frames);
  const rawLength = raw.byteLength;
  assert(rawLength <= batchRawBytesMax, "a batch within its limits");
  const packed = wanted === "none" ? { shrunk: false, bytes: raw } : await compress(wanted, raw);
  const { shrunk, bytes: payload } = packed;
  assert(
    shrunk ? payload.byteLength < rawLength : payload.byteLength === rawLength,
    "a payload packed or raw",
  );
  const first = frames[0]!;
  const last = frames[frames.length - 1]!;
  const owner = new Uint8Array(ownerBytes);
  owner.set(Buffer.from(token.owner, "latin1"));
  const writer = new ByteWriter(batchHeaderBytes + payload.byteLength)
    .u32(batchMagic)
    .u8(batchVersion)
    .u8(batchCodecs.indexOf(shrunk ? wanted : "none"))
    .u16(0)
    .put(first.lineage)
    .u64(token.epoch)
    .put(owner)
    .u64(first.first)
    .u64(last.last)
    .u32(frames.length)
    .u32(rawLength)
    .u32(payload.byteLength)
    .u32(crc32(payload))
    .put(first.chainBefore)
    .put(last.chainAfter);
  writer.u32(crc32(writer.bytes.subarray(0, batchHeaderBytes - 4))).put(payload);
  return writer.bytes;
}

/** What `decodeBatchPayload` would refuse is our own mistake: the peer would never take it. */
function requireConsecutive(frames: readonly Frame[]): void {
  assert(frames.length > 0, "at least one frame");
  for (let index = 1; index < frames.length; index += 1) {
    assert(continues(frames[index]!, frames[index - 1]!), "consecutive frames");
  }
}

/** `frame` begins where `before` ends: sequence, chain, lineage and counter of data bytes. */
function continues(frame: Frame, before: Frame): boolean {
  let dataBytes = 0;
  for (const record of frame.records) dataBytes += recordDataBytes(record);
  return (
    frame.first === before.last + 1 &&
    frame.dataBytesTotal === before.dataBytesTotal + dataBytes &&
    bytesEqual(frame.chainBefore, before.chainAfter) &&
    bytesEqual(frame.lineage, before.lineage)
  );
}

/** Decodes the first `batchHeaderBytes` bytes; enough to answer a sender before its payload has arrived. */
export function decodeBatchHeader(bytes: Uint8Array): BatchHeader {
  if (bytes.byteLength < batchHeaderBytes)
    throw new RemoteProtocolError("BATCH_TRUNCATED", "batch header cut short");
  const head = new ByteReader(bytes.subarray(0, batchHeaderBytes));
  if (head.u32() !== batchMagic) throw new RemoteProtocolError("BATCH_MAGIC", "not a batch");
  const version = head.u8();
  if (version !== batchVersion)
    throw new RemoteProtocolError("BATCH_VERSION", `batch version ${version}`, { version });
  const sum = new DataView(bytes.buffer, bytes.byteOffset).getUint32(batchHeaderBytes - 4);
  if (crc32(bytes.subarray(0, batchHeaderBytes - 4)) !== sum) {
    throw new RemoteProtocolError("BATCH_HEADER_CRC", "batch header is damaged");
  }
  const codecNumber = head.u8();
  const codec = batchCodecs[codecNumber];
  if (head.u16() !== 0 || codec === undefined)
    throw new RemoteProtocolError("BATCH_CODEC", `batch codec ${codecNumber}`);
  const lineage = head.bytes(16).slice();
  const epoch = head.u64();
  const owner = ownerName(head.bytes(ownerBytes));
  const header = {
    codec,
    lineage,
    token: { epoch, owner },
    first: head.u64(),
    last: head.u64(),
    frameCount: head.u32(),
    rawLength: head.u32(),
    payloadLength: head.u32(),
    payloadCrc: head.u32(),
    chainBefore: head.bytes(32).slice(),
    chainAfter: head.bytes(32).slice(),
  };
  if (
    epoch < 1 ||
    header.first < 1 ||
    header.last < header.first ||
    header.frameCount < 1 ||
    header.frameCount > header.last - header.first + 1 ||
    header.rawLength > batchRawBytesMax ||
    header.payloadLength > batchBytesMax - batchHeaderBytes ||
    (codec === "none" && header.payloadLength !== header.rawLength)
  ) {
    throw new RemoteProtocolError("BATCH_LIMITS", "batch header beyond its limits");
  }
  return header;
}

/**
 * Unpacks and verifies a whole batch against its own header: lengths, CRCs, every frame, contiguity and the chain
 * from `chainBefore` to `chainAfter`. Whether that continues *our* history is the caller's question.
 */
export function decodeBatchPayload(header: BatchHeader, payload: Uint8Array): Frame[] {
  if (payload.byteLength !== header.payloadLength) {
    throw new RemoteProtocolError(
      "BATCH_TRUNCATED",
      `payload has ${payload.byteLength} of ${header.payloadLength} bytes`,
    );
  }
  if (crc32(payload) !== header.payloadCrc)
    throw new RemoteProtocolError("BATCH_PAYLOAD_CRC", "batch payload is damaged");
  const raw = unpack(header, payload);
  const frames: Frame[] = [];
  let at = 0;
  for (let index = 0; index < header.frameCount; index += 1) {
    const rest = raw.subarray(at);
    const length = encodedFrameLength(rest);
    if (length > rest.byteLength)
      throw new RemoteProtocolError("BATCH_TRUNCATED", "last frame reaches beyond the payload");
    // A frame packed inside the packed payload would unpack to memory that the header never declared.
    if (rest[frameCodecAt] !== FrameCodec.stored) {
      throw new RemoteProtocolError("BATCH_FRAME_CODEC", `frame ${index} is packed inside the batch`);
    }
    const frame = decodeFrame(rest.subarray(0, length));
    const before = frames.at(-1);
    if (before === undefined ? !startsBatch(frame, header) : !continues(frame, before)) {
      throw new RemoteProtocolError("BATCH_ORDER", `frame ${index} does not continue the batch`, {
        first: frame.first,
      });
    }
    frames.push(frame);
    at += length;
  }
  const end = frames.at(-1);
  if (at !== raw.byteLength || end?.last !== header.last || !bytesEqual(end.chainAfter, header.chainAfter)) {
    throw new RemoteProtocolError("BATCH_ORDER", "frames do not end where the batch says");
  }
  return frames;
}

function startsBatch(frame: Frame, header: BatchHeader): boolean {
  return (
    frame.first === header.first &&
    bytesEqual(frame.chainBefore, header.chainBefore) &&
    bytesEqual(frame.lineage, header.lineage)
  );
}

function ownerName(padded: Uint8Array): string {
  const text = Buffer.from(padded).toString("latin1").replace(/\0+$/, "");
  if (!isName(text)) throw new RemoteProtocolError("BATCH_OWNER", "owner is not a site name");
  return text;
}

function unpack(header: BatchHeader, payload: Uint8Array): Uint8Array {
  if (header.codec === "none") return payload;
  if (header.codec === "lz4") return lz4Decompress(payload, header.rawLength);
  const { buffer: raw, engine } = unbrotli(payload, header.rawLength);
  // Brotli ends where its stream says; what lies behind it was never looked at.
  if (raw.byteLength !== header.rawLength || engine.bytesWritten !== payload.byteLength) {
    throw new RemoteProtocolError("BATCH_LENGTH", "payload unpacks to another length");
  }
  return raw;
}

interface Unbrotlied {
  readonly buffer: Uint8Array;
  readonly engine: { readonly bytesWritten: number };
}

function unbrotli(payload: Uint8Array, rawLength: number): Unbrotlied {
  try {
    // The output limit stops a bomb at the declared length, which is itself capped. With `info` the result is an
    // object, which the package's types do not say.
    const options = { maxOutputLength: rawLength, info: true };
    return brotliDecompressSync(payload, options) as unknown as Unbrotlied;
  } catch (cause) {
    throw new RemoteProtocolError("BATCH_BROTLI", "brotli payload does not decode", { cause: String(cause) });
  }
}

function brotli(raw: Uint8Array): Promise<Uint8Array> {
  // Quality 2 with a window of 4 MiB (2^22): measured the best of ratio and speed on a database trace.
  const params = {
    [constants.BROTLI_PARAM_QUALITY]: 2,
    [constants.BROTLI_PARAM_LGWIN]: 22,
    [constants.BROTLI_PARAM_SIZE_HINT]: raw.byteLength,
  };
  return new Promise((resolve, reject) => {
    brotliCompress(raw, { params }, (error, packed) => (error === null ? resolve(packed) : reject(error)));
  });
}
