/**
 * Which orders about a group's life an agent takes, and why not. Pure: what is refused here has changed nothing. States and
 * refusals: docs/group-life.md.
 */
import type { Reason } from "../../protocol/status.ts";
import { OperationalError } from "../../runtime/errors.ts";
import type { AgentGroupState } from "./state.ts";
import type { Phase } from "./status.ts";

export interface OrderFacts {
  readonly group: string;
  /** Undefined: this site has no document of the group. */
  readonly state: AgentGroupState | undefined;
  readonly phase: Phase;
}

/** What `resume` has to change; both false: nothing stands, and nothing is done. */
export interface Resumption {
  readonly unpause: boolean;
  readonly acceptUnflushed: boolean;
}

/** The state of a group that this site owns. OperationalErrors (`refuse`) `NOT_OWNER`, `SUPERSEDED`, `GROUP_RETIRED`. */
export function ownedState({ group, state, phase }: OrderFacts): AgentGroupState {
  if (phase.kind === "fenced" || phase.kind === "retired")
    throw refusal(phase.reason, "See: splitsite status.");
  if (state?.role === "owner") return state;
  throw refusal(
    { code: "NOT_OWNER", message: `this site does not own group ${group}` },
    "Give the order at the site that owns the group; see: splitsite status.",
  );
}

/** The state of a group that may be paused. Besides those of `ownedState`: `NOT_SERVING`, `NO_STANDBY`. */
export function pausable(facts: OrderFacts): AgentGroupState {
  const state = ownedState(facts);
  const { group, phase } = facts;
  if (phase.kind !== "serving" && phase.kind !== "reopening") {
    const why = "reason" in phase ? phase.reason.message : phase.kind;
    throw refusal(
      { code: "NOT_SERVING", message: `group ${group} is not served here: ${why}` },
      "Mend the reason first; nothing is shipped meanwhile.",
    );
  }
  if (state.standby === null) {
    throw refusal(
      { code: "NO_STANDBY", message: `group ${group} has no standby, so nothing is shipped` },
      "There is nothing to pause.",
    );
  }
  return state;
}

/**
 * What `group resume` does: replication goes on where it was paused; a loss of power is accepted only when that was said.
 * Besides those of `ownedState`: `UNFLUSHED_MAY_BE_LOST` where nothing else was to be resumed.
 */
export function resumption(facts: OrderFacts, isLossAccepted: boolean): Resumption {
  const { paused, unflushedMayBeLost } = ownedState(facts);
  const unpause = paused !== null;
  if (unflushedMayBeLost && !isLossAccepted && !unpause) {
    throw refusal(
      {
        code: "UNFLUSHED_MAY_BE_LOST",
        message: "after a power loss, answered and unflushed writes may be gone; clients over TCP wait",
      },
      "Restart clients that kept running, or check their file systems; then add --accept-unflushed.",
    );
  }
  return { unpause, acceptUnflushed: isLossAccepted };
}

/**
 * `group create` may make a new history: there is none. OperationalErrors (`refuse`) `GROUP_EXISTS`, and `GROUP_RETIRED` where
 * one was ended, whose files still lie where the new ones would go.
 */
export function requireNoHistory({ group, state }: Pick<OrderFacts, "group" | "state">): void {
  if (state === undefined || state.role === "creating") return;
  if (state.role !== "retired")
    throw refusal(
      { code: "GROUP_EXISTS", message: `group ${group} exists already` },
      "See: splitsite status.",
    );
  throw refusal(
    { code: "GROUP_RETIRED", message: `a group of the name ${group} was retired here` },
    "To make a new one of that name, stop both sites and move the data folders of the old one away, its images with them.",
  );
}

function refusal({ code, message }: Reason, hint: string): OperationalError {
  return new OperationalError({ code, message, reaction: "refuse", hint });
}
