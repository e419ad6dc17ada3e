/**
 * Opens what an owned group is served from: journal and images, what was dropped of the journal, what the standby lacks of it,
 * and the engine on all that. Decides nothing about when; whoever opens it starts it. Must never be called while another
 * engine of the group is open.
 */
import { Past } from "../../image/past.ts";
import type { Sequence, VolumeNumber } from "../../protocol/ids.ts";
import { isOutside } from "../../protocol/stretch.ts";
import { isWholeAt } from "../../protocol/table-volume.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Log } from "../../runtime/log.ts";
import type { GroupSettings } from "../../runtime/settings/types.ts";
import { Overflow } from "../overflow/overflow.ts";
import type { GroupScans } from "../scan/group-scans.ts";
import type { EngineListener } from "../write-path/engine.ts";
import { Engine } from "../write-path/engine.ts";
import type { LagTrail } from "../write-path/lag.ts";
import type { FilesSettings, OpenFiles } from "./files.ts";
import { lineageBytes, openFiles } from "./files.ts";
import type { KeptState } from "./kept-state.ts";
import { lagTrailOf } from "./lag-trail.ts";
import { mayHaveLostUnflushed } from "./power-loss.ts";
import type { Requests } from "./requests.ts";
import type { StandbyView } from "./standby-view.ts";
import type { AgentGroupState } from "./state.ts";
import type { VolumeChanges } from "./volume-changes.ts";

export interface EngineGround {
  readonly settings: GroupSettings;
  readonly files: FilesSettings;
  readonly unappliedBytesMax: number;
  readonly clock: Clock;
  readonly log: Log;
  readonly kept: KeptState;
  readonly view: StandbyView;
  readonly requests: Requests;
  readonly scans: GroupScans;
  readonly changes: VolumeChanges;
  /** See `OverflowWorld`. */
  readonly gapEnds: Sequence[];
}

export interface OpenEngine {
  /** With the table that the journal led to. */
  readonly state: AgentGroupState;
  readonly engine: Engine;
  readonly overflow: Overflow;
  /** What of the journal the standby lacks. */
  readonly trail: LagTrail;
}

/** Errors of the files and of the journal's notes; nothing is left open then. `listener` hears of the engine made here alone. */
export async function openEngine(ground: EngineGround, listener: EngineListener): Promise<OpenEngine> {
  const { settings, files, kept, view, scans, changes, log } = ground;
  if (kept.now === undefined) throw new TypeError("opened without a state");
  const opened = await openFiles(kept.now, files, {
    settle: (found, journal) => changes.settle(found, journal),
    configuredBytes: (name) => changes.configuredBytes(name),
  });
  const { state, log: journal, recovery } = opened;
  if (mayHaveLostUnflushed(recovery, settings.durability, state, files.bootId)) {
    log.warn("UNFLUSHED_MAY_BE_LOST", "the host lost power: writes answered but not flushed may be gone");
    await kept.save({ ...state, unflushedMayBeLost: true });
  }
  view.journalBegins(journal.floor.sequence);
  const overflow = await Overflow.open({
    journal,
    journalBytesMax: files.journalBytesMax,
    acknowledged: () => view.acknowledged,
    gapEnds: ground.gapEnds,
    dropping: () => scans.dropping(),
    dropped: () => scans.dropped(),
    log,
  });
  const trail = await lagTrailOf(journal, overflow.note, state.origin.timeMs);
  return { state, overflow, trail, engine: engineOn(opened, overflow, ground, listener) };
}

function engineOn(
  { state, log: journal, image }: OpenFiles,
  overflow: Overflow,
  { settings, unappliedBytesMax, clock, log, kept, view, requests, changes }: EngineGround,
  listener: EngineListener,
): Engine {
  const isWhole = (volume: VolumeNumber, sequence: Sequence): boolean =>
    state.volumes.some((row) => row.number === volume && isWholeAt(row, sequence));
  const isBetween = (sequence: Sequence): boolean => isOutside(state.between, sequence);
  return new Engine({
    log: journal,
    image,
    past:
      image.history === undefined
        ? undefined
        : new Past(image, settings.history, clock, log, isBetween, isWhole),
    lineage: lineageBytes(state),
    pending: requests.pending,
    gate: requests.gate,
    clock,
    durability: settings.durability,
    unappliedBytesMax,
    releasedByStandby: () =>
      Math.min(kept.now?.standby === null ? Number.POSITIVE_INFINITY : view.acknowledged, changes.keepBehind),
    dropBehind:
      settings.overflow === "track" && state.standby !== null
        ? (checkpoint, freed) => overflow.dropBehind(Math.min(checkpoint, changes.dropBehind), freed)
        : null,
    listener,
  });
}
