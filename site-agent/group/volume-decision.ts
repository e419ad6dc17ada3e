/**
 * What an owner makes of a configuration that names other volumes, or other sizes, than the table it holds. Pure. A volume
 * is told by its name, for life; it never gets smaller, and never goes away by being left out of a file.
 */
import type { VolumeEntry, VolumeNumber } from "../../protocol/ids.ts";
import type { AgentGroupPaths } from "../../runtime/paths.ts";
import type { GroupSettings } from "../../runtime/settings/types.ts";

/** A volume as the configuration has it at this site. */
export interface WantedVolume {
  readonly name: string;
  readonly sizeBytes: number;
  /** Absolute path for an image that is yet to be taken in; a known volume keeps its own. */
  readonly imagePath: string;
}

/** The volumes of a configuration as `site` has them: with images of its own where the group is at home, else of a standby. */
export function wantedVolumes(
  { home, volumes }: Pick<GroupSettings, "home" | "volumes">,
  site: string,
  paths: Pick<AgentGroupPaths, "image">,
): WantedVolume[] {
  return volumes.map(({ name, sizeBytes, image, standbyImage }) => ({
    name,
    sizeBytes,
    imagePath: (site === home ? image : standbyImage) ?? paths.image(name),
  }));
}

export interface HeldVolume extends VolumeEntry {
  readonly imagePath: string;
}

export interface VolumeStep extends VolumeEntry {
  /** What it had before; null: it is new. */
  readonly fromBytes: number | null;
  readonly imagePath: string;
}

export type VolumeDecision =
  | { readonly kind: "same" }
  /** `steps` in the order of their records; `table`: all volumes as they are to be. */
  | {
      readonly kind: "change";
      readonly steps: readonly VolumeStep[];
      readonly table: readonly VolumeEntry[];
    }
  | { readonly kind: "refused"; readonly code: RefusalCode; readonly volume: string };

export type RefusalCode = "VOLUME_SMALLER" | "VOLUME_REMOVED" | "VOLUME_NOT_HANDED_OVER";

/**
 * `mayAdd`: false where the group was taken over: what the hand-over left out must not come back empty, or half. New volumes
 * get the numbers behind the highest, in the order of the file. Nothing is done of a configuration that is refused.
 */
export function decideVolumes(
  held: readonly HeldVolume[],
  wanted: readonly WantedVolume[],
  mayAdd: boolean,
): VolumeDecision {
  const grown: VolumeStep[] = [];
  for (const volume of held) {
    const { name } = volume;
    const found = wanted.find((each) => each.name === name);
    if (found === undefined) return { kind: "refused", code: "VOLUME_REMOVED", volume: name };
    if (found.sizeBytes < volume.sizeBytes) return { kind: "refused", code: "VOLUME_SMALLER", volume: name };
    if (found.sizeBytes === volume.sizeBytes) continue;
    const { number, imagePath, sizeBytes: fromBytes } = volume;
    grown.push({ number, name, sizeBytes: found.sizeBytes, fromBytes, imagePath });
  }
  const unknown = wanted.filter(({ name }) => !held.some((each) => each.name === name));
  let number: VolumeNumber = held.reduce((highest, volume) => Math.max(highest, volume.number), -1);
  const added = (mayAdd ? unknown : []).map(({ name, sizeBytes, imagePath }): VolumeStep => {
    number += 1;
    return { number, name, sizeBytes, fromBytes: null, imagePath };
  });
  const steps = [...grown, ...added];
  if (steps.length > 0) return { kind: "change", steps, table: tableAfter(held, steps) };
  const left = unknown[0];
  return left === undefined
    ? { kind: "same" }
    : { kind: "refused", code: "VOLUME_NOT_HANDED_OVER", volume: left.name };
}

function tableAfter(held: readonly VolumeEntry[], steps: readonly VolumeStep[]): VolumeEntry[] {
  const rows = new Map<VolumeNumber, VolumeEntry>();
  for (const { number, name, sizeBytes } of [...held, ...steps])
    rows.set(number, { number, name, sizeBytes });
  return [...rows.values()];
}
