/**
 * F43, F44, F45: a line that flaps, one on which a part of all connections is reset at any byte, and one that is thin and
 * long. Progress never stops for good, sockets do not pile up, nobody who writes feels it, and both sites end the same.
 */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { test } from "node:test";
import { SeededRandom, seedFromEnvironment } from "../support/seeded.ts";
import { until } from "../support/wait.ts";
import { LineRig } from "./line-rig.ts";
import { lineRounds } from "./rounds.ts";

const seed = seedFromEnvironment();

/** Open descriptors of a process. */
function descriptors(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}

/** A link has four connections for batches and at most four for control; each may be dying while its heir is born. */
const socketsMax = 2 * (4 + 4);

/** Connections that must be reset at some byte for a run to count, and how many more rounds it may take to have them. */
const fatedMin = 5;
const extraRoundsMax = 100;

test(`flaps and resets cost time only (F43, F44, SEED=${seed})`, async (t) => {
  const random = new SeededRandom(seed, 1);
  let resetChance = 0;
  let fated = 0;
  const rig = await LineRig.start({
    seed,
    bytesPerSecond: 3e6,
    relay: {
      fate: () => {
        if (!random.chance(resetChance)) return undefined;
        fated += 1;
        return {
          reset: {
            direction: random.chance(0.6) ? "up" : "down",
            afterBytes: random.below(random.chance(0.5) ? 3_000 : 100_000),
          },
        };
      },
    },
  });
  t.after(() => rig.dispose());
  const { sites } = rig.pair;
  const pid = sites.child("primary").pid;
  const quiet = descriptors(pid);
  let most = 0;
  rig.resetWorst();

  const flaps = lineRounds(4, 500);
  const progress: number[] = [];
  for (let flap = 0; flap < flaps; flap += 1) {
    // Two ways to go down: everything ends at once, or nothing is heard any more.
    if (flap % 2 === 0) rig.relay.resetAll();
    rig.relay.cut();
    await rig.pair.anyMoment(1_500);
    rig.relay.restore();
    const upFromMs = performance.now();
    // Longer than the longest pause between two greetings, so each time up must bring something.
    await rig.advance(1, 16_000);
    progress.push(performance.now() - upFromMs);
    await rig.pair.anyMoment(1_000);
    most = Math.max(most, descriptors(pid));
    rig.pair.faultsUnderLoad += 1;
  }
  rig.assertWritesUnfelt(`SEED=${seed} flapping`);

  const rates: string[] = [];
  for (const percent of [1, 10, 30, 60]) {
    resetChance = percent / 100;
    const before = fated;
    const connections = rig.relay.counters.connections;
    // New connections are where the chance is; a healthy one lives for ever. The last rate is worse than any line, and it
    // goes on until there were some: on a quiet machine two connections may do for a round, and be spared.
    const rounds = lineRounds(2, 200);
    const isDone = (round: number) => round >= rounds && (percent < 60 || fated >= fatedMin);
    for (let round = 0; !isDone(round) && round < rounds + extraRoundsMax; round += 1) {
      rig.relay.resetAll();
      await rig.advance(20);
      most = Math.max(most, descriptors(pid));
    }
    rates.push(
      `${percent} %: ${rig.relay.counters.connections - connections} connections, ${fated - before} to be reset`,
    );
  }
  resetChance = 0;
  rig.assertWritesUnfelt(`SEED=${seed} resets`);
  assert.ok(fated >= fatedMin, `invalid run: only ${fated} connections were to be reset`);
  assert.ok(most <= quiet + socketsMax, `descriptors grew from ${quiet} to ${most}`);
  rig.relay.resetAll();
  await rig.advance(20);
  const figures = await rig.finish(flaps);
  t.diagnostic(
    `${flaps} flaps, slowest progress after ${Math.round(Math.max(...progress))} ms; ${rates.join("; ")}; descriptors ${quiet} to ${most}; ${figures}`,
  );
});

test(`128 kbit/s and 500 ms each way: it is slow and never stands still (F45, SEED=${seed})`, async (t) => {
  const rig = await LineRig.start({
    seed,
    // Sixteen small writes a second, about half of what the line carries.
    onlyProbeEveryMs: 60,
    relay: { delayMs: 500, rateBytesPerSecond: 16_000 },
    sites: { limit: "128kbit/s", volumes: { data: 1 << 20, log: 1 << 20 } },
  });
  t.after(() => rig.dispose());
  rig.resetWorst();
  const { sites } = rig.pair;
  rig.pair.faultsUnderLoad += 1;
  const runMs = lineRounds(8_000, 600_000);
  const startedMs = performance.now();
  let last = await rig.acknowledged();
  let movedMs = startedMs;
  let stillMs = 0;
  let downs = 0;
  await until(
    "the run to be over",
    async () => {
      const status = await sites.owner("primary");
      const nowMs = performance.now();
      if (!status.link.up) downs += 1;
      if (status.position.acknowledged > last) {
        stillMs = Math.max(stillMs, nowMs - movedMs);
        last = status.position.acknowledged;
        movedMs = nowMs;
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
      return nowMs - startedMs >= runMs ? true : undefined;
    },
    runMs * 2,
  );
  rig.assertWritesUnfelt(`SEED=${seed} thin line`);
  assert.equal(downs, 0, "a slow line is not a dead one");
  // The rest goes over a good line: what is asked here is whether the thin one moved.
  rig.relay.shape({ delayMs: 0, rateBytesPerSecond: 0 });
  await sites.cli("primary", "throttle", "set", "unlimited", "--yes");
  const figures = await rig.finish(1);
  t.diagnostic(
    `longest standstill ${Math.round(stillMs)} ms, ${last} records over the thin line; ${figures}`,
  );
});
