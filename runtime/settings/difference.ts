/**
 * What of a configuration that was read again a running daemon cannot take: pure. Only volumes of known groups can grow or
 * join while it runs; everything else that differs is named by its key, as it stands in the file.
 */
import { describeSettings } from "./describe.ts";
import type { Settings } from "./types.ts";

/** Keys that differ and need a restart, in the order of the file; `before` is what the daemon was started with. */
export function keysForRestart(before: Settings, after: Settings): string[] {
  const keys: string[] = [];
  compare(describeSettings(before), describeSettings(after), [], keys);
  return keys;
}

function compare(before: unknown, after: unknown, path: readonly string[], keys: string[]): void {
  if (isLive(path)) return;
  if (!isFields(before) || !isFields(after)) {
    if (JSON.stringify(before) !== JSON.stringify(after)) keys.push(path.join("."));
    return;
  }
  for (const key of new Set([...Object.keys(before), ...Object.keys(after)])) {
    // A volume that is new, or gone, is the group's to judge: it takes the one and refuses the other.
    if (isVolumes(path) && !(key in before && key in after)) continue;
    compare(before[key], after[key], [...path, key], keys);
  }
}

/** `groups.NAME.volumes` */
function isVolumes(path: readonly string[]): boolean {
  return path.length === 3 && path[0] === "groups" && path[2] === "volumes";
}

/** `groups.NAME.volumes.VOLUME.size` */
function isLive(path: readonly string[]): boolean {
  return path.length === 5 && isVolumes(path.slice(0, 3)) && path[4] === "size";
}

function isFields(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
