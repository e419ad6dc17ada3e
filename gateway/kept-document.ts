/**
 * A standby's document as this process goes by it, and the one place that writes it. Changes run one at a time, each from
 * what the one before left: applying, a failover and a retirement all make some. Must never hold what is not durable.
 */
import type { HandoverRecord } from "../protocol/handover.ts";
import { parseHandoverRecord } from "../protocol/handover.ts";
import type { Disk } from "../runtime/disk.ts";
import { readDocument, writeDocument } from "../runtime/durable-document.ts";
import type { Log } from "../runtime/log.ts";
import type { GatewayGroupPaths } from "../runtime/paths.ts";
import { Turns } from "../runtime/turns.ts";
import type { StandbyDocument } from "./state.ts";
import { parseStandbyDocument } from "./state.ts";

type Change = (now: StandbyDocument) => StandbyDocument;

export class KeptDocument {
  readonly #disk: Disk;
  readonly #paths: Pick<GatewayGroupPaths, "state" | "handover">;
  readonly #log: Log;
  #now: StandbyDocument | undefined;
  readonly #turns = new Turns();

  constructor(disk: Disk, paths: Pick<GatewayGroupPaths, "state" | "handover">, log: Log) {
    this.#disk = disk;
    this.#paths = paths;
    this.#log = log;
  }

  /** Undefined: there is no standby here. */
  get now(): StandbyDocument | undefined {
    return this.#now;
  }

  /** Where there must be one. */
  get required(): StandbyDocument {
    if (this.#now === undefined) throw new TypeError(`no standby at ${this.#paths.state}`);
    return this.#now;
  }

  /** Goes by what is on disk. A hand-over record there counts even where a crash came before the document said so. */
  async read(): Promise<void> {
    this.#now = await this.#onDisk();
  }

  async #onDisk(): Promise<StandbyDocument | undefined> {
    const document = await readDocument(this.#disk, this.#paths.state, parseStandbyDocument);
    const { failover } = document ?? {};
    if (
      document === undefined ||
      failover == null ||
      failover.seal === null ||
      failover.progress !== "sealed"
    )
      return document;
    if ((await this.handover()) === undefined) return document;
    return { ...document, failover: { ...failover, progress: "handed-over" } };
  }

  /** The hand-over record of the current token, if it was written. */
  async handover(): Promise<HandoverRecord | undefined> {
    const record = await readDocument(this.#disk, this.#paths.handover, parseHandoverRecord);
    return record === undefined || record.token.epoch < (this.#now?.token.epoch ?? 0) ? undefined : record;
  }

  /** The standby was made, and its document written with it. */
  made(document: StandbyDocument): void {
    this.#now = document;
  }

  /** Survives power loss when it settles; when it rejects, everybody goes on by what was there before. */
  change(make: Change): Promise<void> {
    return this.#turns.take(async () => {
      const next = make(this.required);
      await writeDocument(this.#disk, this.#paths.state, next);
      this.#now = next;
    });
  }

  /**
   * As `change`, of what must not be found by a restart once it was reported as not done. `refine`: what was said while it was
   * written, and is held from then on; the next change takes it to disk.
   */
  changeOrPutBack(make: Change, refine: Change): Promise<void> {
    return this.#turns.take(async () => {
      const before = this.required;
      const next = make(before);
      try {
        await writeDocument(this.#disk, this.#paths.state, next);
      } catch (error) {
        // It may or may not be on disk, and the old document is put back. Where that fails too, nothing rests on it yet.
        await writeDocument(this.#disk, this.#paths.state, before).catch((cause: unknown) =>
          this.#log.error("STATE_NOT_RESTORED", "the old state could not be written back", cause),
        );
        throw error;
      }
      this.#now = refine(next);
    });
  }
}
