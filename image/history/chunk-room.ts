/**
 * Memory in which chunks are made: blocks are put behind the room for the longest head, and the chunk is sealed where
 * they stand. A few rooms are kept for the next capture, whichever group's it is; nothing is copied or zeroed twice.
 */
import { blockBytes } from "../../protocol/ids.ts";
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
/** Kept for the process, 321 KiB each: what two captures use at once; more are made and dropped. */
const roomsKeptMax = 6;
const kept: ChunkRoom[] = [];

export class ChunkRoom {
  readonly #bytes = Buffer.allocUnsafeSlow(headRoomBytes + blocksRoomBytes + chunkAlignBytes);
  /** For the blocks of one chunk. Holds anything at first. */
  readonly blocks: Uint8Array = this.#bytes.subarray(headRoomBytes, headRoomBytes + blocksRoomBytes);

  /** Nobody else uses it until it is given back. */
  static take(): ChunkRoom {
    return kept.pop() ?? new ChunkRoom();
  }

  /** A view of this room, good until it is given back; the blocks are used up. */
  seal(input: ChunkHeadInput, rawBytes: number, compressed?: Uint8Array): Uint8Array {
    return sealChunk(this.#bytes, headRoomBytes, rawBytes, input, compressed);
  }

  /** Nothing may read or write it any more. One that is not given back is garbage, nothing else. */
  giveBack(): void {
    if (kept.length < roomsKeptMax) kept.push(this);
  }
}
