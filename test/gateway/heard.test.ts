/** What is known of the owner never goes back, and silence and delay are measured by the clock that does not jump. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Heard, heardPersistMs, ownerSilentMs } from "../../gateway/heard.ts";
import type { Heartbeat } from "../../protocol/control.ts";
import { systemClock } from "../../runtime/clock.ts";

function clockAt() {
  const now = { monotonicMs: 1_000, wallMs: 1_700_000_000_000 };
  return { now, clock: { ...systemClock, monotonicMs: () => now.monotonicMs, wallMs: () => now.wallMs } };
}

const beat = (answered: number): Heartbeat => ({
  lineage: "07070707-0707-0707-0707-070707070707",
  token: { epoch: 1, owner: "primary" },
  answered,
  dataBytesTotal: answered * 512,
  wallMs: 0,
});

test("a heartbeat that was overtaken on the line takes no position back", () => {
  const { clock, now } = clockAt();
  const heard = new Heard(clock, { atMs: 5, answered: 7, dataBytesTotal: 7 * 512 });
  assert.equal(heard.silenceMs(), null, "persisted is not heard");
  heard.take(beat(6), 0);
  assert.deepEqual([heard.record?.answered, heard.record?.dataBytesTotal], [7, 7 * 512]);
  heard.take(beat(20), 0);
  heard.take(beat(12), 0);
  assert.deepEqual(heard.record, { atMs: now.wallMs, answered: 20, dataBytesTotal: 20 * 512 });
});

test("silence grows by the monotonic clock, whatever the wall clock does", () => {
  const { clock, now } = clockAt();
  const heard = new Heard(clock, null);
  heard.take(beat(1), 0);
  now.wallMs -= 3_600_000;
  now.monotonicMs += ownerSilentMs;
  assert.equal(heard.silenceMs(), ownerSilentMs);
});

test("behind is what was answered long ago and is not applied, and ends when it is", () => {
  const { clock, now } = clockAt();
  const heard = new Heard(clock, null);
  heard.take(beat(10), 0);
  now.monotonicMs += 10_000;
  assert.equal(heard.isBehind(9), false);
  now.monotonicMs += 1;
  assert.equal(heard.isBehind(9), true);
  assert.equal(heard.isBehind(10), false);
  // Newer answers do not make the old one younger.
  heard.take(beat(30), 9);
  assert.equal(heard.isBehind(9), true);
  heard.take(beat(31), 10);
  assert.equal(heard.isBehind(10), false);
});

test("what was heard is due to be written at once, then at the pace", () => {
  const { clock, now } = clockAt();
  const heard = new Heard(clock, null);
  assert.equal(heard.dueToPersist(), true);
  assert.equal(heard.dueToPersist(), false);
  now.monotonicMs += heardPersistMs;
  assert.equal(heard.dueToPersist(), true);
});

test("what was heard of long ago counts from then, also when older things were missing first", () => {
  const { clock, now } = clockAt();
  const heard = new Heard(clock, null);
  heard.take(beat(10), 0);
  now.monotonicMs += 1_000;
  heard.take(beat(20), 0);
  now.monotonicMs += 8_000;
  // The first ones arrive just in time; the others have been missing nearly as long.
  heard.take(beat(30), 10);
  assert.equal(heard.isBehind(10), false);
  now.monotonicMs += 3_000;
  assert.equal(heard.isBehind(10), true);
  assert.equal(heard.isBehind(20), false);
  for (let more = 0; more < 100; more += 1) heard.take(beat(31 + more), 20);
  now.monotonicMs += 11_000;
  assert.equal(heard.isBehind(129), true, "a bounded memory forgets no position");
  assert.equal(heard.isBehind(130), false);
});

test("what an owner lost with its power is not waited for, but counts as lost in a failover", () => {
  const { clock, now } = clockAt();
  const heard = new Heard(clock, null);
  heard.take(beat(50), 43);
  // It comes back with what was flushed, and everything of that is applied.
  for (let second = 0; second < 25; second += 1) {
    now.monotonicMs += 1_000;
    heard.take(beat(43), 43);
  }
  assert.equal(heard.isBehind(43), false);
  assert.equal(heard.isBehind(42), true, "what it still has is waited for as long as before");
  assert.equal(heard.record?.answered, 50);
});
