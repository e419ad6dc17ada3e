/**
 * The first failed write or sync of a journal, after which nothing that its handle says is believed. Owns that first
 * error and tells it to whoever asks or waits. Must never forget it: only closing and opening again helps.
 */
import type { Sequence } from "../protocol/ids.ts";
import type { OperationalError } from "../runtime/errors.ts";
import type { Log } from "../runtime/log.ts";
import { journalPoisoned } from "./journal-errors.ts";

export class Poison {
  readonly #log: Log;
  readonly #tail: () => Sequence;
  #error: OperationalError | undefined;
  #tell: (error: OperationalError) => void = () => {};
  /** Settles with the error when there is one: what fails in the background has no caller to tell. */
  readonly told = new Promise<OperationalError>((resolve) => {
    this.#tell = resolve;
  });

  /** `tail`: where the journal ends, for the log. */
  constructor(log: Log, tail: () => Sequence) {
    this.#log = log;
    this.#tail = tail;
  }

  get isThere(): boolean {
    return this.#error !== undefined;
  }

  /** The error that counts: `cause` if it is the first. */
  by(what: string, cause: unknown): OperationalError {
    if (this.#error === undefined) {
      this.#error = journalPoisoned(what, cause);
      this.#log.error("JOURNAL_POISONED", `the journal stops after a failed ${what}`, cause, {
        sequence: this.#tail(),
      });
      this.#tell(this.#error);
    }
    return this.#error;
  }

  refuse(): void {
    if (this.#error !== undefined) throw this.#error;
  }

  guard<T>(what: string, run: () => T): T {
    try {
      return run();
    } catch (cause) {
      throw this.by(what, cause);
    }
  }

  async guardAsync(what: string, run: () => Promise<void>): Promise<void> {
    try {
      await run();
    } catch (cause) {
      throw this.by(what, cause);
    }
  }
}
