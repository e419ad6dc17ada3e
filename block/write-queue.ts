/**
 * The main thread's end of the write thread: copies changes into shared slots, hands them over, settles the
 * caller's promise. One per process, started at the first use and never kept alive by itself. Memory is bounded by
 * the slots; a caller with more to write waits for a free one, in the order of asking. Measured against writing on
 * the main thread and through libuv's pool: docs/image.md.
 */
import { extname } from "node:path";
import { ThreadCalls } from "../runtime/thread-calls.ts";
import type { BlockChange, OnWritten } from "./bulk-write.ts";
import type { ThreadOrder, ThreadSetup } from "./write-orders.ts";
import { slotBytes, slotCount, slotDataBytes, slotRunsMax } from "./write-orders.ts";

/** Longest range zeroed in one order, so that other devices' writes get their turn in between. */
const zeroBytesPerOrder = 256 * 1024 * 1024;

interface Slot {
  readonly index: number;
  readonly data: Uint8Array;
  readonly runs: Float64Array;
}

/** How far a list of changes has been handed over: bytes `within` the change at `index` are done. */
interface Cursor {
  index: number;
  within: number;
}

/** Copies changes from the cursor on into the slot until it is full, moves the cursor, returns the number of runs. */
function fillSlot(slot: Slot, changes: readonly BlockChange[], cursor: Cursor): number {
  let used = 0;
  let zeroed = 0;
  let runs = 0;
  let runEnd = -1;
  while (cursor.index < changes.length && runs < slotRunsMax) {
    const { offset, length, data } = changes[cursor.index]!;
    const room = data === null ? zeroBytesPerOrder - zeroed : slotDataBytes - used;
    if (room === 0) break;
    const part = Math.min(length - cursor.within, room);
    const start = offset + cursor.within;
    if (data === null) {
      slot.runs[runs * 2] = start;
      slot.runs[runs * 2 + 1] = -part;
      runs += 1;
      zeroed += part;
      runEnd = -1;
    } else {
      slot.data.set(part === length ? data : data.subarray(cursor.within, cursor.within + part), used);
      used += part;
      if (start === runEnd) {
        slot.runs[runs * 2 - 1]! += part;
      } else {
        slot.runs[runs * 2] = start;
        slot.runs[runs * 2 + 1] = part;
        runs += 1;
      }
      runEnd = start + part;
    }
    cursor.within += part;
    if (cursor.within === length) {
      cursor.index += 1;
      cursor.within = 0;
    }
  }
  return runs;
}

/** The thread's file: this one's sibling, built or not. */
const threadEntry = new URL(`./write-thread${extname(import.meta.url)}`, import.meta.url);

class WriteQueue {
  readonly #thread: ThreadCalls<ThreadOrder, void>;
  readonly #free: Slot[];
  readonly #waiting: ((slot: Slot) => void)[] = [];

  constructor() {
    const slots = Array.from({ length: slotCount }, () => new SharedArrayBuffer(slotBytes));
    this.#free = slots.map((buffer, index) => ({
      index,
      data: new Uint8Array(buffer, 0, slotDataBytes),
      runs: new Float64Array(buffer, slotDataBytes, slotRunsMax * 2),
    }));
    this.#thread = new ThreadCalls("splitsite-write", threadEntry, { slots } satisfies ThreadSetup);
  }

  get ended(): boolean {
    return this.#thread.ended;
  }

  #release(slot: Slot): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free.push(slot);
    else next(slot);
  }

  /** Punches or zeroes a range. Rejects with ThreadFailure; `ENOTSUP` only when `fast`. */
  async zero(fd: number, offset: number, length: number, mayFree: boolean, fast: boolean): Promise<void> {
    for (let done = 0; done < length; done += zeroBytesPerOrder) {
      const part = Math.min(zeroBytesPerOrder, length - done);
      await this.#thread.call({ kind: "zero", fd, offset: offset + done, length: part, mayFree, fast });
    }
  }

  /** Makes all changes; rejects with the first ThreadFailure, after everything handed over has been answered. */
  async write(fd: number, changes: readonly BlockChange[], onWritten?: OnWritten): Promise<void> {
    let failure: { readonly error: unknown } | undefined;
    const underWay = new Set<Promise<void>>();
    const send = async (slot: Slot, runs: number, below: number): Promise<void> => {
      try {
        await this.#thread.call({ kind: "write", fd, slot: slot.index, runs });
        // Orders are answered as they were given: all before this one have been, and none of them failed.
        if (failure === undefined) onWritten?.(below);
      } catch (error) {
        failure ??= { error };
      } finally {
        this.#release(slot);
      }
    };
    const cursor: Cursor = { index: 0, within: 0 };
    while (cursor.index < changes.length && failure === undefined) {
      const slot = this.#free.pop() ?? (await new Promise<Slot>((resolve) => this.#waiting.push(resolve)));
      const runs = fillSlot(slot, changes, cursor);
      const next = changes[cursor.index];
      const below = next === undefined ? Number.POSITIVE_INFINITY : next.offset + cursor.within;
      const order = send(slot, runs, below);
      underWay.add(order);
      void order.then(() => underWay.delete(order));
    }
    await Promise.all(underWay);
    if (failure !== undefined) throw failure.error;
  }
}

let queue: WriteQueue | undefined;

/** The process's one queue. A thread that ended is replaced; what it had not answered has failed with EIO. */
function writeQueue(): WriteQueue {
  if (queue === undefined || queue.ended) queue = new WriteQueue();
  return queue;
}

/** Applies disjoint changes to the file behind `fd`, off the main thread. */
export function writeChangesTo(
  fd: number,
  changes: readonly BlockChange[],
  onWritten?: OnWritten,
): Promise<void> {
  return writeQueue().write(fd, changes, onWritten);
}

/** Makes a range read as zeroes, off the main thread. */
export function zeroIn(
  fd: number,
  offset: number,
  length: number,
  how: { mayFree: boolean; fast: boolean },
): Promise<void> {
  return writeQueue().zero(fd, offset, length, how.mayFree, how.fast);
}
