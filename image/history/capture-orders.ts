/** What the main thread and the capture thread say to each other. Types only. */
import type { BlockRun, ChunkHeadInput } from "./chunk.ts";
import type { Piece } from "./pieces.ts";

export interface CaptureOrder {
  /** Of the file that holds the pieces' volume. */
  readonly fd: number;
  readonly volumeBytes: number;
  /** Of one volume, none a hole. */
  readonly pieces: readonly Piece[];
  /** A `ChunkRoom`'s. */
  readonly memory: SharedArrayBuffer;
  readonly head: Omit<ChunkHeadInput, "runs">;
}

/** Where in the memory the chunk stands, and its runs; null when the page cache does not hold all of the pieces. */
export type CaptureAnswer = {
  readonly runs: readonly BlockRun[];
  readonly byteOffset: number;
  readonly byteLength: number;
} | null;
