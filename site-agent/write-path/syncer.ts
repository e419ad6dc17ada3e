/**
 * The sync loop behind the journal: makes appended frames durable, and only durable frames go on to the image and
 * the line. At once when somebody waits for it or is about to, else at a pace that keeps the line's lag small and the
 * disk's sync count low. Must never call a position durable before the journal said so.
 */
import type { FrameLog, LogPosition } from "../../journal/frame-log.ts";
import type { Clock, Timer } from "../../runtime/clock.ts";
import type { DurableGate } from "./durable-gate.ts";
import { FlushHabit } from "./flush-habit.ts";

/** Without a waiter, frames are synced at most this often, ms: adds to the lag, saves 9 of 10 syncs under load. */
const syncPaceMs = 20;

export interface SyncerWorld {
  readonly log: FrameLog;
  readonly gate: DurableGate;
  readonly clock: Clock;
  readonly durable: (position: LogPosition) => void;
  readonly failed: (error: unknown) => void;
}

export class Syncer {
  readonly #world: SyncerWorld;
  readonly #habit = new FlushHabit();
  #running: Promise<void> | null = null;
  #timer: Timer | null = null;
  #stopped = false;

  constructor(world: SyncerWorld) {
    this.#world = world;
  }

  /** A frame was appended; `awaited`: one of its writes is answered when it is durable. */
  appended(awaited: boolean): void {
    const expected = this.#habit.appended();
    if (awaited || expected) this.#start();
    else this.#startSoon();
  }

  /** A FLUSH came; it waits, unless what was appended last is durable already. */
  flushed(): void {
    const { log } = this.#world;
    this.#habit.flushed();
    if (log.durable.sequence < log.tail.sequence) this.#start();
  }

  /** Somebody needs what is appended to be durable. */
  hurry(): void {
    this.#start();
  }

  /** Stops after the sync in flight. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#timer?.cancel();
    await this.#running;
  }

  #startSoon(): void {
    if (this.#stopped || this.#running !== null) return;
    this.#timer ??= this.#world.clock.after(syncPaceMs, () => this.#start());
  }

  #start(): void {
    this.#timer?.cancel();
    this.#timer = null;
    if (this.#stopped || this.#running !== null) return;
    this.#running = this.#run();
  }

  async #run(): Promise<void> {
    const { log, gate } = this.#world;
    try {
      do {
        const position = await log.sync();
        gate.release(position.sequence);
        this.#world.durable(position);
      } while (!this.#stopped && gate.count > 0 && log.durable.sequence < log.tail.sequence);
      this.#running = null;
      if (log.durable.sequence < log.tail.sequence) this.#startSoon();
    } catch (error) {
      this.#stopped = true;
      this.#running = null;
      this.#world.failed(error);
    }
  }
}
