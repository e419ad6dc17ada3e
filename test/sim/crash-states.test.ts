/**
 * Every step of both sites' disks in a short life, crashed in every way, some of them again during the recovery: what
 * comes back is within what was promised at that instant, and the pair becomes whole and equal again (I1, I2, I3; F02,
 * F08, F09).
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Disk } from "../../runtime/disk.ts";
import { apart } from "../support/apart.ts";
import { noteEvidence, nothingLost } from "../support/evidence.ts";
import type { enumerateTold } from "./run/crash-states.ts";
import { crash, crashModels, describeCrash, enumerate, record } from "./run/crash-states.ts";

const states = Number(process.env["SPLITSITE_CRASH_STATES"] ?? 2_000);
const seed = Number(process.env["SPLITSITE_CRASH_SEED"] ?? 1);

test(`${states} crash states lead back to what was promised`, async (context) => {
  const result = await apart<typeof enumerateTold>(
    new URL("./run/crash-states.js", import.meta.url),
    "enumerateTold",
    states,
    seed,
  );
  assert.deepEqual(result.failed, []);
  assert.ok(result.states >= states && result.nested >= states / 11);
  noteEvidence("crash states", { states: result.states, "crashed again": result.nested, ...nothingLost });
  context.diagnostic(`${result.states} states of ${result.points} steps, ${result.nested} crashed again`);
});

test("the recording reaches every kind of step on both sites", async () => {
  const points = await record(seed, 24);
  for (const part of [
    "/journal-1/",
    "watermark-1",
    "write /a/agent/g/ahead-1/half-0",
    "write /a/agent/g/ahead-1/half-1",
    "syncData /a/agent/g/ahead-1/half-0",
    "syncData /a/agent/g/ahead-1/half-1",
    "sync /a/agent/g/ahead-1/half-0",
    "checkpoint",
    "/agent/g/state.json",
    "/intake/",
    "/applied",
  ])
    assert.ok(
      points.some(({ what }) => what.includes(part)),
      part,
    );
  assert.ok(points.length * crashModels.length > 1_000);
});

test("planted: a disk whose sync does nothing is caught", async (context) => {
  const sabotage = {
    disk: (disk: Disk) => ({
      ...bound(disk),
      open: async (path: string, mode: "read" | "update" | "replace") => {
        const file = await disk.open(path, mode);
        return { ...bound(file), syncData: async () => {}, sync: async () => {} };
      },
    }),
  };
  const { failed, states: judged } = await enumerate(600, seed, sabotage, 1);
  assert.equal(failed.length, 1, `not caught in ${judged} states`);
  context.diagnostic(`caught after ${judged} states: ${describeCrash(failed[0]!).slice(0, 200)}`);
});

test("power loss while much is unsynced leads back to what was promised", async () => {
  const load = { workersPerGroup: 16, thinkMs: 3, flushChance: 0, fuaChance: 0 };
  const points = (await record(1, 80, {}, load)).filter(
    ({ site, what }) => site === "a" && /^write \/a\/agent\/g\/(journal-1|ahead-1)\//.test(what),
  );
  const failed: string[] = [];
  for (const point of points.slice(0, 60)) {
    const outcome = await crash(point, 1, "subset", 0, false);
    if (outcome.violation !== undefined) failed.push(describeCrash(outcome));
  }
  assert.deepEqual(failed, []);
});

/** All methods of an object, also those of its class, as own properties. */
function bound<T extends object>(of: T): T {
  const out: Record<string, unknown> = {};
  for (let level: object | null = of; level !== null && level !== Object.prototype; ) {
    for (const name of Object.getOwnPropertyNames(level)) {
      const value: unknown = Reflect.get(of, name);
      if (name !== "constructor" && typeof value === "function" && !(name in out))
        out[name] = (value as (...all: unknown[]) => unknown).bind(of);
    }
    level = Object.getPrototypeOf(level) as object | null;
  }
  return out as T;
}
