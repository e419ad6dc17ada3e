/**
 * Admits bytes to the line at a set rate; the only importer of bottleneck. Bottleneck queues the admissions and counts
 * the tokens; the tokens come from our own refill on the monotonic clock, since its interval refill loses some and runs
 * on the wall clock. It never holds data, only the wish to send some, and never admits more at once than 50 ms of line.
 *
 * Counted are bytes as TCP carries them: the payload, 22 bytes for each TLS record, and what is charged for heads.
 */
import { strict as assert } from "node:assert";
import Bottleneck from "bottleneck";
import type { Clock, Timer } from "../../runtime/clock.ts";
import { OperationalError } from "../../runtime/errors.ts";

/** Longest TLS record's content, bytes. */
const tlsRecordBytes = 16 * 1024;
/** TLS 1.3: 5 bytes of record header, 1 of content type, 16 of authentication tag. */
const tlsRecordOverheadBytes = 22;
/** Tokens are topped up this often while somebody waits, ms. */
const refillMs = 25;
/** One admission is this much of the line, ms: 40 a second, a tenth of what bottleneck can pass (430 jobs/s). */
const sliceMs = 25;
/** Smallest admission, bytes: two of them are 7 % of a second at 128 kbit/s, and TLS adds 4 % to each. */
const sliceBytesMin = 512;
/** Largest admission, bytes: 120 a second at 1 Gbit/s, below bottleneck's 430 jobs/s. */
const sliceBytesMax = 1024 * 1024;
/** Unused tokens kept at most, admissions: 50 ms of line, 0.5 % of 10 s, 5 % of 1 s. One alone would lose what comes while it waits. */
const burstSlices = 2;
/** Tokens that came while we could not hand them out (a busy event loop) are made up for, up to this much, ms of line. */
const missedMsMax = 40;
/** What is missed comes on top of the rate by this share: with the burst at most 100.9 % of 10 s and 110 % of 1 s. */
const missedShare = 0.05;
/** Waiting admissions at most: every connection of every link has one; beyond that something is wrong with us. */
const waitersMax = 1_000;

/** Bytes on the line for `payloadBytes` written to a TLS connection at once. */
export function lineBytes(payloadBytes: number): number {
  return payloadBytes + tlsRecordOverheadBytes * Math.ceil(payloadBytes / tlsRecordBytes);
}

export interface WanThrottle {
  /** null: unlimited. */
  readonly limitBytesPerSecond: number | null;
  /** Takes effect at once: tokens above the new burst are gone, waiting admissions are cut anew. */
  setLimit(bytesPerSecond: number | null): void;
  /**
   * Waits until some of `bytesMax` payload bytes may be sent and returns how many: about 25 ms of line. They must be sent
   * at once. `OperationalError` `REQUEST_ABORTED` when `signal` aborts, `THROTTLE_CLOSED` after `close`.
   */
  take(bytesMax: number, signal: AbortSignal): Promise<number>;
  /** Waits until all of `bytes` may be sent. */
  admit(bytes: number, signal: AbortSignal): Promise<void>;
  /** Counts bytes that were sent without asking (heads, heartbeats); later admissions make up for them. */
  charge(bytes: number): void;
  close(): void;
}

interface Waiter {
  readonly weight: number;
  /** Settles the wait; false: nothing was granted, look at the limit again. */
  settle(granted: boolean): void;
  done: boolean;
}

export class BottleneckThrottle implements WanThrottle {
  readonly #clock: Clock;
  readonly #limiter: Bottleneck;
  readonly #waiters = new Set<Waiter>();
  #limit: number | null;
  /** Our view of bottleneck's reservoir: what was added less what was granted. */
  #tokens = 0;
  /** Charged bytes not yet made up for. */
  #owed = 0;
  /** Tokens that could not be kept while somebody waited. */
  #missed = 0;
  #refilledMs: number;
  #timer: Timer | undefined;
  #closed = false;

  constructor(limitBytesPerSecond: number | null, clock: Clock) {
    this.#limit = limitBytesPerSecond;
    this.#clock = clock;
    this.#refilledMs = clock.monotonicMs();
    this.#limiter = new Bottleneck({ reservoir: 0, maxConcurrent: null, minTime: 0, highWater: null });
  }

  get limitBytesPerSecond(): number | null {
    return this.#limit;
  }

  setLimit(bytesPerSecond: number | null): void {
    assert(bytesPerSecond === null || bytesPerSecond > 0, "a limit is positive");
    if (bytesPerSecond === this.#limit) return;
    this.#refill();
    this.#missed = 0;
    this.#limit = bytesPerSecond;
    // Lowering must take tokens away that were saved at the old rate.
    this.#add(Math.min(0, this.#burst() - this.#tokens));
    // Whoever waits was cut for the old rate: a slice above the new burst would wait for ever. Let all pass
    // bottleneck's queue with nothing granted, and come back with a slice of the new rate.
    for (const waiter of this.#waiters) {
      waiter.done = true;
      waiter.settle(false);
      this.#limiter.incrementReservoir(waiter.weight).catch(ignoreStopped);
    }
    this.#waiters.clear();
  }

  async take(bytesMax: number, signal: AbortSignal): Promise<number> {
    assert(bytesMax > 0, "nothing to take");
    for (;;) {
      if (signal.aborted) throw aborted();
      if (this.#closed) throw closed();
      if (this.#limit === null) return bytesMax;
      const payload = Math.min(bytesMax, this.#sliceBytes());
      if (await this.#wait(lineBytes(payload), signal)) return payload;
    }
  }

  async admit(bytes: number, signal: AbortSignal): Promise<void> {
    for (let left = bytes; left > 0; ) left -= await this.take(left, signal);
  }

  charge(bytes: number): void {
    if (this.#limit !== null) this.#owed += bytes;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#timer?.cancel();
    for (const waiter of this.#waiters) {
      waiter.done = true;
      waiter.settle(false);
    }
    this.#waiters.clear();
    this.#limiter.stop({ dropWaitingJobs: true }).catch(ignoreStopped);
  }

  #sliceBytes(): number {
    return Math.floor(
      Math.min(sliceBytesMax, Math.max(sliceBytesMin, ((this.#limit ?? 0) * sliceMs) / 1000)),
    );
  }

  /** Most tokens that may lie unused; more than one slice, or it could never be granted. */
  #burst(): number {
    if (this.#limit === null) return 0;
    return burstSlices * lineBytes(this.#sliceBytes());
  }

  /** True when granted, false when cut anew. The slice is at most the burst, so it is granted some time. */
  async #wait(weight: number, signal: AbortSignal): Promise<boolean> {
    assert(weight > 0 && weight <= this.#burst(), "a slice is positive and at most the burst");
    assert(this.#waiters.size < waitersMax, "more admissions wait than there can be connections");
    this.#refill();
    const { promise, resolve } = deferred<boolean>();
    const waiter: Waiter = { weight, settle: resolve, done: false };
    this.#waiters.add(waiter);
    this.#arm();
    this.#limiter
      .schedule({ weight }, async () => {
        if (waiter.done) return;
        this.#tokens -= weight;
        this.#waiters.delete(waiter);
        waiter.done = true;
        resolve(true);
      })
      .catch(ignoreStopped);
    const onAbort = () => {
      if (waiter.done) return;
      waiter.done = true;
      this.#waiters.delete(waiter);
      resolve(false);
      // The job stays in bottleneck's queue and takes its weight when its turn comes; give it the weight now.
      this.#limiter.incrementReservoir(weight).catch(ignoreStopped);
    };
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      return await promise;
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }

  #arm(): void {
    if (this.#timer !== undefined || this.#closed) return;
    this.#timer = this.#clock.after(refillMs, () => {
      this.#timer = undefined;
      this.#refill();
      if (this.#waiters.size > 0) this.#arm();
    });
  }

  /** Adds what the time since the last call is worth, up to the burst. */
  #refill(): void {
    const nowMs = this.#clock.monotonicMs();
    const elapsedMs = nowMs - this.#refilledMs;
    this.#refilledMs = nowMs;
    if (this.#limit === null) return;
    let earned = (this.#limit * elapsedMs) / 1000;
    const repaid = Math.min(this.#owed, earned);
    this.#owed -= repaid;
    earned -= repaid;
    const made = Math.min(this.#missed, earned * missedShare);
    this.#missed -= made;
    earned += made;
    const room = this.#burst() - this.#tokens;
    // With nobody waiting the line is idle by our own choice, and nothing is missed.
    if (earned > room && this.#waiters.size > 0) {
      this.#missed = Math.min((this.#limit * missedMsMax) / 1000, this.#missed + earned - room);
    }
    this.#add(Math.min(earned, room));
  }

  #add(tokens: number): void {
    if (tokens === 0) return;
    this.#tokens += tokens;
    this.#limiter.incrementReservoir(tokens).catch(ignoreStopped);
  }
}

function deferred<T>() {
  let resolve!: (value: T) => void;
  const promise = new Promise<T>((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}

/** Bottleneck rejects what waits when it is stopped; whoever waited has been told already. */
function ignoreStopped(error: unknown): void {
  if (!(error instanceof Bottleneck.BottleneckError)) throw error;
}

function aborted(): OperationalError {
  return new OperationalError({
    code: "REQUEST_ABORTED",
    message: "the wait for the line was given up",
    reaction: "refuse",
  });
}

function closed(): OperationalError {
  return new OperationalError({
    code: "THROTTLE_CLOSED",
    message: "the throttle is closed",
    reaction: "refuse",
  });
}
