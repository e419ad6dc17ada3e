/**
 * Makes LevelDB's logs durable: fdatasync of every `*.log` in its directory, and of the directory when the set of
 * logs changed. LevelDB's own `sync: true` covers only the log it writes now, not the one it has just rotated away
 * from. Never retries: one failure and the caller must give the handle up.
 *
 * One descriptor per log is kept until the file is gone. An error of write-back is told once per descriptor that
 * was open (or to the first one opened afterwards), so a descriptor opened afresh for each sync could miss it.
 * A log that vanished is no loss: LevelDB removes it only after the table made from it is synced and recorded.
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

  constructor(disk: Disk, directory: string) {
    this.#disk = disk;
    this.#directory = directory;
  }

  /**
   * Everything LevelDB had written to any of its logs before this call survives power loss when it settles.
   * Calls may not overlap. After a rejection nothing may be believed.
   */
  async sync(): Promise<void> {
    // Within the call on purpose: ten names cost 10 us, and a turn through the thread pool takes more than that of the main
    // thread alone, on every sync. A log that is made after this can hold only later puts.
    const logs = new Set(this.#disk.listNow(this.#directory).filter((name) => name.endsWith(".log")));
    let changed = this.#folder === undefined;
    for (const name of logs) {
      if (this.#open.has(name)) continue;
      changed = true;
      const file = await this.#openIfThere(name);
      if (file !== undefined) this.#open.set(name, file);
    }
    await this.#syncOpen();
    // Survives power loss right after a rotation: without this the new log's name could be missing.
    if (changed) {
      this.#folder ??= await this.#disk.open(this.#directory, "read");
      await this.#folder.sync();
    }
    for (const [name, file] of this.#open) {
      if (logs.has(name)) continue;
      this.#open.delete(name);
      await file.close();
    }
  }

  async #syncOpen(): Promise<void> {
    const outcomes = await Promise.allSettled([...this.#open.values()].map((file) => file.syncData()));
    for (const outcome of outcomes) {
      if (outcome.status === "rejected") throw outcome.reason;
    }
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
    await Promise.all(files.map((file) => file.close()));
  }
}
