/**
 * Counts in which situation of a group the faults of a run struck it. A fault of a machine or of the line strikes every
 * group, so it counts once for each. Looks at the books alone and changes nothing.
 */
import type { Situation } from "../model/situation.ts";
import { situationOf } from "../model/situation.ts";
import type { Scheduler } from "../world/scheduler.ts";
import type { FaultFamily } from "./faults.ts";
import type { GroupTruth, Truth } from "./truth.ts";

export class Struck {
  readonly #counts = new Map<string, number>();
  readonly #scheduler: Scheduler;
  readonly #truth: Truth;

  constructor(scheduler: Scheduler, truth: Truth) {
    this.#scheduler = scheduler;
    this.#truth = truth;
  }

  /** By "family while situation". */
  get counts(): ReadonlyMap<string, number> {
    return this.#counts;
  }

  note(family: FaultFamily): void {
    for (const group of this.#truth.groups.values()) {
      const key = struckKey(family, this.#situationOf(group));
      this.#counts.set(key, (this.#counts.get(key) ?? 0) + 1);
    }
  }

  #situationOf({ settings, standby, received, dirty, failoverOrdered }: GroupTruth): Situation {
    const { history, answeredMax, flyingCount } = this.#truth.homeBook(settings.name);
    const oldest = history.opsBetween(standby.durableMax, answeredMax)[0];
    const isWhole = this.#truth.isWhole(settings.name, standby.durableMax);
    const isNoted = [...dirty.values()].some((chunks) => chunks.length > 0);
    return situationOf({
      takenOver: standby.sealed !== undefined,
      failingOver: failoverOrdered,
      lacksEntries: isNoted || (received.gapCount > 0 && !isWhole),
      lacksBeginning: !isWhole,
      lagMs: oldest === undefined ? undefined : this.#scheduler.nowMs - oldest.answeredAtMs,
      inFlight: flyingCount,
    });
  }
}

export function struckKey(family: FaultFamily, situation: Situation): string {
  return `${family} while ${situation}`;
}
