/** Virtual time goes on in order, ended and paused incarnations do nothing, and a seed says it all. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { SeededRandom } from "../../support/seeded.ts";
import { clockOf, randomOf } from "./clock.ts";
import { Life } from "./life.ts";
import { Scheduler } from "./scheduler.ts";
import { Trace } from "./trace.ts";

const scheduler = (seed = 1): Scheduler => new Scheduler(new SeededRandom(seed), new Trace());

test("events happen in order of time, then of scheduling, and time stands at each", async () => {
  const world = scheduler();
  const { random } = world;
  const seen: { atMs: number; order: number }[] = [];
  for (let order = 0; order < 500; order += 1) {
    const atMs = random.below(50);
    world.at(atMs, "event", () => {
      assert.equal(world.nowMs, atMs);
      seen.push({ atMs, order });
    });
  }
  assert.equal(await world.run(), "idle");
  assert.equal(seen.length, 500);
  for (let at = 1; at < seen.length; at += 1) {
    const [a, b] = [seen[at - 1]!, seen[at]!];
    assert.ok(a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order));
  }
});

test("promises are followed to their end before the next event", async () => {
  const world = scheduler();
  const seen: string[] = [];
  world.at(1, "a", () => {
    void (async () => {
      for (let turn = 0; turn < 50; turn += 1) await Promise.resolve();
      seen.push("end of a");
    })();
  });
  world.at(1, "b", () => seen.push("b"));
  await world.run();
  assert.deepEqual(seen, ["end of a", "b"]);
});

test("a run stops at a time or when asked, and goes on from there", async () => {
  const world = scheduler();
  const seen: number[] = [];
  for (let atMs = 1; atMs <= 10; atMs += 1) world.at(atMs, "tick", () => seen.push(atMs));
  assert.equal(await world.run({ untilMs: 4.5 }), "time");
  assert.deepEqual([seen.length, world.nowMs], [4, 4.5]);
  assert.equal(await world.run({ stop: () => seen.length === 7 }), "stopped");
  assert.equal(seen.length, 7);
  assert.equal(await world.run(), "idle");
  assert.equal(seen.length, 10);
});

test("what an event throws, or was reported, ends the run", async () => {
  const world = scheduler();
  world.at(1, "bad", () => {
    throw new RangeError("violation");
  });
  world.at(2, "reports", () => world.fail(new TypeError("found elsewhere")));
  await assert.rejects(world.run(), RangeError);
  await assert.rejects(world.run(), TypeError);
  assert.equal(await world.run(), "idle");
});

test("cancelled timers and those of ended lives never fire; a paused life's wait", async () => {
  const world = scheduler();
  const [dead, paused] = [new Life("dead"), new Life("paused")];
  const seen: string[] = [];
  clockOf(world, dead).after(5, () => seen.push("dead"));
  clockOf(world, paused).after(5, () => seen.push("paused"));
  clockOf(world, paused).after(6, () => seen.push("paused later"));
  world.at(5, "cancelled", () => seen.push("cancelled")).cancel();
  world.at(1, "kill", () => {
    dead.end();
    paused.pause();
  });
  world.at(10, "resume", () => {
    seen.push("resume");
    world.resume(paused);
  });
  await world.run();
  assert.deepEqual(seen, ["resume", "paused", "paused later"]);
  world.at(1, "too late", () => seen.push("too late"), dead);
  await world.run();
  assert.equal(seen.length, 3);
});

test("the clock is virtual, and only its wall jumps", async () => {
  const world = scheduler();
  const wall = { offsetMs: 0 };
  const clock = clockOf(world, new Life("role"), wall);
  const before = clock.wallMs();
  world.at(1_500.5, "later", () => undefined);
  await world.run();
  assert.equal(clock.monotonicMs(), 1_500.5);
  assert.equal(clock.wallMs() - before, 1_500);
  wall.offsetMs = -3_600_000;
  assert.equal(clock.wallMs() - before, 1_500 - 3_600_000);
});

test("identities are version 4 UUIDs drawn from the seed", () => {
  const [a, b] = [randomOf(scheduler(7)).uuidBytes(), randomOf(scheduler(7)).uuidBytes()];
  assert.deepEqual(a, b);
  assert.equal(a[6]! >> 4, 4);
  assert.equal(a[8]! >> 6, 2);
  assert.notDeepEqual(randomOf(scheduler(8)).uuidBytes(), a);
});

test("a trace's hash hangs on every line and their order; its tail is bounded", () => {
  const of = (...lines: string[]): string => {
    const trace = new Trace(3);
    for (const line of lines) trace.add(line);
    return trace.hash;
  };
  assert.equal(of("a", "b", "c", "d"), of("a", "b", "c", "d"));
  const all = [of("a", "b"), of("b", "a"), of("ab"), of("a", "b", ""), of("a"), of()];
  assert.equal(new Set(all).size, all.length);
  const trace = new Trace(3);
  for (const line of ["a", "b", "c", "d"]) trace.add(line);
  assert.deepEqual(trace.tail(10), ["b", "c", "d"]);
  assert.deepEqual(trace.tail(1), ["d"]);
  assert.equal(trace.count, 4);
});
