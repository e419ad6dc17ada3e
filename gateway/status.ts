/**
 * The standby's status document, computed from facts when it is asked for, so that silence grows while nothing moves.
 * Pure. It never says better than what is proven: protection needs an owner heard lately and images that keep up.
 */
import type { StandingOrder } from "../protocol/group-life.ts";
import { orderStatus, pausedReason } from "../protocol/group-life.ts";
import type { RetiredStatus } from "../protocol/retirement.ts";
import type {
  HistoryStatus,
  ProtectionState,
  Reason,
  StandbyStatus,
  VolumeStatus,
} from "../protocol/status.ts";
import { rfc3339 } from "../runtime/clock.ts";
import type { FailoverPhase } from "./failover/machine.ts";
import { ownerSilentMs } from "./heard.ts";
import { retiredCondition } from "./retire.ts";
import { describeIncomplete, type Incomplete, isOpenable } from "./scan/completeness.ts";
import type { HeardRecord, StandbyDocument } from "./state.ts";

export interface StatusFacts {
  readonly group: string;
  readonly owner: string;
  readonly document: StandbyDocument | undefined;
  readonly phase: FailoverPhase;
  /** Why the group as a whole is stopped. */
  readonly trouble: Reason | null;
  readonly heard: HeardRecord | null;
  /** What the owner last said of an order to ship nothing. */
  readonly paused: StandingOrder | null;
  readonly retired: RetiredStatus | null;
  readonly silenceMs: number | null;
  readonly isBehind: boolean;
  /** Undefined while the intake is not open. */
  readonly intake:
    | { readonly received: number; readonly durable: number; readonly bytes: number }
    | undefined;
  readonly intakeBytesMax: number;
  readonly applied: { readonly sequence: number; readonly timeMs: number } | undefined;
  /** The last point before what made the images incomplete, while it can be opened. */
  readonly before: { readonly sequence: number; readonly timeMs: number } | undefined;
  /** null: none is kept, or the images are closed. */
  readonly history: HistoryStatus | null;
  readonly historyBytesMax: number;
  readonly volumes: readonly VolumeStatus[];
}

export interface StandbyCondition {
  readonly state: ProtectionState;
  readonly reason: Reason | null;
}

const seconds = (ms: number): string => `${Math.round(ms / 1000)} s`;

/** State and reason; the first that holds, worst first. */
export function judgeCondition(facts: StatusFacts): StandbyCondition {
  const { document, silenceMs, phase } = facts;
  const progress = document?.failover?.progress;
  const stopped = (code: string, message: string): StandbyCondition => ({
    state: "stopped",
    reason: { code, message },
  });
  const atRisk = (code: string, message: string): StandbyCondition => ({
    state: "at-risk",
    reason: { code, message },
  });
  if (progress === "handed-over" || progress === "adopted") {
    const message = `handed over to the agent of ${document?.token.owner} in epoch ${document?.token.epoch}`;
    return { state: "fenced", reason: { code: "HANDED_OVER", message } };
  }
  if (facts.trouble !== null) return { state: "stopped", reason: facts.trouble };
  if (document?.retired != null)
    return retiredCondition({ ...document, retired: document.retired }, facts.applied?.sequence);
  if (progress !== undefined) {
    if (phase.name !== "interrupted") return stopped("FAILOVER_RUNNING", `failover: ${phase.name}`);
    return stopped(
      "FAILOVER_INTERRUPTED",
      `the failover stopped while ${phase.resume} (${phase.code}); run it again`,
    );
  }
  if (document?.phase !== "standing") return atRisk("NO_STANDBY", `${facts.owner} has not attached yet`);
  if (silenceMs === null)
    return atRisk("OWNER_SILENT", `${facts.owner} was not heard since this gateway started`);
  const incomplete = incompleteNow(facts);
  if (silenceMs >= ownerSilentMs) {
    const what = incomplete === null ? [] : [describeIncomplete(incomplete, facts.before)];
    if (facts.paused !== null) what.unshift(pausedReason(facts.paused).message);
    const isNothing = incomplete !== null && facts.before === undefined;
    const advice = isNothing ? [] : [`if it is lost: splitsite failover plan ${facts.group}`];
    const message = [`${facts.owner} was last heard ${seconds(silenceMs)} ago`, ...what, ...advice].join(
      "; ",
    );
    return atRisk("OWNER_SILENT", message);
  }
  if (facts.paused !== null) {
    const { code, message } = pausedReason(facts.paused);
    const what = incomplete === null ? "" : `; ${describeIncomplete(incomplete, facts.before)}`;
    return atRisk(code, `${message}${what}`);
  }
  if (incomplete !== null) {
    const code = incomplete.purpose === "first-sync" ? "FIRST_SYNC" : "RESYNC";
    return { state: "catching-up", reason: { code, message: describeIncomplete(incomplete, facts.before) } };
  }
  const partial = facts.volumes.filter(({ wholeFrom }) => wholeFrom === null).map(({ volume }) => volume);
  if (partial.length > 0) {
    const message = `the content of ${partial.join(", ")} is still on its way: points leave it out`;
    return { state: "catching-up", reason: { code: "VOLUME_SYNC", message } };
  }
  if (facts.isBehind)
    return {
      state: "catching-up",
      reason: { code: "BEHIND", message: "older writes are still on their way" },
    };
  return { state: "protected", reason: null };
}

/** What keeps the images from being opened as they are applied; null: nothing. */
function incompleteNow({ document, applied }: StatusFacts): Incomplete | null {
  const incomplete = document?.incomplete ?? null;
  return isOpenable(incomplete, applied?.sequence ?? 0) ? null : incomplete;
}

export function describeStandby(
  facts: StatusFacts,
  condition: StandbyCondition,
  sinceMs: number,
): StandbyStatus {
  const { document, intake, applied, heard } = facts;
  const seal = document?.failover?.seal ?? null;
  const position = {
    received: intake?.received ?? seal?.sequence ?? applied?.sequence ?? 0,
    durable: intake?.durable ?? seal?.sequence ?? applied?.sequence ?? 0,
    applied: applied?.sequence ?? 0,
  };
  const isIncomplete = incompleteNow(facts) !== null;
  const nothing = applied === undefined || applied.sequence === 0;
  const point = isIncomplete ? (facts.before ?? null) : nothing ? null : applied;
  return {
    group: facts.group,
    role: "standby",
    lineage: document?.lineage ?? null,
    epoch: document?.token.epoch ?? null,
    owner: document?.token.owner ?? null,
    state: condition.state,
    reason: condition.reason,
    since: rfc3339(sinceMs),
    position,
    consistent: point === null ? null : { sequence: point.sequence, time: rfc3339(point.timeMs) },
    history: (isIncomplete ? null : facts.history) ?? {
      oldest: point?.sequence ?? 0,
      newest: point?.sequence ?? 0,
      points: point === null ? 0 : 1,
      // What is kept for the one point that is left costs space, and may be damaged.
      bytes: facts.history?.bytes ?? 0,
      maxBytes: facts.historyBytesMax,
      oldestTime: point === null ? null : rfc3339(point.timeMs),
      pins: facts.history?.pins ?? [],
      problem: facts.history?.problem ?? null,
      check: facts.history?.check ?? null,
      checking: facts.history?.checking ?? null,
    },
    drills: [],
    intake: { bytes: intake?.bytes ?? 0, maxBytes: facts.intakeBytesMax },
    lastHeard:
      heard === null
        ? null
        : { time: rfc3339(heard.atMs), answered: heard.answered, dataBytesTotal: heard.dataBytesTotal },
    paused: orderStatus(facts.paused),
    retired: facts.retired,
    volumes: facts.volumes,
  };
}
