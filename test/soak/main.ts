/**
 * `make soak MINUTES=60`: both sites as real processes under load for a long time, while everything that may happen
 * happens: either site killed, both, a process told to die at a named step, the line silent or broken, and in the end of
 * each leg a takeover. Each leg is a new installation with a record of its own, so that its oracles stay quick. Ends
 * with 0 only when nothing was lost and every standby was one prefix.
 */
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { agentUnderLoad, gatewayUnderLoad } from "../crash/failpoints.ts";
import type { Orders } from "../crash/rig.ts";
import { dataBytesOf, endsWithin, KillRig, launchWith, startsServing } from "../crash/rig.ts";
import { noteEvidence } from "../support/evidence.ts";
import type { Relay } from "../support/relay.ts";
import { startRelay } from "../support/relay.ts";
import { SeededRandom, seedFromEnvironment } from "../support/seeded.ts";

const { values } = parseArgs({
  options: { minutes: { type: "string", default: "60" }, seed: { type: "string" } },
});
const minutes = Number(values.minutes);
const seed = values.seed === undefined ? seedFromEnvironment() : Number(values.seed);
if (!(minutes > 0) || !Number.isInteger(seed)) {
  console.error("--minutes must be a number above 0, --seed a whole number");
  process.exit(2);
}

/** Events of one leg: some 60 s of work, and a record that the prefix oracle judges in a second. */
const eventsPerLeg = 12;
/** A named step is waited for this long, ms; the rarest under load is the checkpoint, every 3 s. */
const stepMs = 8_000;

const totals = {
  legs: 0,
  answered: 0,
  flushes: 0,
  "data bytes": 0,
  kills: 0,
  "ends at a named step": 0,
  "line faults": 0,
  failovers: 0,
  "durable writes lost": 0,
  "states not a prefix": 0,
  "agent MiB max": 0,
  "gateway MiB max": 0,
};

const startedMs = performance.now();
const passedMinutes = (): number => (performance.now() - startedMs) / 60_000;
console.log(`soak of ${minutes} minutes, seed ${seed}`);
while (passedMinutes() < minutes) {
  await leg(seed + totals.legs);
  totals.legs += 1;
  console.log(
    `${passedMinutes().toFixed(1).padStart(6)} min  leg ${totals.legs}: ${totals.answered} answered, ${totals.kills} kills, ` +
      `${totals["ends at a named step"]} ends at a step, ${totals["line faults"]} line faults, ${totals.failovers} failovers, ` +
      `agent ${totals["agent MiB max"]} MiB, gateway ${totals["gateway MiB max"]} MiB`,
  );
}
noteEvidence("soak", { minutes: Math.floor(passedMinutes()), ...totals });
console.log(
  Object.entries(totals)
    .map(([name, value]) => `${name.padEnd(22)} ${value}`)
    .join("\n"),
);

async function leg(legSeed: number): Promise<void> {
  const random = new SeededRandom(legSeed, 77);
  const orders: Orders = { primary: "", dr: "" };
  let relay: Relay | undefined;
  const rig = await KillRig.start({
    seed: legSeed,
    random,
    bytesPerSecond: 1.5e6,
    sites: {
      durability: random.chance(0.5) ? "flush" : "write",
      launch: launchWith(orders),
      line: async (port) => {
        relay = await startRelay({
          listenPort: 0,
          target: { host: "127.0.0.1", port },
          delayMs: random.below(60),
          resetPerMebibyte: random.chance(0.3) ? 0.05 : 0,
          seed: legSeed,
        });
        return relay.port;
      },
    },
  });
  try {
    await rig.startLoad();
    for (let event = 0; event < eventsPerLeg; event += 1) {
      await rig.progress(20 + random.below(400));
      watchMemory(rig);
      await happen(rig, random, orders, relay);
    }
    await rig.progress(200);
    watchMemory(rig);
    // The last thing that happens to the first site.
    await rig.killOwner();
    totals.kills += 1;
    relay?.restore();
    await rig.standbyAtRest();
    await rig.sites.failover("dr");
    totals.failovers += 1;
    await rig.sites.waitServing("dr");
    await rig.checkPromoted(`leg seed ${legSeed}`);
    totals.answered += rig.record.count("answered");
    totals.flushes += rig.record.flushes;
    totals["data bytes"] += dataBytesOf(rig.record);
  } catch (error) {
    console.error(`FAILED in the leg with seed ${legSeed}`);
    console.error(rig.sites.log("primary").slice(-3000));
    console.error(rig.sites.log("dr").slice(-3000));
    throw error;
  } finally {
    await rig.dispose();
    await relay?.close();
  }
}

async function happen(
  rig: KillRig,
  random: SeededRandom,
  orders: Orders,
  relay: Relay | undefined,
): Promise<void> {
  switch (random.below(6)) {
    case 0:
      await rig.killOwner();
      totals.kills += 1;
      await rig.startSite("primary");
      await rig.checkLocal("after a kill of the owner");
      await rig.startLoad();
      return;
    case 1:
      await rig.killStandby();
      totals.kills += 1;
      await rig.progress(random.below(300));
      await rig.startSite("dr");
      return;
    case 2: {
      await rig.killStandby();
      await rig.killOwner();
      totals.kills += 2;
      await rig.startSite("dr");
      await rig.checkStandby("after a kill of both", await rig.standbyAtRest());
      await rig.startSite("primary");
      await rig.checkLocal("after a kill of both");
      await rig.startLoad();
      return;
    }
    case 3:
      relay?.cut();
      totals["line faults"] += 1;
      await rig.progress(100 + random.below(600));
      relay?.restore();
      return;
    case 4: {
      await rig.killOwner();
      orders.primary = `${random.pick(agentUnderLoad)}.${random.pick(["before", "after"])}:${1 + random.below(3)}`;
      const order = orders.primary;
      const served = await startsServing(rig.sites, "primary");
      if (served) {
        await rig.startLoad();
        if (!(await rig.ownerEnds(stepMs))) await rig.killOwner();
        else totals["ends at a named step"] += 1;
      } else {
        totals["ends at a named step"] += 1;
      }
      orders.primary = "";
      await rig.startSite("primary");
      await rig.checkLocal(`after ${order}`);
      await rig.startLoad();
      return;
    }
    default: {
      await rig.killStandby();
      orders.dr = `${random.pick(gatewayUnderLoad)}.${random.pick(["before", "after"])}:${1 + random.below(3)}`;
      const served = await startsServing(rig.sites, "dr");
      if (!served || (await endsWithin(rig.sites, "dr", stepMs))) totals["ends at a named step"] += 1;
      else await rig.killStandby();
      orders.dr = "";
      await rig.startSite("dr");
    }
  }
}

/** Resident memory of both processes, MiB: the agent's is the first site's, the gateway's the second's. */
function watchMemory(rig: KillRig): void {
  for (const [site, key] of [
    ["primary", "agent MiB max"],
    ["dr", "gateway MiB max"],
  ] as const) {
    const child = rig.sites.child(site);
    if (!child.running) continue;
    const found = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${child.pid}/status`, "utf8"));
    totals[key] = Math.max(totals[key], Math.round(Number(found?.[1] ?? 0) / 1024));
  }
}
