/** The word that an operator reads about an owned group, for states in which a hasty rule would say too much. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { OwnerFacts } from "../../../site-agent/group/status.ts";
import { ownerStatus } from "../../../site-agent/group/status.ts";

const nowMs = 1_000_000_000;

function facts(change: Partial<OwnerFacts>): OwnerFacts {
  return {
    group: "g",
    lineage: null,
    token: null,
    phase: { kind: "serving" },
    hold: null,
    unflushedMayBeLost: false,
    standby: "b",
    paused: null,
    retired: null,
    shipStopped: null,
    attached: true,
    firstSync: false,
    scan: null,
    mismatch: null,
    link: {
      up: true,
      limitBytesPerSecond: null,
      wireBytes: 0,
      rawBytes: 0,
      roundTripMs: null,
      codec: null,
      lastContact: null,
    },
    durability: "flush",
    rpo: { ageMs: null, bytes: null },
    overflow: null,
    position: { written: 9, durable: 9, shipped: 9, acknowledged: 1, applied: 1 },
    lag: { writes: 0, bytes: 0, ageMs: 0, oldestAtMs: null },
    noProgressMs: 10,
    journal: { bytes: 0, maxBytes: 1 },
    history: null,
    volumeChange: null,
    volumes: [],
    ...change,
  };
}

test("nothing missing is protected", () => {
  assert.equal(ownerStatus(facts({}), nowMs).state, "protected");
});

test("a burst that is still missing long after its writer came to rest is catching up, whatever moves meanwhile", () => {
  const lag = { writes: 8, bytes: 1 << 30, ageMs: 2_000, oldestAtMs: nowMs - 60_000 };
  const { state, reason } = ownerStatus(facts({ lag }), nowMs);
  assert.equal(state, "catching-up");
  assert.equal(reason?.code, "BEHIND");
});

test("a wall clock that was set back does not hide a long stretch of missing writes", () => {
  const lag = { writes: 8, bytes: 100, ageMs: 9_000, oldestAtMs: nowMs + 3_600_000 };
  assert.equal(ownerStatus(facts({ lag }), nowMs).reason?.code, "BEHIND");
});
