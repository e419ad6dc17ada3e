/** Cron: what is accepted, what was last in force, and that a failing run stays a log line. */
import { strict as assert } from "node:assert";
import { test } from "node:test";
import fc from "fast-check";
import { mostRecent, schedule, validate } from "../../runtime/cron.ts";

test("five fields or a nickname, nothing else (C4)", () => {
  for (const good of ["0 8 * * 1-5", "*/5 * * * *", "@daily", "0 0 1 1 *"]) assert.ok(validate(good), good);
  for (const bad of ["* * * * * *", "61 * * * *", "", " 0 8 * * *", "@nope", "0 8 * *", "a b c d e"])
    assert.ok(!validate(bad), bad);
});

test("the newest past time within eight days", () => {
  const monday = new Date("2026-03-02T07:14:06Z");
  assert.equal(mostRecent("0 8 * * 1-5", monday)?.toISOString(), "2026-02-27T08:00:00.000Z");
  assert.equal(mostRecent("0 7 * * *", monday)?.toISOString(), "2026-03-02T07:00:00.000Z");
  assert.equal(mostRecent("14 7 * * *", monday)?.toISOString(), "2026-03-02T07:14:00.000Z");
  assert.equal(mostRecent("0 4 * * 0", monday)?.toISOString(), "2026-03-01T04:00:00.000Z");
  assert.equal(mostRecent("0 8 1 1 *", monday), undefined);
  assert.equal(mostRecent("@daily", monday)?.toISOString(), "2026-03-02T00:00:00.000Z");
});

test("mostRecent agrees with a minute-by-minute walk", () => {
  fc.assert(
    fc.property(
      fc.nat(59),
      fc.nat(23),
      fc.nat(6),
      fc.integer({ min: 0, max: 500_000 }),
      (minute, hour, day, offset) => {
        const before = new Date(Date.UTC(2026, 0, 10) + offset * 60_000);
        let walk: Date | undefined;
        for (
          let at = before.getTime();
          walk === undefined && at > before.getTime() - 8 * 86_400_000;
          at -= 60_000
        ) {
          const when = new Date(at);
          if (when.getUTCMinutes() === minute && when.getUTCHours() === hour && when.getUTCDay() === day)
            walk = when;
        }
        assert.equal(mostRecent(`${minute} ${hour} * * ${day}`, before)?.getTime(), walk?.getTime());
      },
    ),
    { numRuns: 30 },
  );
});

test("the next times are in order and in UTC; a stopped task is gone", () => {
  const task = schedule("30 6 * * *", { timezone: "UTC" }, () => undefined);
  const next = task.next(3);
  assert.equal(next.length, 3);
  for (const time of next) assert.equal(time.toISOString().slice(11, 16), "06:30");
  assert.ok(next[0]! < next[1]! && next[1]! < next[2]!);
  task.stop();
});
