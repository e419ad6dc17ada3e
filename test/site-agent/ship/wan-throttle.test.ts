/**
 * The throttle on a clock of the test's own: bottleneck's hops run on real zero-delay timers, but how much is admitted
 * depends on the given clock alone. And one short run in real time, judged by order and sums, never by speed.
 */
import { strict as assert } from "node:assert";
import { test } from "node:test";
import type { Clock, Timer } from "../../../runtime/clock.ts";
import { systemClock } from "../../../runtime/clock.ts";
import type { Cron } from "../../../runtime/cron.ts";
import { silentLog } from "../../../runtime/log.ts";
import { ThrottleControl } from "../../../site-agent/ship/throttle-control.ts";
import { BottleneckThrottle, lineBytes } from "../../../site-agent/ship/wan-throttle.ts";

class TestClock implements Clock {
  nowMs = 0;
  #timers: { atMs: number; run: () => void; cancelled: boolean }[] = [];

  monotonicMs(): number {
    return this.nowMs;
  }

  wallMs(): number {
    return Date.UTC(2026, 2, 2, 12) + this.nowMs;
  }

  after(delayMs: number, run: () => void): Timer {
    const timer = { atMs: this.nowMs + delayMs, run, cancelled: false };
    this.#timers.push(timer);
    return {
      cancel: () => {
        timer.cancelled = true;
      },
    };
  }

  /** Moves on by `ms`, running due timers, and lets bottleneck's zero-delay timers settle. */
  async advance(ms: number): Promise<void> {
    this.nowMs += ms;
    for (const timer of this.#timers.filter(({ atMs }) => atMs <= this.nowMs))
      if (!timer.cancelled) timer.run();
    this.#timers = this.#timers.filter(({ atMs, cancelled }) => atMs > this.nowMs && !cancelled);
    await settled();
  }
}

/** Bottleneck passes a job through a handful of zero-delay timers. */
async function settled(): Promise<void> {
  for (let hop = 0; hop < 12; hop += 1) await new Promise((resolve) => setTimeout(resolve, 0));
}

const never = new AbortController().signal;

/** Takes from the throttle until told to stop; counts bytes on the line. */
function greedy(throttle: BottleneckThrottle) {
  const abort = new AbortController();
  const taken = { bytes: 0, pieces: [] as number[] };
  const done = (async () => {
    for (;;) {
      const bytes = await throttle.take(1024 * 1024, abort.signal);
      taken.bytes += lineBytes(bytes);
      taken.pieces.push(bytes);
      // An unlimited throttle never waits; the test's own loop must.
      if (throttle.limitBytesPerSecond === null) await new Promise((resolve) => setImmediate(resolve));
    }
  })().catch((error: { code?: string }) =>
    assert.ok(error.code === "REQUEST_ABORTED" || error.code === "THROTTLE_CLOSED"),
  );
  return { taken, stop: () => abort.abort(), done };
}

test("with a backlog what is admitted is the rate, within the burst (S6)", async () => {
  const clock = new TestClock();
  const limit = 1_000_000;
  const throttle = new BottleneckThrottle(limit, clock);
  const users = [greedy(throttle), greedy(throttle), greedy(throttle)];
  const sum = () => users.reduce((total, { taken }) => total + taken.bytes, 0);
  await settled();
  for (let tick = 0; tick < 80; tick += 1) await clock.advance(25);
  const admitted = sum();
  const earned = limit * 2;
  assert.ok(admitted <= earned + 0.06 * limit, `${admitted} of ${earned}`);
  assert.ok(admitted >= 0.95 * earned, `${admitted} of ${earned}`);
  for (const user of users) {
    assert.ok(user.taken.bytes > 0, "nobody starves");
    user.stop();
  }
  throttle.close();
  await Promise.all(users.map(({ done }) => done));
});

test("without a limit nothing waits, and setting one holds from then on", async () => {
  const clock = new TestClock();
  const throttle = new BottleneckThrottle(null, clock);
  assert.equal(await throttle.take(10_000_000, never), 10_000_000);
  throttle.setLimit(100_000);
  const user = greedy(throttle);
  await settled();
  assert.equal(user.taken.bytes, 0);
  for (let tick = 0; tick < 8; tick += 1) await clock.advance(25);
  assert.ok(user.taken.bytes > 0 && user.taken.bytes <= 30_000, `${user.taken.bytes}`);
  throttle.setLimit(null);
  await settled();
  assert.ok(user.taken.pieces.includes(1024 * 1024), "whoever waited is let go");
  throttle.close();
  await user.done;
});

test("lowering takes effect at once: saved tokens and big slices of the old rate are gone (B2, B6)", async () => {
  const clock = new TestClock();
  const throttle = new BottleneckThrottle(100_000_000, clock);
  const first = greedy(throttle);
  await settled();
  for (let tick = 0; tick < 4; tick += 1) await clock.advance(25);
  assert.ok(first.taken.bytes > 1_000_000);
  throttle.setLimit(50_000);
  const before = first.taken.bytes;
  await settled();
  for (let tick = 0; tick < 40; tick += 1) await clock.advance(25);
  const after = first.taken.bytes - before;
  assert.ok(after > 0 && after <= 50_000 * 1.15, `${after} in one second at 50 kB/s`);
  throttle.close();
  await first.done;
});

test("an aborted wait costs nothing, and charged bytes are made up for (B9)", async () => {
  const clock = new TestClock();
  const throttle = new BottleneckThrottle(100_000, clock);
  const aborted = greedy(throttle);
  await settled();
  aborted.stop();
  await aborted.done;
  const user = greedy(throttle);
  throttle.charge(50_000);
  for (let tick = 0; tick < 16; tick += 1) await clock.advance(25);
  assert.equal(user.taken.bytes, 0, "the charge holds back 0.5 s of line");
  for (let tick = 0; tick < 24; tick += 1) await clock.advance(25);
  assert.ok(user.taken.bytes > 30_000 && user.taken.bytes <= 56_000, `${user.taken.bytes}`);
  throttle.close();
  await user.done;
});

test("closing ends every wait", async () => {
  const throttle = new BottleneckThrottle(1, new TestClock());
  const waiting = throttle.admit(1_000_000, never);
  throttle.close();
  await assert.rejects(waiting, { code: "THROTTLE_CLOSED" });
});

test("in real time all of it is admitted in pieces of 25 ms of line", async () => {
  const throttle = new BottleneckThrottle(1_000_000, systemClock);
  // The system clock's timers do not keep the process alive.
  const alive = setInterval(() => undefined, 1_000);
  let left = 200_000;
  while (left > 0) {
    const piece = await throttle.take(left, never);
    assert.ok(piece <= 25_000 && piece > 0);
    left -= piece;
  }
  clearInterval(alive);
  throttle.close();
});

class TestCron implements Cron {
  readonly runs = new Map<string, () => void | Promise<void>>();
  readonly past: Readonly<Record<string, Date>>;
  stopped = 0;

  constructor(past: Readonly<Record<string, Date>>) {
    this.past = past;
  }

  schedule(expression: string, _options: { readonly timezone: "UTC" }, run: () => void | Promise<void>) {
    this.runs.set(expression, run);
    return {
      stop: () => {
        this.stopped += 1;
      },
      next: (count: number) =>
        Array.from(
          { length: count },
          (_, index) => new Date(Date.UTC(2026, 2, 3 + index, expression === "day" ? 8 : 18)),
        ),
    };
  }

  mostRecent(expression: string): Date | undefined {
    return this.past[expression];
  }
}

test("control: override over window over configuration; the override ends by the monotonic clock", async () => {
  const clock = new TestClock();
  const cron = new TestCron({
    day: new Date(Date.UTC(2026, 2, 2, 8)),
    night: new Date(Date.UTC(2026, 2, 1, 18)),
  });
  const throttle = new BottleneckThrottle(1, clock);
  const control = new ThrottleControl({
    throttle,
    settings: {
      limitBytesPerSecond: 10_000,
      windows: [
        { cron: "day", limitBytesPerSecond: 2_000 },
        { cron: "night", limitBytesPerSecond: null },
      ],
    },
    clock,
    cron,
    log: silentLog,
  });
  assert.equal(throttle.limitBytesPerSecond, 2_000);
  const status = control.status();
  assert.equal(status.source, "window");
  assert.equal(status.next.length, 5);
  assert.deepEqual(status.next[0], { at: "2026-03-03T08:00:00.000Z", limitBytesPerSecond: 2_000 });
  await cron.runs.get("night")?.();
  assert.equal(throttle.limitBytesPerSecond, null);
  control.setOverride({ limitBytesPerSecond: 500, durationMs: 3_000 });
  assert.equal(throttle.limitBytesPerSecond, 500);
  assert.equal(control.status().until, "2026-03-02T12:00:03.000Z");
  await cron.runs.get("day")?.();
  assert.equal(throttle.limitBytesPerSecond, 500, "a window does not end an override");
  await clock.advance(3_001);
  assert.equal(throttle.limitBytesPerSecond, 2_000);
  control.setOverride({ limitBytesPerSecond: null, durationMs: null });
  assert.equal(control.status().source, "override");
  control.clearOverride();
  assert.equal(control.status().source, "window");
  control.close();
  assert.equal(cron.stopped, 2);
});
