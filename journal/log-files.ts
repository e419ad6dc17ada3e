/**
 * Makes LevelDB's logs durable: fdatasync of every `*.log` in its directory, and of the directory when the set of
 * logs changed. LevelDB's own `sync: true` covers only the log it writes now, not the one it has just rotated away
 * from. Never retries: one failure and the caller must give the handle up.
 *
 * One descriptor per log is kept until the file is gone. An error of write-back is told once per descriptor that
 * was open (or to the first one opened afterwards), so a descriptor opened afresh for each sync could miss it.
 * A log that vanished is no loss: LevelDB removes it only after the table made from it is synced and recorded.
 *
 * The folder holds a table for every 2 MiB of a backlog, thousands of names when the line has been down for long, so it is
 * listed only when LevelDB has gone on to another log: whatever it writes makes its current log longer, and one that a
 * write has not made longer is not the current one.
 */
import { join } from "node:path";
import type { Disk, DiskFile } from "../runtime/disk.ts";
import { errorCode } from "../runtime/errors.ts";

export class LogFiles {
  readonly #directory: string;
  readonly #disk: Disk;
  /** By file name: one or two, the current log and one whose table is being written. */
  readonly #open = new Map<string, DiskFile>();
  #folder: DiskFile | undefined;
  /** The log that took the newest write, and its length, bytes; undefined: to be looked for. */
  #current: { readonly file: DiskFile; bytes: number } | undefined;
  /** Writes settled so far. */
  #writes = 0;

  constructor(disk: Disk, directory: string) {
    this.#disk = disk;
    this.#directory = directory;
  }

  /**
   * To be called when a write to LevelDB has settled, before the next one begins. A length that cannot be read is an error
   * of the write: nothing says where it went.
   */
  written(): void {
    this.#writes += 1;
    if (this.#current === undefined) return;
    const bytes = this.#current.file.sizeNow();
    if (bytes === this.#current.bytes) this.#current = undefined;
    else this.#current.bytes = bytes;
  }

  /**
   * Everything LevelDB had written to any of its logs before this call survives power loss when it settles.
   * Calls may not overlap. After a rejection nothing may be believed.
   */
  async sync(): Promise<void> {
    // One that was rotated away from is let go as soon as it is gone.
    const changed = this.#current === undefined || this.#open.size > 1 ? await this.#look() : false;
    const outcomes = await Promise.allSettled([...this.#open.values()].map((file) => file.syncData()));
    for (const outcome of outcomes) {
      if (outcome.status === "rejected") throw outcome.reason;
    }
    // Survives power loss right after a rotation: without this the new log's name could be missing.
    if (changed) {
      this.#folder ??= await this.#disk.open(this.#directory, "read");
      await this.#folder.sync();
    }
  }

  /** Opens the logs that are new, closes those that are gone. True when a name is new. */
  async #look(): Promise<boolean> {
    const writes = this.#writes;
    // Within the call: nothing settles between the names and the length, unless a log has to be opened first.
    const logs = new Set(this.#disk.listNow(this.#directory).filter((name) => name.endsWith(".log")));
    let isNew = this.#folder === undefined;
    for (const name of logs) {
      if (this.#open.has(name)) continue;
      isNew = true;
      const file = await this.#openIfThere(name);
      if (file !== undefined) this.#open.set(name, file);
    }
    for (const [name, file] of this.#open) {
      if (logs.has(name)) continue;
      this.#open.delete(name);
      await file.close();
    }
    // A write that settled meanwhile may have gone to a log made after the list.
    if (writes === this.#writes) this.#current = this.#newest();
    return isNew;
  }

  #newest(): { file: DiskFile; bytes: number } | undefined {
    const [newest] = [...this.#open].sort(([a], [b]) => Number.parseInt(b, 10) - Number.parseInt(a, 10));
    return newest === undefined ? undefined : { file: newest[1], bytes: newest[1].sizeNow() };
  }

  async #openIfThere(name: string): Promise<DiskFile | undefined> {
    try {
      // Reading is enough: fdatasync writes out an inode's pages whichever descriptor asks.
      return await this.#disk.open(join(this.#directory, name), "read");
    } catch (error) {
      if (errorCode(error) === "ENOENT") return undefined;
      throw error;
    }
  }

  /** Closes the descriptors. No sync may be under way. */
  async close(): Promise<void> {
    const files = [...this.#open.values(), ...(this.#folder === undefined ? [] : [this.#folder])];
    this.#open.clear();
    this.#folder = undefined;
    this.#current = undefined;
    await Promise.all(files.map((file) => file.close()));
  }
}
