/**
 * What the journal needs of the key-value store behind it, and nothing more: frames by their first sequence, one head
 * value, and rows beside them. Types only; `level-store.ts` is the real one. Nothing here is ever believed beyond what a settled call
 * says, and not even that before the logs are synced and the content is verified (docs/journal.md).
 */
import type { Sequence } from "../protocol/ids.ts";

/**
 * LevelDB's memtable and log, bytes. Up to two live in memory and are replayed on open. 32 MiB keeps a flush
 * (0.1 s at 300 MB/s) shorter than the time to fill the next one; with many groups take less.
 */
export const writeBufferBytesDefault = 32 * 1024 * 1024;
export const writeBufferBytesMin = 64 * 1024;
export interface StoredFrame {
  readonly first: Sequence;
  readonly value: Uint8Array;
}

/**
 * Small values beside the frames, each under a number of its own: `note`: of whoever owns the log, who alone knows what
 * they say; `waymark`: where a peer may be of whose position the frames are gone.
 */
export type RowTable = "note" | "waymark";

export interface StoredRow {
  readonly number: number;
  readonly value: Uint8Array;
}

/** `value` null: the row goes. */
export interface RowChange {
  readonly table: RowTable;
  readonly number: number;
  readonly value: Uint8Array | null;
}

export interface FrameStore {
  /** Puts one frame value. Copies it before this returns. Rejects with the store's own error: the handle is done for. */
  putFrame(first: Sequence, value: Uint8Array): Promise<void>;
  /** The same for several, one atomic batch. */
  putFrames(frames: readonly StoredFrame[]): Promise<void>;
  /** The head value and the rows that change with it, one atomic batch. */
  putHead(value: Uint8Array, rows?: readonly RowChange[]): Promise<void>;
  /** One atomic batch. */
  changeRows(changes: readonly RowChange[]): Promise<void>;
  /** All rows of a table, by rising number. A key that is none of ours is JOURNAL_DAMAGED. */
  rows(table: RowTable): Promise<StoredRow[]>;
  /** Undefined when there is none. */
  row(table: RowTable, number: number): Promise<Uint8Array | undefined>;
  /** Deletes frames by their first sequences, one atomic batch. */
  deleteFrames(firsts: readonly Sequence[]): Promise<void>;
  /** The head value; undefined when there is none. */
  head(): Promise<Uint8Array | undefined>;
  /** Values of the frames with these first sequences, undefined for those that are not there. */
  frames(firsts: readonly Sequence[]): Promise<(Uint8Array | undefined)[]>;
  /** All frames from the known first key on, in order. A key that is none of ours is JOURNAL_DAMAGED. */
  walk(from: Sequence): AsyncGenerator<StoredFrame>;
  /** First sequences of at most `limit` frames below `below`. */
  firstsBelow(below: Sequence, limit: number): Promise<Sequence[]>;
  /** What was put so far goes into tables of its own, beside which later changes lie in others. Rotates the log. */
  flush(): Promise<void>;
  /** Lets the store give back the space of frames deleted in [from, below). Rotates the log. */
  compact(from: Sequence, below: Sequence): Promise<void>;
  /** Waits for writes under way. Works on a handle that has failed, too. */
  close(): Promise<void>;
}

/** A kind of store. */
export interface StoreEngine {
  readonly open: OpenStore;
  /**
   * Runs `open`, which opens the store and reads all of it, so that a store whose damage ends the process ends it
   * once at most: the next attempt is JOURNAL_DAMAGED.
   */
  guard<T>(
    directory: string,
    watermarkPath: string,
    writeBufferBytes: number,
    open: () => Promise<T>,
  ): Promise<T>;
}

/**
 * Opens the database. `create` makes the folder; otherwise a missing or empty one is JOURNAL_MISSING, a broken one
 * JOURNAL_DAMAGED, a used one JOURNAL_LOCKED, and anything else JOURNAL_OPEN_FAILED.
 */
export type OpenStore = (
  directory: string,
  mode: "create" | "open",
  writeBufferBytes: number,
) => Promise<FrameStore>;
