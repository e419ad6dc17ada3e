/**
 * F02, F09, F67: a process ends at an exact step, whichever it is: while a group is made, under load, while it recovers
 * from the last end, and while a standby takes over. Nothing answered is lost, the standby is one prefix, what was
 * begun is finished or begun anew. `FAILPOINTS=all` runs every name; the default a fixed part of the slow ones.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { SeededRandom as Random, seedFromEnvironment } from "../support/seeded.ts";
import type { SiteName } from "../support/sites.ts";
import { TwoSites } from "../support/sites.ts";
import { until } from "../support/wait.ts";
import {
  agentMaking,
  agentUnderLoad,
  failpointNames,
  gatewayMaking,
  gatewayUnderLoad,
  takingOver,
} from "./failpoints.ts";
import type { Orders } from "./rig.ts";
import { endsWithin, KillRig, launchWith, startsServing } from "./rig.ts";

const seed = seedFromEnvironment();
const all = process.env["FAILPOINTS"] === "all";
/** A step under load is reached well within this, ms: the rarest is the checkpoint, every 3 s. */
const reachedMs = 15_000;
const mebibyte = 1 << 20;
/** The standby is down half of the time: what it misses must not become the test. */
const bytesPerSecond = 2e6;

/** The same part in every run, so that a run says something about the change and not about the draw. */
function someOf<T>(items: readonly T[], part: number): T[] {
  return all ? [...items] : new Random(1).shuffle([...items]).slice(0, Math.ceil(items.length / part));
}

const bothSides = (names: readonly string[]): string[] =>
  names.flatMap((name) => [`${name}.before`, `${name}.after`]);

/** A takeover that had begun is finished this soon after the start, ms; the log of such a small group opens at once. */
const finishedMs = 5_000;
/** Until the third state document has its name, no token was raised. */
const beforeTheToken: ReadonlySet<string> = new Set(
  ["write.before", "write.after", "sync.before", "sync.after", "rename.before"].map(
    (step) => `gateway.state.${step}:3`,
  ),
);

async function servesWithin(sites: TwoSites, site: SiteName, timeoutMs: number): Promise<boolean> {
  const endMs = performance.now() + timeoutMs;
  return until(`${site} to serve or time to pass`, async () => {
    const { groups } = await sites.status(site);
    if (groups.some((group) => group.role === "owner" && group.io === "serving")) return true;
    return performance.now() < endMs ? undefined : false;
  });
}

/** Steps that come every few seconds at most. */
const rare =
  /heard|checkpoint|half\.(write|sync)\.|ahead|journal-log|putFrame\.|putFrames|deleteFrames|putHead|intake\.sync|journal\.sync|flush/;

/** Checks what is there and puts load on; false when the process ended first. A loss is never taken for that. */
async function loads(rig: KillRig, context: string): Promise<boolean> {
  try {
    await rig.checkLocal(context);
    await rig.startLoad();
    return true;
  } catch (error) {
    if (error instanceof assert.AssertionError || !(await endsWithin(rig.sites, "primary", 2_000)))
      throw error;
    return false;
  }
}

test("there are more than 40 failpoints, each named once", () => {
  assert.ok(failpointNames.length >= 40, `${failpointNames.length}`);
  assert.equal(new Set(failpointNames).size, failpointNames.length);
});

test(`no answered write is lost when the agent ends at any step under load (SEED=${seed})`, async (t) => {
  const random = new Random(seed, 11);
  const orders: Orders = { primary: "", dr: "" };
  const rig = await KillRig.start({ seed, random, bytesPerSecond, sites: { launch: launchWith(orders) } });
  t.after(() => rig.dispose());
  await rig.startLoad();
  await rig.progress(200);
  await rig.killOwner();
  let reached = 0;
  let whileOpening = 0;
  for (const name of random.shuffle(bothSides(agentUnderLoad))) {
    // The last end may have come right after the halves were emptied; only what is in them is written over.
    if (name.startsWith("agent.half.write.")) {
      orders.primary = "";
      await rig.startSite("primary");
      await rig.startLoad();
      await rig.progress(20);
      await rig.killOwner();
    }
    orders.primary = `${name}:${1 + random.below(rare.test(name) ? 1 : 6)}`;
    const context = `SEED=${seed} ${orders.primary}`;
    const loaded = (await startsServing(rig.sites, "primary")) && (await loads(rig, context));
    if (loaded) assert.ok(await rig.ownerEnds(reachedMs), `${context} was not reached`);
    else whileOpening += 1;
    reached += 1;
  }
  orders.primary = "";
  await rig.startSite("primary");
  await rig.startLoad();
  await rig.progress(100);
  await rig.stopLoad();
  t.diagnostic(`${reached} steps, ${whileOpening} of them while opening; ${await rig.finish(reached)}`);
});

test(`the standby is one prefix when the gateway ends at any step under load (SEED=${seed})`, async (t) => {
  const random = new Random(seed, 12);
  const orders: Orders = { primary: "", dr: "" };
  const rig = await KillRig.start({ seed, random, bytesPerSecond, sites: { launch: launchWith(orders) } });
  t.after(() => rig.dispose());
  await rig.startLoad();
  await rig.progress(200);
  let reached = 0;
  for (const name of random.shuffle(bothSides(gatewayUnderLoad))) {
    await rig.killStandby();
    orders.dr = `${name}:${1 + random.below(rare.test(name) ? 1 : 3)}`;
    const context = `SEED=${seed} ${orders.dr}`;
    if (await startsServing(rig.sites, "dr"))
      assert.ok(await endsWithin(rig.sites, "dr", reachedMs), `${context} was not reached`);
    reached += 1;
    if (reached % 6 !== 0) continue;
    // Nobody sends any more: what the standby holds now is all that would be left.
    await rig.killOwner();
    orders.dr = "";
    await rig.startSite("dr");
    await rig.checkStandby(context, await rig.standbyAtRest());
    await rig.startSite("primary");
    await rig.startLoad();
  }
  await rig.killStandby();
  orders.dr = "";
  await rig.startSite("dr");
  await rig.progress(100);
  await rig.stopLoad();
  t.diagnostic(`${reached} steps; ${await rig.finish(reached)}`);
});

for (const [site, names] of [
  ["primary", agentMaking],
  ["dr", gatewayMaking],
] as const) {
  test(`a group that is cut short while ${site} makes it is made at the next start (SEED=${seed})`, async (t) => {
    const random = new Random(seed, site === "dr" ? 13 : 14);
    const chosen = someOf(bothSides(names), 8);
    for (const order of chosen) {
      const orders: Orders = { primary: "", dr: "", [site]: order };
      const sites = await TwoSites.create({
        volumes: { data: mebibyte, log: mebibyte },
        launch: launchWith(orders),
      });
      const rig = KillRig.over(sites, { seed, random });
      try {
        await startsServing(sites, "dr");
        await startsServing(sites, "primary");
        assert.ok(await endsWithin(sites, site, reachedMs), `${order} was not reached`);
        orders[site] = "";
        await rig.startSite(site);
        await sites.waitServing("primary");
        await rig.startLoad();
        await rig.progress(40);
        await rig.stopLoad();
        const sequence = await sites.waitIdle("primary", "dr");
        await rig.checkLocal(order);
        await rig.checkStandby(order, sequence);
      } finally {
        await rig.dispose();
      }
    }
    t.diagnostic(`${chosen.length} of ${names.length * 2} steps: ${chosen.join(", ")}`);
  });
}

test(`a takeover that is cut short is finished at the next start, or has not begun (SEED=${seed})`, async (t) => {
  const random = new Random(seed, 15);
  const orders = takingOver.flatMap(([name, hit]) => [`${name}.before:${hit}`, `${name}.after:${hit}`]);
  const chosen = someOf(orders, 12);
  let begun = 0;
  for (const order of chosen) {
    const armed: Orders = { primary: "", dr: order };
    const sites = await TwoSites.create({
      volumes: { data: mebibyte, log: mebibyte },
      launch: launchWith(armed),
    });
    const rig = KillRig.over(sites, { seed, random });
    try {
      await Promise.all([sites.start("dr"), sites.start("primary")]);
      await sites.waitServing("primary");
      await rig.startLoad();
      await rig.progress(60);
      await until("something to take over", async () =>
        (await sites.standby("dr")).position.received > 0 ? true : undefined,
      );
      await rig.killOwner();
      await rig.standbyAtRest();
      // The one who asked is cut off as well.
      const asked = await sites.failover("dr").then(
        () => "it was done",
        (error: unknown) => String(error),
      );
      assert.ok(await endsWithin(sites, "dr", reachedMs), `${order} was not reached: ${asked}`);
      armed.dr = "";
      await sites.start("dr");
      const finished = await servesWithin(sites, "dr", finishedMs);
      if (finished) begun += 1;
      else {
        assert.ok(beforeTheToken.has(order), `${order}: begun and not finished`);
        // Nothing has happened, so the order can be given again.
        await sites.failover("dr");
      }
      const owner = await sites.waitServing("dr");
      assert.equal(owner.epoch, 2, order);
      await rig.checkPromoted(order);
    } finally {
      await rig.dispose();
    }
  }
  t.diagnostic(
    `${chosen.length} of ${orders.length} steps, ${begun} finished by themselves: ${chosen.join(", ")}`,
  );
});
