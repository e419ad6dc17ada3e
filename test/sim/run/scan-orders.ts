/**
 * The operator of a run's scans, and the decay of images that they are there to find: orders verify and repair as an
 * operator would, asks again where nobody answers, and turns bits over in a standby's images at rest. What the product says
 * it found is judged by `truth.ts`.
 */
import { errorCode } from "../../../runtime/errors.ts";
import { gatewayGroupPaths } from "../../../runtime/paths.ts";
import { modelSectorBytes } from "../model/history.ts";
import type { Scheduler } from "../world/scheduler.ts";
import type { RotOrder, ScanPlan } from "./scan-plan.ts";
import type { AgentRole, Sites } from "./sites.ts";
import type { Truth } from "./truth.ts";

/** Whoever has ordered looks this often, ms. */
const lookMs = 700;
/** Looks after which an order of the run is given up; those of its end go on. */
const looksMax = 60;

/** `order`: not taken yet. `ordered`: taken, its result is awaited. */
interface Errand {
  readonly group: string;
  readonly repair: boolean;
  readonly persistent: boolean;
  phase: "verify" | "verifying" | "repair" | "repairing";
  /** Newest result when it was ordered. */
  before: string | undefined;
  asked: AgentRole | undefined;
  looks: number;
}

export class ScanOrders {
  readonly counts = { verifies: 0, repairs: 0, flips: 0 };
  readonly #scheduler: Scheduler;
  readonly #sites: Sites;
  readonly #truth: Truth;
  readonly #under = new Set<Errand>();
  #rotEnded = false;

  constructor(scheduler: Scheduler, sites: Sites, truth: Truth) {
    this.#scheduler = scheduler;
    this.#sites = sites;
    this.#truth = truth;
  }

  schedule(plan: ScanPlan): void {
    for (const group of this.#truth.groups.keys()) {
      for (const { atMs, repair } of plan.verifies)
        this.#scheduler.at(atMs, "", () => this.verify(group, repair, false));
      for (const rot of plan.rots) this.#scheduler.at(rot.atMs, "", () => this.#turnOver(group, rot));
    }
  }

  /** No order is under way any more. */
  get idle(): boolean {
    return this.#under.size === 0;
  }

  /** Nothing decays from here on. */
  endRot(): void {
    this.#rotEnded = true;
  }

  /** `persistent`: until there is a result. */
  verify(group: string, repair: boolean, persistent: boolean): void {
    const errand: Errand = {
      ...{ group, repair, persistent },
      phase: "verify",
      before: this.#newest(group),
      asked: undefined,
      looks: 0,
    };
    this.#under.add(errand);
    this.#look(errand);
  }

  #scansOf(group: string) {
    const { home } = this.#truth.group(group);
    return this.#sites.site(home).agent?.groups.get(group)?.scans;
  }

  #newest(group: string): string | undefined {
    const result = this.#scansOf(group)?.results[0];
    return result === undefined ? undefined : `${result.begin} ${result.startedAt}`;
  }

  #look(errand: Errand): void {
    errand.looks += 1;
    if (!errand.persistent && errand.looks > looksMax) {
      this.#under.delete(errand);
      return;
    }
    this.#step(errand);
    if (this.#under.has(errand)) this.#scheduler.at(lookMs, "", () => this.#look(errand));
  }

  #step(errand: Errand): void {
    const { group, phase } = errand;
    const scans = this.#scansOf(group);
    if (
      scans === undefined ||
      this.#sites.ownerStatus(this.#truth.group(group).home, group)?.io !== "serving"
    )
      return;
    const under = scans.status()?.purpose;
    switch (phase) {
      case "verify":
        this.#ask(errand, "verifying", () => scans.verify());
        return;
      case "verifying":
        // An owner that was started a moment ago has not read its results yet.
        if (scans.results.length === 0 && errand.before !== undefined) return;
        if (this.#newest(group) !== errand.before) {
          if (errand.repair && scans.results[0]!.differences.length > 0) errand.phase = "repair";
          else this.#done(errand);
        } else if (under === undefined) errand.phase = "verify";
        return;
      case "repair":
        this.#ask(errand, "repairing", () => scans.repair());
        return;
      case "repairing":
        if (under === undefined) this.#done(errand);
    }
  }

  #done(errand: Errand): void {
    if (errand.phase === "repairing") this.counts.repairs += 1;
    else this.counts.verifies += 1;
    this.#under.delete(errand);
  }

  /** Once for each incarnation of the owner: whoever gets no answer, because it died, asks the next one. */
  #ask(errand: Errand, next: Errand["phase"], order: () => Promise<void>): void {
    const { agent } = this.#sites.site(this.#truth.group(errand.group).home);
    if (errand.asked === agent) return;
    errand.asked = agent;
    this.#trace(`${errand.phase} of ${errand.group} ordered`);
    order().then(
      () => {
        errand.phase = next;
        errand.asked = undefined;
      },
      (error: unknown) => {
        const code = errorCode(error);
        errand.asked = undefined;
        this.#trace(`${errand.phase} of ${errand.group} refused: ${code}`);
        // Ordered before the owner died, perhaps: its result will come.
        if (code === "SCAN_UNDER_WAY" && this.#scansOf(errand.group)?.status()?.purpose === "verify")
          errand.phase = "verifying";
        else if (code === "NOTHING_TO_REPAIR") this.#done(errand);
      },
    );
  }

  /** A bit of a standby's image turns over, where a verify can find it: the standby holds everything, and stands. */
  #turnOver(group: string, { x, y, z }: RotOrder): void {
    const truth = this.#truth.group(group);
    const machine = this.#sites.site(truth.standbySite);
    const status = this.#sites.standbyStatus(truth.standbySite, group);
    if (this.#rotEnded || truth.failoverOrdered || truth.standby.sealed !== undefined) return;
    if (
      status === undefined ||
      status.consistent === null ||
      !this.#truth.isWhole(group, status.position.applied)
    )
      return;
    const volume = Math.floor(x * truth.settings.volumes.length);
    const { name, sizeBytes } = truth.settings.volumes[volume]!;
    const sector = Math.floor(y * (sizeBytes / modelSectorBytes));
    const { history } = this.#truth.homeBook(group);
    // A second flip could undo the first.
    if (truth.rot.excuses(history, volume, sector, history.last)) return;
    const path = gatewayGroupPaths(machine.dataDir, group).image(name);
    machine.disk.flipBit(
      path,
      sector * modelSectorBytes + Math.floor(z * modelSectorBytes),
      Math.floor((z * 4099) % 8),
    );
    this.#trace(`a bit of ${path} turns over, sector ${sector}, applied ${status.position.applied}`);
    this.counts.flips += 1;
    truth.rot.plant({
      volume,
      sector,
      atMs: this.#scheduler.nowMs,
      journalled: history.last,
      applied: status.position.applied,
    });
  }

  #trace(text: string): void {
    this.#scheduler.trace.add(`${Math.round(this.#scheduler.nowMs * 1_000)} == ${text}`);
  }
}
