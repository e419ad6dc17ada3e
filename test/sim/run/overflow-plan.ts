/**
 * Runs in which the journal overflows, drawn by themselves so that a seed keeps its faults: a journal that is soon full and
 * notes what it drops, and a line that is cut for long while clients rush.
 */
import type { GroupSettings } from "../../../runtime/settings/types.ts";
import { SeededRandom } from "../../support/seeded.ts";

export interface LongCut {
  readonly atMs: number;
  readonly forMs: number;
  /** Nobody says that there is no line. */
  readonly silent: boolean;
}

export interface OverflowPlan {
  readonly journalBytesMax: number;
  readonly requests: number;
  readonly cuts: readonly LongCut[];
}

const volumeBytes = 64 * 1024;
/** Each a chunk, and so a bit of the dirty map. */
const volumeNames = ["data", "wal", "temp", "logs", "home", "mail"];

/** Undefined: a full journal holds, as it is. */
export function drawOverflow(seed: number, spanMs: number): OverflowPlan | undefined {
  const random = new SeededRandom(seed, 13);
  if (!random.chance(0.25)) return undefined;
  const cuts = Array.from({ length: 1 + random.below(3) }, () => ({
    atMs: spanMs * (0.1 + 0.8 * random.fraction()),
    forMs: spanMs * (0.15 + 0.4 * random.fraction()),
    silent: random.chance(0.4),
  }));
  return { journalBytesMax: random.pick([128, 192, 256]) * 1024, requests: 150 + random.below(250), cuts };
}

/** The group as it is where its journal overflows. */
export function withOverflow(group: GroupSettings, plan: OverflowPlan | undefined): GroupSettings {
  if (plan === undefined) return group;
  const [first] = group.volumes;
  const volumes = volumeNames.map((name) => ({ ...first!, name, sizeBytes: volumeBytes }));
  return { ...group, volumes, overflow: "track" };
}
