/**
 * What the owner last said, kept on disk now and then, so that a loss can be stated after a restart. Never waited for by an
 * answer: what is not written is only older.
 */
import type { Heartbeat } from "../protocol/control.ts";
import type { Sequence } from "../protocol/ids.ts";
import type { Clock } from "../runtime/clock.ts";
import type { Disk } from "../runtime/disk.ts";
import { readDocument, writeDocument } from "../runtime/durable-document.ts";
import { errorText } from "../runtime/errors.ts";
import type { Log } from "../runtime/log.ts";
import { Heard } from "./heard.ts";
import type { HeardRecord } from "./state.ts";
import { parseHeardRecord } from "./state.ts";

export class HeardFile {
  readonly #disk: Disk;
  readonly #path: string;
  readonly #clock: Clock;
  readonly #log: Log;
  #heard: Heard;
  #writing: Promise<void> = Promise.resolve();

  constructor(disk: Disk, path: string, clock: Clock, log: Log) {
    this.#disk = disk;
    this.#path = path;
    this.#clock = clock;
    this.#log = log;
    this.#heard = new Heard(clock, null);
  }

  get now(): Heard {
    return this.#heard;
  }

  /** Before anything was heard. What cannot be read is lost, and told. */
  async read(): Promise<void> {
    this.#heard = new Heard(this.#clock, await this.#record());
  }

  take(heartbeat: Heartbeat, applied: Sequence): void {
    this.#heard.take(heartbeat, applied);
    if (!this.#heard.dueToPersist()) return;
    // One after the other: two writings of one document would take each other's new file away.
    this.#writing = this.#writing
      .then(() => this.#write())
      .catch((error: unknown) => {
        this.#log.warn("HEARD_NOT_WRITTEN", `what the owner said is not on disk: ${errorText(error)}`);
      });
  }

  /** Settles when nothing is being written. `keep`: the newest is written before, if this process has heard anything. */
  async end(keep: boolean): Promise<void> {
    await this.#writing;
    if (this.#heard.silenceMs() !== null && keep) await this.#write();
  }

  #write(): Promise<void> {
    return writeDocument(this.#disk, this.#path, this.#heard.record);
  }

  async #record(): Promise<HeardRecord | null> {
    try {
      return (await readDocument(this.#disk, this.#path, parseHeardRecord)) ?? null;
    } catch (error) {
      this.#log.warn("HEARD_UNREADABLE", `what the owner last said is lost: ${errorText(error)}`);
      return null;
    }
  }
}
