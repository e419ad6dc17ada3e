/**
 * Memory in which chunks are made: blocks are read to behind the room for the longest head, and the chunk is sealed where
 * they stand. Shared, so that a thread can do both. A few rooms are kept for the next capture, whichever group's it is;
 * nothing is copied or zeroed twice.
 */
import { blockBytes } from "../../protocol/ids.ts";
import { lz4Compress } from "../../protocol/lz4.ts";
import type { ChunkHeadInput } from "./chunk.ts";
import {
  chunkAlignBytes,
  chunkBlocksMax,
  chunkHeadBytes,
  chunkRunsMax,
  runBytes,
  sealChunk,
} from "./chunk.ts";

const headRoomBytes = chunkHeadBytes + chunkRunsMax * runBytes;
const blocksRoomBytes = chunkBlocksMax * blockBytes;
const roomBytes = headRoomBytes + blocksRoomBytes + chunkAlignBytes;
/** Kept for the process, 321 KiB each: what one capture uses at once; more are made and dropped. */
const roomsKeptMax = 16;
const kept: ChunkRoom[] = [];

export class ChunkRoom {
  /** For another thread, which makes a room of it again. */
  readonly memory: SharedArrayBuffer;
  /** For the blocks of one chunk. Holds anything at first. */
  readonly blocks: Uint8Array;
  readonly #bytes: Buffer;

  constructor(memory: SharedArrayBuffer = new SharedArrayBuffer(roomBytes)) {
    this.memory = memory;
    this.#bytes = Buffer.from(memory);
    this.blocks = this.#bytes.subarray(headRoomBytes, headRoomBytes + blocksRoomBytes);
  }

  /** Nobody else uses it until it is given back. */
  static take(): ChunkRoom {
    return kept.pop() ?? new ChunkRoom();
  }

  /**
   * The chunk of the first `rawBytes` of `blocks`, compressed where that is worth it: a view of this room, good until it is
   * given back; the blocks are used up.
   */
  seal(input: ChunkHeadInput, rawBytes: number): Uint8Array {
    const compressed = compress(this.blocks.subarray(0, rawBytes));
    return sealChunk(this.#bytes, headRoomBytes, rawBytes, input, compressed);
  }

  /** The same view, made of where another thread says that it sealed it. */
  sealed(byteOffset: number, byteLength: number): Uint8Array {
    return new Uint8Array(this.memory, byteOffset, byteLength);
  }

  /** Nothing may read or write it any more. One that is not given back is garbage, nothing else. */
  giveBack(): void {
    if (kept.length < roomsKeptMax) kept.push(this);
  }
}

/** Pieces of a sample, spread over the blocks: 8 KiB of 256 cost 3 % of compressing them all. */
const samplePieces = 8;
const samplePieceBytes = 1024;
const sample = new Uint8Array(samplePieces * samplePieceBytes);
/** A sample that shrinks less than this says that the blocks are not worth it. */
const sampleShrinks = 0.96;

/** Undefined when there is nothing to compress, or a sample says that it would not shrink. */
function compress(blocks: Uint8Array): Uint8Array | undefined {
  if (blocks.byteLength === 0) return undefined;
  if (blocks.byteLength >= 2 * sample.byteLength) {
    // Every other piece begins in the middle of a block, whose beginning and end often differ from what is between.
    const step = Math.floor(blocks.byteLength / samplePieces / blockBytes) * blockBytes;
    for (let piece = 0; piece < samplePieces; piece += 1) {
      const at = piece * step + (piece % 2) * (blockBytes / 2);
      sample.set(blocks.subarray(at, at + samplePieceBytes), piece * samplePieceBytes);
    }
    if (lz4Compress(sample).byteLength > sampleShrinks * sample.byteLength) return undefined;
  }
  return lz4Compress(blocks);
}
