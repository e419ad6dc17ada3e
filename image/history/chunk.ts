/**
 * The chunk: part of the before-images of one apply step, the unit that is compressed, digested and read. Pure.
 * Owns its format (docs/formats/before-images.md). Nothing read is believed before its checksum and its digest are
 * right; what a chunk means for an image is others' to say.
 *
 *   offset  size  field
 *   0       4     magic          "SSBI"
 *   4       1     version        1
 *   5       1     flags          bit 0: last chunk of its set
 *   6       2     runs           number of runs
 *   8       16    lineage        chunks of another history are refused
 *   24      8     first          the set's first sequence
 *   32      8     last           its last sequence: the point after it
 *   40      4     number         of this chunk in the set, from 0: a lost one shows
 *   44      4     rawBytes       of the blocks, uncompressed
 *   48      4     storedBytes    of the payload as stored; equal to rawBytes when it is not compressed
 *   52      4     headCrc        CRC-32 of bytes 0 to 51, 56 to 119 and the runs: lengths are not believed before it
 *   56      32    chain          chain value at `last`
 *   88      8     dataBytesTotal data bytes of the history up to `last`
 *   96      8     timeMs         wall-clock label of `last`
 *   104     16    digest         first half of SHA-256 over bytes 0 to 51, 56 to 103, runs and uncompressed blocks
 *   120           runs, 16 bytes each; then the payload; then zero bytes up to a multiple of 512
 */
import assert from "node:assert/strict";
import { createHash, hash } from "node:crypto";
import { crc32 } from "node:zlib";
import { ByteReader, ByteWriter } from "../../protocol/bytes.ts";
import type { LineageBytes, Sequence, VolumeNumber } from "../../protocol/ids.ts";
import { blockBytes, bytesEqual } from "../../protocol/ids.ts";
import { lz4Compress, lz4Decompress } from "../../protocol/lz4.ts";
import { RemoteProtocolError } from "../../protocol/remote-error.ts";
import type { AppliedPosition } from "../marker.ts";

const chunkMagic = 0x53534249;
const chunkVersion = 1;
const lastFlag = 1;
const crcAt = 52;
const digestAt = 104;
const digestBytes = 16;
export const chunkHeadBytes = 120;
export const runBytes = 16;
/** Chunks begin at multiples of this in their segment: a sector, so that none shares one with another. */
export const chunkAlignBytes = 512;
/** Blocks with content in one chunk: 256 KiB, the most that a read of one block has to unpack. */
export const chunkBlocksMax = 64;
/** Runs in one chunk: 64 KiB of them. */
export const chunkRunsMax = 4096;

const kindNames = ["data", "zeroes", "lost"] as const;
const runKind = { data: 1, zeroes: 2, lost: 3 } as const;

/** Neighbouring blocks of one volume. `zeroes` have no payload, nor have `lost` ones: what they held could not be read. */
export interface BlockRun {
  readonly volume: VolumeNumber;
  readonly kind: keyof typeof runKind;
  /** Number of the first block on the volume. */
  readonly first: number;
  readonly blocks: number;
}

/** Which set a chunk belongs to: the before-images of the step that led from before `first` to `position`. */
export interface SetIdentity {
  readonly lineage: LineageBytes;
  readonly first: Sequence;
  readonly position: AppliedPosition;
}

export interface ChunkHead extends SetIdentity {
  /** Of this chunk in its set, from 0. */
  readonly number: number;
  readonly isLast: boolean;
  readonly runs: readonly BlockRun[];
  readonly rawBytes: number;
  readonly storedBytes: number;
  readonly digest: Uint8Array;
  /** As written, without checksum and digest: what the digest covers before the blocks. */
  readonly covered: readonly Uint8Array[];
}

/** What stands in a chunk's head, its payload's lengths apart. */
export type ChunkHeadInput = Pick<ChunkHead, "first" | "position" | "lineage" | "number" | "isLast" | "runs">;

export interface ChunkInput {
  readonly set: SetIdentity;
  readonly number: number;
  readonly isLast: boolean;
  readonly runs: readonly BlockRun[];
  /** Blocks of the data runs, one after another. */
  readonly blocks: Uint8Array;
}

/** Bytes a chunk takes in its segment. */
export function chunkBytes(runs: number, storedBytes: number): number {
  const exact = chunkHeadBytes + runs * runBytes + storedBytes;
  return Math.ceil(exact / chunkAlignBytes) * chunkAlignBytes;
}

/** A whole chunk with its padding; LZ4 only where it shrinks the blocks. */
export function encodeChunk(input: ChunkInput, compression: "lz4" | "none"): Uint8Array {
  const { set, runs, blocks } = input;
  const payloadAt = chunkHeadBytes + runs.length * runBytes;
  const room = new Uint8Array(payloadAt + blocks.byteLength + chunkAlignBytes);
  room.set(blocks, payloadAt);
  const compressed = compression === "lz4" && blocks.byteLength > 0 ? lz4Compress(blocks) : undefined;
  return sealChunk(room, payloadAt, blocks.byteLength, { ...input, ...set }, compressed);
}

/**
 * Makes a chunk around blocks that stand at `payloadAt` of `room`, without copying them: there must be room in front
 * for head and runs, and `chunkAlignBytes` behind. `compressed` is stored instead of the blocks when it is shorter.
 * The answer is a view of `room`, and the blocks in it are used up.
 */
export function sealChunk(
  room: Uint8Array,
  payloadAt: number,
  rawBytes: number,
  input: ChunkHeadInput,
  compressed?: Uint8Array,
): Uint8Array {
  const { runs, position } = input;
  assert(runs.length <= chunkRunsMax && rawBytes <= chunkBlocksMax * blockBytes, "within its limits");
  const shrinks = compressed !== undefined && compressed.byteLength < rawBytes;
  const storedBytes = shrinks ? compressed.byteLength : rawBytes;
  const writer = new ByteWriter(chunkHeadBytes + runs.length * runBytes)
    .u32(chunkMagic)
    .u8(chunkVersion)
    .u8(input.isLast ? lastFlag : 0)
    .u16(runs.length)
    .put(input.lineage)
    .u64(input.first)
    .u64(position.sequence)
    .u32(input.number)
    .u32(rawBytes)
    .u32(storedBytes)
    .u32(0)
    .put(position.chain)
    .u64(position.dataBytesTotal)
    .u64(position.timeMs)
    .put(new Uint8Array(digestBytes));
  for (const run of runs) writer.u16(run.volume).u16(runKind[run.kind]).u32(run.blocks).u64(run.first);
  const { bytes: head } = writer;
  // What the digest covers is laid before the blocks in one piece, so that one call hashes it where it stands.
  let coveredAt = payloadAt;
  for (const part of coveredBy(head, head.byteLength).reverse()) {
    coveredAt -= part.byteLength;
    room.set(part, coveredAt);
  }
  const digest = hash("sha256", room.subarray(coveredAt, payloadAt + rawBytes), "buffer");
  head.set(digest.subarray(0, digestBytes), digestAt);
  new DataView(head.buffer).setUint32(crcAt, headCrc(head, head.byteLength));
  const start = payloadAt - head.byteLength;
  room.set(head, start);
  if (shrinks) room.set(compressed, payloadAt);
  const end = start + chunkBytes(runs.length, storedBytes);
  room.fill(0, payloadAt + storedBytes, end);
  return room.subarray(start, end);
}

function coveredBy(bytes: Uint8Array, headEnd: number): Uint8Array[] {
  return [
    bytes.subarray(0, crcAt),
    bytes.subarray(crcAt + 4, digestAt),
    bytes.subarray(chunkHeadBytes, headEnd),
  ];
}

function digestOf(covered: readonly Uint8Array[], blocks: Uint8Array): Uint8Array {
  const hash = createHash("sha256");
  for (const part of covered) hash.update(part);
  return hash.update(blocks).digest().subarray(0, digestBytes);
}

function headCrc(bytes: Uint8Array, headEnd: number): number {
  return crc32(bytes.subarray(crcAt + 4, headEnd), crc32(bytes.subarray(0, crcAt)));
}

/**
 * Bytes of head and runs of the chunk that begins `bytes`, at least `chunkHeadBytes` of it: how much to read before
 * `decodeChunkHead`. Throws `CHUNK_MAGIC`, `CHUNK_VERSION`, `CHUNK_LIMITS`, `CHUNK_TRUNCATED`.
 */
export function chunkHeadLength(bytes: Uint8Array): number {
  if (bytes.byteLength < chunkHeadBytes)
    throw new RemoteProtocolError("CHUNK_TRUNCATED", "chunk is cut short");
  const head = new ByteReader(bytes);
  if (head.u32() !== chunkMagic) throw new RemoteProtocolError("CHUNK_MAGIC", "not a chunk");
  const version = head.u8();
  if (version !== chunkVersion) {
    throw new RemoteProtocolError("CHUNK_VERSION", `chunk version ${version}`, { version });
  }
  head.u8();
  const runs = head.u16();
  if (runs > chunkRunsMax) throw new RemoteProtocolError("CHUNK_LIMITS", `chunk of ${runs} runs`);
  return chunkHeadBytes + runs * runBytes;
}

/** Head and runs of the chunk that begins `bytes`; may be followed by anything. RemoteProtocolError `CHUNK_*`. */
export function decodeChunkHead(bytes: Uint8Array): ChunkHead {
  const headEnd = chunkHeadLength(bytes);
  if (bytes.byteLength < headEnd) throw new RemoteProtocolError("CHUNK_TRUNCATED", "runs are cut short");
  const head = new ByteReader(bytes);
  head.bytes(5);
  const flags = head.u8();
  const runCount = head.u16();
  const lineage = head.bytes(16).slice();
  const crc = new DataView(bytes.buffer, bytes.byteOffset).getUint32(crcAt);
  if (headCrc(bytes, headEnd) !== crc) throw new RemoteProtocolError("CHUNK_HEAD_CRC", "head is damaged");
  const first = head.u64();
  const last = head.u64();
  const number = head.u32();
  const rawBytes = head.u32();
  const storedBytes = head.u32();
  head.u32();
  const chain = head.bytes(32).slice();
  const position = { sequence: last, chain, dataBytesTotal: head.u64(), timeMs: head.u64() };
  const digest = head.bytes(digestBytes).slice();
  if (flags > lastFlag) throw new RemoteProtocolError("CHUNK_FLAGS", `chunk flags ${flags}`);
  const runs = decodeRuns(head, runCount);
  const dataBlocks = runs.reduce((sum, run) => sum + (run.kind === "data" ? run.blocks : 0), 0);
  if (
    first < 1 ||
    last < first ||
    dataBlocks > chunkBlocksMax ||
    rawBytes !== dataBlocks * blockBytes ||
    storedBytes > rawBytes
  ) {
    throw new RemoteProtocolError("CHUNK_LIMITS", "chunk head beyond its limits");
  }
  const covered = coveredBy(bytes.slice(0, headEnd), headEnd);
  const isLast = flags === lastFlag;
  return { lineage, first, position, number, isLast, runs, rawBytes, storedBytes, digest, covered };
}

function decodeRuns(reader: ByteReader, count: number): BlockRun[] {
  const runs: BlockRun[] = [];
  let volumeBefore = -1;
  let end = 0;
  for (let index = 0; index < count; index += 1) {
    const volume = reader.u16();
    const kind = reader.u16();
    const blocks = reader.u32();
    const first = reader.u64();
    const name = kindNames.find((each) => runKind[each] === kind);
    if (name === undefined) {
      throw new RemoteProtocolError("CHUNK_RUN", `run kind ${kind}`);
    }
    if (volume > volumeBefore) end = 0;
    if (volume < volumeBefore || blocks === 0 || first < end) {
      throw new RemoteProtocolError("CHUNK_RUN", "runs are out of order");
    }
    if (!Number.isSafeInteger((first + blocks) * blockBytes)) {
      throw new RemoteProtocolError("CHUNK_RUN", `run ${first}+${blocks}`);
    }
    volumeBefore = volume;
    end = first + blocks;
    runs.push({ volume, kind: name, first, blocks });
  }
  return runs;
}

/** The uncompressed blocks from the payload as stored. RemoteProtocolError `CHUNK_DIGEST`, `CHUNK_TRUNCATED`, `LZ4_*`. */
export function decodeChunkBlocks(head: ChunkHead, stored: Uint8Array): Uint8Array {
  if (stored.byteLength !== head.storedBytes) {
    throw new RemoteProtocolError("CHUNK_TRUNCATED", "payload is cut short");
  }
  const blocks = head.storedBytes < head.rawBytes ? lz4Decompress(stored, head.rawBytes) : stored;
  if (!bytesEqual(digestOf(head.covered, blocks), head.digest)) {
    throw new RemoteProtocolError("CHUNK_DIGEST", "blocks are not what was written");
  }
  return blocks;
}

/** What the chunk says of one block: its bytes (a view), zeroes, that it is lost, or undefined when it says nothing. */
export function blockIn(
  head: ChunkHead,
  blocks: Uint8Array,
  volume: VolumeNumber,
  block: number,
): Uint8Array | "zeroes" | "lost" | undefined {
  let at = 0;
  for (const run of head.runs) {
    if (run.volume === volume && run.first <= block && block < run.first + run.blocks) {
      if (run.kind !== "data") return run.kind;
      const start = (at + block - run.first) * blockBytes;
      return blocks.subarray(start, start + blockBytes);
    }
    if (run.kind === "data") at += run.blocks;
  }
  return undefined;
}
