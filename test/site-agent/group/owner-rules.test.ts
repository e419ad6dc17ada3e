/** Small rules of an owned group, as tables: who is refused, what is told of positions, what a loss of power means, when to stop. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { BlockErrno } from "../../../block/device.ts";
import type { StandingOrder } from "../../../protocol/group-life.ts";
import type { Reason } from "../../../protocol/status.ts";
import { positionAndLag } from "../../../site-agent/group/positions.ts";
import { mayHaveLostUnflushed } from "../../../site-agent/group/power-loss.ts";
import { holdReason, noLink, noRoomForScan } from "../../../site-agent/group/reasons.ts";
import { Reopens } from "../../../site-agent/group/reopen-rule.ts";
import { refusalIn } from "../../../site-agent/group/request-refusal.ts";
import type { AgentGroupState } from "../../../site-agent/group/state.ts";
import type { Phase } from "../../../site-agent/group/status.ts";
import { withPartial, withWhole } from "../../../site-agent/group/volume-content.ts";
import type { ShipperStatus } from "../../../site-agent/ship/shipper.ts";

const reason: Reason = { code: "X", message: "x" };
const token = { epoch: 2, owner: "dr" };
const order: StandingOrder = { by: "me", reason: "", atMs: 0 };

test("requests are taken while a group serves or opens again, unless a newer token was seen", () => {
  const gone = BlockErrno.ESHUTDOWN;
  const table: Readonly<
    Record<Phase["kind"], readonly [owner: BlockErrno | null, superseded: BlockErrno | null]>
  > = {
    starting: [gone, gone],
    "standing-by": [gone, gone],
    waiting: [gone, gone],
    serving: [null, gone],
    reopening: [null, gone],
    stopped: [BlockErrno.EIO, BlockErrno.EIO],
    fenced: [gone, gone],
    retired: [gone, gone],
    retiring: [gone, gone],
    closed: [gone, gone],
  };
  for (const [kind, expected] of Object.entries(table)) {
    const phase = { kind, reason } as Phase;
    const found = [false, true].map((isSuperseded) => refusalIn(phase, isSuperseded)?.errno ?? null);
    assert.deepEqual(found, expected, kind);
  }
});

test("positions are those of the open journal, else of what was left behind, and lag is never made up", () => {
  const lag = { writes: 3, bytes: 30, ageMs: 1, oldestAtMs: 5 };
  const fenced = { by: token, atMs: 0, written: 9, acknowledged: 4, tailBytes: 50 };
  const retired = { ...order, written: 8, acknowledged: 6, loss: { writes: 2, bytes: 20 } };
  const journal = { written: 7, durable: 5 };
  const known = { shipped: undefined, held: 4, applied: 3 };
  const nothing = { fenced: null, retired: null };

  const open = positionAndLag({ ...known, state: nothing, journal, shipped: 6, lag });
  assert.deepEqual(open.position, { written: 7, durable: 5, shipped: 6, acknowledged: 4, applied: 3 });
  assert.equal(open.lag, lag);

  const unshipped = positionAndLag({ ...known, state: nothing, journal, lag });
  assert.equal(unshipped.position.shipped, 4, "what was acknowledged was sent");

  const left = positionAndLag({ ...known, state: { fenced, retired: null }, journal: null, lag: undefined });
  assert.deepEqual(left.position, { written: 9, durable: 9, shipped: 4, acknowledged: 4, applied: 3 });
  assert.deepEqual(left.lag, { writes: 5, bytes: 50, ageMs: 0, oldestAtMs: null });

  const ended = positionAndLag({ ...known, state: { fenced: null, retired }, journal: null, lag });
  assert.deepEqual(ended.position, { written: 8, durable: 8, shipped: 6, acknowledged: 6, applied: 3 });
  assert.deepEqual(ended.lag, { writes: 2, bytes: 20, ageMs: 0, oldestAtMs: null });

  const ending = positionAndLag({ ...known, state: { fenced: null, retired }, journal, lag });
  assert.deepEqual([ending.position.written, ending.lag], [7, lag], "until its journal is closed");

  const none = positionAndLag({ ...known, held: 0, state: undefined, journal: null, lag: undefined });
  assert.deepEqual(none.lag, { writes: 0, bytes: 0, ageMs: 0, oldestAtMs: null });
});

test("unflushed writes may be lost with the power alone, and the same loss is not told twice", () => {
  for (const sameBoot of [false, true])
    for (const cleanShutdown of [false, true])
      for (const durability of ["flush", "write"] as const)
        for (const unflushedAcceptedIn of [null, "earlier", "now"]) {
          const may = mayHaveLostUnflushed(
            { sameBoot, cleanShutdown },
            durability,
            { unflushedAcceptedIn },
            "now",
          );
          const expected =
            !sameBoot && !cleanShutdown && durability === "flush" && unflushedAcceptedIn !== "now";
          assert.equal(may, expected, JSON.stringify({ sameBoot, cleanShutdown, durability }));
        }
});

test("a group that fails for the sixth time within a minute is not opened again", () => {
  const reopens = new Reopens();
  for (let failure = 1; failure <= 5; failure += 1)
    assert.equal(reopens.isOneTooMany(failure * 1_000), false);
  assert.equal(reopens.isOneTooMany(6_000), true);
  assert.equal(reopens.isOneTooMany(200_000), false, "a minute later the count begins anew");
});

test("a scan has room while records may flow, and says first what an operator ordered", () => {
  const shipping = (state: ShipperStatus["state"], up: boolean): ShipperStatus => ({
    ...{ shipped: 0, acknowledged: 0, applied: 0, state, reason: null },
    link: { ...noLink, up },
  });
  const code = (...facts: Parameters<typeof noRoomForScan>) => noRoomForScan(...facts)?.code ?? null;
  assert.equal(code(order, shipping("attached", true), reason), "PAUSED");
  assert.equal(code(null, undefined, reason), "NOT_ATTACHED");
  assert.equal(code(null, shipping("greeting", true), null), "NOT_ATTACHED");
  assert.equal(code(null, shipping("attached", false), reason), "LINK_DOWN");
  assert.equal(code(null, shipping("attached", true), reason), "X");
  assert.equal(code(null, shipping("attached", true), null), null);
});

test("a full journal says that a change of the table holds it, and no other hold does", () => {
  assert.equal(holdReason("JOURNAL_FULL", true).code, "JOURNAL_FULL_AT_VOLUME_CHANGE");
  assert.equal(holdReason("JOURNAL_FULL", false).code, "JOURNAL_FULL");
  assert.equal(holdReason("JOURNAL_RESERVE", true).code, "JOURNAL_RESERVE");
});

test("the standby's word makes a volume partial, and the end of a scan whole; neither touches another", () => {
  const volume = (number: number, wholeFrom: number | null): AgentGroupState["volumes"][number] => ({
    ...{ number, name: `v${number}`, sizeBytes: 4096, foundingBytes: 4096, changedAt: 0, wholeFrom },
    ...{ imagePath: `/v${number}`, imageIdentity: null },
  });
  const state: AgentGroupState = {
    role: "owner",
    lineage: "6f6ae1ee-5ad5-4d4c-9d7c-7a0a31a0a001",
    token,
    volumes: [volume(0, 0), volume(1, null), volume(2, 7)],
    changing: null,
    origin: { sequence: 0, chain: "ab".repeat(32), dataBytesTotal: 0, timeMs: 0 },
    ...{ history: null, between: [], initial: "data", standby: "hq" },
    ...{ unflushedMayBeLost: false, unflushedAcceptedIn: null, paused: null, retired: null, fenced: null },
  };
  const from = (next: AgentGroupState | null) => next?.volumes.map(({ wholeFrom }) => wholeFrom) ?? null;
  assert.deepEqual(
    from(withWhole(state, [0, 1], 12)),
    [0, 12, 7],
    "what was whole stays whole from where it was",
  );
  assert.deepEqual(from(withPartial(state, [1, 2])), [0, null, null]);
  assert.equal(withPartial(state, [1]), null, "known");
  assert.equal(withPartial(state, [9]), null, "not in this table");
  assert.equal(withPartial({ ...state, standby: null }, [2]), null, "nobody to bring it to");
  assert.equal(withPartial({ ...state, role: "fenced" }, [2]), null, "not this site's to bring");
});
