/**
 * How far a step under way has written the images: who looks at them meanwhile for what the next step will find there waits here
 * until everything below its place is written. Per volume an offset that rises, for changes are made in ascending order.
 * Knows nothing of what is written.
 */
import type { VolumeNumber } from "../protocol/ids.ts";

interface Waiter {
  readonly volume: VolumeNumber;
  readonly end: number;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

export class WrittenSoFar {
  /** Volumes that are not here are written as far as they will be, once `#isLast`. */
  readonly #below = new Map<VolumeNumber, number>();
  /** The last changes of the step are being made: until then all of the images may change. */
  #isLast = false;
  #failure: Error | undefined;
  /** As many as there are looks under way: bounded by who looks. */
  #waiters: Waiter[] = [];

  /** Nothing of the step changes any more, other than on these volumes. */
  begin(volumes: Iterable<VolumeNumber>): void {
    this.#isLast = true;
    for (const volume of volumes) this.#below.set(volume, 0);
    this.#tell();
  }

  /** Everything below `offset` is written. */
  advance(volume: VolumeNumber, offset: number): void {
    this.#below.set(volume, offset);
    this.#tell();
  }

  /** All of the step is written. */
  end(): void {
    this.#isLast = true;
    this.#below.clear();
    this.#tell();
  }

  /** The step has failed: nobody knows what is written. Who waits is told so, and who asks from now on. */
  fail(): void {
    this.#failure = new Error("the step before was not written");
    for (const { reject } of this.#waiters.splice(0)) reject(this.#failure);
  }

  /** Settles when everything below `end` is written; rejects when the step fails. */
  async ready(volume: VolumeNumber, end: number): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#isWritten(volume, end)) return;
    await new Promise<void>((resolve, reject) => this.#waiters.push({ volume, end, resolve, reject }));
  }

  #isWritten(volume: VolumeNumber, end: number): boolean {
    return this.#isLast && end <= (this.#below.get(volume) ?? Number.POSITIVE_INFINITY);
  }

  #tell(): void {
    if (this.#failure !== undefined) return;
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) {
      if (this.#isWritten(waiter.volume, waiter.end)) waiter.resolve();
      else this.#waiters.push(waiter);
    }
  }
}
