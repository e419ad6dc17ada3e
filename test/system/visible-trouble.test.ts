/**
 * Promise 8: loss of protection is visible within 15 s, and what is shown is never better than the truth. The line goes
 * silent without an end, which is the hard case: nobody tells the owner. The pair's writes go on all the while.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ExpectedRecord } from "../support/expected.ts";
import type { Relay } from "../support/relay.ts";
import { startRelay } from "../support/relay.ts";
import { seedFromEnvironment } from "../support/seeded.ts";
import { TwoSites } from "../support/sites.ts";
import { until } from "../support/wait.ts";
import { runWorkload } from "../support/workload.ts";

const seed = seedFromEnvironment();
/** Promised, ms. */
const visibleWithinMs = 15_000;

test(`a silent line shows within 15 s, refuses no write, and is over when it is over (SEED=${seed})`, async (t) => {
  let relay: Relay | undefined;
  const sites = await TwoSites.create({
    volumes: { data: 16 << 20 },
    line: async (port) => {
      relay = await startRelay({ target: { host: "127.0.0.1", port }, listenPort: 0, seed });
      return relay.port;
    },
  });
  t.after(async () => {
    await sites.dispose();
    await relay?.close();
  });
  await Promise.all([sites.start("dr"), sites.start("primary")]);
  await sites.waitServing("primary");
  const record = new ExpectedRecord(seed, [16 << 20]);
  const clients = await sites.connect("primary", 2);
  const stop = new AbortController();
  const load = runWorkload({ record, clients, depth: 8, bytesPerSecond: 2e6, signal: stop.signal });
  await until("protection", async () =>
    (await sites.owner("primary")).position.acknowledged > 20 ? true : undefined,
  );

  relay!.cut();
  const shown = await until(
    "the owner to show the silent line",
    async () => {
      const status = await sites.owner("primary");
      return !status.link.up || status.state !== "protected" ? status : undefined;
    },
    visibleWithinMs,
  );
  assert.equal(shown.io, "serving");
  assert.notEqual(shown.reason, null, "says why");
  await until(
    "the standby to show that it hears nothing",
    async () => {
      const status = await sites.standby("dr");
      return status.state === "protected" ? undefined : status;
    },
    visibleWithinMs,
  );
  const answered = record.count("answered");
  await until("writes to go on", () => (record.count("answered") > answered + 20 ? true : undefined));
  const { position, lag } = await sites.owner("primary");
  assert.ok(lag.writes >= position.written - position.acknowledged, JSON.stringify({ position, lag }));
  assert.ok(lag.writes > 0 && lag.bytes > 0 && lag.noProgressMs > 0, JSON.stringify(lag));

  relay!.restore();
  await until(
    "protection again",
    async () => ((await sites.owner("primary")).state === "protected" ? true : undefined),
    60_000,
  );
  stop.abort();
  const result = await load;
  assert.equal(result.refused + result.unknown, 0, JSON.stringify(result));
  for (const client of clients.flat()) await client.close();
  await sites.waitIdle("primary", "dr");
});
