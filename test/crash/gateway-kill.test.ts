/**
 * F04 and F06: kill -9 of the standby's process in the middle of receiving and applying, and of both sites at once. The
 * pair's writes go on undisturbed, and whatever the restarted gateway holds is one prefix of the write order, the one
 * it claims, never less than it had acknowledged.
 */
import { test } from "node:test";
import { SeededRandom, seedFromEnvironment } from "../support/seeded.ts";
import { KillRig, killBytesPerSecond, killCount } from "./rig.ts";

const seed = seedFromEnvironment();
const kills = killCount(70);

// In two runs: the oracles take longer for each kill, the longer the record of a run is.
for (const half of [1, 2]) {
  const own = Math.ceil(kills / 2);
  test(`the standby is one prefix after each of ${own} kills of the gateway, run ${half} (SEED=${seed})`, async (t) => {
    const random = new SeededRandom(seed, 2 + half);
    const rig = await KillRig.start({ seed: seed + half, random, bytesPerSecond: killBytesPerSecond });
    t.after(() => rig.dispose());
    await rig.startLoad();
    for (let kill = 1; kill <= own; kill += 1) {
      const context = `SEED=${seed} run ${half} kill ${kill}`;
      await rig.progress(20 + random.below(150));
      await rig.anyMoment(200);
      await rig.killStandby();
      if (random.chance(0.4)) await rig.progress(1 + random.below(200));
      if (kill % 3 === 0) {
        // Both are gone: what the standby holds now is all that would be left.
        await rig.killOwner();
        await rig.startSite("dr");
        await rig.checkStandby(context, await rig.standbyAtRest());
        await rig.startSite("primary");
        await rig.checkLocal(context);
        await rig.startLoad();
      } else {
        await rig.startSite("dr");
      }
    }
    await rig.progress(100);
    await rig.stopLoad();
    t.diagnostic(await rig.finish(own));
  });
}
