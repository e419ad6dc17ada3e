/**
 * What is true of an owned group now, gathered from its parts for those who judge it: its status, and whether it may be
 * retired. Reads only, and judges nothing.
 */
import type { Reason } from "../../protocol/status.ts";
import type { AgentGroupPaths } from "../../runtime/paths.ts";
import type { GroupSettings } from "../../runtime/settings/types.ts";
import type { GroupScans } from "../scan/group-scans.ts";
import type { Engine } from "../write-path/engine.ts";
import { positionAndLag } from "./positions.ts";
import type { RetireFacts } from "./retire.ts";
import { retiredStatus } from "./retire.ts";
import type { Shipping } from "./shipping.ts";
import type { StandbyView } from "./standby-view.ts";
import type { AgentGroupState } from "./state.ts";
import type { OwnerFacts, Phase } from "./status.ts";
import type { VolumeChanges } from "./volume-changes.ts";

export interface OwnerParts {
  readonly site: string;
  readonly settings: GroupSettings;
  readonly paths: AgentGroupPaths;
  readonly journalBytesMax: number;
  readonly phase: Phase;
  /** Why writes wait although the group serves. */
  readonly hold: Reason | null;
  readonly state: AgentGroupState | undefined;
  readonly engine: Engine | null;
  readonly view: StandbyView;
  readonly shipping: Shipping;
  readonly scans: GroupScans;
  readonly changes: VolumeChanges;
}

export function statusFacts(parts: OwnerParts): OwnerFacts {
  const { settings, paths, phase, hold, state, engine, view, scans, changes } = parts;
  const shipping = parts.shipping.status;
  return {
    group: settings.name,
    lineage: state?.lineage ?? null,
    token: state?.token ?? null,
    phase,
    hold,
    unflushedMayBeLost: state?.unflushedMayBeLost ?? false,
    standby: state?.standby ?? null,
    paused: state?.paused ?? null,
    retired: retiredStatus(state, paths),
    shipStopped: shipping?.state === "stopped" || shipping?.state === "waiting" ? shipping.reason : null,
    attached: shipping?.state === "attached",
    firstSync: scans.firstSync,
    scan: scans.status(),
    overflow: view.overflowStatus,
    mismatch: scans.mismatch,
    link: shipping?.link ?? parts.shipping.lineAlone,
    durability: settings.durability,
    rpo: settings.rpo,
    ...positionAndLag({
      state,
      journal: engine && { written: engine.log.tail.sequence, durable: engine.log.durable.sequence },
      shipped: shipping?.shipped,
      held: view.held,
      applied: view.applied,
      lag: view.lag,
    }),
    noProgressMs: view.noProgressMs,
    journal: { bytes: engine?.log.bytes ?? 0, maxBytes: parts.journalBytesMax },
    history: engine?.past?.status ?? null,
    volumeChange: changes.status,
    volumes: state?.volumes ?? [],
  };
}

export function retireFacts(parts: OwnerParts): RetireFacts {
  const { site, settings, paths, phase, state, engine, view, scans } = parts;
  const written = engine?.log.tail.sequence ?? 0;
  const { writes, bytes } = view.lag ?? { writes: 0, bytes: 0 };
  // A scan's records are nobody's loss, but they have to arrive like all others.
  const lacking = { writes: Math.max(writes, written - view.safe), bytes };
  const hasStandby = state?.standby != null;
  return {
    ...{ group: settings.name, state, phase, site, paths, written },
    firstSync: hasStandby && scans.firstSync,
    lacking: hasStandby ? lacking : null,
  };
}
