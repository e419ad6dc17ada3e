/**
 * Makes LevelDB's logs durable: fdatasync of every `*.log` in its directory, and of the directory when the set of
 * logs changed. LevelDB's own `sync: true` covers only the log it writes now, not the one it has just rotated away
 * from. Never retries: one failure and the caller must give the handle up.
 *
 * One descriptor per log is kept until the file is gone. An error of write-back is told once per descriptor that
 * was open (or to the first one opened afterwards), so a descriptor opened afresh for each sync could miss it.
 * A log that vanished is no loss: LevelDB removes it only after the table made from it is synced and recorded.
 */
import { close, fdatasync, fsync, open, readdir } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { errorCode } from "../runtime/errors.ts";

/** The calls this makes, so that a test can let one of them fail. */
export interface LogFileOperations {
  list(directory: string): Promise<string[]>;
  /** Opens for reading: fdatasync writes out an inode's pages whichever descriptor asks. */
  open(path: string): Promise<number>;
  fdatasync(fd: number): Promise<void>;
  fsync(fd: number): Promise<void>;
  close(fd: number): Promise<void>;
}

const openFile = promisify(open) as (path: string, flags: string) => Promise<number>;

export const systemLogFileOperations: LogFileOperations = {
  list: promisify(readdir) as (directory: string) => Promise<string[]>,
  open: (path) => openFile(path, "r"),
  fdatasync: promisify(fdatasync),
  fsync: promisify(fsync),
  close: promisify(close),
};

export class LogFiles {
  readonly #directory: string;
  readonly #files: LogFileOperations;
  /** Open descriptors by file name: one or two, the current log and one whose table is being written. */
  readonly #open = new Map<string, number>();
  #directoryFd: number | undefined;

  constructor(directory: string, files: LogFileOperations) {
    this.#directory = directory;
    this.#files = files;
  }

  /**
   * Everything LevelDB had written to any of its logs before this call survives power loss when it settles.
   * Calls may not overlap. After a rejection nothing may be believed.
   */
  async sync(): Promise<void> {
    // The known logs are synced while the folder is listed; a log that was made meanwhile can hold only later puts.
    const [names] = await Promise.all([this.#files.list(this.#directory), this.#syncKnown()]);
    const logs = new Set(names.filter((name) => name.endsWith(".log")));
    let changed = this.#directoryFd === undefined;
    for (const name of logs) {
      if (this.#open.has(name)) continue;
      changed = true;
      const fd = await this.#openIfThere(name);
      if (fd === undefined) continue;
      this.#open.set(name, fd);
      await this.#files.fdatasync(fd);
    }
    // Survives power loss right after a rotation: without this the new log's name could be missing.
    if (changed) {
      this.#directoryFd ??= await this.#files.open(this.#directory);
      await this.#files.fsync(this.#directoryFd);
    }
    for (const [name, fd] of this.#open) {
      if (logs.has(name)) continue;
      this.#open.delete(name);
      await this.#files.close(fd);
    }
  }

  async #syncKnown(): Promise<void> {
    const outcomes = await Promise.allSettled(
      [...this.#open.values()].map((fd) => this.#files.fdatasync(fd)),
    );
    for (const outcome of outcomes) {
      if (outcome.status === "rejected") throw outcome.reason;
    }
  }

  async #openIfThere(name: string): Promise<number | undefined> {
    try {
      return await this.#files.open(join(this.#directory, name));
    } catch (error) {
      if (errorCode(error) === "ENOENT") return undefined;
      throw error;
    }
  }

  /** Closes the descriptors. No sync may be under way. */
  async close(): Promise<void> {
    const fds = [...this.#open.values(), ...(this.#directoryFd === undefined ? [] : [this.#directoryFd])];
    this.#open.clear();
    this.#directoryFd = undefined;
    await Promise.all(fds.map((fd) => this.#files.close(fd)));
  }
}
