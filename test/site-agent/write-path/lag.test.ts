/** Lag: exact where the trail is fine, never smaller than the truth where it has been thinned (promise 3). */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { LagTrail, Stall } from "../../../site-agent/write-path/lag.ts";

const origin = { sequence: 0, dataBytesTotal: 0, closedAtMs: 0 };

test("nothing is behind when everything answered is acknowledged", () => {
  const trail = new LagTrail(origin);
  trail.answered({ last: 4, dataBytesTotal: 4096, openedAtMs: 10, closedAtMs: 11 });
  trail.acknowledged(4);
  assert.deepEqual(trail.lag(4), { writes: 0, bytes: 0, ageMs: 0, oldestAtMs: null });
});

test("an idle hour before the newest write is not lag", () => {
  const trail = new LagTrail(origin);
  trail.answered({ last: 1, dataBytesTotal: 512, openedAtMs: 0, closedAtMs: 1 });
  trail.acknowledged(1);
  trail.answered({ last: 2, dataBytesTotal: 1024, openedAtMs: 3_600_000, closedAtMs: 3_600_001 });
  assert.deepEqual(trail.lag(1), { writes: 1, bytes: 512, ageMs: 1, oldestAtMs: 3_600_000 });
});

test("lag is never reported smaller than it is, however many frames are behind", () => {
  const frames = fc.array(
    fc.record({ writes: fc.integer({ min: 1, max: 9 }), bytes: fc.nat(9_999), gapMs: fc.nat(50) }),
    {
      minLength: 1,
      maxLength: 400,
    },
  );
  fc.assert(
    fc.property(
      frames,
      fc.integer({ min: 1, max: 40 }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      (list, repeat, part) => {
        const trail = new LagTrail(origin);
        const ends: { last: number; total: number; openedAtMs: number; closedAtMs: number }[] = [];
        let last = 0;
        let total = 0;
        let nowMs = 0;
        for (let round = 0; round < repeat; round += 1) {
          for (const frame of list) {
            last += frame.writes;
            total += frame.bytes;
            const openedAtMs = nowMs;
            nowMs += frame.gapMs;
            ends.push({ last, total, openedAtMs, closedAtMs: nowMs });
            trail.answered({ last, dataBytesTotal: total, openedAtMs, closedAtMs: nowMs });
          }
        }
        const acknowledgedIndex = Math.floor(part * ends.length) - 1;
        const acknowledged = ends[acknowledgedIndex]?.last ?? 0;
        trail.acknowledged(acknowledged);
        const lag = trail.lag(acknowledged);
        const newest = ends[ends.length - 1]!;
        assert.equal(lag.writes, newest.last - acknowledged);
        if (lag.writes === 0) return;
        assert(lag.bytes >= newest.total - (ends[acknowledgedIndex]?.total ?? 0));
        assert(lag.ageMs >= newest.closedAtMs - ends[acknowledgedIndex + 1]!.openedAtMs);
      },
    ),
  );
});

test("once nothing is held, everything since the lineage began counts, and a standby made anew takes it over", () => {
  const cases = [
    { what: "from the beginning", origin, oldestAtMs: undefined, ageFrom: 100 },
    // Of what was trimmed the journal tells only when it ended; of what was taken over, only when that was sealed.
    {
      what: "trimmed",
      origin: { sequence: 7, dataBytesTotal: 700, closedAtMs: 90 },
      oldestAtMs: undefined,
      ageFrom: 90,
    },
    {
      what: "taken over",
      origin: { sequence: 7, dataBytesTotal: 700, closedAtMs: 90 },
      oldestAtMs: 20,
      ageFrom: 20,
    },
  ];
  for (const { what, origin, oldestAtMs, ageFrom } of cases) {
    const trail = new LagTrail(origin, oldestAtMs);
    const at = (writes: number): number => origin.sequence + writes;
    const total = (writes: number): number => origin.dataBytesTotal + writes * 512;
    for (let writes = 1; writes <= 4; writes += 1) {
      const openedAtMs = 100 * writes;
      trail.answered({
        last: at(writes),
        dataBytesTotal: total(writes),
        openedAtMs,
        closedAtMs: openedAtMs + 1,
      });
    }
    trail.acknowledged(at(4));
    const { newest } = trail;
    for (let told = 0; told < 2; told += 1) {
      trail.nothingHeld();
      const all = { writes: at(4), bytes: total(4), ageMs: 401 - ageFrom, oldestAtMs: ageFrom };
      assert.deepEqual(trail.lag(0), all, what);
      assert.deepEqual(trail.newest, newest, "what the other site is told stays");
    }
    trail.answered({ last: at(5), dataBytesTotal: total(5), openedAtMs: 500, closedAtMs: 501 });
    assert.deepEqual([trail.lag(0).writes, trail.lag(0).bytes], [at(5), total(5)], what);
    trail.acknowledged(at(2));
    assert.ok(trail.lag(at(2)).bytes >= total(5) - total(2) && trail.lag(at(2)).oldestAtMs! <= 300, what);
    trail.acknowledged(at(4));
    assert.deepEqual(trail.lag(at(4)), { writes: 1, bytes: 512, ageMs: 1, oldestAtMs: 500 }, what);
  }
});

test("the first write after an idle hour is no stall; a write that waits behind others does not end one", () => {
  const hourMs = 3_600_000;
  const stall = new Stall();
  stall.moved(0);
  // Everything up to 10 was acknowledged long ago; 11 is answered now.
  stall.answered(11, 10, hourMs);
  assert.equal(stall.ms(hourMs + 5), 5);
  stall.answered(12, 10, hourMs + 20_000);
  assert.equal(stall.ms(hourMs + 20_000), 20_000);
  stall.moved(hourMs + 20_001);
  assert.equal(stall.ms(hourMs + 20_003), 2);
});
