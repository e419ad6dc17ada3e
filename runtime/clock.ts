/** Time as the product sees it. Shells take this through their constructor, so that tests can own time. */

export interface Timer {
  cancel(): void;
}

export interface Clock {
  /** Monotonic milliseconds, fractional; only differences mean anything. Never goes back. */
  monotonicMs(): number;
  /** Wall clock, milliseconds since 1970 UTC; may jump. For labels shown to people, never for order. */
  wallMs(): number;
  /** Calls `run` once after at least `delayMs`. The timer does not keep the process alive. */
  after(delayMs: number, run: () => void): Timer;
}

export const systemClock: Clock = {
  monotonicMs: () => performance.now(),
  wallMs: () => Date.now(),
  after(delayMs, run) {
    const handle = setTimeout(run, delayMs);
    handle.unref();
    return { cancel: () => clearTimeout(handle) };
  },
};

/** RFC 3339 UTC text of wall milliseconds. */
export function rfc3339(wallMs: number): string {
  return new Date(wallMs).toISOString();
}

/** Calls `run` again and again, `intervalMs` after it returned; cancel ends it. */
export function every(clock: Clock, intervalMs: number, run: () => void): Timer {
  let timer = clock.after(intervalMs, again);
  function again(): void {
    run();
    timer = clock.after(intervalMs, again);
  }
  return { cancel: () => timer.cancel() };
}
