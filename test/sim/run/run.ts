/**
 * One simulated run: a seed becomes sizes, clients and faults; both sites live through them; then everything is
 * healed, and what is left must be whole, equal and honest within a bounded time (I8). Also shrinks the faults of a run
 * that broke something. Everything follows from the seed and the sources: nothing here reads a clock or a real disk.
 */

import { agentGroupPaths, gatewayGroupPaths } from "../../../runtime/paths.ts";
import type { GroupSettings } from "../../../runtime/settings/types.ts";
import { SeededRandom } from "../../support/seeded.ts";
import type { WanConditions } from "../link.ts";
import type { HeldRange } from "../model/history.ts";
import { Violation } from "../model/violation.ts";
import { Scheduler } from "../world/scheduler.ts";
import { Trace } from "../world/trace.ts";
import { FaultRunner } from "./fault-runner.ts";
import type { Fault, FaultName } from "./faults.ts";
import { drawFaults } from "./faults.ts";
import type { PauseOrder, RetirePlan } from "./life-plan.ts";
import { drawPauses, drawRetire } from "./life-plan.ts";
import { Operator } from "./operator.ts";
import type { OverflowPlan } from "./overflow-plan.ts";
import { drawOverflow, withOverflow } from "./overflow-plan.ts";
import { PauseOrders } from "./pause-orders.ts";
import { RetireDrill } from "./retire-drill.ts";
import { ScanOrders } from "./scan-orders.ts";
import type { ScanPlan } from "./scan-plan.ts";
import { drawHeld, drawScans, withScans } from "./scan-plan.ts";
import type { Sabotage, SiteName, SitePlan } from "./sites.ts";
import { otherSite, Sites, siteNames } from "./sites.ts";
import { Truth } from "./truth.ts";
import { compareCopies, isHandedOver, stopped, stoppedForGood, unsettled } from "./verdict.ts";
import { VolumeOrders } from "./volume-orders.ts";
import type { VolumePlan } from "./volume-plan.ts";
import { drawVolumes, prepareVolumes } from "./volume-plan.ts";
import type { WorkloadPlan } from "./workload.ts";
import { burstGoesOn, Workload } from "./workload.ts";

export interface RunPlan {
  readonly sites: SitePlan;
  readonly workload: WorkloadPlan;
  readonly conditions: WanConditions;
  readonly faults: readonly Fault[];
  /** Undefined: nothing is scanned. */
  readonly scans: ScanPlan | undefined;
  /** Undefined: a full journal holds. */
  readonly overflow: OverflowPlan | undefined;
  /** Undefined: the volumes stay as they are. */
  readonly volumes: VolumePlan | undefined;
  readonly pauses: readonly PauseOrder[];
  /** Undefined: the groups live on. */
  readonly retire: RetirePlan | undefined;
  /** Faults happen within it, ms. */
  readonly spanMs: number;
}

export interface RunOptions {
  /** Only these faults of the plan, by id; default all. */
  readonly faults?: ReadonlySet<number>;
  readonly sabotage?: Sabotage;
  /** Lines of trace kept for printing. */
  readonly traceLines?: number;
}

export interface RunCounts {
  readonly sent: number;
  readonly answered: number;
  readonly flushes: number;
  readonly crashes: number;
  readonly powerCuts: number;
  readonly failovers: number;
  readonly compares: number;
  /** Volumes read at points of the past. */
  readonly points: number;
  readonly returns: number;
  readonly replayed: number;
  readonly diskFaults: number;
  readonly restarts: number;
  /** Groups whose disks held data before: nothing of the standby may be opened before their first sync is over. */
  readonly firstSyncs: number;
  /** Verifies whose result was judged, bits turned over at rest, and those that a verify had to find, and found. */
  readonly verified: number;
  readonly flips: number;
  readonly found: number;
  /** Gaps that standbys took in, and failovers that went back behind one. */
  readonly gaps: number;
  readonly takenBack: number;
  /** Changes of the volume table that operators began, records of them that owners put into their order, and failovers that left a volume out. */
  readonly changesBegun: number;
  readonly volumeRecords: number;
  readonly leftOut: number;
  /** Pauses that stood, sites at which a group was retired, and orders to retire that were refused. */
  readonly pauses: number;
  readonly retired: number;
  readonly retiresRefused: number;
  /** By how much the worst of what owners stated was wrong, to the safe side; see `Truth`. */
  readonly lagTooMuchMax: number;
  readonly protectedTooLongMsMax: number;
  readonly virtualMs: number;
  readonly events: number;
}

export interface Outcome {
  readonly seed: number;
  readonly hash: string;
  readonly faults: readonly Fault[];
  readonly fired: ReadonlyMap<FaultName, number>;
  /** Faults by what their groups were in the middle of. */
  readonly struck: ReadonlyMap<string, number>;
  readonly counts: RunCounts;
  /** Why the run proves too little; undefined: it counts. */
  readonly invalid: string | undefined;
  readonly violation: Violation | undefined;
  readonly trace: readonly string[];
}

/** After the last fault everything must be well again within this, ms of virtual time. */
const recoveryMsMax = 120_000;
/** The healed system is asked this often, ms. */
const settleStepMs = 500;
/** The operator looks at what is stopped this often while it recovers, ms. */
const operatorMs = 8_000;
const answeredMin = 50;
const flushesMin = 5;

export function drawPlan(seed: number): RunPlan {
  const random = new SeededRandom(seed, 2);
  const twoGroups = random.chance(0.2);
  // Drawn by itself, so that a seed keeps its faults. Short limits, so that points are given back within a run.
  const past = new SeededRandom(seed, 8);
  const history = {
    windowMs: past.chance(0.7) ? past.pick([86_400_000, 10_000]) : 0,
    bytesMax: past.pick([1 << 30, 200 * 1024]),
  };
  const group = (name: string, home: SiteName): GroupSettings => ({
    name,
    home,
    standby: otherSite(home),
    volumes: ["data", "wal"].map((volume) => ({
      name: volume,
      sizeBytes: 64 * 1024 * (1 + random.below(4)),
      image: null,
      standbyImage: null,
    })),
    durability: random.chance(0.8) ? "flush" : "write",
    rpo: { ageMs: null, bytes: null },
    overflow: "hold",
    history,
    scan: { bytesPerSecond: null, verifyCron: null, onMismatch: "report" },
  });
  const groups = twoGroups ? [group("g", "a"), group("h", "b")] : [group("g", "a")];
  const small = 512 * 1024;
  const sites: SitePlan = {
    groups,
    journalBytesMax: random.pick([small, 2 * small, 64 * small]),
    // Room for more than the longest batch on these lines, of a second's half at 2 MB/s.
    intakeBytesMax: random.pick([2.5 * small, 64 * small]),
    memoryTailBytes: random.pick([8 * 1024, 64 * 1024, 2 * 1024 * 1024]),
    unappliedBytesMax: random.pick([64 * 1024, 8 * 1024 * 1024]),
    oneProcess: random.chance(0.35),
    codec: random.pick(["none", "lz4", "brotli", "auto"] as const),
  };
  const spanMs = random.pick([4_000, 12_000, 25_000]);
  const workersPerGroup = 1 + random.below(twoGroups ? 6 : 12);
  const requestsMax = 150 + random.below(250);
  const workload: WorkloadPlan = {
    workersPerGroup,
    // Spread over the span, so that faults meet work: half of the requests follow at once, the others after a pause.
    thinkMs: (2 * random.pick([0.4, 0.8, 1]) * spanMs * workersPerGroup * groups.length) / requestsMax,
    hotShare: random.pick([0.05, 0.2, 1]),
    flushChance: random.pick([0.06, 0.1, 0.2]),
    fuaChance: random.pick([0, 0.05, 0.3]),
    readChance: 0.06,
    requestsMax,
    burstEveryMs: random.chance(0.3)
      ? (spanMs * workersPerGroup * groups.length) / (1 - burstGoesOn) / requestsMax
      : 0,
  };
  const conditions: WanConditions = {
    latencyMs: random.pick([1, 10, 40]),
    jitterMs: random.pick([0.5, 5, 30]),
    bytesPerSecond: random.pick([100_000, 500_000, 2_000_000]),
    lossRate: random.chance(0.3) ? 0.05 : 0,
    duplicateRate: random.chance(0.3) ? 0.1 : 0,
    damageRate: 0,
  };
  const faults = drawFaults(random, spanMs, "a");
  const scans = drawScans(seed, spanMs);
  const overflow = drawOverflow(seed, spanMs);
  const load =
    overflow === undefined
      ? workload
      : {
          ...workload,
          workersPerGroup: Math.min(workersPerGroup, overflow.workersMax),
          requestsMax: requestsMax + overflow.requests,
        };
  const planned = {
    ...sites,
    ...(overflow === undefined ? {} : { journalBytesMax: overflow.journalBytesMax }),
    groups: groups.map((each) => withScans(withOverflow(each, overflow), scans)),
  };
  const volumes = drawVolumes(seed, spanMs, planned.groups);
  return {
    ...{ sites: planned, workload: load, conditions, spanMs, scans, overflow, volumes },
    faults: [...faults, ...(volumes?.faults ?? [])],
    pauses: drawPauses(seed, spanMs),
    retire: drawRetire(seed),
  };
}

class Run {
  readonly seed: number;
  readonly plan: RunPlan;
  readonly trace: Trace;
  readonly scheduler: Scheduler;
  readonly truth: Truth;
  readonly sites: Sites;
  readonly workload: Workload;
  readonly operator: Operator;
  readonly faults: FaultRunner;
  readonly scans: ScanOrders;
  readonly volumes: VolumeOrders;
  readonly pauses: PauseOrders;
  #drill: RetireDrill | undefined;

  constructor(seed: number, options: RunOptions) {
    this.seed = seed;
    const plan = drawPlan(seed);
    const chosen = options.faults;
    this.plan =
      chosen === undefined ? plan : { ...plan, faults: plan.faults.filter(({ id }) => chosen.has(id)) };
    this.trace = new Trace(options.traceLines ?? 400);
    this.scheduler = new Scheduler(new SeededRandom(seed, 0), this.trace);
    this.truth = new Truth(seed, this.scheduler, plan.sites.groups);
    this.sites = new Sites(
      this.scheduler,
      seed,
      plan.sites,
      { ...plan.conditions },
      this.truth,
      options.sabotage,
      (site) => this.workload.agentGone(site),
    );
    this.workload = new Workload(seed, this.scheduler, this.sites, this.truth, plan.workload);
    this.operator = new Operator(this.scheduler, this.sites, this.truth);
    this.faults = new FaultRunner(this.scheduler, this.sites, this.operator, this.workload, this.truth);
    this.scans = new ScanOrders(this.scheduler, this.sites, this.truth);
    this.volumes = new VolumeOrders(this.scheduler, this.sites, this.truth, this.workload);
    this.pauses = new PauseOrders(this.scheduler, this.sites, this.truth);
  }

  async drive(): Promise<void> {
    const { scheduler, sites, plan } = this;
    await sites.prepare();
    if (plan.scans !== undefined) await this.#prepareScans(plan.scans);
    if (plan.volumes !== undefined) await this.#prepareVolumes(plan.volumes);
    this.pauses.schedule(plan.pauses);
    for (const name of siteNames) {
      for (const role of ["gateway", "agent"] as const)
        scheduler.at(scheduler.random.fraction() * 40, "", () => sites.start(name, role));
    }
    this.workload.start();
    this.faults.schedule(plan.faults);
    this.faults.scheduleCuts(plan.overflow?.cuts ?? []);
    await scheduler.run({ untilMs: plan.spanMs });
    // Some requests after the last fault begins, so that there is something to catch up with.
    this.workload.revive(60);
    await scheduler.run({ untilMs: plan.spanMs + 6_000 });
    // A run whose group was down most of the time goes on under its faults until it has done enough to count.
    for (let more = 0; more < 6 && this.invalid !== undefined; more += 1) {
      this.workload.revive(80);
      this.operator.restartStopped();
      await scheduler.run({ untilMs: scheduler.nowMs + 6_000 });
    }
    this.faults.heal();
    this.scans.endRot();
    this.volumes.heal();
    this.pauses.heal();
    for (const name of siteNames) for (const role of ["gateway", "agent"] as const) sites.start(name, role);
    await this.#recover();
    this.workload.revive(0);
    await this.#settle();
    if (plan.retire === undefined) return;
    this.#drill = new RetireDrill(this, plan.retire);
    await this.#drill.run();
  }

  async #prepareVolumes(volumes: VolumePlan): Promise<void> {
    const { sites, truth, seed } = this;
    await prepareVolumes(volumes, truth.group(volumes.group).settings, seed, sites, truth);
    this.volumes.schedule(volumes);
  }

  /** Data of before the group was made, at one site or both; and the orders of the run. */
  async #prepareScans(scans: ScanPlan): Promise<void> {
    const { sites, truth, seed, plan } = this;
    for (const { name, home, standby, volumes } of plan.sites.groups) {
      const sizes = volumes.map(({ sizeBytes }) => sizeBytes);
      const held = drawHeld(seed, scans, sizes, () => truth.nextNumber());
      truth.heldBefore(name, held);
      for (const [index, { name: volume, sizeBytes }] of volumes.entries()) {
        const fill = async (site: SiteName, path: string, ranges: HeldRange[]): Promise<void> => {
          if (ranges.length > 0) await sites.fill(site, seed, path, sizeBytes, ranges);
        };
        const of = (ranges: readonly HeldRange[]): HeldRange[] =>
          ranges.filter((each) => each.volume === index);
        await fill(home as SiteName, agentGroupPaths(`/${home}`, name).image(volume), of(held.owner));
        await fill(
          standby as SiteName,
          gatewayGroupPaths(`/${standby}`, name).image(volume),
          of(held.standby),
        );
      }
    }
    this.scans.schedule(scans);
  }

  /** Work must go on after the last fault, by itself or with what an operator is told to do. */
  async #recover(): Promise<void> {
    const { scheduler, workload } = this;
    const untilMs = scheduler.nowMs + recoveryMsMax;
    const answeredBefore = workload.counts.answered;
    workload.revive(40);
    let operatorAtMs = scheduler.nowMs + operatorMs;
    while (scheduler.nowMs < untilMs) {
      await scheduler.run({ untilMs: scheduler.nowMs + settleStepMs });
      if (scheduler.nowMs >= operatorAtMs) {
        operatorAtMs = scheduler.nowMs + operatorMs;
        this.operator.restartStopped();
        this.operator.acceptLosses();
      }
      const works = workload.counts.answered - answeredBefore >= 10 || stoppedForGood(this);
      if (works && unsettled(this, false) === undefined) return;
    }
    throw new Violation(
      "I8",
      `${recoveryMsMax} ms after the last fault: ${unsettled(this, false) ?? `${workload.counts.answered - answeredBefore} writes answered`}`,
    );
  }

  async #settle(): Promise<void> {
    await this.#rest();
    const verified = new Set<string>();
    while (this.plan.scans !== undefined) {
      // In the end an operator has everything compared, and what decayed sent again; also of a group that was stopped
      // before and came back while others were compared.
      const due = this.#toVerify().filter((name) => !verified.has(name));
      if (due.length === 0) break;
      for (const name of due) {
        verified.add(name);
        this.scans.verify(name, true, true);
      }
      await this.#rest();
    }
    await compareCopies(this, verified);
  }

  /** Groups whose standby can be compared with its owner. */
  #toVerify(): string[] {
    return [...this.truth.groups.keys()].filter((name) => !isHandedOver(this, name) && !stopped(this, name));
  }

  /** Until nothing is left to do. */
  async #rest(): Promise<void> {
    const { scheduler } = this;
    const untilMs = scheduler.nowMs + recoveryMsMax;
    // What a restart does not mend, the next one will not: one every few seconds would only keep other groups from ending.
    let patienceMs = operatorMs;
    let operatorAtMs = scheduler.nowMs + patienceMs;
    for (;;) {
      const problem =
        unsettled(this, true) ?? (this.scans.idle ? undefined : "an order to verify has no result");
      if (problem === undefined) return;
      if (scheduler.nowMs >= untilMs) throw new Violation("I8", `with nothing left to do: ${problem}`);
      this.operator.acceptLosses();
      if (scheduler.nowMs >= operatorAtMs) {
        if (this.operator.restartStopped()) patienceMs *= 2;
        operatorAtMs = scheduler.nowMs + patienceMs;
      }
      await scheduler.run({ untilMs: scheduler.nowMs + settleStepMs });
    }
  }

  get decayed(): ReadonlySet<string> {
    return this.faults.decayed;
  }

  get invalid(): string | undefined {
    const { answered, flushes } = this.workload.counts;
    if (answered < answeredMin) return `only ${answered} writes answered`;
    if (flushes < flushesMin) return `only ${flushes} flushes answered`;
    return undefined;
  }

  get counts(): RunCounts {
    const { counts } = this.workload;
    return {
      sent: counts.sent,
      answered: counts.answered,
      flushes: counts.flushes,
      crashes: this.faults.crashes,
      powerCuts: this.faults.powerCuts,
      failovers: this.truth.counts.adoptions,
      compares: this.truth.counts.compares,
      points: this.truth.counts.points,
      returns: this.truth.counts.returns,
      replayed: this.sites.wan.counts.replayed + this.sites.wan.counts.duplicated,
      diskFaults: this.faults.diskFaultsFired,
      restarts: this.operator.counts.restarts,
      firstSyncs: [...this.truth.groups.keys()].filter(
        (name) => this.truth.homeBook(name).history.held.length > 0,
      ).length,
      verified: this.truth.counts.verified,
      flips: this.scans.counts.flips,
      found: this.truth.counts.found,
      gaps: [...this.truth.groups.values()].reduce((sum, { received }) => sum + received.gapCount, 0),
      takenBack: this.truth.counts.takenBack,
      changesBegun: this.volumes.begun,
      volumeRecords: this.truth.counts.changes,
      leftOut: this.truth.counts.leftOut,
      pauses: this.pauses.counts.pauses,
      retired: this.#drill?.counts.retired ?? 0,
      retiresRefused: this.#drill?.counts.refused ?? 0,
      lagTooMuchMax: this.truth.worst.lagTooMuch,
      protectedTooLongMsMax: this.truth.worst.protectedTooLongMs,
      virtualMs: this.scheduler.nowMs,
      events: this.trace.count,
    };
  }
}

/** Runs one seed to its end. Settles whatever happens; `violation` says what was broken. */
export async function simulate(seed: number, options: RunOptions = {}): Promise<Outcome> {
  const run = new Run(seed, options);
  let violation: Violation | undefined;
  // A rejection that nobody takes ends the real process: here it ends the run.
  const unhandled = (error: unknown): void => {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    run.scheduler.fail(error instanceof Violation ? error : new Violation("ASSERT", `nobody took: ${text}`));
  };
  process.on("unhandledRejection", unhandled);
  try {
    await run.drive();
  } catch (error) {
    if (error instanceof Violation) violation = error;
    else {
      const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
      violation = new Violation("ASSERT", text);
    }
  } finally {
    run.sites.endAll();
    process.off("unhandledRejection", unhandled);
  }
  return {
    seed,
    hash: run.trace.hash,
    faults: run.plan.faults,
    fired: run.faults.fired,
    struck: run.faults.struck.counts,
    counts: run.counts,
    invalid: run.invalid,
    violation,
    trace: run.trace.tail(options.traceLines ?? 400),
  };
}

/** Leaves out faults while the same invariant still breaks; the smallest set found, with its outcome. */
export async function shrink(failed: Outcome, options: RunOptions = {}): Promise<Outcome> {
  let best = failed;
  for (let changed = true; changed; ) {
    changed = false;
    for (const fault of [...best.faults]) {
      const kept = new Set(best.faults.map(({ id }) => id).filter((id) => id !== fault.id));
      const tried = await simulate(failed.seed, { ...options, faults: kept });
      if (tried.violation?.invariant !== failed.violation?.invariant) continue;
      best = tried;
      changed = true;
      break;
    }
  }
  return best;
}
