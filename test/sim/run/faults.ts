/**
 * What goes wrong in a run, drawn from the seed before it begins, and how each fault is carried out. Swarm style: each
 * run knows only some kinds of fault, so that rare combinations meet long stretches without the others. A fault is a
 * plain value with its own draws in it: leaving one out does not change the others, which is what shrinking needs.
 */
import type { SeededRandom } from "../../support/seeded.ts";
import type { InjectedFault, Operation } from "../world/operations.ts";
import type { Scheduler } from "../world/scheduler.ts";
import type { PowerCut } from "../world/tree.ts";
import type { Operator } from "./operator.ts";
import type { RoleName, SiteName, Sites } from "./sites.ts";
import { otherSite, siteNames } from "./sites.ts";
import type { Workload } from "./workload.ts";

export const faultKinds = [
  "kill-agent",
  "kill-gateway",
  "kill-again",
  "power-cut",
  "power-both",
  "stop-agent",
  "pause",
  "disk-error",
  "disk-full",
  "disk-slow",
  "cut-off",
  "half-open",
  "lossy",
  "thin-line",
  "clock-jump",
  "replay",
  "failover",
] as const;
export type FaultName = (typeof faultKinds)[number];

export interface Fault {
  readonly id: number;
  readonly kind: FaultName;
  readonly atMs: number;
  readonly site: SiteName;
  /** How long it lasts, or until what it stopped is started again, ms. */
  readonly forMs: number;
  /** Uniform in [0, 1), for what else the kind decides. */
  readonly x: number;
  readonly y: number;
}

const powerModels: readonly PowerCut[] = ["everything", "nothing", "subset", "torn"];

/** How often a kind is drawn when it is known; crashes most of all. */
const weights: Readonly<Record<FaultName, number>> = {
  "kill-agent": 4,
  "kill-gateway": 4,
  "kill-again": 2,
  "power-cut": 4,
  "power-both": 2,
  "stop-agent": 1,
  pause: 2,
  "disk-error": 4,
  "disk-full": 1,
  "disk-slow": 1,
  "cut-off": 2,
  "half-open": 2,
  lossy: 2,
  "thin-line": 1,
  "clock-jump": 1,
  replay: 2,
  failover: 0,
};

export function drawFaults(random: SeededRandom, spanMs: number, home: SiteName): Fault[] {
  const known = faultKinds.filter((kind) => weights[kind] > 0 && random.chance(0.55));
  for (const always of ["kill-agent", "kill-gateway", "power-cut"] as const)
    if (random.chance(0.6) && !known.includes(always)) known.push(always);
  const bag = known.flatMap((kind) => Array.from({ length: weights[kind] }, () => kind));
  const count = bag.length === 0 ? 0 : 5 + random.below(8);
  const faults: Fault[] = [];
  const add = (kind: FaultName, atMs: number, site: SiteName): void => {
    const short = random.chance(0.5);
    faults.push({
      id: faults.length,
      kind,
      atMs,
      site,
      forMs: short ? 5 + random.fraction() * 400 : 400 + random.fraction() * 9_000,
      x: random.fraction(),
      y: random.fraction(),
    });
  };
  for (let index = 0; index < count; index += 1)
    add(random.pick(bag), 50 + random.fraction() * spanMs, random.pick(siteNames));
  if (random.chance(0.5)) add("failover", spanMs * (0.2 + 0.75 * random.fraction()), otherSite(home));
  return faults.sort((one, other) => one.atMs - other.atMs);
}

export function describeFault(fault: Fault): string {
  return `${fault.kind}#${fault.id}@${Math.round(fault.atMs)}ms ${fault.site} for ${Math.round(fault.forMs)}ms x=${fault.x.toFixed(3)} y=${fault.y.toFixed(3)}`;
}

/** Paths of one role's files, coarsest first. */
const diskTargets: readonly ((path: string) => boolean)[] = [
  (path) => path.includes("/journal-"),
  (path) => path.includes("/watermark-"),
  (path) => path.includes("/checkpoint"),
  (path) => path.includes("/agent/") && path.includes("/images/"),
  (path) => path.includes("/agent/") && path.includes("state.json"),
  (path) => path.includes("/intake"),
  (path) => path.includes("/intake-watermark"),
  (path) => path.includes("/applied"),
  (path) => path.includes("/gateway/") && path.includes("/images/"),
  (path) => path.includes("/gateway/") && path.includes("state.json"),
  (path) => path.includes("handover") || path.includes("evidence"),
  () => true,
];
const operations: readonly (readonly Operation[])[] = [
  ["syncData", "sync"],
  ["write", "zero"],
  ["syncData", "sync", "write", "zero"],
  ["sync"],
  ["read"],
  ["rename", "create", "remove"],
];

export class FaultRunner {
  /** Fired, by kind; disk faults count when an operation failed. */
  readonly fired = new Map<FaultName, number>();
  crashes = 0;
  powerCuts = 0;
  readonly #scheduler: Scheduler;
  readonly #sites: Sites;
  readonly #operator: Operator;
  readonly #workload: Workload;
  readonly #injected: InjectedFault[] = [];
  #healed = false;

  constructor(scheduler: Scheduler, sites: Sites, operator: Operator, workload: Workload) {
    this.#scheduler = scheduler;
    this.#sites = sites;
    this.#operator = operator;
    this.#workload = workload;
  }

  schedule(faults: readonly Fault[]): void {
    for (const fault of faults) {
      this.#scheduler.at(fault.atMs, "", () => {
        if (this.#healed) return;
        this.#scheduler.trace.add(
          `${Math.round(this.#scheduler.nowMs * 1_000)} == fault ${describeFault(fault)}`,
        );
        this.#fire(fault);
      });
    }
  }

  get diskFaultsFired(): number {
    return this.#injected.reduce((sum, each) => sum + each.fired, 0);
  }

  #count(kind: FaultName): void {
    this.fired.set(kind, (this.fired.get(kind) ?? 0) + 1);
  }

  #restart(site: SiteName, role: RoleName, afterMs: number): void {
    this.#scheduler.at(afterMs, "", () => this.#sites.start(site, role));
  }

  #kill(site: SiteName, role: RoleName, restartMs: number): boolean {
    if (this.#sites.site(site)[role] === undefined) return false;
    this.crashes += 1;
    this.#sites.kill(site, role);
    this.#restart(site, role, restartMs);
    return true;
  }

  #powerCut(site: SiteName, model: PowerCut, restartMs: number, gapMs: number): void {
    this.crashes += 1;
    this.powerCuts += 1;
    this.#sites.powerCut(site, model);
    this.#restart(site, gapMs < 0.5 ? "agent" : "gateway", restartMs);
    this.#restart(site, gapMs < 0.5 ? "gateway" : "agent", restartMs + gapMs * 300);
  }

  #fire(fault: Fault): void {
    const { kind, site, forMs, x, y } = fault;
    const sites = this.#sites;
    switch (kind) {
      case "kill-agent":
        this.#atWorst(site, y < 0.4, false, () => {
          if (this.#kill(site, "agent", forMs * 0.3)) this.#count(kind);
        });
        return;
      case "kill-gateway":
        if (this.#kill(site, "gateway", forMs * 0.3)) this.#count(kind);
        return;
      case "kill-again": {
        // Up to five times more while it recovers.
        const role = x < 0.5 ? "agent" : "gateway";
        if (!this.#kill(site, role, 5)) return;
        this.#count(kind);
        const times = 1 + Math.floor(y * 5);
        for (let index = 1; index <= times; index += 1)
          this.#scheduler.at(5 + index * (2 + (forMs % 37)), "", () => void this.#kill(site, role, 5));
        return;
      }
      case "power-cut":
        this.#atWorst(site, (x * 4) % 1 < 0.6, true, () => {
          this.#powerCut(site, powerModels[Math.floor(x * 4)]!, forMs * 0.5, y);
          this.#count(kind);
        });
        return;
      case "power-both":
        this.#powerCut(site, powerModels[Math.floor(x * 4)]!, forMs * 0.5, y);
        this.#powerCut(otherSite(site), powerModels[Math.floor(x * 16) % 4]!, forMs * y, x);
        this.#count(kind);
        return;
      case "stop-agent":
        if (sites.site(site).agent === undefined || sites.plan.oneProcess) return;
        this.#count(kind);
        sites.stopAgent(site, () => this.#restart(site, "agent", forMs * 0.2));
        return;
      case "pause":
        sites.pause(site, x < 0.5 ? "agent" : "gateway", forMs);
        this.#count(kind);
        return;
      case "disk-error": {
        const target = diskTargets[Math.floor(x * diskTargets.length)]!;
        const among = operations[Math.floor(y * operations.length)]!;
        const fraction = (x * diskTargets.length) % 1;
        const failure =
          fraction < 0.7 || among.includes("read") ? "EIO" : fraction < 0.9 ? "ENOSPC" : "short";
        this.#injected.push(
          sites.site(site).disk.inject({
            match: (path, operation) => target(path) && among.includes(operation),
            fault: failure,
            times: 1 + Math.floor(((y * operations.length) % 1) ** 3 * 12),
            after: Math.floor(forMs % 7),
          }),
        );
        this.#count(kind);
        return;
      }
      case "disk-full": {
        const { disk } = sites.site(site);
        disk.capacityBytes = disk.usedBytes + Math.floor(x * 200_000);
        this.#scheduler.at(forMs, "", () => {
          disk.capacityBytes = 2 ** 40;
        });
        this.#count(kind);
        return;
      }
      case "disk-slow": {
        const { disk } = sites.site(site);
        disk.latencyFactor = 10 + x * 1_000;
        this.#scheduler.at(forMs, "", () => {
          disk.latencyFactor = 1;
        });
        this.#count(kind);
        return;
      }
      case "cut-off":
        for (const each of siteNames) sites.wan.pass(each, x < 0.5 ? "refuse" : "swallow");
        this.#reconnectAfter(forMs * 2);
        this.#count(kind);
        return;
      case "half-open":
        sites.wan.pass(site, "swallow");
        this.#reconnectAfter(forMs * 2);
        this.#count(kind);
        return;
      case "lossy": {
        const { conditions } = sites.wan;
        const before = { ...conditions };
        conditions.lossRate = x * 0.3;
        conditions.duplicateRate = y * 0.3;
        conditions.damageRate = x * y * 0.2;
        conditions.jitterMs = y * 200;
        this.#scheduler.at(forMs * 2, "", () => Object.assign(conditions, before));
        this.#count(kind);
        return;
      }
      case "thin-line": {
        const { conditions } = sites.wan;
        const { bytesPerSecond } = conditions;
        conditions.bytesPerSecond = 20_000 + x * 100_000;
        this.#scheduler.at(forMs, "", () => {
          conditions.bytesPerSecond = bytesPerSecond;
        });
        this.#count(kind);
        return;
      }
      case "clock-jump":
        sites.site(site).wall.offsetMs = (x - 0.5) * 2 * (y < 0.5 ? 3_600_000 : 20 * 365 * 86_400_000);
        this.#count(kind);
        return;
      case "replay":
        if (sites.wan.stored.length === 0) return;
        sites.wan.replayStored(1 + Math.floor(x * 12));
        this.#count(kind);
        return;
      case "failover":
        this.#count(kind);
        this.#failover(fault);
        return;
    }
  }

  /** Now, or right after the next answer of the site, a second later at most. */
  #atWorst(site: SiteName, wait: boolean, durable: boolean, strike: () => void): void {
    if (!wait) {
      strike();
      return;
    }
    let done = false;
    const once = (): void => {
      if (done || this.#healed) return;
      done = true;
      disarm();
      strike();
    };
    const disarm = this.#workload.arm(site, durable, once);
    this.#scheduler.at(1_000, "", once);
  }

  #reconnectAfter(forMs: number): void {
    this.#scheduler.at(forMs, "", () => {
      for (const each of siteNames) this.#sites.wan.pass(each, "open");
    });
  }

  /** Every group of whose standby the site has: with its owner dead, cut off, or alive and well. */
  #failover({ site, forMs, x, y }: Fault): void {
    const old = otherSite(site);
    if (x < 0.35) this.#powerCut(old, powerModels[Math.floor(y * 4)]!, 2_000 + forMs * 2, y);
    else if (x < 0.6) {
      for (const each of siteNames) this.#sites.wan.pass(each, y < 0.5 ? "refuse" : "swallow");
      this.#reconnectAfter(2_000 + forMs * 2);
    }
    for (const group of this.#sites.plan.groups)
      if (group.standby === site) this.#operator.failOver(group.name);
  }

  /** Nothing fails any more; what is down comes back. */
  heal(): void {
    this.#healed = true;
    for (const fault of this.#injected) fault.cancel();
    for (const name of siteNames) {
      const { disk } = this.#sites.site(name);
      disk.capacityBytes = 2 ** 40;
      disk.latencyFactor = 1;
      this.#sites.wan.pass(name, "open");
    }
    Object.assign(this.#sites.wan.conditions, { lossRate: 0, duplicateRate: 0, damageRate: 0, jitterMs: 5 });
    this.#sites.wan.conditions.bytesPerSecond = Math.max(
      this.#sites.wan.conditions.bytesPerSecond,
      1_000_000,
    );
  }
}
