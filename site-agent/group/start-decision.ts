/**
 * What an agent may do with a group when it starts, from what it durably has and what the other site says. Pure:
 * this one function is the rule that an empty data folder never becomes an owner of empty disks (invariant I4).
 */
import type { GroupKnowledge } from "../../protocol/control.ts";
import type { HandoverRecord } from "../../protocol/handover.ts";
import type { Token } from "../../protocol/ids.ts";
import { compareTokens } from "../../protocol/ids.ts";
import type { AgentGroupState } from "./state.ts";

/** The other site's answer; `unreachable`: it did not answer in time; `not-asked`: it has not been asked yet. */
export type PeerAnswer = GroupKnowledge | "unreachable" | "not-asked";

export interface StartFacts {
  readonly site: string;
  readonly home: string;
  /** Undefined: no document. */
  readonly state: AgentGroupState | undefined;
  /** The hand-over that the gateway of this very site wrote, if any. */
  readonly handover: HandoverRecord | undefined;
  readonly peer: PeerAnswer;
  /** An operator ordered `group create`. */
  readonly createOrdered: boolean;
}

export type StartDecision =
  | { readonly kind: "serve" }
  | { readonly kind: "create" }
  | { readonly kind: "adopt"; readonly handover: HandoverRecord }
  | { readonly kind: "fence"; readonly by: Token }
  | { readonly kind: "stay-fenced" }
  | { readonly kind: "stay-retired" }
  /** The group belongs to the other site; this agent waits for a hand-over. */
  | { readonly kind: "stand-by" }
  | { readonly kind: "ask-peer" }
  | { readonly kind: "wait"; readonly code: "WAITING_FOR_PEER" }
  | { readonly kind: "stop"; readonly code: "STATE_LOST" | "OWNER_CONFLICT" | "DIVERGED" };

/** Decides; call again with the peer's answer after `ask-peer`. */
export function decideStart(facts: StartFacts): StartDecision {
  const { site, state, handover, peer } = facts;
  // Before anything else: not even a hand-over brings it back.
  if (state?.role === "retired") return { kind: "stay-retired" };
  if (handover !== undefined && handover.token.owner === site) {
    const held = state?.token.epoch ?? 0;
    // A hand-over of this epoch that is half adopted is adopted again; one that is done is simply owned.
    if (handover.token.epoch > held || (handover.token.epoch === held && state?.role === "adopting")) {
      return { kind: "adopt", handover };
    }
  }
  if (state === undefined || state.role === "creating") return decideWithoutHistory(facts);
  if (state.role === "fenced") return { kind: "stay-fenced" };
  if (state.role === "adopting") return { kind: "stop", code: "STATE_LOST" };
  if (peer === "not-asked") return { kind: "ask-peer" };
  // Without an answer an owner serves: an outage of the line costs the pair no write (promise 4).
  if (peer === "unreachable" || !peer.known || peer.token === null) return { kind: "serve" };
  if (peer.lineage !== null && peer.lineage !== state.lineage) return { kind: "stop", code: "DIVERGED" };
  switch (compareTokens(peer.token, state.token)) {
    case "newer":
      return { kind: "fence", by: peer.token };
    case "conflict":
      return { kind: "stop", code: "OWNER_CONFLICT" };
    case "same":
    case "older":
      return { kind: "serve" };
  }
}

function decideWithoutHistory(facts: StartFacts): StartDecision {
  if (facts.site !== facts.home) return { kind: "stand-by" };
  if (facts.peer === "not-asked") return facts.createOrdered ? { kind: "create" } : { kind: "ask-peer" };
  if (facts.peer === "unreachable") {
    return facts.createOrdered ? { kind: "create" } : { kind: "wait", code: "WAITING_FOR_PEER" };
  }
  return facts.peer.known ? { kind: "stop", code: "STATE_LOST" } : { kind: "create" };
}
