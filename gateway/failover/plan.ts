/**
 * What a failover would do, lose and need, computed from facts; the same checks decide whether it may run. Pure. The
 * loss it states is what was really heard and received, never an estimate of what is likely.
 */
import type { FailoverPlan, LossStatement } from "../../protocol/admin.ts";
import type { Reason } from "../../protocol/status.ts";
import { partedAt } from "../../protocol/table-volume.ts";
import { rfc3339 } from "../../runtime/clock.ts";
import { ownerSilentMs } from "../heard.ts";
import { describeIncomplete, type Incomplete, isOpenable } from "../scan/completeness.ts";
import type { HeardRecord, ReceivedEnd, Seal, StandbyDocument } from "../state.ts";
import type { HeldVolume } from "../volumes/table.ts";
import type { FailoverPhase } from "./machine.ts";
import { isRunning } from "./machine.ts";

export interface PlanFacts {
  readonly group: string;
  readonly site: string;
  readonly oldOwner: string;
  readonly document: StandbyDocument | undefined;
  readonly phase: FailoverPhase;
  /** End of what was received: everything in the intake; undefined while it is not open. */
  readonly end: Seal | undefined;
  /** What is opened where the images cannot be opened at `end`: the last point before it, if there is one. */
  readonly before: Seal | undefined;
  readonly applied: { readonly sequence: number; readonly dataBytesTotal: number } | undefined;
  /** At `end`. */
  readonly incomplete: Incomplete | null;
  /** The table at `end`; of a standby whose intake is closed, as its document has it. */
  readonly table: readonly HeldVolume[];
  /** Why the group is stopped or does not apply. */
  readonly trouble: Reason | null;
  readonly heard: HeardRecord | null;
  /** null: not heard since the gateway started. */
  readonly silenceMs: number | null;
  /** The standby was retired, or is being retired: it is handed over to nobody. */
  readonly retired: boolean;
  /** There is an agent at this site that can take over. */
  readonly agent: boolean;
}

type Check = FailoverPlan["checks"][number];

/** The steps as the operator sees them; `step` of a progress line is one of the ids. */
export const failoverSteps = {
  raise: "fence the old owner: raise the token durably",
  seal: "let the receive lane run empty and seal the history",
  apply: "bring the images to the seal: apply what is missing, or take them back to it",
  record: "write the hand-over record",
  adopt: "let this site's agent take the images into service",
  report: "write the report",
} as const;
export type FailoverStepId = keyof typeof failoverSteps;

/**
 * What is proven to be missing at `point`: by the last contact, and by what was received behind it, gaps included, where
 * the images are taken back.
 */
export function stateLoss(
  heard: HeardRecord | null,
  point: { readonly sequence: number; readonly dataBytesTotal: number },
  received: ReceivedEnd | null,
): LossStatement {
  const answered = Math.max(heard?.answered ?? 0, received?.sequence ?? 0);
  const dataBytesTotal = Math.max(heard?.dataBytesTotal ?? 0, received?.dataBytesTotal ?? 0);
  return {
    known: "unknown",
    since: heard === null ? null : rfc3339(heard.atMs),
    writesMin: Math.max(0, answered - point.sequence),
    bytesMin: Math.max(0, dataBytesTotal - point.dataBytesTotal),
  };
}

export function planFailover(facts: PlanFacts): FailoverPlan {
  const { document } = facts;
  const failover = document?.failover ?? null;
  const epoch = failover?.previous.epoch ?? document?.token.epoch ?? 0;
  const isTakenBack = facts.end !== undefined && !isOpenable(facts.incomplete, facts.end.sequence);
  const end = failover?.seal ?? (isTakenBack ? facts.before : facts.end);
  const received = failover?.seal == null ? (isTakenBack ? (facts.end ?? null) : null) : failover.received;
  const applied = facts.applied ?? { sequence: 0, dataBytesTotal: 0 };
  const origin = { sequence: 0, dataBytesTotal: 0 };
  return {
    group: facts.group,
    epoch,
    nextEpoch: epoch + 1,
    oldOwner: failover?.previous.owner ?? document?.token.owner ?? facts.oldOwner,
    newOwner: facts.site,
    point:
      end === undefined || end.sequence === 0 ? null : { sequence: end.sequence, time: rfc3339(end.timeMs) },
    loss: stateLoss(failover?.heard ?? facts.heard, end ?? origin, received),
    toApply: {
      records: Math.max(0, (end?.sequence ?? 0) - applied.sequence),
      bytes: Math.max(0, (end?.dataBytesTotal ?? 0) - applied.dataBytesTotal),
    },
    leftOut: leftOutAt(facts.table, end),
    steps: Object.values(failoverSteps),
    checks: [
      checkState(facts),
      checkRun(facts),
      checkConsistent(facts, end),
      checkVolumes(facts, end),
      checkOwner(facts),
      checkAgent(facts),
    ],
  };
}

/** Id of the first failed check, which refuses the run; null when it may go. */
export function obstacleOf(plan: FailoverPlan): Check | null {
  return plan.checks.find((check) => check.outcome === "fail") ?? null;
}

const pass = (id: string, message: string): Check => ({ id, outcome: "pass", message });
const warn = (id: string, message: string): Check => ({ id, outcome: "warn", message });
const fail = (id: string, message: string): Check => ({ id, outcome: "fail", message });

function checkState({ document, oldOwner, trouble, retired }: PlanFacts): Check {
  if (retired) return fail("GROUP_RETIRED", "the standby was retired here: it is handed over to nobody");
  if (document === undefined && trouble !== null) return fail(trouble.code, trouble.message);
  if (document === undefined)
    return fail("STANDBY_UNKNOWN", `this site holds no standby; ${oldOwner} has never attached`);
  return pass("STANDBY_UNKNOWN", "this site holds a standby of the group");
}

function checkRun({ phase }: PlanFacts): Check {
  if (phase.name === "done")
    return fail("FAILOVER_DONE", "this site has taken the group over already; see: splitsite status");
  if (isRunning(phase)) return fail("FAILOVER_RUNNING", `a failover is under way: ${phase.name}`);
  if (phase.name !== "interrupted") return pass("FAILOVER_RUNNING", "no failover is under way");
  return warn(
    "FAILOVER_RUNNING",
    `an earlier failover stopped while ${phase.resume} (${phase.code}); running finishes it`,
  );
}

function checkConsistent(facts: PlanFacts, point: Seal | undefined): Check {
  const { document, end, trouble, phase, incomplete } = facts;
  const id = "NOT_CONSISTENT";
  const handedOver =
    document?.failover?.progress === "handed-over" || document?.failover?.progress === "adopted";
  if (handedOver || phase.name === "done") return pass(id, "the images were handed over at the seal");
  if (trouble !== null) return fail(trouble.code, trouble.message);
  if (document?.phase !== "standing" || end === undefined) return fail(id, "the standby is not complete");
  if (incomplete !== null && !isOpenable(incomplete, end.sequence)) {
    const why = describeIncomplete(incomplete, point);
    return point === undefined ? fail(id, why) : pass(id, `${why}; the images are taken back to it`);
  }
  if (end.sequence === 0) return fail(id, "nothing has been received yet: the images are empty");
  return pass(id, `the standby can be opened at sequence ${end.sequence}`);
}

/** Names of the volumes that are not whole at `point`, and so are no part of it. */
export function leftOutAt(
  table: readonly HeldVolume[],
  point: { readonly sequence: number } | undefined,
): string[] {
  if (point === undefined) return [];
  return partedAt(table, point.sequence).partial.map(({ name }) => name);
}

/** What is lost with a volume is the operator's to weigh: it is said, and refuses nothing. */
function checkVolumes({ table }: PlanFacts, point: Seal | undefined): Check {
  const id = "VOLUMES_WHOLE";
  const names = leftOutAt(table, point);
  if (names.length === 0) return pass(id, "every volume of the group is whole there");
  const [first, ...more] = names;
  const what = more.length === 0 ? `volume ${first} is` : `volumes ${names.join(", ")} are`;
  return warn(id, `${what} not whole at sequence ${point?.sequence}, and not handed over`);
}

function checkOwner({ silenceMs, heard, document, oldOwner }: PlanFacts): Check {
  const owner = document?.token.owner ?? oldOwner;
  const id = "OWNER_ALIVE";
  if (document?.failover != null) return pass(id, `${document.failover.previous.owner} is fenced`);
  if (silenceMs !== null && silenceMs < ownerSilentMs) {
    return warn(
      id,
      `${owner} was heard ${Math.round(silenceMs / 1000)} s ago: it may be alive, and is fenced by this run`,
    );
  }
  if (heard === null) return warn(id, `${owner} was never heard: nothing can be said about what is lost`);
  return pass(id, `${owner} was last heard at ${rfc3339(heard.atMs)}`);
}

function checkAgent({ agent, site }: PlanFacts): Check {
  const id = "AGENT_MISSING";
  return agent
    ? pass(id, `the agent of ${site} can take over`)
    : fail(id, `there is no agent at ${site} to serve the images`);
}
