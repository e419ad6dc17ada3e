/**
 * What goes wrong in a run, drawn from the seed before it begins. Swarm style: each run knows only some kinds of fault,
 * so that rare combinations meet long stretches without the others. A fault is a plain value with its own draws in it:
 * leaving one out does not change the others, which is what shrinking needs. `fault-runner.ts` carries them out.
 */
import type { SeededRandom } from "../../support/seeded.ts";
import type { PowerCut } from "../world/tree.ts";
import type { SiteName } from "./sites.ts";
import { otherSite, siteNames } from "./sites.ts";

export const faultKinds = [
  "kill-agent",
  "kill-gateway",
  "kill-again",
  "power-cut",
  "power-both",
  "cut-at-step",
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
  "decay",
  "cut-at-change",
] as const;
export type FaultName = (typeof faultKinds)[number];

/** What fails: a process or a machine, what stores, what carries, what tells the time; or people have a standby take over. */
export const faultFamilies = [
  "crashes and power",
  "disks",
  "line",
  "pauses and clocks",
  "failovers",
] as const;
export type FaultFamily = (typeof faultFamilies)[number];

export const familyOf: Readonly<Record<FaultName, FaultFamily>> = {
  "kill-agent": "crashes and power",
  "kill-gateway": "crashes and power",
  "kill-again": "crashes and power",
  "power-cut": "crashes and power",
  "power-both": "crashes and power",
  "cut-at-step": "crashes and power",
  "cut-at-change": "crashes and power",
  "stop-agent": "crashes and power",
  "disk-error": "disks",
  "disk-full": "disks",
  "disk-slow": "disks",
  decay: "disks",
  "cut-off": "line",
  "half-open": "line",
  lossy: "line",
  "thin-line": "line",
  replay: "line",
  pause: "pauses and clocks",
  "clock-jump": "pauses and clocks",
  failover: "failovers",
};

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

export const powerModels: readonly PowerCut[] = ["everything", "nothing", "subset", "torn"];

/** How often a kind is drawn when it is known; crashes most of all. */
const weights: Readonly<Record<FaultName, number>> = {
  "kill-agent": 4,
  "kill-gateway": 4,
  "kill-again": 2,
  "power-cut": 4,
  "power-both": 2,
  "cut-at-step": 7,
  "stop-agent": 1,
  pause: 2,
  "disk-error": 6,
  "disk-full": 1,
  "disk-slow": 1,
  "cut-off": 2,
  "half-open": 2,
  lossy: 2,
  "thin-line": 1,
  "clock-jump": 1,
  replay: 2,
  failover: 0,
  decay: 0,
  "cut-at-change": 0,
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
  if (random.chance(0.6)) add("failover", spanMs * (0.2 + 0.75 * random.fraction()), otherSite(home));
  // Late, since it may end the group's life.
  if (random.chance(0.25)) add("decay", spanMs * (0.6 + 0.4 * random.fraction()), home);
  return faults.sort((one, other) => one.atMs - other.atMs);
}

/** Another uniform draw out of `x`, one for each `index`. */
export function again(x: number, index: number): number {
  return (x * (97 + 31 * index)) % 1;
}

export function pickBy<T>(items: readonly T[], draw: number): T {
  return items[Math.floor(draw * items.length)]!;
}

export function describeFault(fault: Fault): string {
  return `${fault.kind}#${fault.id}@${Math.round(fault.atMs)}ms ${fault.site} for ${Math.round(fault.forMs)}ms x=${fault.x.toFixed(3)} y=${fault.y.toFixed(3)}`;
}
