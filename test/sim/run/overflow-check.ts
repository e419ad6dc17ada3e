/**
 * Holds what an owner does with a full journal against the model: what it drops is marked, and nobody waits for the standby
 * (docs/overflow.md). It never influences a run.
 */
import type { OwnerStatus } from "../../../protocol/status.ts";
import type { OwnerBook } from "../model/owner-book.ts";
import { require } from "../model/violation.ts";
import type { GroupTruth } from "./truth.ts";

/** What a bit of the dirty map stands for. */
const chunkBytes = 1024 * 1024;
/** A full journal that drops may let writes wait for a checkpoint, and no longer, ms. */
const fullMsMax = 10_000;

/** What the journal has dropped and the standby does not hold is in the dirty map, whatever crashed (OV1, OV3). */
export function judgeDirty(truth: GroupTruth, { history, name }: OwnerBook): void {
  const { head, dirty, received, standby } = truth;
  // One that lost everything has said less than its owner heard.
  if (standby.believedMax > 0 || truth.settings.overflow !== "track") return;
  const missing = [
    ...received.lacking(history, standby.appliedMax),
    { first: standby.durableMax + 1, last: head },
  ];
  const chunks = new Set([...dirty.values()].flat());
  for (const { first, last } of missing) {
    for (const { volume, offset, length, sequence } of history.opsBetween(first - 1, last)) {
      const end = Math.floor((offset + length - 1) / chunkBytes);
      for (let chunk = Math.floor(offset / chunkBytes); chunk <= end; chunk += 1)
        require("I2", chunks.has(`${volume} ${chunk}`), () =>
          `${name} has dropped write ${sequence}, which the standby lacks, and chunk ${chunk} of volume ${volume} is not marked`);
    }
  }
}

/** A journal of the owner at home that notes what it drops lets nobody wait for the standby. */
export function judgeFull(truth: GroupTruth, status: OwnerStatus, diskIsWell: boolean, nowMs: number): void {
  const { settings, home } = truth;
  if (settings.overflow !== "track") return;
  const isFull = status.io === "held" && status.reason?.code === "JOURNAL_FULL";
  if (isFull && diskIsWell) truth.fullSinceMs ??= nowMs;
  else truth.fullSinceMs = undefined;
  require("I8", nowMs - (truth.fullSinceMs ?? nowMs) <= fullMsMax, () =>
    `writes of ${settings.name} at ${home} wait since ${truth.fullSinceMs} because the journal is full`);
}
