/**
 * A journal that overflows between two real sites: the line is gone, and far more is written than the journal holds. No write
 * is refused, the standby gets what it lacks by itself once the line is back, and a failover meanwhile opens the last point
 * from before the gap.
 */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { runTool } from "../support/child.ts";
import { NotedWriter } from "../support/noted-writer.ts";
import { SeededRandom, seedFromEnvironment } from "../support/seeded.ts";
import type { TwoSitesOptions } from "../support/sites.ts";
import { TwoSites } from "../support/sites.ts";
import { until } from "../support/wait.ts";

const seed = seedFromEnvironment();
const mebibyte = 1 << 20;
const sizeBytes = 48 * mebibyte;
/** What the site's quota must be at least. */
const logBytes = "16MiB";

async function withSites(
  options: Partial<TwoSitesOptions>,
  use: (sites: TwoSites, random: SeededRandom, writer: NotedWriter) => Promise<void>,
): Promise<void> {
  const random = new SeededRandom(seed, 51);
  const sites = await TwoSites.create({ volumes: { data: sizeBytes }, logBytes, ...options });
  try {
    await sites.start("dr");
    await sites.start("primary");
    await sites.waitServing("primary");
    const [clients] = await sites.connect("primary");
    await use(sites, random, new NotedWriter(random, clients![0]!, sizeBytes));
  } finally {
    await sites.dispose();
  }
}

test(`four times the journal is written while the standby is gone: nothing is refused, and it gets what it lacks (SEED=${seed})`, async (t) => {
  await withSites({}, async (sites, random, writer) => {
    await writer.write(2 * mebibyte);
    await sites.waitIdle("primary", "dr");
    for (let round = 0; round < 2; round += 1) {
      await sites.kill("dr");
      await writer.write(64 * mebibyte);
      const full = await sites.owner("primary");
      assert.equal(full.io, "serving");
      assert.equal(full.overflow?.state, "dropping");
      assert.ok(full.lag.bytes >= 64 * mebibyte, "lag counts from what the standby has, kept or not");
      if (round === 1 && random.chance(0.7)) {
        // What was noted of it is all that is left after this.
        await sites.kill("primary");
        await sites.start("primary");
        const again = await sites.waitServing("primary");
        assert.equal(again.overflow?.through, full.overflow?.through);
        assert.ok(again.lag.bytes >= 64 * mebibyte, `${again.lag.bytes}`);
      }
      await sites.start("dr");
      const over = await sites.waitOwner("the standby to be whole", ({ state }) => state === "protected");
      assert.equal(over.overflow, null);
      await sites.waitIdle("primary", "dr");
      const wanted = writer.contentAfter(writer.writes.length);
      assert.ok(wanted.equals(await readFile(await sites.standbyImage("dr", "data"))), "the standby's image");
      await until("the owner's image to be the same", async () => {
        const compared = await runTool("qemu-img", [
          "compare",
          ...["-f", "raw", "-F", "raw", "-U"],
          await sites.homeImage("primary", "data"),
          await sites.standbyImage("dr", "data"),
        ]);
        return compared.code === 0 ? true : undefined;
      });
      if (round === 0) {
        const log = sites.log("primary");
        for (const code of ["OVERFLOW_BEGAN", "OVERFLOW_DECLARED", "OVERFLOW_OVER"])
          assert.ok(log.includes(code), code);
      } else break;
      const verified = await sites.cli("primary", "verify", "erp", "--json");
      assert.equal(verified.code, 0, verified.output);
      // The next writes go to the same client, unless its site was killed.
    }
    t.diagnostic(`${writer.bytes} bytes; the longest write took ${Math.round(writer.longestMs)} ms`);
  });
});

test(`a failover in the midst of the resync opens the last point before the gap, whole (SEED=${seed})`, async (t) => {
  await withSites({ limit: "16Mbit/s" }, async (sites, random, writer) => {
    await writer.write(2 * mebibyte);
    const held = await sites.waitIdle("primary", "dr");
    assert.equal(held, writer.writes.length);
    await sites.kill("dr");
    await writer.write(64 * mebibyte);
    await sites.start("dr");
    const behind = 0.05 + random.below(80) / 100;
    await sites.waitOwner(
      `the resync to be at ${behind}`,
      ({ reason, scan }) =>
        reason?.code === "RESYNC" &&
        scan?.purpose === "resync" &&
        scan.doneBytes + scan.contentBytes > behind * scan.totalBytes,
    );
    const { lag } = await sites.owner("primary");
    assert.ok(lag.bytes >= 64 * mebibyte, "what was dropped is not yet safe");
    await sites.kill("primary");
    const result = await sites.failover("dr");
    t.diagnostic(JSON.stringify(result));
    await sites.waitServing("dr");
    const [clients] = await sites.connect("dr");
    const content = Buffer.alloc(sizeBytes);
    for (let at = 0; at < sizeBytes; at += mebibyte) {
      const reply = await clients![0]!.read(at, mebibyte);
      assert.ok(reply.outcome === "answered");
      reply.data.copy(content, at);
    }
    assert.ok(content.equals(writer.contentAfter(held)), "exactly what the standby held when the line went");
  });
});
