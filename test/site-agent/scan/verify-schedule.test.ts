/** When checks are ordered: at their times, never twice at once, and once for those that were missed. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Timer } from "../../../runtime/clock.ts";
import type { Cron } from "../../../runtime/cron.ts";
import { mostRecent } from "../../../runtime/cron.ts";
import { silentLog } from "../../../runtime/log.ts";
import { missedSince, VerifySchedule } from "../../../site-agent/scan/verify-schedule.ts";

const startMs = Date.parse("2026-03-02T10:00:00Z");
const minuteMs = 60_000;

/** A clock that is moved by hand, a cron that fires by hand, and what was ordered. */
function rig({ lastBegunMs = null, fraction = 0 }: { lastBegunMs?: number | null; fraction?: number } = {}) {
  let nowMs = startMs;
  let last = lastBegunMs;
  let fire: () => void | Promise<void> = () => undefined;
  const timers = new Set<{ atMs: number; run: () => void }>();
  const seen = { verified: [] as string[], can: true, fails: false, stopped: false };
  const clock = {
    wallMs: () => nowMs,
    monotonicMs: () => nowMs - startMs,
    after(delayMs: number, run: () => void): Timer {
      const timer = { atMs: nowMs + delayMs, run };
      timers.add(timer);
      return { cancel: () => void timers.delete(timer) };
    },
  };
  const cron: Cron = {
    schedule: (_expression, _options, run) => {
      fire = run;
      const stop = (): void => {
        seen.stopped = true;
      };
      return { stop, next: () => [] };
    },
    mostRecent,
  };
  const target = {
    group: "erp",
    lastBegunMs: () => last,
    canVerify: () => seen.can,
    verify: async () => {
      if (seen.fails) throw new Error("no");
      last = nowMs;
      seen.verified.push(new Date(nowMs).toISOString());
    },
  };
  const random = { fraction: () => fraction, uuidBytes: () => new Uint8Array(16) };
  const schedule = new VerifySchedule("0 3 * * *", target, { cron, clock, random, log: silentLog });
  const pass = async (minutes: number): Promise<void> => {
    const endMs = nowMs + minutes * minuteMs;
    for (;;) {
      const due = [...timers].filter(({ atMs }) => atMs <= endMs).sort((a, b) => a.atMs - b.atMs)[0];
      if (due === undefined) break;
      timers.delete(due);
      nowMs = Math.max(nowMs, due.atMs);
      due.run();
      await new Promise((resolve) => setImmediate(resolve));
    }
    nowMs = endMs;
  };
  return { schedule, seen, pass, fire: async () => fire() };
}

test("a check is ordered at its time, and left out while none can begin", async () => {
  const { schedule, seen, fire } = rig();
  schedule.start();
  await fire();
  assert.equal(seen.verified.length, 1);
  seen.can = false;
  await fire();
  assert.equal(seen.verified.length, 1);
  schedule.stop();
  assert.ok(seen.stopped);
});

test("a missed check is caught up once, five to ten minutes after it can be", async () => {
  for (const fraction of [0, 0.999]) {
    const { schedule, seen, pass } = rig({ lastBegunMs: startMs - 48 * 60 * minuteMs, fraction });
    seen.can = false;
    schedule.start();
    await pass(60);
    assert.deepEqual(seen.verified, []);
    seen.can = true;
    await pass(4);
    assert.deepEqual(seen.verified, [], "not at once");
    await pass(10);
    assert.equal(seen.verified.length, 1);
    await pass(600);
    assert.equal(seen.verified.length, 1, "only once");
  }
});

test("times before anybody had asked for checks are not missed ones", async () => {
  const { schedule, seen, pass } = rig();
  schedule.start();
  await pass(120);
  assert.deepEqual(seen.verified, []);
  // At three the next morning nothing fires: the process slept.
  await pass(18 * 60);
  assert.equal(seen.verified.length, 1);
});

test("a check that cannot begin is tried again later and never throws", async () => {
  const { schedule, seen, pass, fire } = rig({ lastBegunMs: startMs - 48 * 60 * minuteMs });
  seen.fails = true;
  schedule.start();
  await fire();
  await pass(30);
  assert.deepEqual(seen.verified, []);
  seen.fails = false;
  await pass(30);
  assert.equal(seen.verified.length, 1);
});

test("what counts as missed", () => {
  const at = (text: string) => new Date(`2026-03-02T${text}:00Z`);
  assert.equal(missedSince(undefined, null, 0), undefined);
  assert.equal(missedSince(at("03:00"), at("03:01").getTime(), 0), undefined);
  assert.deepEqual(missedSince(at("03:00"), at("02:00").getTime(), at("09:00").getTime()), at("03:00"));
  assert.equal(missedSince(at("03:00"), null, at("09:00").getTime()), undefined);
  assert.deepEqual(missedSince(at("03:00"), null, at("02:59").getTime()), at("03:00"));
});
