/**
 * F01: kill -9 of the owner's process at random moments under load. No answered write may be gone after the restart,
 * and the standby goes on being one prefix of the write order. A kill proves nothing about power loss: the page cache
 * survives it.
 */
import { test } from "node:test";
import { SeededRandom, seedFromEnvironment } from "../support/seeded.ts";
import { KillRig, killBytesPerSecond, killCount } from "./rig.ts";

const seed = seedFromEnvironment();
const kills = killCount(72);

for (const durability of ["flush", "write"] as const) {
  const own = Math.ceil(kills / 2);
  test(`no answered write is lost by ${own} kills of the agent, durability ${durability} (SEED=${seed})`, async (t) => {
    const random = new SeededRandom(seed, durability === "flush" ? 1 : 2);
    const rig = await KillRig.start({
      seed,
      random,
      bytesPerSecond: killBytesPerSecond,
      sites: { durability },
    });
    t.after(() => rig.dispose());
    for (let kill = 1; kill <= own; kill += 1) {
      await rig.startLoad();
      await rig.progress(20 + random.below(150));
      await rig.anyMoment(200);
      await rig.killOwner();
      if (random.chance(0.3)) {
        // Nobody sends now, so the standby comes to rest at what it holds.
        await rig.checkStandby(`SEED=${seed} kill ${kill}`, await rig.standbyAtRest());
      }
      await rig.startSite("primary");
      await rig.checkLocal(`SEED=${seed} kill ${kill}`);
    }
    await rig.startLoad();
    await rig.progress(100);
    await rig.stopLoad();
    t.diagnostic(await rig.finish(own));
  });
}
