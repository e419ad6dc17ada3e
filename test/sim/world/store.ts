/**
 * The key-value store as LevelDB 1.20 was measured to behave, on the files of a simulated disk: a log that is not
 * synced, tables and a manifest that are, recovery that drops what it cannot read and says nothing. Its misbehaviour
 * is never switched off:
 *
 * 1. After a failed append it accepts puts that the next open drops, all of them, unless the log was rotated since.
 * 2. A damaged place in a log drops the records of its 32 KiB block; later ones stay.
 * 3. A rotten value of a table is returned as it is.
 * 4. A lost tail of a log looks like a clean, shorter log.
 * 5. A refused put may exist after the next open; then the handle refuses everything.
 *
 * A failed write of a table or of the manifest makes it refuse puts until it is opened again.
 */
import {
  journalDamaged,
  journalLocked,
  journalMissing,
  journalOpenFailed,
  journalReadFailed,
} from "../../../journal/journal-errors.ts";
import type {
  FrameStore,
  OpenStore,
  RowChange,
  RowTable,
  StoredFrame,
  StoredRow,
} from "../../../journal/store.ts";
import type { Sequence } from "../../../protocol/ids.ts";
import type { Disk, DiskFile } from "../../../runtime/disk.ts";
import { syncDirectory } from "../../../runtime/disk.ts";
import { errorCode, OperationalError } from "../../../runtime/errors.ts";
import type { Life } from "./life.ts";
import { LogWriter, logHeaderBytes, readLog } from "./store-log.ts";
import type { Entries, TableIndex } from "./store-table.ts";
import {
  decodeBatchInto,
  decodeTableIndex,
  encodeBatch,
  encodeTable,
  headKey,
  rowKey,
  rowOf,
} from "./store-table.ts";

/** More tables than this are merged, the newest with their likes in size. */
const tablesMax = 4;
/** What an entry is counted with beside its value, bytes. */
const entryOverheadBytes = 32;

/** Which incarnation has which folder open. Goes with the power. */
export class StoreLocks {
  readonly #holders = new Map<string, Life>();

  /** False when another living one has it, or this one twice. */
  take(directory: string, life: Life): boolean {
    if (this.#holders.get(directory)?.alive === true) return false;
    this.#holders.set(directory, life);
    return true;
  }

  release(directory: string): void {
    this.#holders.delete(directory);
  }
}

interface Table {
  readonly number: number;
  readonly length: number;
  readonly file: DiskFile;
  readonly index: TableIndex;
}

/** What the manifest says, edit by edit. */
interface Edit {
  readonly log: number;
  readonly next: number;
  readonly add: readonly number[];
  readonly remove: readonly number[];
}

interface Log {
  readonly number: number;
  readonly path: string;
  readonly file: DiskFile;
  readonly writer: LogWriter;
  length: number;
  /** A header that a failed append left in the buffer: it goes out before the next record. */
  stuck: Uint8Array | undefined;
}

interface Manifest {
  readonly file: DiskFile;
  readonly writer: LogWriter;
  length: number;
}

export function openSimStore(disk: Disk, life: Life, locks: StoreLocks): OpenStore {
  return async (directory, mode, writeBufferBytes) => {
    if (mode === "open") await requireDatabase(disk, directory);
    if (!locks.take(directory, life)) throw journalLocked(directory, new Error("LEVEL_LOCKED"));
    try {
      if (mode === "create") await createDatabase(disk, directory);
      return await SimStore.recover(disk, directory, writeBufferBytes, () => locks.release(directory));
    } catch (cause) {
      locks.release(directory);
      throw cause instanceof OperationalError ? cause : journalOpenFailed(directory, cause);
    }
  };
}

async function requireDatabase(disk: Disk, directory: string): Promise<void> {
  let names: string[];
  try {
    names = await disk.list(directory);
  } catch (cause) {
    throw errorCode(cause) === "ENOENT" ? journalMissing(directory) : journalOpenFailed(directory, cause);
  }
  if (names.length === 0) throw journalMissing(directory);
  if (!names.includes("CURRENT")) throw journalDamaged("no-current", null, { directory });
}

async function createDatabase(disk: Disk, directory: string): Promise<void> {
  await disk.makeDirectory(directory);
  if (disk.exists(`${directory}/CURRENT`)) throw journalOpenFailed(directory, new Error("it exists"));
  await disk.touch(`${directory}/LOCK`);
  const manifest = await makeManifest(disk, directory, 1, { log: 0, next: 2, add: [], remove: [] });
  await manifest.file.close();
}

/** A new manifest, and CURRENT naming it: what was the database before is whole until the very last step. */
async function makeManifest(disk: Disk, directory: string, number: number, edit: Edit): Promise<Manifest> {
  const name = `MANIFEST-${digits(number)}`;
  const file = await disk.open(`${directory}/${name}`, "replace");
  const writer = new LogWriter();
  const bytes = writer.encode(Buffer.from(JSON.stringify(edit)));
  await file.write(0, bytes);
  await syncDirectory(disk, directory);
  await file.sync();
  const temporary = `${directory}/${digits(number)}.dbtmp`;
  const current = await disk.open(temporary, "replace");
  await current.write(0, Buffer.from(`${name}\n`));
  await current.sync();
  await current.close();
  await disk.rename(temporary, `${directory}/CURRENT`);
  return { file, writer, length: bytes.byteLength };
}

export class SimStore implements FrameStore {
  readonly #disk: Disk;
  readonly #directory: string;
  readonly #writeBufferBytes: number;
  readonly #release: () => void;
  #next: number;
  #log: Log;
  #manifest: Manifest;
  #tables: Table[];
  #memory: Entries = new Map();
  #memoryBytes = 0;
  /** The full one whose table is being written. */
  #immutable: Entries | undefined;
  #turn: Promise<void> = Promise.resolve();
  #background: Promise<void> = Promise.resolve();
  /** Why no put is taken any more. */
  #latched: unknown;
  #closed = false;
  /** Bytes on their way into the log: one append at a time. */
  readonly #scratch = { bytes: Buffer.alloc(4096) };

  private constructor(
    disk: Disk,
    directory: string,
    writeBufferBytes: number,
    release: () => void,
    parts: { next: number; log: Log; manifest: Manifest; tables: Table[] },
  ) {
    this.#disk = disk;
    this.#directory = directory;
    this.#writeBufferBytes = writeBufferBytes;
    this.#release = release;
    this.#next = parts.next;
    this.#log = parts.log;
    this.#manifest = parts.manifest;
    this.#tables = parts.tables;
  }

  /** Opens what is there: logs become a table, a new manifest replaces the old one, what nobody needs is removed. */
  static async recover(
    disk: Disk,
    directory: string,
    writeBufferBytes: number,
    release: () => void,
  ): Promise<SimStore> {
    const damaged = (what: string): OperationalError => journalDamaged("database", null, { directory, what });
    const current = Buffer.from(await disk.readFile(`${directory}/CURRENT`))
      .toString("latin1")
      .trim();
    if (!/^MANIFEST-\d+$/.test(current) || !disk.exists(`${directory}/${current}`)) {
      throw journalDamaged("no-manifest", null, { directory });
    }
    // A torn end is an edit whose sync never settled: what it would have replaced is still there.
    const { records, hole } = readLog(await disk.readFile(`${directory}/${current}`));
    if (hole || records.length === 0) throw damaged("manifest");
    let log = 0;
    let next = 0;
    const live = new Set<number>();
    for (const record of records) {
      const edit = JSON.parse(Buffer.from(record).toString()) as Edit;
      log = edit.log;
      next = edit.next;
      for (const number of edit.remove) live.delete(number);
      for (const number of edit.add) live.add(number);
    }
    const tables: Table[] = [];
    for (const number of live) {
      const path = `${directory}/${digits(number)}.ldb`;
      if (!disk.exists(path)) throw damaged("missing table");
      const bytes = await disk.readFile(path);
      const index = decodeTableIndex(bytes);
      if (index === undefined) throw damaged("table");
      tables.push({ number, length: bytes.byteLength, file: await disk.open(path, "read"), index });
    }
    tables.sort((a, b) => a.number - b.number);
    const names = await disk.list(directory);
    const logs = names.flatMap((name) => (/^\d+\.log$/.test(name) ? [Number.parseInt(name, 10)] : []));
    const recovered: Entries = new Map();
    for (const number of logs.sort((a, b) => a - b)) {
      next = Math.max(next, number + 1);
      if (number < log) continue;
      const content = readLog(await disk.readFile(`${directory}/${digits(number)}.log`));
      for (const record of content.records) decodeBatchInto(record, recovered);
    }
    for (const name of names) next = Math.max(next, Number.parseInt(/\d+/.exec(name)?.[0] ?? "0", 10) + 1);
    if (recovered.size > 0) {
      tables.push(await writeTable(disk, directory, next, recovered));
      next += 1;
    }
    const manifestNumber = next;
    const logNumber = next + 1;
    const newLog = await makeLog(disk, directory, logNumber);
    const manifest = await makeManifest(disk, directory, manifestNumber, {
      log: logNumber,
      next: next + 2,
      add: tables.map(({ number }) => number),
      remove: [],
    });
    const kept = new Set([
      "CURRENT",
      "LOCK",
      `MANIFEST-${digits(manifestNumber)}`,
      `${digits(logNumber)}.log`,
      ...tables.map(({ number }) => `${digits(number)}.ldb`),
    ]);
    for (const name of names.toSorted((a, b) => (a < b ? -1 : 1)))
      if (!kept.has(name)) await disk.remove(`${directory}/${name}`);
    return new SimStore(disk, directory, writeBufferBytes, release, {
      next: next + 2,
      log: newLog,
      manifest,
      tables,
    });
  }

  putFrame(first: Sequence, value: Uint8Array): Promise<void> {
    return this.#write(encodeBatch([[first, value]]));
  }

  putFrames(frames: readonly StoredFrame[]): Promise<void> {
    return this.#write(encodeBatch(frames.map(({ first, value }) => [first, value] as const)));
  }

  putHead(value: Uint8Array, rows: readonly RowChange[] = []): Promise<void> {
    return this.#write(encodeBatch([...rows.map(changeOf), [headKey, value]]));
  }

  changeRows(changes: readonly RowChange[]): Promise<void> {
    return this.#write(encodeBatch(changes.map(changeOf)));
  }

  async rows(table: RowTable): Promise<StoredRow[]> {
    this.#requireOpen();
    const rows: StoredRow[] = [];
    for (const key of this.#keys((one) => one < headKey && rowOf(one).table === table)) {
      const value = await this.#value(key);
      if (value !== undefined) rows.push({ number: rowOf(key).number, value });
    }
    return rows.sort((a, b) => a.number - b.number);
  }

  row(table: RowTable, number: number): Promise<Uint8Array | undefined> {
    return this.#value(rowKey(table, number));
  }

  deleteFrames(firsts: readonly Sequence[]): Promise<void> {
    return this.#write(encodeBatch(firsts.map((first) => [first, null] as const)));
  }

  async head(): Promise<Uint8Array | undefined> {
    return this.#value(headKey);
  }

  frames(firsts: readonly Sequence[]): Promise<(Uint8Array | undefined)[]> {
    return Promise.all(firsts.map((first) => this.#value(first)));
  }

  async *walk(from: Sequence): AsyncGenerator<StoredFrame> {
    const read = new Map<Table, Promise<Uint8Array>>();
    for (const first of this.#keys((key) => key >= from)) {
      const value = await this.#value(first, read);
      if (value !== undefined) yield { first, value };
    }
  }

  async firstsBelow(below: Sequence, limit: number): Promise<Sequence[]> {
    this.#requireOpen();
    return this.#keys((key) => key >= 0 && key < below).slice(0, limit);
  }

  flush(): Promise<void> {
    return this.#rotateAnd(() => undefined);
  }

  compact(): Promise<void> {
    return this.#rotateAnd(() => this.#inBackground(() => this.#merge(0)));
  }

  /** Like the real one it has no way to say that it failed. */
  async #rotateAnd(then: () => void): Promise<void> {
    await this.#inTurn(async () => {
      if (this.#latched !== undefined) return;
      try {
        await this.#rotate();
      } catch {
        return;
      }
      then();
      await this.#background;
    });
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#turn;
    await this.#background;
    await this.#log.file.close();
    await this.#manifest.file.close();
    for (const { file } of this.#tables) await file.close();
    this.#release();
  }

  #requireOpen(): void {
    if (this.#closed) {
      throw Object.assign(new Error("database is not open"), { code: "LEVEL_DATABASE_NOT_OPEN" });
    }
  }

  /** Keys that are there, sorted. */
  #keys(wanted: (key: number) => boolean): number[] {
    const found = new Map<number, boolean>();
    const layers = [...this.#tables.map(({ index }) => index), this.#immutable, this.#memory];
    for (const layer of layers) {
      for (const [key, value] of layer ?? []) if (wanted(key)) found.set(key, value !== null);
    }
    return [...found].flatMap(([key, there]) => (there ? [key] : [])).sort((a, b) => a - b);
  }

  /** With `whole`, tables are read once and as a whole, which is kept there. */
  async #value(key: number, whole?: Map<Table, Promise<Uint8Array>>): Promise<Uint8Array | undefined> {
    this.#requireOpen();
    for (const entries of [this.#memory, this.#immutable]) {
      const value = entries?.get(key);
      if (value !== undefined) return value === null ? undefined : new Uint8Array(value);
    }
    for (let at = this.#tables.length - 1; at >= 0; at -= 1) {
      const table = this.#tables[at]!;
      const { index, file } = table;
      const place = index.get(key);
      if (place === null) return undefined;
      if (place === undefined) continue;
      try {
        if (whole === undefined) return await file.read(place.offset, place.length);
        const reading = whole.get(table) ?? file.read(0, table.length);
        whole.set(table, reading);
        return (await reading).slice(place.offset, place.offset + place.length);
      } catch (cause) {
        throw journalReadFailed(cause);
      }
    }
    return undefined;
  }

  #write(payload: Uint8Array): Promise<void> {
    return this.#inTurn(() => this.#append(payload));
  }

  #inTurn(run: () => Promise<void>): Promise<void> {
    if (this.#closed) {
      return Promise.reject(
        Object.assign(new Error("database is not open"), { code: "LEVEL_DATABASE_NOT_OPEN" }),
      );
    }
    const turn = this.#turn.then(run);
    this.#turn = turn.then(undefined, () => undefined);
    return turn;
  }

  async #append(payload: Uint8Array): Promise<void> {
    if (this.#latched !== undefined) throw this.#latched;
    if (this.#memoryBytes >= this.#writeBufferBytes) await this.#rotate();
    const log = this.#log;
    const framed = log.writer.encode(payload, this.#scratch);
    const bytes = log.stuck === undefined ? framed : Buffer.concat([log.stuck, framed]);
    const end = log.length + bytes.byteLength;
    try {
      await log.file.write(log.length, bytes);
    } catch (cause) {
      await this.#miscount(log, bytes, cause);
      throw cause;
    }
    log.stuck = undefined;
    log.length = end;
    const before = this.#memory.size;
    decodeBatchInto(payload, this.#memory);
    this.#memoryBytes += payload.byteLength + (this.#memory.size - before + 1) * entryOverheadBytes;
  }

  /** The writer has moved on by what never reached the file: from here on its blocks are not the reader's. */
  async #miscount(log: Log, bytes: Uint8Array, cause: unknown): Promise<void> {
    const length = await this.#disk.readFile(log.path).then(
      (content) => content.byteLength,
      () => undefined,
    );
    const written = length === undefined ? bytes.byteLength : length - log.length;
    if (written >= bytes.byteLength) this.#latched = cause;
    else if (written <= 0) log.stuck = new Uint8Array(bytes.subarray(0, logHeaderBytes));
    else {
      log.stuck = undefined;
      log.length += written;
    }
  }

  /** Begins a new log; what the old one holds becomes a table behind the scenes. One at a time. */
  async #rotate(): Promise<void> {
    await this.#background;
    if (this.#latched !== undefined) throw this.#latched;
    const fresh = await makeLog(this.#disk, this.#directory, this.#next);
    this.#next += 1;
    const old = this.#log;
    const entries = this.#memory;
    this.#log = fresh;
    this.#immutable = entries;
    this.#memory = new Map();
    this.#memoryBytes = 0;
    this.#inBackground(() => this.#flush(entries, old));
  }

  /** One after the other; the first failure is the last: nothing is taken until the database is opened again. */
  #inBackground(run: () => Promise<void>): void {
    this.#background = this.#background.then(async () => {
      if (this.#latched !== undefined) return;
      try {
        await run();
      } catch (error) {
        this.#latched = error;
      }
    });
  }

  async #flush(entries: Entries, old: Log): Promise<void> {
    const number = this.#next;
    this.#next += 1;
    const table =
      entries.size === 0 ? undefined : await writeTable(this.#disk, this.#directory, number, entries);
    await this.#edit(table === undefined ? [] : [number], []);
    if (table !== undefined) this.#tables.push(table);
    this.#immutable = undefined;
    await old.file.close();
    // Only now: its table is synced and the manifest says so.
    await this.#disk.remove(old.path);
    if (this.#tables.length > tablesMax) await this.#merge(this.#newestOfLikeSize());
  }

  /** Where the tables begin that are merged together: none is twice as large as all the newer ones of them. */
  #newestOfLikeSize(): number {
    let start = this.#tables.length - 1;
    let entries = this.#tables[start]!.index.size;
    while (start > 0 && this.#tables[start - 1]!.index.size <= 2 * entries) {
      start -= 1;
      entries += this.#tables[start]!.index.size;
    }
    return start;
  }

  /** The tables from `start` on become one. What is rotten is copied as it is; what is deleted in all of them goes. */
  async #merge(start: number): Promise<void> {
    const older = this.#tables.slice(0, start);
    const merged = this.#tables.slice(start);
    if (merged.length === 0) return;
    const entries: Entries = new Map();
    for (const { index, file, length } of merged) {
      const bytes = await file.read(0, length);
      for (const [key, place] of index) {
        if (place === null && start === 0) entries.delete(key);
        else if (place === null) entries.set(key, null);
        else entries.set(key, bytes.subarray(place.offset, place.offset + place.length));
      }
    }
    const number = this.#next;
    this.#next += 1;
    const table =
      entries.size === 0 ? undefined : await writeTable(this.#disk, this.#directory, number, entries);
    await this.#edit(
      table === undefined ? [] : [number],
      merged.map((one) => one.number),
    );
    this.#tables = table === undefined ? older : [...older, table];
    for (const one of merged) await this.#disk.remove(`${this.#directory}/${digits(one.number)}.ldb`);
  }

  async #edit(add: readonly number[], remove: readonly number[]): Promise<void> {
    const edit: Edit = { log: this.#log.number, next: this.#next, add, remove };
    const bytes = this.#manifest.writer.encode(Buffer.from(JSON.stringify(edit)));
    await this.#manifest.file.write(this.#manifest.length, bytes);
    this.#manifest.length += bytes.byteLength;
    await this.#manifest.file.sync();
  }
}

function changeOf({ table, number, value }: RowChange): readonly [number, Uint8Array | null] {
  return [rowKey(table, number), value];
}

async function makeLog(disk: Disk, directory: string, number: number): Promise<Log> {
  const path = `${directory}/${digits(number)}.log`;
  const file = await disk.open(path, "replace");
  return { number, path, file, writer: new LogWriter(), length: 0, stuck: undefined };
}

async function writeTable(disk: Disk, directory: string, number: number, entries: Entries): Promise<Table> {
  const path = `${directory}/${digits(number)}.ldb`;
  const bytes = encodeTable(entries);
  const index = decodeTableIndex(bytes);
  if (index === undefined) throw new Error("a table was encoded wrongly");
  const file = await disk.open(path, "replace");
  await file.write(0, bytes);
  await file.sync();
  // The file systems LevelDB counts on keep a new file's name with its first sync.
  await syncDirectory(disk, directory);
  return { number, length: bytes.byteLength, file, index };
}

function digits(number: number): string {
  return String(number).padStart(6, "0");
}
