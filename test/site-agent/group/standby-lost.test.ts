/** An owner whose standby's site has told it that nothing is known of the group there: what it says of lag and position. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { errorCode } from "../../../runtime/errors.ts";
import type { OwnedGroup } from "../../../site-agent/group/owned-group.ts";
import { until } from "../../support/wait.ts";
import { blockBytes, hastyClock, OwnerRig } from "./owner-rig.ts";

/** Nothing is checkpointed, and so nothing is trimmed, in the time of a test. */
const withoutCheckpoints = {
  ...hastyClock,
  after: (delayMs: number, run: () => void) =>
    delayMs < 3_000 ? hastyClock.after(delayMs, run) : { cancel: () => undefined },
};
const rpo = { ageMs: null, bytes: 4 * blockBytes };

function acknowledged(group: OwnedGroup, sequence: number): Promise<true> {
  return until(`${sequence} acknowledged`, () =>
    group.status().position.acknowledged === sequence ? true : undefined,
  );
}

/** The journal begins behind `sequence`: nothing before that can be sent again. */
async function trimmed(group: OwnedGroup, sequence: number): Promise<void> {
  await until(`a journal that begins behind ${sequence}`, () =>
    group.journal?.log.head.sequence === sequence ? true : undefined,
  );
}

test("a standby that is lost lacks everything that was ever answered, also after the owner's restart", async () => {
  await OwnerRig.with(async (rig) => {
    // So small that two of the frames are a slice: what is trimmed is gone for the next life as well.
    rig.journalBytesMax = 2 ** 14;
    let group = await rig.open(undefined, undefined, rpo);
    const startedMs = Date.now();
    for (let block = 0; block < 6; block += 1) await rig.write(group, block, block + 1);
    await group.flush();
    await acknowledged(group, 6);
    assert.deepEqual([group.status().lag.writes, group.status().rpo.breached], [0, false]);
    await trimmed(group, 6);
    rig.standby.lose();
    for (let life = 1; life <= 2; life += 1) {
      const lost = await until("STANDBY_LOST", () => {
        const status = group.status();
        return status.reason?.code === "STANDBY_LOST" ? status : undefined;
      });
      assert.deepEqual([lost.state, lost.io], ["stopped", "serving"]);
      assert.deepEqual([lost.lag.writes, lost.lag.bytes], [6, 6 * blockBytes], `life ${life}`);
      assert.ok(lost.lag.ageMs >= 0 && lost.lag.ageMs <= Date.now() - startedMs);
      assert.ok(lost.rpo.breached);
      assert.deepEqual([lost.position.acknowledged, lost.position.applied], [0, 0]);
      await group.close("abandon");
      group = await rig.open(undefined, undefined, rpo);
    }
    await until("STANDBY_LOST", () => (group.status().reason?.code === "STANDBY_LOST" ? true : undefined));
    await rig.write(group, 6, 7);
    const { lag, position } = group.status();
    assert.deepEqual([lag.writes, lag.bytes, position.written], [7, 7 * blockBytes, 7]);
    const order = { by: "carol@berlin", reason: "the rack moves" };
    await assert.rejects(
      group.retire({ ...order, force: false }),
      (error) => errorCode(error) === "NOT_ACKNOWLEDGED",
    );
  });
});

test("a standby that is made anew counts from what it holds itself", async () => {
  await OwnerRig.with(async (rig) => {
    rig.clock = withoutCheckpoints;
    let group = await rig.open(undefined, undefined, rpo);
    for (let block = 0; block < 6; block += 1) await rig.write(group, block, block + 1);
    await group.flush();
    await acknowledged(group, 6);
    assert.equal(group.journal?.log.head.sequence, 0, "nothing is trimmed yet");
    rig.standby.batches.close();
    rig.standby.lose();
    await until("STANDBY_LOST", () => (group.status().reason?.code === "STANDBY_LOST" ? true : undefined));
    assert.deepEqual([group.status().lag.writes, group.status().lag.bytes], [6, 6 * blockBytes]);
    await group.close("abandon");
    // Nothing of the journal is gone, and a life that has had no acknowledgement makes a standby by itself (SH6).
    group = await rig.open(undefined, undefined, rpo);
    await until("a batch on its way", () => (rig.standby.batches.waiting > 0 ? true : undefined));
    const { lag, position } = group.status();
    assert.deepEqual([lag.writes, lag.bytes, position.acknowledged], [6, 6 * blockBytes, 0]);
    rig.standby.batches.open();
    await acknowledged(group, 6);
    assert.ok(rig.standby.content.equals(rig.content));
    await until("protection", () => (group.status().state === "protected" ? true : undefined));
    assert.deepEqual([group.status().lag.writes, group.status().lag.bytes], [0, 0]);
  });
});
