/**
 * Crash-state enumeration: one short life of the pair is recorded with a copy of both disks at every step that changes
 * one of them or makes something durable; then each step is crashed in each way, both sites are started on what is left,
 * and must come back within what was promised at that instant, and become whole and equal again. Some are crashed again
 * while they recover, up to five times.
 */
import type { GroupSettings } from "../../../runtime/settings/types.ts";
import { SeededRandom } from "../../support/seeded.ts";
import type { OwnerBook } from "../model/owner-book.ts";
import type { StandbyBook } from "../model/standby-book.ts";
import { Violation } from "../model/violation.ts";
import type { DiskSnapshot } from "../world/disk.ts";
import { Scheduler } from "../world/scheduler.ts";
import { Trace } from "../world/trace.ts";
import type { PowerCut } from "../world/tree.ts";
import { Operator } from "./operator.ts";
import type { Sabotage, SiteName, SitePlan } from "./sites.ts";
import { Sites, siteNames } from "./sites.ts";
import { Truth } from "./truth.ts";
import { compareCopies, unsettled } from "./verdict.ts";
import type { WorkloadPlan } from "./workload.ts";
import { Workload } from "./workload.ts";

/** A moment just before one step. */
export interface CrashPoint {
  readonly number: number;
  /** Where the step happens, and what it is. */
  readonly site: SiteName;
  readonly what: string;
  readonly disks: Readonly<Record<SiteName, DiskSnapshot>>;
  readonly book: OwnerBook;
  readonly standby: StandbyBook;
}

const group: GroupSettings = {
  name: "g",
  home: "a",
  standby: "b",
  volumes: ["data", "wal"].map((name) => ({ name, sizeBytes: 64 * 1024, image: null, standbyImage: null })),
  durability: "flush",
  rpo: { ageMs: null, bytes: null },
  overflow: "hold",
  history: { windowMs: 86_400_000, bytesMax: 1 << 30 },
  scan: { bytesPerSecond: null, verifyCron: null, onMismatch: "report" },
};
const plan: SitePlan = {
  groups: [group],
  journalBytesMax: 16 * 1024 * 1024,
  intakeBytesMax: 16 * 1024 * 1024,
  memoryTailBytes: 16 * 1024,
  unappliedBytesMax: 256 * 1024,
  oneProcess: false,
  codec: "none",
};
const conditions = {
  latencyMs: 2,
  jitterMs: 1,
  bytesPerSecond: 2_000_000,
  lossRate: 0,
  duplicateRate: 0,
  damageRate: 0,
};
export const crashModels: readonly (PowerCut | "kill")[] = [
  "everything",
  "nothing",
  "subset",
  "torn",
  "kill",
];
/** A recovered pair must be whole within this, ms of virtual time. */
const recoveryMsMax = 60_000;

interface World {
  readonly seed: number;
  readonly trace: Trace;
  readonly scheduler: Scheduler;
  readonly truth: Truth;
  readonly sites: Sites;
  readonly operator: Operator;
  workload?: Workload;
}

function makeWorld(seed: number, sabotage: Sabotage): World {
  const trace = new Trace(600);
  const scheduler = new Scheduler(new SeededRandom(seed, 0), trace);
  const truth = new Truth(seed, scheduler, plan.groups);
  const world: World = {
    seed,
    trace,
    scheduler,
    truth,
    sites: new Sites(scheduler, seed, plan, { ...conditions }, truth, sabotage, (site) =>
      world.workload?.agentGone(site),
    ),
    operator: undefined as unknown as Operator,
  };
  return Object.assign(world, { operator: new Operator(scheduler, world.sites, truth) });
}

/** Lives through `requests` requests of `seed` and keeps the state before every step, from the very first on. */
export async function record(
  seed: number,
  requests: number,
  sabotage: Sabotage = {},
  load: Partial<WorkloadPlan> = {},
): Promise<CrashPoint[]> {
  const world = makeWorld(seed, sabotage);
  const { scheduler, sites, truth } = world;
  const points: CrashPoint[] = [];
  await sites.prepare();
  for (const name of siteNames) {
    sites.site(name).disk.onOperation = (_life, path, operation, when) => {
      if (when !== "before") return;
      const disks = { a: sites.site("a").disk.snapshot(), b: sites.site("b").disk.snapshot() };
      points.push({
        number: points.length,
        site: name,
        what: `${operation} ${path}`,
        disks,
        book: truth.homeBook("g").copy(),
        standby: truth.group("g").standby.copy(),
      });
    };
    sites.start(name, "gateway");
    sites.start(name, "agent");
  }
  world.workload = new Workload(seed, scheduler, sites, truth, {
    workersPerGroup: 3,
    thinkMs: 30,
    hotShare: 0.3,
    flushChance: 0.12,
    fuaChance: 0.15,
    readChance: 0,
    requestsMax: requests,
    ...load,
  });
  world.workload.start();
  await scheduler.run({ untilMs: 3_000 });
  for (const name of siteNames) sites.site(name).disk.onOperation = undefined;
  sites.endAll();
  return points;
}

export interface CrashOutcome {
  readonly point: CrashPoint;
  readonly model: PowerCut | "kill";
  readonly depth: number;
  readonly violation: Violation | undefined;
  readonly trace: readonly string[];
}

/** Crashes `point` in one way, `depth` times more during the recovery, and judges what comes back. */
export async function crash(
  point: CrashPoint,
  seed: number,
  model: PowerCut | "kill",
  depth: number,
  both: boolean,
  sabotage: Sabotage = {},
): Promise<CrashOutcome> {
  const world = makeWorld(seed, sabotage);
  const { sites, truth, scheduler, trace } = world;
  const draws = new SeededRandom(seed, 100 + point.number);
  const pair = truth.group("g");
  pair.books.set("a", point.book.copy());
  pair.standby = point.standby.copy();
  for (const name of siteNames) {
    sites.site(name).disk.restore(point.disks[name]);
    // Both processes are gone; the machine that crashes may have lost its memory as well.
    if (model === "kill" || (name !== point.site && !both)) {
      if (name === "a") truth.homeBook("g").lost("kill");
    } else {
      sites.powerCut(name, model);
    }
  }
  let violation: Violation | undefined;
  const unhandled = (error: unknown): void => scheduler.fail(error);
  process.on("unhandledRejection", unhandled);
  try {
    for (const name of siteNames) {
      sites.start(name, "gateway");
      sites.start(name, "agent");
    }
    crashAgain(world, point.site, draws, depth);
    const untilMs = recoveryMsMax;
    for (;;) {
      await scheduler.run({ untilMs: scheduler.nowMs + 250 });
      world.operator.acceptLosses();
      const problem = unsettled(world, true);
      if (problem === undefined) break;
      if (scheduler.nowMs > untilMs) throw new Violation("I8", problem);
    }
    await compareCopies(world);
  } catch (error) {
    violation =
      error instanceof Violation
        ? error
        : new Violation("ASSERT", error instanceof Error ? (error.stack ?? error.message) : String(error));
  } finally {
    sites.endAll();
    process.off("unhandledRejection", unhandled);
  }
  return { point, model, depth, violation, trace: trace.tail(200) };
}

/** The recovering site crashes again, at a step of its recovery. */
function crashAgain(world: World, site: SiteName, draws: SeededRandom, depth: number): void {
  if (depth === 0) return;
  const { disk } = world.sites.site(site);
  const model = draws.pick(["everything", "nothing", "subset", "torn"] as const);
  disk.crashAt(disk.steps + 1 + draws.below(40), draws.chance(0.5) ? "before" : "after", () => {
    world.sites.powerCut(site, model);
    world.scheduler.at(5, "", () => {
      world.sites.start(site, "gateway");
      world.sites.start(site, "agent");
      crashAgain(world, site, draws, depth - 1);
    });
  });
}

export interface Enumeration {
  readonly states: number;
  readonly nested: number;
  readonly points: number;
  readonly failed: readonly CrashOutcome[];
}

/** Enumerates until about `states` states were judged: whole recordings, one seed after another. */
export async function enumerate(
  states: number,
  firstSeed: number,
  sabotage: Sabotage = {},
  failuresMax = 5,
): Promise<Enumeration> {
  let judged = 0;
  let nested = 0;
  let points = 0;
  const failed: CrashOutcome[] = [];
  for (let seed = firstSeed; judged < states; seed += 1) {
    const recorded = await record(seed, 24, sabotage);
    points += recorded.length;
    for (const point of recorded) {
      for (const model of crashModels) {
        if (judged >= states || failed.length >= failuresMax) break;
        const depth = judged % 10 === 9 ? 1 + (judged % 5) : 0;
        const outcome = await crash(point, seed, model, depth, judged % 7 === 6, sabotage);
        judged += 1;
        if (depth > 0) nested += 1;
        if (outcome.violation !== undefined) failed.push(outcome);
      }
    }
    if (failed.length >= failuresMax) break;
  }
  return { states: judged, nested, points, failed };
}

/** The same in words, for whoever asks from another thread. */
export async function enumerateTold(
  states: number,
  firstSeed: number,
): Promise<Omit<Enumeration, "failed"> & { readonly failed: readonly string[] }> {
  const enumerated = await enumerate(states, firstSeed);
  return { ...enumerated, failed: enumerated.failed.map(describeCrash) };
}

export function describeCrash({ point, model, depth, violation }: CrashOutcome): string {
  return `step ${point.number} (${point.what} at ${point.site}), ${model}, ${depth} more: ${violation?.message ?? "well"}`;
}
