/**
 * Replication that an operator has paused: nothing leaves, everything is served, both sites say so, and neither a restart nor
 * a second order changes what stands. A failover meanwhile is as any other.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { errorCode } from "../../../runtime/errors.ts";
import type { OwnedGroup } from "../../../site-agent/group/owned-group.ts";
import { until } from "../../support/wait.ts";
import { OwnerRig } from "./owner-rig.ts";

const order = { by: "carol@berlin", reason: "the rack moves" };
const refused = (code: string) => (error: unknown) => errorCode(error) === code;

async function acknowledged(group: OwnedGroup): Promise<void> {
  await until("everything acknowledged", () => {
    const { written, acknowledged } = group.status().position;
    return written === acknowledged ? true : undefined;
  });
}

/** A heartbeat that was sent from now on. */
async function nextBeat({ standby }: OwnerRig) {
  const before = standby.beats.length;
  // The one that is under way now may have been made before.
  return until("a heartbeat", () => standby.beats[before + 1]);
}

test("a pause ships nothing, serves everything, is told to the standby, and resuming goes on from where it stood", async () => {
  await OwnerRig.with(async (rig) => {
    const group = await rig.open();
    await rig.write(group, 0, 1);
    await acknowledged(group);
    assert.equal(group.status().paused, null);
    await group.pause(order);
    const { taken } = rig.standby;
    for (let block = 1; block < 9; block += 1) await rig.write(group, block, block + 1);
    await group.flush();
    const beat = await nextBeat(rig);
    assert.equal(beat.answered, 9, "what is answered is told all the while");
    assert.deepEqual([beat.paused?.by, beat.paused?.reason], [order.by, order.reason]);
    assert.equal(rig.standby.taken, taken, "nothing was shipped");
    const status = group.status();
    assert.deepEqual([status.state, status.io, status.reason?.code], ["at-risk", "serving", "PAUSED"]);
    assert.match(status.reason!.message, /carol@berlin.*the rack moves/);
    assert.deepEqual([status.position.written, status.position.acknowledged, status.lag.writes], [9, 1, 8]);
    assert.deepEqual([status.paused?.by, status.paused?.reason], [order.by, order.reason]);
    await group.pause({ by: "dave", reason: "again" });
    assert.equal(group.status().paused?.by, order.by, "the order that stands stays as it is");
    await group.resume(false);
    await acknowledged(group);
    assert.ok(rig.standby.content.equals(rig.content));
    assert.equal((await nextBeat(rig)).paused, undefined);
    assert.equal(group.status().paused, null);
    await until("protection", () => (group.status().state === "protected" ? true : undefined));
    await group.resume(false);
  });
});

test("a pause with a batch on its way gives that up, and whatever of it arrives is taken for what it is", async () => {
  await OwnerRig.with(async (rig) => {
    const group = await rig.open();
    rig.standby.batches.close();
    await rig.write(group, 0, 1);
    await until("a batch on its way", () => (rig.standby.batches.waiting > 0 ? true : undefined));
    await group.pause(order);
    rig.standby.batches.open();
    await nextBeat(rig);
    assert.equal(group.status().position.acknowledged, rig.standby.durable);
    await rig.write(group, 1, 2);
    await nextBeat(rig);
    assert.equal(rig.standby.taken, 0);
    await group.resume(false);
    await acknowledged(group);
    assert.ok(rig.standby.content.equals(rig.content));
  });
});

test("a pause outlives a kill, and so does its end", async () => {
  await OwnerRig.with(async (rig) => {
    const first = await rig.open();
    await rig.write(first, 0, 1);
    await acknowledged(first);
    await first.pause(order);
    await rig.write(first, 1, 2);
    await first.close("abandon");
    const { taken } = rig.standby;
    const second = await rig.open();
    await until("the greeting", () => (second.status().position.acknowledged === 1 ? true : undefined));
    await rig.write(second, 2, 3);
    assert.equal((await nextBeat(rig)).paused?.by, order.by);
    assert.equal(rig.standby.taken, taken);
    assert.equal(second.status().reason?.code, "PAUSED");
    await second.resume(false);
    await second.close("abandon");
    const third = await rig.open();
    await acknowledged(third);
    assert.equal(third.status().paused, null);
    assert.ok(rig.standby.content.equals(rig.content));
  });
});

test("a scan that is ordered while the group is paused waits for its end, with that reason", async () => {
  await OwnerRig.with(async (rig) => {
    const group = await rig.open();
    await rig.write(group, 0, 1);
    await acknowledged(group);
    await group.pause(order);
    await group.scans.verify();
    const scan = await until("the scan to wait", () => group.scans.status() ?? undefined);
    await until("its reason", () => (group.scans.status()?.reason?.code === "PAUSED" ? true : undefined));
    assert.equal(scan.purpose, "verify");
    const { written } = group.status().position;
    await nextBeat(rig);
    assert.equal(group.status().position.written, written, "it put nothing into the order");
  });
});

test("pausing and resuming are refused where this site does not own the group, and by a fenced owner", async () => {
  await OwnerRig.with(async (rig) => {
    const elsewhere = await rig.open(undefined, "dr");
    await assert.rejects(elsewhere.pause(order), refused("NOT_OWNER"));
    await assert.rejects(elsewhere.resume(false), refused("NOT_OWNER"));
    await elsewhere.close();
    const group = await rig.open();
    await rig.write(group, 0, 1);
    await group.pause(order);
    const { lineage } = group.status();
    await group.close();
    rig.standby.known = { known: true, lineage, token: { epoch: 2, owner: "dr" } };
    const fenced = await rig.open();
    assert.equal(fenced.status().state, "fenced");
    await assert.rejects(fenced.pause(order), refused("SUPERSEDED"));
    await assert.rejects(fenced.resume(true), refused("SUPERSEDED"));
  });
});
