/**
 * What opening a history does before anyone uses it: joins the sets to what the images hold, cuts what is torn, gives
 * up by name what does not join, and makes index rows anew where they are missing. Never captures.
 */
import type { LineageBytes, Sequence } from "../../protocol/ids.ts";
import type { Disk } from "../../runtime/disk.ts";
import { OperationalError } from "../../runtime/errors.ts";
import type { Log } from "../../runtime/log.ts";
import type { OpenOrderedStore } from "../../runtime/ordered-store.ts";
import type { AppliedPosition } from "../marker.ts";
import type { BlockIndex } from "./block-index.ts";
import { joinSets } from "./join.ts";
import type { Pins } from "./pins.ts";
import { Segments } from "./segments.ts";

export interface HistoryOptions {
  readonly disk: Disk;
  /** Made when it is not there; the folder above it lasts. */
  readonly directory: string;
  readonly lineage: LineageBytes;
  /** What the images' marker says. */
  readonly applied: AppliedPosition;
  /** The images may hold records up to here in part, whoever wrote them: no beginning is set before it. */
  readonly mayHold: Sequence;
  readonly openIndex: OpenOrderedStore;
  readonly windowMs: number;
  /** False while no position of the images can be opened: nothing they hold is captured then. Default true. */
  readonly isWorthKeeping?: (() => boolean) | undefined;
  readonly bytesMax: number;
  readonly log: Log;
  readonly segmentBytes?: number;
}

export interface OpenedSets {
  /** Undefined when nothing can be kept. */
  readonly segments: Segments | undefined;
  readonly captured: AppliedPosition | undefined;
  readonly damage: OperationalError | undefined;
}

export async function openJoined(
  options: HistoryOptions,
  pins: Pins,
  index: BlockIndex,
  directory: string,
): Promise<OpenedSets> {
  const { disk, applied, log, lineage, segmentBytes } = options;
  let damage: OperationalError | undefined;
  const nothing = (error: OperationalError): OpenedSets => {
    log.error("HISTORY_DAMAGED", "the history is given up; images and newest point are not touched", error);
    return { segments: undefined, captured: undefined, damage: error };
  };
  let segments: Segments;
  try {
    segments = await Segments.open(segmentsOptions(disk, directory, lineage, segmentBytes));
  } catch (error) {
    if (error instanceof OperationalError && error.code === "HISTORY_DAMAGED") return nothing(error);
    throw error;
  }
  for (;;) {
    const begin = pins.begin!;
    const settled = await index.settledThrough();
    if (settled === undefined) await index.clear();
    const joined = await joinSets({ segments, begin, settled, syncedThrough: applied.sequence });
    const captured = joined.newest ?? begin;
    const [lost] = await index.points(captured.sequence, 1);
    const joinsNowhere = joined.isBroken && joined.joinsFrom === undefined;
    const reached = Math.max(begin.sequence, applied.sequence);
    if (lost !== undefined || joinsNowhere || captured.sequence < reached) {
      const all = await index.points(captured.sequence, pointsLookedAt);
      const upTo = all.at(-1)?.sequence ?? captured.sequence;
      await segments.close();
      return nothing(damaged(`sets behind ${captured.sequence} are lost`, Math.max(upTo, captured.sequence)));
    }
    if (joined.isBroken) {
      const { damagedBefore } = joined;
      const joinsFrom = joined.joinsFrom!;
      damage = damaged(`before-images before ${joinsFrom.sequence} do not join`);
      log.error("HISTORY_DAMAGED", "older points are given up", damage, { sequence: joinsFrom.sequence });
      // Durable before rows and segments go: a crash leaves what the next open removes.
      await pins.setBegin(joinsFrom);
      await index.clear();
      await index.settle(0);
      while (segments.list.length > 1 && segments.list[1]!.from - 1 <= joinsFrom.sequence) {
        await segments.removeOldest();
      }
      if (damagedBefore !== undefined) await segments.cutBefore(damagedBefore);
      continue;
    }
    if (joined.isTorn || captured.sequence > applied.sequence) {
      const first = segments.list[0];
      // What is left is on the disk, even where an earlier sync failed that nobody was told of.
      if (joined.end !== undefined) await segments.cut(joined.end);
      else if (first !== undefined) await segments.cut({ segment: first.number, offset: 0 });
    }
    // Only now is every set certain to be on the disk: a row that outlived its set would be taken for damage.
    await joinSets({
      segments,
      begin,
      settled,
      syncedThrough: Number.POSITIVE_INFINITY,
      onSet: async (chunks) => {
        await index.add(chunks.filter(({ head }) => head.position.sequence > (settled ?? 0)));
      },
    });
    if (settled === undefined) await index.settle(captured.sequence);
    while (segments.list.length > 1 && segments.list[1]!.from - 1 <= begin.sequence) {
      await removeOldest(segments, index, captured.sequence);
    }
    return { segments, captured, damage };
  }
}

/** Points of lost sets looked at to learn how far the images may have got: an owner checkpoints far more often. */
const pointsLookedAt = 100_000;

/** Takes back the rows of the oldest segment, then the segment: a row never names one that is gone. */
export async function removeOldest(segments: Segments, index: BlockIndex, through: Sequence): Promise<void> {
  for await (const chunk of segments.walk(segments.list[0]!.number)) await index.remove(chunk);
  await index.settle(through);
  await segments.removeOldest();
}

export async function clearAll(disk: Disk, directory: string, index: BlockIndex): Promise<void> {
  await index.clear();
  // Settled before any new set: old rows that came back would answer for it.
  await index.settle(0);
  await Segments.removeAll(disk, directory);
}

export function segmentsOptions(
  disk: Disk,
  directory: string,
  lineage: LineageBytes,
  segmentBytes: number | undefined,
) {
  return { disk, directory, lineage, ...(segmentBytes === undefined ? {} : { segmentBytes }) };
}

export function damaged(message: string, upTo?: Sequence): OperationalError {
  return new OperationalError({
    code: "HISTORY_DAMAGED",
    message: `history: ${message}`,
    reaction: "reopen",
    hint: "Points that need it cannot be opened any more; images and newest point are not touched.",
    details: upTo === undefined ? {} : { upTo },
  });
}

export function damagedUpTo(damage: OperationalError | undefined): Sequence {
  const upTo = damage?.details["upTo"];
  return typeof upTo === "number" ? upTo : 0;
}
