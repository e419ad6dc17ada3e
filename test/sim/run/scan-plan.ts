/**
 * What a run has to do with scans, drawn from the seed by itself, so that a seed keeps its faults: what the disks held
 * before the group was made, when verify and repair are ordered, and which bits of a standby's images turn over at rest.
 */
import type { GroupSettings, ScanSettings } from "../../../runtime/settings/types.ts";
import { SeededRandom } from "../../support/seeded.ts";
import type { HeldRange } from "../model/history.ts";

/** `zeroes`: nothing. `here`: data at the owner only. `carried`: data that was also brought to the standby, with errors. */
export type HeldBefore = "zeroes" | "here" | "carried";

export interface VerifyOrder {
  readonly atMs: number;
  /** Then repair what it found. */
  readonly repair: boolean;
}

export interface RotOrder {
  readonly atMs: number;
  /** Uniform in [0, 1): which volume, sector and bit. */
  readonly x: number;
  readonly y: number;
  readonly z: number;
}

export interface ScanPlan {
  readonly held: HeldBefore;
  readonly scan: ScanSettings;
  /** Data of the first volume is longer than one chunk. */
  readonly longVolume: boolean;
  readonly verifies: readonly VerifyOrder[];
  readonly rots: readonly RotOrder[];
}

const chunkBytes = 1024 * 1024;
const unitBytes = 4096;
/** Ranges of data before the first write, a volume. */
const heldRangesMax = 6;
const heldBytesMax = 32 * 1024;

/** Undefined: a run without scans. */
export function drawScans(seed: number, spanMs: number): ScanPlan | undefined {
  const random = new SeededRandom(seed, 10);
  if (!random.chance(0.4)) return undefined;
  const held = random.pick(["zeroes", "zeroes", "here", "carried"] as const);
  const times = (count: number, first: number): number[] =>
    Array.from({ length: count }, () => spanMs * (first + (1 - first) * random.fraction()));
  return {
    held,
    longVolume: random.chance(0.15),
    scan: {
      bytesPerSecond: random.pick([null, null, 400_000, 100_000]),
      verifyCron: null,
      onMismatch: "report",
    },
    verifies: times(random.below(4), 0.1).map((atMs) => ({ atMs, repair: random.chance(0.5) })),
    rots: random.chance(0.6)
      ? times(1 + random.below(5), 0.15).map((atMs) => ({
          atMs,
          x: random.fraction(),
          y: random.fraction(),
          z: random.fraction(),
        }))
      : [],
  };
}

/** The group as it is with scans. */
export function withScans(group: GroupSettings, plan: ScanPlan | undefined): GroupSettings {
  if (plan === undefined) return group;
  const volumes = group.volumes.map((volume, index) =>
    plan.longVolume && index === 0 ? { ...volume, sizeBytes: chunkBytes + volume.sizeBytes } : volume,
  );
  return { ...group, volumes, scan: plan.scan };
}

/** Content of both sites' images before the group is made. */
export interface HeldImages {
  readonly owner: readonly HeldRange[];
  readonly standby: readonly HeldRange[];
}

/** `number`: unique in the run for each call. */
export function drawHeld(
  seed: number,
  plan: ScanPlan,
  volumeBytes: readonly number[],
  number: () => number,
): HeldImages {
  const random = new SeededRandom(seed, 12);
  const owner: HeldRange[] = [];
  const standby: HeldRange[] = [];
  if (plan.held === "zeroes") return { owner, standby };
  for (const [volume, bytes] of volumeBytes.entries()) {
    const range = (): HeldRange => {
      const length = unitBytes * (1 + random.below(heldBytesMax / unitBytes));
      const offset = unitBytes * random.below((bytes - length) / unitBytes + 1);
      return { number: number(), volume, offset, length };
    };
    for (let count = 1 + random.below(heldRangesMax); count > 0; count -= 1) {
      const one = range();
      owner.push(one);
      if (plan.held !== "carried") continue;
      // Mostly as it was; some of it never arrived, some is of another day, and some is where nothing should be.
      const draw = random.fraction();
      if (draw < 0.6) standby.push(one);
      else if (draw < 0.8) standby.push({ ...one, number: number() });
      if (random.chance(0.2)) standby.push(range());
    }
  }
  return { owner, standby };
}
