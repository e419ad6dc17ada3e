/** A gateway's group `g` of site `b`, on a simulated disk: nothing but its disk and clock is not the product's. */
import { StandbyGroup } from "../../gateway/group.ts";
import { silentLog } from "../../runtime/log.ts";
import { clockOf } from "../sim/world/clock.ts";
import type { SimWorld } from "../sim/world/driven.ts";
import type { Life } from "../sim/world/life.ts";
import { groupSettings } from "../support/group-settings.ts";

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
