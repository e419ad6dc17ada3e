/**
 * The operator of a run who adds volumes and grows them: writes the new configuration of one site, then of the other, and
 * tells their daemons as SIGHUP or a restart does. He knows only that the group is there; what becomes of it is judged by
 * `truth.ts`.
 */
import type { GroupSettings } from "../../../runtime/settings/types.ts";
import type { WantedVolume } from "../model/volumes.ts";
import type { Scheduler } from "../world/scheduler.ts";
import type { SiteName, Sites } from "./sites.ts";
import { otherSite, siteNames } from "./sites.ts";
import type { Truth } from "./truth.ts";
import type { Telling, VolumePlan } from "./volume-plan.ts";
import { tableAfter } from "./volume-plan.ts";
import type { Workload } from "./workload.ts";

/** Whether the group was made is looked at again this often, ms. */
const lookMs = 400;
/** What is to grow is waited for so long, and looked at so often, ms: what it held may still be on its way then. */
const patienceMs = 3_000;
const soonMs = 40;
/** Daemons that were stopped for a new file are back after this, ms. */
const restartMs = 15;

export class VolumeOrders {
  readonly #scheduler: Scheduler;
  readonly #sites: Sites;
  readonly #truth: Truth;
  readonly #workload: Workload;
  /** Orders that the first site has got. */
  begun = 0;
  #plan: VolumePlan | undefined;
  /** The newest file that anybody wrote. */
  #table: readonly WantedVolume[] = [];
  #healed = false;

  constructor(scheduler: Scheduler, sites: Sites, truth: Truth, workload: Workload) {
    this.#scheduler = scheduler;
    this.#sites = sites;
    this.#truth = truth;
    this.#workload = workload;
  }

  schedule(plan: VolumePlan): void {
    this.#plan = plan;
    this.#table = this.#truth.volumes(plan.group).wantedAt("a");
    const [first] = plan.orders;
    if (first !== undefined) this.#scheduler.at(first.atMs, "", () => this.#give(0));
  }

  /** Orders come one behind the other: each file is made of the one before. */
  #give(index: number): void {
    const plan = this.#plan!;
    const order = plan.orders[index];
    if (order === undefined || this.#healed) return;
    const { nowMs } = this.#scheduler;
    // A group that is made on the new file has no change to make.
    if (nowMs < order.atMs || this.#truth.homeBook(plan.group).answeredCount === 0) {
      this.#scheduler.at(Math.max(lookMs, order.atMs - nowMs), "", () => this.#give(index));
      return;
    }
    // He who lets grow what has not come about has its image at hand: nobody here has.
    const isThere = ({ name }: WantedVolume): boolean =>
      siteNames.some((site) => this.#sites.served(site, plan.group).some((row) => row.name === name));
    if (!order.grows.every(isThere) && nowMs < order.atMs + patienceMs) {
      this.#scheduler.at(soonMs, "", () => this.#give(index));
      return;
    }
    this.begun += 1;
    const { first, how, otherAfterMs, rushMs } = order;
    const grows = order.grows.filter(isThere);
    const table = tableAfter(this.#table, { ...order, grows });
    this.#table = table;
    this.#tell(first, table, how[first]);
    const other = otherSite(first);
    if (otherAfterMs !== undefined)
      this.#scheduler.at(otherAfterMs, "", () => this.#tell(other, table, how[other]));
    if (rushMs > 0) this.#workload.rush(rushMs);
    this.#give(index + 1);
  }

  #tell(site: SiteName, table: readonly WantedVolume[], how: Telling): void {
    const { group } = this.#plan!;
    // The next order may have overtaken this one: a file that is newer has it all.
    if (this.#healed || bytesOf(this.#truth.volumes(group).wantedAt(site)) >= bytesOf(table)) return;
    this.#write(site, table);
    this.#trace(
      `${how} of ${site} with ${table.map(({ name, sizeBytes }) => `${name} ${sizeBytes}`).join(", ")}`,
    );
    if (how === "reload") this.#sites.reload(site);
    else
      for (const role of ["gateway", "agent"] as const) {
        this.#sites.kill(site, role);
        this.#scheduler.at(restartMs, "", () => this.#sites.start(site, role));
      }
  }

  #write(site: SiteName, table: readonly WantedVolume[]): void {
    const { group } = this.#plan!;
    this.#truth.volumes(group).configured(site, table);
    this.#sites.configure(site, group, (settings) => withTable(settings, table));
  }

  /** Both files say the same from here on, as far as anything was begun. */
  heal(): void {
    this.#healed = true;
    if (this.#plan === undefined) return;
    const volumes = this.#truth.volumes(this.#plan.group);
    for (const site of ["b", "a"] as const) {
      if (bytesOf(volumes.wantedAt(site)) < bytesOf(this.#table)) this.#write(site, this.#table);
      this.#sites.reload(site);
    }
  }

  #trace(text: string): void {
    this.#scheduler.trace.add(`${Math.round(this.#scheduler.nowMs * 1_000)} == ${text}`);
  }
}

/** No table gets smaller, so the one with more is the newer one. */
function bytesOf(table: readonly WantedVolume[]): number {
  return table.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
}

function withTable(settings: GroupSettings, table: readonly WantedVolume[]): GroupSettings {
  return {
    ...settings,
    volumes: table.map((volume) => ({ ...volume, image: null, standbyImage: null })),
  };
}
