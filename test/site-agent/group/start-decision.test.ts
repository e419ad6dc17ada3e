/** The rule that an empty data folder never becomes an owner of empty disks, case by case. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { GroupKnowledge } from "../../../protocol/control.ts";
import type { HandoverRecord } from "../../../protocol/handover.ts";
import type { PeerAnswer, StartFacts } from "../../../site-agent/group/start-decision.ts";
import { decideStart } from "../../../site-agent/group/start-decision.ts";
import type { AgentGroupState, AgentRole } from "../../../site-agent/group/state.ts";

const lineage = "0b8f3c56-1f2e-4c3a-9d41-5f6a7b8c9d0e";
const otherLineage = "1b8f3c56-1f2e-4c3a-9d41-5f6a7b8c9d0e";
const chain = "00".repeat(32);

function state(role: AgentRole, epoch = 1, owner = "primary"): AgentGroupState {
  return {
    role,
    lineage,
    token: { epoch, owner },
    volumes: [],
    changing: null,
    origin: { sequence: 0, chain, dataBytesTotal: 0, timeMs: 0 },
    history: null,
    between: [],
    initial: "zeroes",
    standby: "dr",
    unflushedMayBeLost: false,
    unflushedAcceptedIn: null,
    paused: null,
    retired: null,
    fenced: null,
  };
}

function handover(epoch: number, owner: string): HandoverRecord {
  return {
    group: "erp",
    lineage,
    token: { epoch, owner },
    sealed: 7,
    chain,
    dataBytesTotal: 0,
    pointTimeMs: 0,
    volumes: [],
    leftOut: [],
    history: null,
    between: [],
  };
}

function knows(epoch: number, owner: string, of = lineage): GroupKnowledge {
  return { known: true, lineage: of, token: { epoch, owner } };
}

const unknown: GroupKnowledge = { known: false, lineage: null, token: null };

function decide(facts: Partial<StartFacts>): string {
  const decision = decideStart({
    site: "primary",
    home: "primary",
    state: undefined,
    handover: undefined,
    peer: "not-asked",
    createOrdered: false,
    ...facts,
  });
  return "code" in decision ? `${decision.kind} ${decision.code}` : decision.kind;
}

test("without state the home site asks, and creates only when the other site knows nothing", () => {
  assert.equal(decide({}), "ask-peer");
  assert.equal(decide({ peer: unknown }), "create");
  assert.equal(decide({ peer: knows(1, "primary") }), "stop STATE_LOST");
  assert.equal(decide({ peer: "unreachable" }), "wait WAITING_FOR_PEER");
});

test("an operator's order replaces a silent other site, never one that knows the group", () => {
  assert.equal(decide({ createOrdered: true }), "create");
  assert.equal(decide({ createOrdered: true, peer: "unreachable" }), "create");
  assert.equal(decide({ createOrdered: true, peer: knows(1, "primary") }), "stop STATE_LOST");
});

test("an unfinished creation is decided like no state at all", () => {
  assert.equal(decide({ state: state("creating") }), "ask-peer");
  assert.equal(decide({ state: state("creating"), peer: unknown }), "create");
});

test("the other site stands by until its own gateway hands over", () => {
  const dr = { site: "dr" } as const;
  assert.equal(decide({ ...dr }), "stand-by");
  assert.equal(decide({ ...dr, handover: handover(2, "dr") }), "adopt");
  assert.equal(decide({ ...dr, handover: handover(2, "primary") }), "stand-by");
  assert.equal(decide({ ...dr, handover: handover(2, "dr"), state: state("adopting", 2, "dr") }), "adopt");
  assert.equal(
    decide({ ...dr, handover: handover(2, "dr"), state: state("owner", 2, "dr"), peer: "unreachable" }),
    "serve",
  );
  assert.equal(decide({ ...dr, state: state("adopting", 2, "dr") }), "stop STATE_LOST");
});

test("an owner asks once, and serves when nobody answers", () => {
  const owner = { state: state("owner") };
  assert.equal(decide(owner), "ask-peer");
  assert.equal(decide({ ...owner, peer: "unreachable" }), "serve");
  assert.equal(decide({ ...owner, peer: unknown }), "serve");
  assert.equal(decide({ ...owner, peer: knows(1, "primary") }), "serve");
});

test("an owner that comes back after a failover is fenced before it serves", () => {
  assert.equal(decide({ state: state("owner"), peer: knows(2, "dr") }), "fence");
  assert.equal(decide({ state: state("fenced"), peer: "not-asked" }), "stay-fenced");
});

test("what is retired stays retired, whatever the other site says, a hand-over brings, or an operator orders", () => {
  const peers: PeerAnswer[] = ["not-asked", "unreachable", unknown, knows(1, "primary"), knows(2, "dr")];
  for (const peer of peers) {
    for (const createOrdered of [false, true]) {
      const facts = { state: state("retired"), peer, createOrdered };
      assert.equal(decide(facts), "stay-retired");
      assert.equal(decide({ ...facts, handover: handover(5, "primary") }), "stay-retired");
    }
  }
});

test("equal epochs of two owners, and two histories, stop", () => {
  assert.equal(decide({ state: state("owner"), peer: knows(1, "dr") }), "stop OWNER_CONFLICT");
  assert.equal(decide({ state: state("owner"), peer: knows(1, "primary", otherLineage) }), "stop DIVERGED");
});

test("only a silent or unknowing site leads to create, whatever the facts", () => {
  const states = [undefined, state("creating"), state("adopting", 2, "dr"), state("owner"), state("fenced")];
  const peers: PeerAnswer[] = ["not-asked", "unreachable", unknown, knows(1, "primary"), knows(2, "dr")];
  for (const current of states) {
    for (const peer of peers) {
      for (const createOrdered of [false, true]) {
        for (const site of ["primary", "dr"]) {
          if (decide({ site, state: current, peer, createOrdered }) !== "create") continue;
          assert.equal(site, "primary");
          assert(current === undefined || current.role === "creating");
          assert(peer === unknown || (createOrdered && (peer === "not-asked" || peer === "unreachable")));
        }
      }
    }
  }
});
