/**
 * A gateway's group `g` of site `b`, on a simulated disk: nothing but its disk and clock is not the product's. And what its
 * owner at `a`, of the first epoch, says to it.
 */
import assert from "node:assert/strict";
import { StandbyGroup } from "../../gateway/group.ts";
import { encodeBatch } from "../../protocol/batch.ts";
import type { Heartbeat } from "../../protocol/control.ts";
import type { Frame } from "../../protocol/frame.ts";
import { lineageToText, type Token } from "../../protocol/ids.ts";
import { silentLog } from "../../runtime/log.ts";
import { lineage } from "../image/frames.ts";
import { clockOf } from "../sim/world/clock.ts";
import type { SimWorld } from "../sim/world/driven.ts";
import type { Life } from "../sim/world/life.ts";
import { groupSettings } from "../support/group-settings.ts";
import { batchRequest } from "./batch-request.ts";

export const ownersToken: Token = { epoch: 1, owner: "a" };

export function simulatedStandby(
  world: SimWorld,
  life: Life,
  volumes: readonly { readonly name: string; readonly sizeBytes: number }[],
  stepBytesMax?: number,
): StandbyGroup {
  return new StandbyGroup({
    site: "b",
    dataDir: "/b",
    settings: groupSettings({ name: "g", home: "a", standby: "b", volumes }),
    limits: { bytesMax: 2 ** 24, reserveBytes: 0, memoryTailBytes: 2 ** 16, writeBufferBytes: 2 ** 16 },
    target: { adopt: async () => [] },
    storage: { ...world.storage(life), ...(stepBytesMax === undefined ? {} : { stepBytesMax }) },
    clock: clockOf(world.scheduler, life),
    log: silentLog,
  });
}

/** Must be acknowledged. */
export async function sendBatch(
  world: SimWorld,
  group: StandbyGroup,
  frames: readonly Frame[],
): Promise<void> {
  const bytes = await encodeBatch(frames, ownersToken, "none");
  const answer = await world.drive(group.batch(batchRequest(bytes, "a"), "a"));
  assert.ok("json" in answer && (answer.json as { kind: string }).kind === "acknowledged");
}

/** `answered`: the owner's newest sequence. */
export function heartbeatOf(answered: number): Heartbeat {
  return { lineage: lineageToText(lineage), token: ownersToken, answered, dataBytesTotal: 0, wallMs: 1 };
}

/** Everything that was received is in the images, which are open; up to where. */
export async function settled(world: SimWorld, group: StandbyGroup, answered: number): Promise<number> {
  const { scheduler } = world;
  for (let waits = 0; ; waits += 1) {
    const answer = group.heartbeat(heartbeatOf(answered));
    assert.ok(answer.kind === "alive", JSON.stringify(answer));
    assert.equal(answer.stopped, null);
    if (answer.applied === answer.durable && group.past !== undefined) return answer.applied;
    assert.ok(waits < 200, "apply goes on");
    await scheduler.run({ untilMs: scheduler.nowMs + 100 });
  }
}
