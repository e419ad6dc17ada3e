/**
 * The ordered store on LevelDB: an index beside the truth, disposable. Poisoned by its first failed write; never
 * repaired: a database that does not open for damage is removed and made anew, which is logged. Whether content is
 * complete is the user's to know, by what `settle` left.
 */
import { systemDisk } from "../runtime/disk.ts";
import { errorCode, errorText, OperationalError } from "../runtime/errors.ts";
import type { Log } from "../runtime/log.ts";
import type { OrderedStore, StoreCursor, StoreEntry } from "../runtime/ordered-store.ts";
import type { Database } from "./level-store.ts";
import { newDatabase } from "./level-store.ts";

/** LevelDB's memtable and log: up to two live in memory, and one is replayed on open. */
const writeBufferBytes = 4 * 1024 * 1024;
/** Keys removed by one batch of `clear`, so that it holds neither memory nor the thread for long. */
const clearKeysMax = 4096;

class LevelOrderedStore implements OrderedStore {
  readonly #db: Database;
  #failed: OperationalError | undefined;

  constructor(db: Database) {
    this.#db = db;
  }

  async write(puts: readonly StoreEntry[], deletes: readonly Uint8Array[]): Promise<void> {
    await this.#run("write", async () => {
      // A list of operations is copied into objects of objects first, and costs 15 times as much of the main thread.
      const batch = this.#db.batch();
      for (const { key, value } of puts) batch.put(asBuffer(key), asBuffer(value));
      for (const key of deletes) batch.del(asBuffer(key));
      await batch.write({ sync: false });
    });
  }

  async scan(from: Uint8Array, end: Uint8Array, limit: number): Promise<StoreEntry[]> {
    const range = { gte: asBuffer(from), lt: asBuffer(end), limit };
    const entries = await this.#run("read", () => this.#db.iterator(range).all());
    return entries.map(([key, value]) => ({ key, value }));
  }

  cursor(): StoreCursor {
    if (this.#failed !== undefined) throw this.#failed;
    const iterator = this.#db.iterator();
    return {
      first: (from, end) =>
        this.#run("read", async () => {
          iterator.seek(asBuffer(from));
          const entry = await iterator.next();
          if (entry === undefined || Buffer.compare(entry[0], end) >= 0) return undefined;
          return { key: entry[0], value: entry[1] };
        }),
      close: () => iterator.close(),
    };
  }

  async settle({ key, value }: StoreEntry): Promise<void> {
    await this.#run("settle", async () => {
      // Any range makes LevelDB move its memtable into a table, which it syncs with its manifest: its log, and one it
      // has just left, may lose what was never synced. The entry goes to the new log, synced by itself.
      await this.#db.compactRange(settleRange, settleRange);
      await this.#db.put(asBuffer(key), asBuffer(value), { sync: true });
    });
  }

  async clear(): Promise<void> {
    for (;;) {
      const keys = await this.#run("clear", () => this.#db.keys({ limit: clearKeysMax }).all());
      if (keys.length === 0) return;
      await this.write([], keys);
    }
  }

  close(): Promise<void> {
    return this.#db.close();
  }

  /** From the first failure on everything fails with it: what LevelDB holds after one is not known. */
  async #run<T>(what: string, run: () => Promise<T>): Promise<T> {
    if (this.#failed !== undefined) throw this.#failed;
    try {
      return await run();
    } catch (cause) {
      this.#failed ??= storeFailed(`cannot ${what}`, cause);
      throw this.#failed;
    }
  }
}

/** Behind every key there is: nothing is compacted for it. */
const settleRange = Buffer.alloc(16, 0xff);

/**
 * Opens the database of the folder, or makes it. OperationalError `INDEX_LOCKED` (`stop`) when another process has
 * it, `INDEX_FAILED` (`reopen`) when it can be neither opened nor made.
 */
export async function openLevelOrderedStore(directory: string, log: Log): Promise<OrderedStore> {
  try {
    return await openAt(directory);
  } catch (error) {
    if (errorCode(error) !== "INDEX_DAMAGED") throw error;
    log.warn("INDEX_DAMAGED", "an index was damaged and is made anew", {
      directory,
      error: errorText(error),
    });
  }
  // A crash in between leaves less of it, which is damage again, or nothing, which is a new one.
  await systemDisk.remove(directory);
  return openAt(directory);
}

async function openAt(directory: string): Promise<OrderedStore> {
  await systemDisk.makeDirectory(directory);
  const db = newDatabase(directory, { mode: "reuse", writeBufferBytes });
  try {
    await db.open();
  } catch (error) {
    const code = errorCode(error instanceof Error ? error.cause : undefined);
    if (code === "LEVEL_LOCKED") {
      throw new OperationalError({
        code: "INDEX_LOCKED",
        message: `${directory} is in use by another process`,
        reaction: "stop",
        cause: error,
      });
    }
    // A file that is missing or cut short is told as an I/O error or as corruption, as LevelDB pleases.
    const full = errorText(error).includes("No space left");
    throw full ? storeFailed("cannot open", error) : indexDamaged(directory, error);
  }
  return new LevelOrderedStore(db);
}

function indexDamaged(directory: string, cause: unknown): OperationalError {
  return new OperationalError({
    code: "INDEX_DAMAGED",
    message: `${directory} does not open`,
    reaction: "reopen",
    cause,
  });
}

function storeFailed(what: string, cause: unknown): OperationalError {
  return new OperationalError({
    code: "INDEX_FAILED",
    message: `index: ${what}: ${errorText(cause)}`,
    reaction: "reopen",
    hint: "Look at the disk that holds the index; it is made anew from what it points to.",
    cause,
  });
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
