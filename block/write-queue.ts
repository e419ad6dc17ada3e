/**
 * The main thread's end of the write thread: copies changes into shared slots, hands them over, settles the
 * caller's promise. One per process, started at the first use and never kept alive by itself. Memory is bounded by
 * the slots; a caller with more to write waits for a free one, in the order of asking. Measured against writing on
 * the main thread and through libuv's pool: docs/image.md.
 */
import { Worker } from "node:worker_threads";
import type { BlockChange } from "./bulk-write.ts";
import type { ThreadAnswer, ThreadOrder, ThreadSetup } from "./write-orders.ts";
import { slotBytes, slotCount, slotDataBytes, slotRunsMax } from "./write-orders.ts";

/** Longest range zeroed in one order, so that other devices' writes get their turn in between. */
const zeroBytesPerOrder = 256 * 1024 * 1024;

/** Failure of a system call on the write thread; `code` is the errno name. */
export class WriteFailure extends Error {
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.name = "WriteFailure";
    this.code = code;
  }
}

interface Slot {
  readonly index: number;
  readonly data: Uint8Array;
  readonly runs: Float64Array;
}

interface Pending {
  readonly slot: Slot | undefined;
  readonly settle: (failure: WriteFailure | undefined) => void;
}

/**
 * Built, the thread is the .js sibling of this file. Run from the sources (tests, development) it is the .ts sibling,
 * and needs the TypeScript loader registered anew: threads do not inherit it from the command line.
 */
function startThread(workerData: ThreadSetup): Worker {
  const options = { name: "splitsite-write", workerData };
  if (import.meta.url.endsWith(".js"))
    return new Worker(new URL("./write-thread.js", import.meta.url), options);
  const entry = JSON.stringify(new URL("./write-thread.ts", import.meta.url).href);
  const loader = JSON.stringify(import.meta.resolve("tsx/esm/api"));
  const start = `import(${loader}).then((loader) => loader.register()).then(() => import(${entry}))`;
  return new Worker(start, { ...options, eval: true });
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

class WriteQueue {
  readonly #worker: Worker;
  readonly #free: Slot[];
  readonly #waiting: ((slot: Slot) => void)[] = [];
  readonly #pending = new Map<number, Pending>();
  #nextId = 0;
  #ended: WriteFailure | undefined;

  constructor() {
    const slots = Array.from({ length: slotCount }, () => new SharedArrayBuffer(slotBytes));
    this.#free = slots.map((buffer, index) => ({
      index,
      data: new Uint8Array(buffer, 0, slotDataBytes),
      runs: new Float64Array(buffer, slotDataBytes, slotRunsMax * 2),
    }));
    this.#worker = startThread({ slots });
    this.#worker.on("message", (answer: ThreadAnswer) => this.#answered(answer));
    this.#worker.on("error", (error) => this.#threadEnded(`write thread failed: ${String(error)}`));
    this.#worker.on("exit", () => this.#threadEnded("write thread ended"));
    this.#worker.unref();
  }

  get ended(): boolean {
    return this.#ended !== undefined;
  }

  #answered(answer: ThreadAnswer): void {
    const pending = this.#pending.get(answer.id);
    if (pending === undefined) return;
    this.#forget(answer.id);
    pending.settle(
      answer.failure === null ? undefined : new WriteFailure(answer.failure.code, answer.failure.message),
    );
    if (pending.slot !== undefined) this.#release(pending.slot);
  }

  #forget(id: number): void {
    this.#pending.delete(id);
    // Only work under way keeps the process alive.
    if (this.#pending.size === 0) this.#worker.unref();
  }

  #threadEnded(message: string): void {
    this.#ended ??= new WriteFailure("EIO", message);
    for (const [id, pending] of [...this.#pending]) {
      this.#forget(id);
      pending.settle(this.#ended);
      if (pending.slot !== undefined) this.#release(pending.slot);
    }
  }

  #release(slot: Slot): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free.push(slot);
    else next(slot);
  }

  #send(order: ThreadOrder, pending: Pending): void {
    if (this.#ended !== undefined) {
      pending.settle(this.#ended);
      if (pending.slot !== undefined) this.#release(pending.slot);
      return;
    }
    if (this.#pending.size === 0) this.#worker.ref();
    this.#pending.set(order.id, pending);
    this.#worker.postMessage(order);
  }

  #takeId(): number {
    this.#nextId += 1;
    return this.#nextId;
  }

  /** Punches or zeroes a range. Rejects with WriteFailure; `ENOTSUP` only when `fast`. */
  async zero(fd: number, offset: number, length: number, mayFree: boolean, fast: boolean): Promise<void> {
    for (let done = 0; done < length; done += zeroBytesPerOrder) {
      const part = Math.min(zeroBytesPerOrder, length - done);
      await new Promise<void>((resolve, reject) => {
        const settle = (failure: WriteFailure | undefined) =>
          failure === undefined ? resolve() : reject(failure);
        const order = {
          kind: "zero",
          id: this.#takeId(),
          fd,
          offset: offset + done,
          length: part,
          mayFree,
          fast,
        } as const;
        this.#send(order, { slot: undefined, settle });
      });
    }
  }

  /** Makes all changes; rejects with the first WriteFailure, after everything handed over has been answered. */
  async write(fd: number, changes: readonly BlockChange[]): Promise<void> {
    let failure: WriteFailure | undefined;
    let underWay = 0;
    let idle: (() => void) | undefined;
    const settle = (result: WriteFailure | undefined) => {
      failure ??= result;
      underWay -= 1;
      if (underWay === 0) idle?.();
    };
    const cursor: Cursor = { index: 0, within: 0 };
    while (cursor.index < changes.length && failure === undefined) {
      const slot = this.#free.pop() ?? (await new Promise<Slot>((resolve) => this.#waiting.push(resolve)));
      const runs = fillSlot(slot, changes, cursor);
      underWay += 1;
      this.#send({ kind: "write", id: this.#takeId(), fd, slot: slot.index, runs }, { slot, settle });
    }
    if (underWay > 0) {
      await new Promise<void>((resolve) => {
        idle = resolve;
      });
    }
    if (failure !== undefined) throw failure;
  }
}

let queue: WriteQueue | undefined;

/** The process's one queue. A thread that ended is replaced; what it had not answered has failed with EIO. */
function writeQueue(): WriteQueue {
  if (queue === undefined || queue.ended) queue = new WriteQueue();
  return queue;
}

/** Applies disjoint changes to the file behind `fd`, off the main thread. */
export function writeChangesTo(fd: number, changes: readonly BlockChange[]): Promise<void> {
  return writeQueue().write(fd, changes);
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
