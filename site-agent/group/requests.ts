/**
 * The requests of a group's clients, across engines: into the write order, held while journal and images are opened again, and
 * refused where nothing is served. Must never answer one with success after a newer token was seen (invariant I4).
 */
import type { BlockError, Extent } from "../../block/device.ts";
import type { VolumeNumber } from "../../protocol/ids.ts";
import type { BlockRecord } from "../../protocol/record.ts";
import { DurableGate } from "../write-path/durable-gate.ts";
import type { Engine } from "../write-path/engine.ts";
import { Entrance } from "../write-path/entrance.ts";
import { PendingWrites } from "../write-path/pending-writes.ts";
import { refusalIn, shutdownError } from "./request-refusal.ts";
import type { Phase } from "./status.ts";
import type { RecordSink } from "./volume-device.ts";

/** What is true of the group now. */
export interface RequestGround {
  readonly phase: Phase;
  /** Null between two engines, and where nothing is served. */
  readonly engine: Engine | null;
  /** A newer token was seen. */
  readonly isSuperseded: boolean;
}

export class Requests implements RecordSink {
  readonly pending = new PendingWrites();
  readonly gate = new DurableGate();
  readonly entrance: Entrance;
  readonly #ground: RequestGround;
  /** Reads that wait for the phase to change; bounded by the NBD server's requests in flight. */
  #waiters: (() => void)[] = [];

  /** `wallMs`: a label for people. */
  constructor(ground: RequestGround, wallMs: () => number) {
    this.#ground = ground;
    this.entrance = new Entrance(this.pending, wallMs, () => ground.engine?.kick());
  }

  submit(records: readonly BlockRecord[], durable: boolean): Promise<void> {
    const refusal = this.#refusal;
    if (refusal !== null) return Promise.reject(refusal);
    return new Promise((resolve, reject) => {
      const settle = () => (this.#ground.isSuperseded ? reject(shutdownError()) : resolve());
      this.entrance.enter(records, { durable, resolve: settle, reject });
    });
  }

  flush(): Promise<void> {
    const refusal = this.#refusal;
    if (refusal !== null) return Promise.reject(refusal);
    return new Promise((resolve, reject) => {
      const settle = () => (this.#ground.isSuperseded ? reject(shutdownError()) : resolve());
      const { engine } = this.#ground;
      // Between two engines: the next one opens with everything durable, and answers then.
      if (engine === null) this.gate.add(0, { resolve: settle, reject });
      else engine.flush({ resolve: settle, reject });
    });
  }

  async read(volume: VolumeNumber, offset: number, length: number): Promise<Uint8Array> {
    return this.#unlessSuperseded((await this.#readable()).read(volume, offset, length));
  }

  async extents(volume: VolumeNumber, offset: number, length: number): Promise<Extent[]> {
    return this.#unlessSuperseded((await this.#readable()).extents(volume, offset, length));
  }

  phaseChanged(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const resolve of waiters) resolve();
  }

  /** Whoever waits for an engine gets this instead. */
  refuseWaiting(error: Error): void {
    this.entrance.rejectWaiting(error);
    this.#ground.engine?.refuseUnsettled(error);
    this.pending.rejectAll(error);
    this.gate.rejectAll(error);
  }

  get #refusal(): BlockError | null {
    return refusalIn(this.#ground.phase, this.#ground.isSuperseded);
  }

  /** What was read while the news came may be old already, and is nobody's answer any more (I4). */
  async #unlessSuperseded<T>(answer: Promise<T>): Promise<T> {
    const read = await answer;
    if (this.#ground.isSuperseded) throw shutdownError();
    return read;
  }

  async #readable(): Promise<Engine> {
    // Reopening ends with an engine, or with a phase that refuses.
    while (this.#ground.phase.kind === "reopening") {
      await new Promise<void>((resolve) => this.#waiters.push(resolve));
    }
    const refusal = this.#refusal;
    if (refusal !== null) throw refusal;
    const { engine } = this.#ground;
    if (engine === null) throw new TypeError("a serving group has an engine");
    return engine;
  }
}
