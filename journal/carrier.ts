/**
 * Moves frames from the write-ahead halves into the store, behind those who write: in batches, one store write at a time.
 * Holds the values that are not there yet, and answers reads of them. Frees a half when the store has every frame of it
 * in synced logs, and not before: only then may its records be written over.
 */
import type { Sequence } from "../protocol/ids.ts";
import { batchOf } from "./merge.ts";
import type { FrameStore, StoredFrame } from "./store.ts";
import type { StoreWriter } from "./store-writer.ts";
import type { HalfNumber, WriteAheadLog } from "./write-ahead-log.ts";

/** Carried when so much has come together, or a half is full: making a batch of it holds up less than one write in a hundred. */
const carryFramesMin = 128;
const carryBytesMin = 512 * 1024;

export class Carrier {
  readonly #ahead: WriteAheadLog;
  readonly #store: Pick<FrameStore, "putFrames" | "frames">;
  readonly #writer: StoreWriter;
  /** What the store does not have, by rising sequence: at most both halves full. */
  readonly #waiting = new Map<Sequence, { readonly value: Uint8Array; readonly half: HalfNumber }>();
  readonly #inHalf: [number, number] = [0, 0];
  #waitingBytes = 0;
  /** Somebody waits until the store has everything up to here. */
  #wanted: Sequence = 0;
  /** Settles without rejecting. */
  #running: Promise<void> | undefined;

  constructor(ahead: WriteAheadLog, store: Pick<FrameStore, "putFrames" | "frames">, writer: StoreWriter) {
    this.#ahead = ahead;
    this.#store = store;
    this.#writer = writer;
  }

  /**
   * Takes a frame whose value will not change; false: it has to go into the store itself, which it may while earlier ones
   * wait here. Throws what writing it throws.
   */
  take(first: Sequence, value: Uint8Array): boolean {
    const half = this.#ahead.append(first, value);
    if (half !== undefined) {
      this.#waiting.set(first, { value, half });
      this.#inHalf[half] += 1;
      this.#waitingBytes += value.byteLength;
    }
    this.#kick();
    return half !== undefined;
  }

  /** Values of frames, from here or from the store; undefined for those that are in neither. */
  async frames(firsts: readonly Sequence[]): Promise<(Uint8Array | undefined)[]> {
    const values = firsts.map((first) => this.#waiting.get(first)?.value);
    const missing = firsts.filter((_, at) => values[at] === undefined);
    if (missing.length === 0) return values;
    // Asked within the call: what is not waiting now is in the store now.
    const stored = await this.#store.frames(missing);
    let next = 0;
    return values.map((value) => value ?? stored[next++]);
  }

  /** Settles when the store has every frame up to `last`, unsynced. Fails when the journal does. */
  async carryThrough(last: Sequence): Promise<void> {
    this.#wanted = Math.max(this.#wanted, last);
    while (this.#first <= last) {
      this.#kick();
      await this.#running;
      this.#writer.requireUsable();
    }
  }

  get #first(): Sequence {
    const [first = Number.POSITIVE_INFINITY] = this.#waiting.keys();
    return first;
  }

  get #isDue(): boolean {
    return (
      this.#ahead.full !== undefined ||
      this.#waiting.size >= carryFramesMin ||
      this.#waitingBytes >= carryBytesMin ||
      this.#first <= this.#wanted
    );
  }

  #kick(): void {
    if (this.#running !== undefined || !this.#isDue) return;
    // Later than the append that caused it. What makes it fail has poisoned or closed the journal, and is told there.
    this.#running = Promise.resolve()
      .then(() => this.#run())
      .then(
        () => {
          this.#running = undefined;
          this.#kick();
        },
        () => {
          this.#running = undefined;
        },
      );
  }

  async #run(): Promise<void> {
    while (this.#isDue) {
      const { full } = this.#ahead;
      if (full !== undefined && this.#inHalf[full] === 0) {
        // Survives power loss: what is written over next is durable in the store.
        await this.#writer.sync();
        this.#ahead.free();
        continue;
      }
      const batch = batchOf(this.#frames());
      await this.#writer.write("carry", () => this.#store.putFrames(batch));
      for (const { first } of batch) this.#carried(first);
    }
  }

  *#frames(): Generator<StoredFrame> {
    for (const [first, { value }] of this.#waiting) yield { first, value };
  }

  #carried(first: Sequence): void {
    const { value, half } = this.#waiting.get(first)!;
    this.#waiting.delete(first);
    this.#inHalf[half] -= 1;
    this.#waitingBytes -= value.byteLength;
  }

  /** Waits for what is under way. */
  async settled(): Promise<void> {
    await this.#running;
  }
}
