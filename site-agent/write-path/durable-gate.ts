/**
 * Requests that wait for durability: FLUSH, FUA, and every write of a group with `durability: write`. Pure. Targets
 * only rise (the write order only grows), so the queue is first in, first out.
 */
import type { Sequence } from "../../protocol/ids.ts";
import type { WriteRequest } from "./pending-writes.ts";

interface Waiter {
  readonly target: Sequence;
  readonly request: Pick<WriteRequest, "resolve" | "reject">;
}

export class DurableGate {
  #waiters: Waiter[] = [];

  get count(): number {
    return this.#waiters.length;
  }

  /** Waits until everything up to `target` is durable. */
  add(target: Sequence, request: Pick<WriteRequest, "resolve" | "reject">): void {
    this.#waiters.push({ target, request });
  }

  /** Answers all whose target is reached. */
  release(durable: Sequence): void {
    let released = 0;
    while (released < this.#waiters.length && this.#waiters[released]!.target <= durable) released += 1;
    if (released === 0) return;
    const ready = this.#waiters.splice(0, released);
    for (const waiter of ready) waiter.request.resolve();
  }

  rejectAll(error: Error): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter.request.reject(error);
  }
}
