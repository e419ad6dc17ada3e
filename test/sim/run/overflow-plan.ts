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
  readonly workersMax: number;
  readonly requests: number;
  readonly cuts: readonly LongCut[];
}

const volumeBytes = 64 * 1024;
/** Each a chunk, and so a bit of the dirty map. */
const volumeNames = ["data", "wal", "temp", "logs", "home", "mail"];

/**
 * A drop leaves a quarter of the journal free, which must be room for any frame, as it is by far in a real one: three clients'
 * longest writes, and a volume's content.
 */
const workersMax = 3;
const journalBytesMax = 512 * 1024;

/** Undefined: a full journal holds, as it is. */
export function drawOverflow(seed: number, spanMs: number): OverflowPlan | undefined {
  const random = new SeededRandom(seed, 13);
  if (!random.chance(0.25)) return undefined;
  const cuts = Array.from({ length: 1 + random.below(3) }, () => ({
    atMs: spanMs * (0.1 + 0.8 * random.fraction()),
    forMs: spanMs * (0.15 + 0.4 * random.fraction()),
    silent: random.chance(0.4),
  }));
  return { journalBytesMax, workersMax, requests: 250 + random.below(350), cuts };
}

/** The group as it is where its journal overflows. */
export function withOverflow(group: GroupSettings, plan: OverflowPlan | undefined): GroupSettings {
  if (plan === undefined) return group;
  const [first] = group.volumes;
  const volumes = volumeNames.map((name) => ({ ...first!, name, sizeBytes: volumeBytes }));
  return { ...group, volumes, overflow: "track" };
}
