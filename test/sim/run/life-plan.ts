/**
 * Pauses of a run and the end of its groups, drawn from the seed by themselves, so that a seed without them keeps its course.
 */
import { SeededRandom } from "../../support/seeded.ts";
import type { PowerCut } from "../world/tree.ts";
import { powerModels } from "./faults.ts";

export interface PauseOrder {
  readonly atMs: number;
  /** Until the order to go on; undefined: not before the end of the faults. */
  readonly forMs: number | undefined;
}

/** A crash in the midst of an order to retire. */
export interface RetireCrash {
  /** Steps of the site's disk that are let through. */
  readonly after: number;
  readonly when: "before" | "after";
  readonly how: PowerCut | "kill";
}

export interface RetirePlan {
  /** The usual order is the owner first. */
  readonly first: "owner" | "standby";
  /** What the owner may not give up without the standby's word is tried before. */
  readonly early: boolean;
  readonly force: boolean;
  readonly owner: RetireCrash | undefined;
  readonly standby: RetireCrash | undefined;
}

/** None: nobody pauses. */
export function drawPauses(seed: number, spanMs: number): PauseOrder[] {
  const random = new SeededRandom(seed, 15);
  if (!random.chance(1 / 6)) return [];
  let atMs = spanMs * (0.05 + 0.4 * random.fraction());
  const pauses: PauseOrder[] = [];
  for (let left = 1 + random.below(2); left > 0; left -= 1) {
    const forMs = random.chance(0.2) ? undefined : spanMs * (0.03 + 0.2 * random.fraction());
    pauses.push({ atMs, forMs });
    if (forMs === undefined) break;
    atMs += forMs + spanMs * (0.05 + 0.3 * random.fraction());
  }
  return pauses;
}

/** Undefined: the groups live on. */
export function drawRetire(seed: number): RetirePlan | undefined {
  const random = new SeededRandom(seed, 16);
  if (!random.chance(0.1)) return undefined;
  const crash = (steps: number): RetireCrash | undefined => {
    const isDrawn = random.chance(0.6);
    const after = Math.floor(random.fraction() ** 2 * steps);
    const when = random.pick(["before", "after"] as const);
    const how = random.pick(["kill", "kill", ...powerModels] as const);
    return isDrawn ? { after, when, how } : undefined;
  };
  return {
    first: random.chance(0.7) ? "owner" : "standby",
    early: random.chance(0.6),
    force: random.chance(0.3),
    owner: crash(80),
    standby: crash(30),
  };
}
