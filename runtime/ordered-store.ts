/**
 * A small store of byte keys in order, for what can be made anew: an index beside the truth. Interface only. Whatever
 * was written may be missing after any crash, in any part, unless `settle` says otherwise; nobody may keep in it
 * what is not elsewhere.
 */

export interface StoreEntry {
  readonly key: Uint8Array;
  readonly value: Uint8Array;
}

/** Looks at the store as it was when the cursor was opened. One call at a time. */
export interface StoreCursor {
  /** The first entry at or after `from` and before `end`. */
  first(from: Uint8Array, end: Uint8Array): Promise<StoreEntry | undefined>;
  close(): Promise<void>;
}

export interface OrderedStore {
  /** One atomic change; seen by every read that begins after it settles. Keys and values may be reused then. */
  write(puts: readonly StoreEntry[], deletes: readonly Uint8Array[]): Promise<void>;
  /** At most `limit` entries at or after `from` and before `end`, in order. */
  scan(from: Uint8Array, end: Uint8Array, limit: number): Promise<StoreEntry[]>;
  cursor(): StoreCursor;
  /** Everything written before, and then this entry, survives any crash: where the entry is, all the rest is. */
  settle(entry: StoreEntry): Promise<void>;
  /** Removes everything. Not settled. */
  clear(): Promise<void>;
  /** Waits for what is under way. Works after a failure, too. */
  close(): Promise<void>;
}

/** Opens the store in a folder of its own, which it makes; a damaged one is made anew, empty, and that is logged. */
export type OpenOrderedStore = (directory: string) => Promise<OrderedStore>;
