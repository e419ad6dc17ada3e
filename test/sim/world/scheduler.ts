/**
 * Virtual time and the order of everything in a simulated run: events in a heap, one run at a time, all promises
 * that it settled followed to their end before the next. Never waits for real time; never touches a real timer, file
 * or socket. One seeded generator decides all that is left to chance.
 */
import type { Timer } from "../../../runtime/clock.ts";
import type { SeededRandom } from "../../support/seeded.ts";
import type { Life } from "./life.ts";
import type { Trace } from "./trace.ts";

interface Event {
  readonly atMs: number;
  readonly order: number;
  readonly what: string;
  run: (() => void) | undefined;
  readonly life: Life | undefined;
}

export interface RunLimit {
  /** Stop before the first event later than this; time then stands at it. */
  readonly untilMs?: number;
  /** Asked between events, when all promises are settled. */
  readonly stop?: () => boolean;
}

export type RunEnd = "idle" | "time" | "stopped";

/** Immediates queued at once: Node drains microtasks between them, and a turn of its loop is paid once for all. */
const immediatesAtOnce = 64;

export class Scheduler {
  readonly random: SeededRandom;
  readonly trace: Trace;
  #nowMs = 0;
  #order = 0;
  /** Binary heap, earliest first, then in order of scheduling. */
  readonly #heap: Event[] = [];
  #running = false;
  #failure: { readonly error: unknown } | undefined;

  constructor(random: SeededRandom, trace: Trace) {
    this.random = random;
    this.trace = trace;
  }

  /** Virtual milliseconds since the start of the run, fractional. */
  get nowMs(): number {
    return this.#nowMs;
  }

  /** Events waiting, cancelled ones and those of dead incarnations included. */
  get pending(): number {
    return this.#heap.length;
  }

  /**
   * Runs `run` after `delayMs`, unless it is cancelled or `life` has ended by then. `what` goes to the trace when it
   * runs; empty leaves it out, for who writes a line of their own.
   */
  at(delayMs: number, what: string, run: () => void, life?: Life): Timer {
    const event: Event = {
      atMs: this.#nowMs + Math.max(0, delayMs),
      order: this.#order,
      what,
      run,
      life,
    };
    this.#order += 1;
    if (life === undefined || life.alive) this.#push(event);
    return {
      cancel: () => {
        event.run = undefined;
      },
    };
  }

  /** SIGCONT: what came due meanwhile happens now, in order. */
  resume(life: Life): void {
    for (const run of life.release()) this.at(0, "", run, life);
  }

  /** Makes `run` reject with `error` at once: for who finds a violation inside a promise that nobody awaits. */
  fail(error: unknown): void {
    this.#failure ??= { error };
  }

  /**
   * Runs events until there are none ("idle"), until the next one is later than `untilMs` ("time"), or until `stop`
   * says so. Rejects with what an event throws or `fail` was given. Not to be called while it runs.
   */
  run(until: RunLimit = {}): Promise<RunEnd> {
    if (this.#running) throw new Error("the scheduler runs already");
    this.#running = true;
    return new Promise((resolve, reject) => {
      let queued = 1;
      let over = false;
      const finish = (): void => {
        over = true;
        this.#running = false;
      };
      const step = (): void => {
        queued -= 1;
        // Of the immediates queued at once some are left over when it ends.
        if (over) return;
        try {
          const end = this.#next(until);
          if (end !== undefined) {
            finish();
            resolve(end);
            return;
          }
        } catch (error) {
          finish();
          reject(error);
          return;
        }
        if (queued === 0) for (; queued < immediatesAtOnce; queued += 1) setImmediate(step);
      };
      setImmediate(step);
    });
  }

  /** Runs one event, or says why not. */
  #next(until: RunLimit): RunEnd | undefined {
    for (;;) {
      if (this.#failure !== undefined) {
        const { error } = this.#failure;
        this.#failure = undefined;
        throw error;
      }
      if (until.stop?.() === true) return "stopped";
      const event = this.#heap[0];
      if (event === undefined) return "idle";
      const { run, life } = event;
      if (run === undefined || life?.alive === false) {
        this.#pop();
        continue;
      }
      if (until.untilMs !== undefined && event.atMs > until.untilMs) {
        this.#nowMs = Math.max(this.#nowMs, until.untilMs);
        return "time";
      }
      this.#pop();
      this.#nowMs = event.atMs;
      event.run = undefined;
      if (life?.paused === true) {
        life.held.push(run);
        continue;
      }
      if (event.what !== "") this.trace.add(`${Math.round(event.atMs * 1_000)} ${event.what}`);
      run();
      return undefined;
    }
  }

  #push(event: Event): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = heap[parent]!;
      if (!before(event, above)) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = event;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop()!;
    if (heap.length === 0) return;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child += 1;
      if (!before(heap[child]!, last)) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
  }
}

function before(a: Event, b: Event): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}
