/**
 * The frame store on LevelDB; the only importer of `level` and `classic-level`. Translates keys and the package's
 * errors, and states what LevelDB is told. It judges no content and must never repair, retry or sync.
 *
 * Keys: "f" and the frame's first sequence, 8 bytes big-endian; "m" for the head value; "n" and "w" and a number, 8
 * bytes big-endian, for notes and waymarks. LevelDB's compression is
 * off, because values are LZ4 already or do not shrink. Every put says `sync: false`: a put is a write() to
 * LevelDB's log, which survives a kill of the process; log-files.ts makes it survive power loss.
 */
import { existsSync, readFileSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import type { ClassicLevel } from "classic-level";
import { Level } from "level";
import type { Sequence } from "../protocol/ids.ts";
import { errorCode } from "../runtime/errors.ts";
import {
  journalDamaged,
  journalLocked,
  journalMissing,
  journalOpenFailed,
  journalReadFailed,
} from "./journal-errors.ts";
import type { FrameStore, RowChange, RowTable, StoredFrame, StoredRow } from "./store.ts";

export type Database = ClassicLevel<Buffer, Buffer>;

const framePrefix = 0x66;
const rowPrefix = { note: 0x6e, waymark: 0x77 } as const;
const numberedKeyBytes = 9;
const headKey = Buffer.from("m", "latin1");
/** Behind every frame key, before the head key. */
const framesEnd = Buffer.from("g", "latin1");
const behindAll = Buffer.alloc(numberedKeyBytes, 0xff);

/** Blocks are read once and in order, so a cache helps nobody; 1 MiB keeps hot index blocks. */
const cacheBytes = 1024 * 1024;
/**
 * Table files LevelDB holds open, and ten more: it takes no less. Reads are sequential, a backlog is never hot, and what was read of
 * an open table counts as the process's memory.
 */
const openFilesMax = 74;
/**
 * Length of a table file, LevelDB's own default. A write buffer that holds deletions of the oldest frames with puts of the
 * newest, or of the head, becomes a table over all keys between; LevelDB cuts it where it passes over ten table files
 * below. With 16 MiB a compaction of what was trimmed rewrote 160 MiB of what is kept, all of a backlog each time, and took two
 * thirds of what applying did (bench/s9.ts). So the trimmer has the newest frames flushed before it deletes the oldest.
 */
const tableBytes = 2 * 1024 * 1024;
/** Values fetched by one iterator step, bytes: the walk at open holds this plus one frame. */
const walkBytes = 2 * 1024 * 1024;

class LevelStore implements FrameStore {
  readonly #db: Database;

  constructor(db: Database) {
    this.#db = db;
  }

  /** Puts one frame value. Copies it before this returns. Rejects with LevelDB's own error: the handle is done for. */
  putFrame(first: Sequence, value: Uint8Array): Promise<void> {
    return this.#db.put(frameKey(first), asBuffer(value), { sync: false });
  }

  putFrames(frames: readonly StoredFrame[]): Promise<void> {
    return this.#change(frames.map(({ first, value }) => [frameKey(first), value] as const));
  }

  putHead(value: Uint8Array, rows: readonly RowChange[] = []): Promise<void> {
    return this.#change([...rows.map(changeOf), [headKey, value]]);
  }

  changeRows(changes: readonly RowChange[]): Promise<void> {
    return this.#change(changes.map(changeOf));
  }

  /** One LevelDB batch. */
  #change(changes: readonly (readonly [Buffer, Uint8Array | null])[]): Promise<void> {
    // A list of operations is copied into objects of objects first, and costs 15 times as much of the main thread.
    const batch = this.#db.batch();
    for (const [key, value] of changes) {
      if (value === null) batch.del(key);
      else batch.put(key, asBuffer(value));
    }
    return batch.write({ sync: false });
  }

  async rows(table: RowTable): Promise<StoredRow[]> {
    try {
      const end = Buffer.of(rowPrefix[table] + 1);
      const found = await this.#db
        .iterator({ gte: Buffer.of(rowPrefix[table]), lt: end, fillCache: false })
        .all();
      return found.map(([key, value]) => ({ number: numberOf(key, rowPrefix[table]), value }));
    } catch (cause) {
      throw readError(cause);
    }
  }

  async row(table: RowTable, number: number): Promise<Uint8Array | undefined> {
    try {
      return await this.#db.get(numberedKey(rowPrefix[table], number), { fillCache: false });
    } catch (cause) {
      throw readError(cause);
    }
  }

  /** Deletes frames by their first sequences, one LevelDB batch. */
  deleteFrames(firsts: readonly Sequence[]): Promise<void> {
    return this.#change(firsts.map((first) => [frameKey(first), null] as const));
  }

  /** The head value; undefined when there is none. */
  async head(): Promise<Uint8Array | undefined> {
    try {
      return await this.#db.get(headKey, { fillCache: false });
    } catch (cause) {
      throw readError(cause);
    }
  }

  /** Values of the frames with these first sequences, undefined for those that are not there. */
  async frames(firsts: readonly Sequence[]): Promise<(Uint8Array | undefined)[]> {
    try {
      return await this.#db.getMany(firsts.map(frameKey), { fillCache: false });
    } catch (cause) {
      throw readError(cause);
    }
  }

  /** All frames from the known first key on, in order. A key that is none of ours is JOURNAL_DAMAGED. */
  async *walk(from: Sequence): AsyncGenerator<StoredFrame> {
    const iterator = this.#db.iterator({
      gte: frameKey(from),
      lt: framesEnd,
      fillCache: false,
      highWaterMarkBytes: walkBytes,
    });
    try {
      for (;;) {
        const entries = await iterator.nextv(256);
        if (entries.length === 0) return;
        for (const [key, value] of entries) yield { first: sequenceOf(key), value };
      }
    } catch (cause) {
      throw readError(cause);
    } finally {
      await iterator.close();
    }
  }

  /** First sequences of at most `limit` frames below `below`. */
  async firstsBelow(below: Sequence, limit: number): Promise<Sequence[]> {
    try {
      const keys = await this.#db
        .keys({ gte: frameKey(0), lt: frameKey(below), limit, fillCache: false })
        .all();
      return keys.map(sequenceOf);
    } catch (cause) {
      throw readError(cause);
    }
  }

  /** Any range makes LevelDB move its memtable into a table; this one lies behind every key, so nothing else is done. */
  flush(): Promise<void> {
    return this.#db.compactRange(behindAll, behindAll);
  }

  /** Lets LevelDB give back the space of frames deleted in [from, below). Rotates the log. */
  compact(from: Sequence, below: Sequence): Promise<void> {
    return this.#db.compactRange(frameKey(from), frameKey(below));
  }

  /** Waits for writes under way. Works on a handle that has failed, too. */
  close(): Promise<void> {
    return this.#db.close();
  }
}

/**
 * Opens the database. `create` makes the folder; otherwise a missing or empty one is JOURNAL_MISSING, a broken one
 * JOURNAL_DAMAGED, a used one JOURNAL_LOCKED, and anything else JOURNAL_OPEN_FAILED.
 */
export async function openLevelStore(
  directory: string,
  mode: "create" | "open",
  writeBufferBytes: number,
): Promise<FrameStore> {
  if (mode === "open") await requireDatabase(directory);
  const db = newDatabase(directory, { mode, writeBufferBytes });
  try {
    await db.open();
  } catch (error) {
    const cause = error instanceof Error ? error.cause : undefined;
    const code = errorCode(cause);
    if (code === "LEVEL_LOCKED") throw journalLocked(directory, error);
    if (code === "LEVEL_CORRUPTION") throw journalDamaged("database", null, { directory }, error);
    throw journalOpenFailed(directory, error);
  }
  return new LevelStore(db);
}

export interface DatabaseOptions {
  /** `reuse`: made when it is not there. */
  readonly mode: "create" | "open" | "reuse";
  readonly writeBufferBytes: number;
}

/** A database of ours, not yet open. */
export function newDatabase(directory: string, { mode, writeBufferBytes }: DatabaseOptions): Database {
  // `level` is the package we are to use; its types hide compactRange and lie about get(), classic-level's do not.
  return new Level<Buffer, Buffer>(directory, {
    keyEncoding: "buffer",
    valueEncoding: "buffer",
    createIfMissing: mode !== "open",
    errorIfExists: mode === "create",
    compression: false,
    writeBufferSize: writeBufferBytes,
    maxFileSize: tableBytes,
    cacheSize: cacheBytes,
    maxOpenFiles: openFilesMax,
  }) as unknown as Database;
}

/** Told apart here, because LevelDB calls all of these an I/O error or makes a new database of what is left. */
async function requireDatabase(directory: string): Promise<void> {
  let names: string[];
  try {
    names = await readdir(directory);
  } catch (cause) {
    if (errorCode(cause) === "ENOENT") throw journalMissing(directory);
    throw journalOpenFailed(directory, cause);
  }
  if (names.length === 0) throw journalMissing(directory);
  if (!names.includes("CURRENT")) throw journalDamaged("no-current", null, { directory });
  const manifest = readFileSync(join(directory, "CURRENT"), "latin1").trim();
  if (!/^MANIFEST-\d+$/.test(manifest) || !existsSync(join(directory, manifest))) {
    throw journalDamaged("no-manifest", null, { directory });
  }
}

function frameKey(first: Sequence): Buffer {
  return numberedKey(framePrefix, first);
}

function sequenceOf(key: Buffer): Sequence {
  return numberOf(key, framePrefix);
}

function changeOf({ table, number, value }: RowChange): readonly [Buffer, Uint8Array | null] {
  return [numberedKey(rowPrefix[table], number), value];
}

function numberedKey(prefix: number, number: number): Buffer {
  const key = Buffer.allocUnsafe(numberedKeyBytes);
  key[0] = prefix;
  key.writeUInt32BE(Math.floor(number / 2 ** 32), 1);
  key.writeUInt32BE(number % 2 ** 32, 5);
  return key;
}

function numberOf(key: Buffer, prefix: number): number {
  if (key.byteLength !== numberedKeyBytes || key[0] !== prefix)
    throw journalDamaged("key", null, { key: key.toString("hex") });
  const number = key.readUInt32BE(1) * 2 ** 32 + key.readUInt32BE(5);
  if (!Number.isSafeInteger(number)) throw journalDamaged("key", null, { key: key.toString("hex") });
  return number;
}

function readError(cause: unknown): unknown {
  const code = errorCode(cause);
  if (code === "JOURNAL_DAMAGED") return cause;
  if (code === "LEVEL_CORRUPTION") return journalDamaged("database", null, {}, cause);
  return journalReadFailed(cause);
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
