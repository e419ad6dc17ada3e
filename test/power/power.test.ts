/**
 * F03, F05, F06: the power of a site is cut under load, with the whole product running on the disk. A killed process
 * leaves its page cache behind; a power loss takes everything that was not synced, and the next boot is another one.
 * Nothing promised durable may be missing at home, the standby is one prefix that holds all it ever acknowledged, and
 * replication goes on until both are equal.
 */
import { test } from "node:test";
import { powerCutsImpossible } from "../support/power-cut.ts";
import { SeededRandom, seedFromEnvironment } from "../support/seeded.ts";
import { requireTools } from "../support/tools.ts";
import { cutCount, PowerRig } from "./rig.ts";

const seed = seedFromEnvironment();
const skip = powerCutsImpossible() || requireTools("unshare");
const timeout = 3_600_000;

const agentCuts = cutCount(14);
test(`${agentCuts} power cuts of the owner lose nothing durable (F03, SEED=${seed})`, {
  skip,
  timeout,
}, async (t) => {
  const random = new SeededRandom(seed, 1);
  const rig = await PowerRig.start(seed, random);
  t.after(() => rig.dispose());
  for (let cut = 1; cut <= agentCuts; cut += 1) {
    const context = `SEED=${seed} cut ${cut}`;
    await rig.startLoad();
    await rig.progress(10 + random.below(120));
    await rig.anyMoment(100);
    await rig.cut(["primary"]);
    await rig.checkStandbyAlone(context);
    await rig.startSite("primary");
    await rig.checkHome(context);
  }
  await rig.startLoad();
  await rig.progress(50);
  await rig.endLoad();
  t.diagnostic(await rig.finish(agentCuts));
});

const gatewayCuts = cutCount(13);
test(`${gatewayCuts} power cuts of the standby need nothing again that it acknowledged (F05, SEED=${seed})`, {
  skip,
  timeout,
}, async (t) => {
  const random = new SeededRandom(seed, 2);
  const rig = await PowerRig.start(seed, random, 1.5e6);
  t.after(() => rig.dispose());
  await rig.startLoad();
  for (let cut = 1; cut <= gatewayCuts; cut += 1) {
    const context = `SEED=${seed} cut ${cut}`;
    await rig.progress(10 + random.below(120));
    await rig.anyMoment(100);
    await rig.cut(["dr"]);
    if (random.chance(0.5)) await rig.progress(1 + random.below(40));
    await rig.startSite("dr");
    await rig.checkAcknowledged(context);
    if (cut % 3 !== 0) continue;
    // The line is idle: what the standby holds now is exactly what the owner has.
    await rig.endLoad();
    await rig.checkEqual(context);
    await rig.startLoad();
  }
  await rig.progress(50);
  await rig.endLoad();
  t.diagnostic(await rig.finish(gatewayCuts));
});

const bothCuts = cutCount(13);
test(`${bothCuts} power cuts of both sites at once, back in any order (F06, SEED=${seed})`, {
  skip,
  timeout,
}, async (t) => {
  const random = new SeededRandom(seed, 3);
  const rig = await PowerRig.start(seed, random);
  t.after(() => rig.dispose());
  for (let cut = 1; cut <= bothCuts; cut += 1) {
    const context = `SEED=${seed} cut ${cut}`;
    await rig.startLoad();
    await rig.progress(10 + random.below(120));
    await rig.anyMoment(100);
    await rig.cut(["primary", "dr"]);
    switch (cut % 4) {
      case 0:
        await rig.startSite("dr");
        await rig.checkStandbyAlone(context);
        await rig.startSite("primary");
        await rig.checkHome(context);
        break;
      case 1:
        await rig.startSite("primary");
        await rig.checkHome(context);
        await rig.startSite("dr");
        break;
      case 2:
        // The standby comes back only after the pair has written on.
        await rig.startSite("primary");
        await rig.checkHome(context);
        await rig.startLoad();
        await rig.progress(20 + random.below(40));
        await rig.startSite("dr");
        await rig.endLoad();
        await rig.checkEqual(context);
        break;
      default:
        await Promise.all([rig.startSite("dr"), rig.startSite("primary")]);
        await rig.checkHome(context);
    }
  }
  await rig.startLoad();
  await rig.progress(50);
  await rig.endLoad();
  t.diagnostic(await rig.finish(bothCuts));
});
