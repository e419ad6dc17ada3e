/**
 * Writes to the store, one at a time, and syncs of its logs. Two LevelDB writes are never under way at once: one queued
 * behind a failed one would be acknowledged and then dropped by LevelDB's recovery. Any failure poisons the journal, and
 * is never retried.
 */
import type { LogFiles } from "./log-files.ts";
import type { Poison } from "./poison.ts";
import { SharedRun } from "./shared-run.ts";

export class StoreWriter {
  readonly #files: LogFiles;
  readonly #poison: Poison;
  /** Throws when nothing may be written any more. */
  readonly requireUsable: () => void;
  readonly #syncs: SharedRun<void>;
  /** The write under way; settles without rejecting. */
  #writing: Promise<void> | undefined;

  constructor(files: LogFiles, poison: Poison, requireUsable: () => void) {
    this.#files = files;
    this.#poison = poison;
    this.requireUsable = requireUsable;
    this.#syncs = new SharedRun(() => this.#sync());
  }

  /** Runs one write when no other is under way. Any failure poisons the handle (F20, F23). */
  async write(what: string, run: () => Promise<void>): Promise<void> {
    while (this.#writing !== undefined) await this.#writing;
    this.requireUsable();
    const outcome = run();
    this.#writing = outcome.then(undefined, () => undefined);
    try {
      await outcome;
      this.#files.written();
    } catch (cause) {
      throw this.#poison.by(what, cause);
    } finally {
      this.#writing = undefined;
    }
  }

  /** When it settles, every write that had settled before this call survives power loss. */
  sync(): Promise<void> {
    return this.#syncs.request();
  }

  async #sync(): Promise<void> {
    this.requireUsable();
    // Survives power loss: every put settled so far is in one of these logs, or in a table LevelDB has synced.
    await this.#poison.guardAsync("sync", () => this.#files.sync());
    // A put that failed meanwhile makes every sync after it worthless.
    this.#poison.refuse();
  }

  /** Waits for what is under way; its outcome belongs to whoever started it. */
  async settled(): Promise<void> {
    while (this.#writing !== undefined) await this.#writing;
    await this.#syncs.settled();
  }
}
