/**
 * The status of an owned group, from plain facts. Pure: the one place that decides which word an operator reads,
 * so that `protected` is never said of anything that is not (promises 3 and 8).
 */
import type { StandingOrder } from "../../protocol/group-life.ts";
import { orderStatus, pausedReason } from "../../protocol/group-life.ts";
import type { Sequence, Token, VolumeEntry } from "../../protocol/ids.ts";
import type { RetiredStatus } from "../../protocol/retirement.ts";
import type {
  HistoryStatus,
  IoState,
  LinkStatus,
  OwnerStatus,
  ProtectionState,
  Reason,
  VolumeChangeStatus,
} from "../../protocol/status.ts";
import { rfc3339 } from "../../runtime/clock.ts";
import type { Lag } from "../write-path/lag.ts";

/** Behind by more than this with nothing else wrong is `catching-up`, ms. */
const catchingUpAgeMs = 5_000;
/** Something to ship and nothing moved for this long is `at-risk`, ms; below the 15 s of promise 8. */
const noProgressMsMax = 10_000;
const mebibyte = 1024 * 1024;

/** What the group does, apart from the line. */
export type Phase =
  | { readonly kind: "starting" }
  | { readonly kind: "standing-by" }
  | { readonly kind: "waiting"; readonly reason: Reason }
  | { readonly kind: "serving" }
  | { readonly kind: "reopening"; readonly reason: Reason }
  | { readonly kind: "stopped"; readonly reason: Reason }
  | { readonly kind: "fenced"; readonly reason: Reason }
  /** By order, and on the way there. */
  | { readonly kind: "retired"; readonly reason: Reason }
  | { readonly kind: "retiring" }
  | { readonly kind: "closed" };

export interface OwnerFacts {
  readonly group: string;
  readonly lineage: string | null;
  readonly token: Token | null;
  readonly phase: Phase;
  /** Why writes wait although the group serves. */
  readonly hold: Reason | null;
  readonly unflushedMayBeLost: boolean;
  readonly standby: string | null;
  readonly paused: StandingOrder | null;
  readonly retired: RetiredStatus | null;
  /** Replication has stopped for a reason that retrying does not mend. */
  readonly shipStopped: Reason | null;
  readonly attached: boolean;
  /** The standby lacks content that only a scan brings: nothing there can be opened yet. */
  readonly firstSync: boolean;
  readonly scan: OwnerStatus["scan"];
  readonly overflow: OwnerStatus["overflow"];
  /** What was repaired at the standby differs again. */
  readonly mismatch: Reason | null;
  readonly link: LinkStatus;
  readonly durability: "flush" | "write";
  readonly rpo: { readonly ageMs: number | null; readonly bytes: number | null };
  readonly position: OwnerStatus["position"];
  readonly lag: Lag;
  readonly noProgressMs: number;
  readonly journal: { readonly bytes: number; readonly maxBytes: number };
  readonly history: HistoryStatus | null;
  readonly volumeChange: VolumeChangeStatus | null;
  readonly volumes: readonly (VolumeEntry & { readonly wholeFrom: Sequence | null })[];
}

/** How the pair's requests fare. */
function ioOf(facts: OwnerFacts): IoState {
  switch (facts.phase.kind) {
    case "serving":
      return facts.hold === null ? "serving" : "held";
    case "reopening":
      return "held";
    default:
      return "refused";
  }
}

interface Verdict {
  readonly state: ProtectionState;
  readonly reason: Reason | null;
}

function oldestAgeMs({ oldestAtMs }: Lag, nowMs: number): number {
  return oldestAtMs === null ? 0 : nowMs - oldestAtMs;
}

function rpoBreach(facts: OwnerFacts, nowMs: number): boolean {
  const { lag, rpo } = facts;
  return (
    (rpo.ageMs !== null && oldestAgeMs(lag, nowMs) > rpo.ageMs) ||
    (rpo.bytes !== null && lag.bytes > rpo.bytes)
  );
}

function overflowing(
  { state, dirtyChunks }: NonNullable<OwnerFacts["overflow"]>,
  scan: OwnerFacts["scan"],
): readonly [code: string, message: string] {
  if (state === "dropping")
    return [
      "OVERFLOW",
      `the journal was full: until the standby was told and ${dirtyChunks} MiB are compared, a failover opens an older point`,
    ];
  const left =
    scan?.purpose === "resync" ? Math.ceil((scan.totalBytes - scan.doneBytes) / mebibyte) : dirtyChunks;
  return ["RESYNC", `until ${left} of ${dirtyChunks} MiB are compared, a failover opens an older point`];
}

/** The worst truth first. */
function judge(facts: OwnerFacts, breached: boolean, nowMs: number): Verdict {
  const { phase, lag } = facts;
  const say = (state: ProtectionState, code: string, message: string): Verdict => ({
    state,
    reason: { code, message },
  });
  if (phase.kind === "fenced") return { state: "fenced", reason: phase.reason };
  if (phase.kind === "retired") return { state: "retired", reason: phase.reason };
  if (phase.kind === "retiring") return say("stopped", "RETIRING", "the group's life here is being ended");
  if (phase.kind === "stopped" || phase.kind === "waiting") return { state: "stopped", reason: phase.reason };
  if (phase.kind === "starting") return say("stopped", "STARTING", "journal and images are being opened");
  if (phase.kind === "standing-by") return say("stopped", "STANDING_BY", "the other site owns this group");
  if (phase.kind === "closed") return say("stopped", "CLOSED", "the agent is shutting down");
  if (phase.kind === "reopening") return { state: "at-risk", reason: phase.reason };
  // Said by the standby's site, for good: clients are served on, and somebody has to find this group another standby.
  if (facts.shipStopped?.code === "GROUP_RETIRED") return { state: "at-risk", reason: facts.shipStopped };
  if (facts.shipStopped !== null) return { state: "stopped", reason: facts.shipStopped };
  if (facts.standby === null)
    return say("at-risk", "NO_STANDBY", "no standby is attached: this site is the only copy");
  if (facts.hold !== null) return { state: "at-risk", reason: facts.hold };
  if (facts.paused !== null) return { state: "at-risk", reason: pausedReason(facts.paused) };
  if (!facts.link.up) return say("at-risk", "LINK_DOWN", `site ${facts.standby} does not answer`);
  if (!facts.attached)
    return say("catching-up", "ATTACHING", `positions are being compared with site ${facts.standby}`);
  if (facts.firstSync)
    return say(
      "catching-up",
      "FIRST_SYNC",
      "not recoverable yet: the standby is receiving what it lacks for the first time",
    );
  if (facts.overflow !== null) return say("catching-up", ...overflowing(facts.overflow, facts.scan));
  if (facts.unflushedMayBeLost) {
    return say(
      "at-risk",
      "UNFLUSHED_MAY_BE_LOST",
      "after a power loss, TCP exports wait for: group resume --accept-unflushed",
    );
  }
  const partial = facts.volumes.filter(({ wholeFrom }) => wholeFrom === null).map(({ name }) => name);
  if (partial.length > 0)
    return say(
      "catching-up",
      "VOLUME_SYNC",
      `until what ${partial.join(", ")} held is brought to the standby, a failover hands over the other volumes only`,
    );
  if (facts.mismatch !== null) return { state: "at-risk", reason: facts.mismatch };
  if (breached)
    return say("at-risk", "RPO_BREACHED", "the standby is further behind than the group's rpo allows");
  if (lag.writes > 0 && facts.noProgressMs > noProgressMsMax) {
    return say("at-risk", "NO_PROGRESS", "the standby has acknowledged nothing for a while");
  }
  // By the age of what is missing, not by the span of time in which it was written: a writer that rests after a burst
  // is as unprotected as one that goes on. The span counts where the wall clock was set back meanwhile.
  if (Math.max(lag.ageMs, oldestAgeMs(lag, nowMs)) > catchingUpAgeMs)
    return say("catching-up", "BEHIND", "the standby is catching up");
  return { state: "protected", reason: null };
}

/** Everything of the status document but `since`, which the caller remembers. */
export function ownerStatus(facts: OwnerFacts, nowMs: number): Omit<OwnerStatus, "since"> {
  const breached = rpoBreach(facts, nowMs);
  const { state, reason } = judge(facts, breached, nowMs);
  const { writes, bytes, ageMs } = facts.lag;
  return {
    group: facts.group,
    role: "owner",
    lineage: facts.lineage,
    epoch: facts.token?.epoch ?? null,
    state,
    io: ioOf(facts),
    reason,
    level: "async",
    durability: facts.durability,
    position: facts.position,
    lag: { writes, bytes, ageMs, noProgressMs: writes > 0 ? Math.round(facts.noProgressMs) : 0 },
    rpo: { ageMs: facts.rpo.ageMs, bytes: facts.rpo.bytes, breached, delayMs: 0 },
    journal: facts.journal,
    link: facts.link,
    members: [],
    history: facts.history,
    scan: facts.scan,
    overflow: facts.overflow,
    paused: orderStatus(facts.paused),
    retired: facts.retired,
    volumeChange: facts.volumeChange,
    volumes: facts.volumes.map(({ name, sizeBytes, wholeFrom }) => ({ volume: name, sizeBytes, wholeFrom })),
  };
}

/** Remembers since when the same thing has been true. */
export class Since {
  #key = "";
  #sinceMs = 0;

  /** RFC 3339 time since when `key` holds; `changed` once when it is new. */
  observe(key: string, nowMs: number): { readonly since: string; readonly changed: boolean } {
    const changed = key !== this.#key;
    if (changed) {
      this.#key = key;
      this.#sinceMs = nowMs;
    }
    return { since: rfc3339(this.#sinceMs), changed };
  }
}
