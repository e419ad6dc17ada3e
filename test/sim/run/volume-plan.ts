/**
 * Volumes that join and grow in a running group, drawn from the seed by itself, so that a seed without them keeps its course:
 * when an operator writes which configuration, at which site first, and how he tells the daemons; what the image of a new volume
 * holds; and what strikes the moment in which it is carried out.
 */
import { agentGroupPaths, gatewayGroupPaths } from "../../../runtime/paths.ts";
import type { GroupSettings } from "../../../runtime/settings/types.ts";
import { SeededRandom } from "../../support/seeded.ts";
import type { HeldRange } from "../model/history.ts";
import type { WantedVolume } from "../model/volumes.ts";
import type { Fault } from "./faults.ts";
import type { SiteName, Sites } from "./sites.ts";
import { otherSite } from "./sites.ts";
import type { Truth } from "./truth.ts";

/** What the image of a new volume holds at its owner; `carried`: and at the standby, with errors. */
export type JoinsWith = "zeroes" | "here" | "carried";

export interface NewVolume extends WantedVolume {
  readonly holds: JoinsWith;
}

/** How a site is told; `restart`: its daemons are killed and started on the new file. */
export type Telling = "reload" | "restart";

export interface VolumeOrder {
  readonly atMs: number;
  readonly joins: readonly NewVolume[];
  /** Bytes more for volumes that are there, by name. */
  readonly grows: readonly WantedVolume[];
  /** The site that is told first, and for how long the other one is not; undefined: not before the end of the run. */
  readonly first: SiteName;
  readonly otherAfterMs: number | undefined;
  readonly how: Readonly<Record<SiteName, Telling>>;
  /** Clients rush when it is told, ms. */
  readonly rushMs: number;
}

export interface VolumePlan {
  readonly group: string;
  readonly orders: readonly VolumeOrder[];
  /** In addition to those of the run. */
  readonly faults: readonly Fault[];
  /** Ranges of new volumes, for each of their images. */
  readonly images: readonly JoiningImage[];
}

export interface JoiningImage extends WantedVolume {
  readonly owner: readonly HeldRange[];
  readonly standby: readonly HeldRange[];
}

const unitBytes = 4096;
const heldRangesMax = 5;
const heldBytesMax = 16 * 1024;
/** A volume stays within one chunk of the dirty map, as those of `overflow-plan.ts`. */
const sizeUnitBytes = 32 * 1024;
const volumesMax = 4;
/** Ids of faults of this plan begin here: those of the run have fewer. */
const firstFault = 100;

/** Undefined: the table stays as it is. */
export function drawVolumes(
  seed: number,
  spanMs: number,
  groups: readonly GroupSettings[],
): VolumePlan | undefined {
  const random = new SeededRandom(seed, 14);
  if (!random.chance(0.25)) return undefined;
  const group = random.chance(0.8) ? groups[0]! : groups.at(-1)!;
  const orders: VolumeOrder[] = [];
  const table = new Map(group.volumes.map(({ name, sizeBytes }) => [name, sizeBytes]));
  const size = (): number => {
    const odd = random.chance(0.2) ? 512 * random.below(8) : 0;
    return sizeUnitBytes * (1 + random.below(4)) + odd;
  };
  for (let left = 1 + random.below(3); left > 0; left -= 1) {
    const what = random.pick(["join", "join", "grow", "grow", "both"] as const);
    const joins: NewVolume[] = [];
    const grows: WantedVolume[] = [];
    if (what !== "join") {
      const names = [...table.keys()];
      const joined = names.slice(group.volumes.length);
      const name = random.pick(joined.length > 0 && random.chance(0.5) ? joined : names);
      const sizeBytes = table.get(name)! + size();
      grows.push({ name, sizeBytes });
    }
    for (let more = what === "grow" ? 0 : random.pick([1, 1, 2]); more > 0; more -= 1) {
      const name = `new${table.size}`;
      const sizeBytes = size();
      joins.push({ name, sizeBytes, holds: random.pick(["zeroes", "zeroes", "here", "carried"] as const) });
      table.set(name, sizeBytes);
      if (table.size - group.volumes.length >= volumesMax) break;
    }
    for (const { name, sizeBytes } of grows) table.set(name, sizeBytes);
    orders.push({
      ...{ atMs: spanMs * (0.05 + 0.8 * random.fraction()), joins, grows },
      first: random.chance(0.6) ? (group.standby as SiteName) : (group.home as SiteName),
      otherAfterMs: random.chance(0.15) ? undefined : random.chance(0.5) ? 5 : random.fraction() * 4_000,
      how: { a: tellingOf(random), b: tellingOf(random) },
      rushMs: random.chance(0.6) ? 1_500 : 0,
    });
    if (table.size - group.volumes.length >= volumesMax) break;
  }
  // In the order in which they were drawn, which is that of the names and sizes.
  const times = orders.map(({ atMs }) => atMs).sort((one, other) => one - other);
  // Some at once behind the one before, while what its volumes held is on its way.
  const timed = orders.map((order, index) => {
    const atMs = index > 0 && random.chance(0.3) ? times[index - 1]! + 10 : times[index]!;
    return { ...order, atMs };
  });
  return {
    ...{ group: group.name, orders: timed },
    faults: drawVolumeFaults(random, timed, group),
    images: drawImages(random, timed, group),
  };
}

function tellingOf(random: SeededRandom): Telling {
  return random.chance(0.8) ? "reload" : "restart";
}

/** Crashes in the midst of a change, and failovers while what a volume held is on its way. */
function drawVolumeFaults(
  random: SeededRandom,
  orders: readonly VolumeOrder[],
  group: GroupSettings,
): Fault[] {
  const faults: Fault[] = [];
  const add = (kind: Fault["kind"], atMs: number, site: SiteName): void => {
    const [forMs, x, y] = [random.fraction() * 800, random.fraction(), random.fraction()];
    faults.push({ id: firstFault + faults.length, kind, atMs, site, forMs, x, y });
  };
  for (const { atMs, joins, otherAfterMs } of orders) {
    const changesAtMs = atMs + (otherAfterMs ?? 0);
    for (const site of ["a", "b"] as const) if (random.chance(0.6)) add("cut-at-change", changesAtMs, site);
    const holdsData = joins.some(({ holds }) => holds !== "zeroes");
    if (random.chance(holdsData ? 0.45 : 0.1))
      add("failover", changesAtMs + random.fraction() ** 3 * 1_500, group.standby as SiteName);
  }
  return faults;
}

function drawImages(
  random: SeededRandom,
  orders: readonly VolumeOrder[],
  group: GroupSettings,
): JoiningImage[] {
  let number = firstNumber;
  let volume = group.volumes.length - 1;
  return orders.flatMap(({ joins }) =>
    joins.map(({ name, sizeBytes, holds }) => {
      volume += 1;
      const range = (): HeldRange => {
        const length = unitBytes * (1 + random.below(heldBytesMax / unitBytes));
        const offset = unitBytes * random.below(Math.floor((sizeBytes - length) / unitBytes) + 1);
        number += 1;
        return { number, volume, offset, length };
      };
      const owner: HeldRange[] = [];
      const standby: HeldRange[] = [];
      if (holds !== "zeroes")
        for (let count = 1 + random.below(heldRangesMax); count > 0; count -= 1) owner.push(range());
      if (holds === "carried")
        for (const one of owner) if (random.chance(0.7)) standby.push(random.chance(0.7) ? one : range());
      return { name, sizeBytes, owner, standby };
    }),
  );
}

/** Stamps of data that joins: far above those of the requests of a run. */
const firstNumber = 1_000_000_000;

/** Lays what new volumes hold where their images will be looked for. Before anything is started. */
export async function prepareVolumes(
  plan: VolumePlan,
  group: GroupSettings,
  seed: number,
  sites: Sites,
  truth: Truth,
): Promise<void> {
  const home = group.home as SiteName;
  const standby = otherSite(home);
  const owned = agentGroupPaths(`/${home}`, group.name);
  const kept = gatewayGroupPaths(`/${standby}`, group.name);
  for (const image of plan.images) {
    const { name, sizeBytes } = image;
    truth.joins(group.name, image.owner);
    if (image.owner.length > 0) await sites.fill(home, seed, owned.image(name), sizeBytes, image.owner);
    if (image.standby.length > 0) await sites.fill(standby, seed, kept.image(name), sizeBytes, image.standby);
  }
}

/** The table behind `order`, from the one before it. */
export function tableAfter(table: readonly WantedVolume[], { joins, grows }: VolumeOrder): WantedVolume[] {
  const grown = table.map(
    ({ name, sizeBytes }) =>
      grows.find((each) => each.name === name && each.sizeBytes > sizeBytes) ?? { name, sizeBytes },
  );
  return [...grown, ...joins.map(({ name, sizeBytes }) => ({ name, sizeBytes }))];
}
