/**
 * A group's life between two real sites: a pause that outlives kills and is seen at both of them, a failover in its midst, and
 * the end of a group at both sites, which leaves two complete disks and a configuration that does without it.
 */
import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { NotedWriter } from "../support/noted-writer.ts";
import { SeededRandom, seedFromEnvironment } from "../support/seeded.ts";
import { groupName, TwoSites } from "../support/sites.ts";
import { until } from "../support/wait.ts";

const seed = seedFromEnvironment();
const mebibyte = 1 << 20;
const sizeBytes = 16 * mebibyte;

async function withSites(use: (sites: TwoSites, writer: NotedWriter) => Promise<void>): Promise<void> {
  const sites = await TwoSites.create({
    volumes: { data: sizeBytes },
    otherGroups: { files: { volumes: { data: mebibyte } } },
  });
  try {
    await sites.start("dr");
    await sites.start("primary");
    await sites.waitServing("primary");
    await use(sites, await writerOf(sites));
  } finally {
    await sites.dispose();
  }
}

async function writerOf(sites: TwoSites): Promise<NotedWriter> {
  const [clients] = await sites.connect("primary");
  return new NotedWriter(new SeededRandom(seed, 95), clients![0]!, sizeBytes);
}

const ordered = async (sites: TwoSites, site: "primary" | "dr", ...words: string[]): Promise<string> => {
  const { code, output } = await sites.cli(site, ...words, groupName, "--yes", "--reason", "the rack moves");
  assert.equal(code, 0, output);
  return output;
};

test(`a pause is seen at both sites, outlives kill -9, and a failover in its midst loses what was written since (SEED=${seed})`, async () => {
  await withSites(async (sites, writer) => {
    await writer.write(mebibyte);
    const held = await sites.waitIdle("primary", "dr");
    await ordered(sites, "primary", "group", "pause");
    const refused = await sites.cli("dr", "group", "pause", groupName, "--yes", "--json");
    assert.deepEqual([refused.code, /NOT_OWNER/.test(refused.output)], [6, true], refused.output);
    await writer.write(2 * mebibyte);
    await sites.kill("primary");
    await sites.start("primary");
    await sites.waitServing("primary");
    const seen = await until("the pause at both sites", async () => {
      const [owner, standby] = [await sites.owner("primary"), await sites.standby("dr")];
      return owner.reason?.code === "PAUSED" && standby.reason?.code === "PAUSED"
        ? { owner, standby }
        : undefined;
    });
    assert.deepEqual([seen.owner.state, seen.standby.state], ["at-risk", "at-risk"]);
    assert.equal(seen.owner.paused?.reason, "the rack moves");
    assert.equal(seen.owner.position.written, writer.writes.length);
    assert.deepEqual([seen.owner.position.acknowledged, seen.standby.position.applied], [held, held]);
    const lost = await until("what is answered to be heard", async () =>
      (await sites.standby("dr")).lastHeard?.answered === writer.writes.length
        ? writer.writes.length - held
        : undefined,
    );
    await sites.kill("primary");
    const { loss } = await sites.failover("dr");
    assert.deepEqual([loss.writesMin, loss.bytesMin], [lost, writer.bytes - writer.contentBytes(held)]);
    await sites.start("primary");
    await until("the fence", async () =>
      (await sites.owner("primary")).state === "fenced" ? true : undefined,
    );
    const fenced = await sites.cli("primary", "group", "resume", groupName, "--yes", "--json");
    assert.deepEqual([fenced.code, /SUPERSEDED/.test(fenced.output)], [6, true], fenced.output);
  });
});

test(`a paused group that is resumed ships what was written meanwhile; then it is retired at both sites (SEED=${seed})`, async () => {
  await withSites(async (sites, writer) => {
    await writer.write(mebibyte);
    await ordered(sites, "primary", "group", "pause");
    await writer.write(2 * mebibyte);
    const early = await sites.cli("primary", "group", "retire", groupName, "--yes", "--json");
    assert.deepEqual([early.code, /NOT_ACKNOWLEDGED/.test(early.output)], [6, true], early.output);
    await ordered(sites, "primary", "group", "resume");
    await sites.waitIdle("primary", "dr");
    await ordered(sites, "primary", "group", "retire");
    const wanted = writer.contentAfter(writer.writes.length);
    const retired = await ordered(sites, "dr", "group", "retire");
    const home = await sites.homeImage("primary", "data");
    const standby = await sites.standbyImage("dr", "data");
    assert.ok(retired.includes(standby), retired);
    await assert.rejects(sites.connect("primary"));
    for (const site of ["primary", "dr"] as const) {
      await sites.kill(site);
      await sites.start(site);
    }
    assert.equal((await sites.owner("primary")).state, "retired");
    assert.equal((await sites.standby("dr")).state, "retired");
    const failover = await sites.cli("dr", "failover", "run", groupName, "--yes", "--json", "--reason", "x");
    assert.deepEqual([failover.code, /GROUP_RETIRED/.test(failover.output)], [6, true], failover.output);
    const points = await sites.cli("dr", "points", groupName, "--digest", "latest", "--json");
    assert.equal(points.code, 0, points.output);
    for (const image of [home, standby]) assert.ok((await readFile(image)).equals(wanted), image);
    // Out of the configuration: the other group goes on, and nobody touches what is left.
    const text = await readFile(sites.configFile, "utf8");
    await writeFile(sites.configFile, text.replace(/\n {2}erp:\n[\s\S]*?(?=\n {2}files:)/, ""));
    for (const site of ["primary", "dr"] as const) {
      await sites.stop(site);
      await sites.start(site);
    }
    await sites.waitServing("primary", "files");
    const { groups } = await sites.status("primary");
    assert.deepEqual(
      groups.map(({ group }) => group),
      ["files"],
    );
    for (const image of [home, standby]) assert.ok((await readFile(image)).equals(wanted), image);
  });
});

test(`an owner whose standby was retired is at risk, says so, and serves on (SEED=${seed})`, async () => {
  await withSites(async (sites, writer) => {
    await writer.write(mebibyte);
    await sites.waitIdle("primary", "dr");
    await ordered(sites, "dr", "group", "retire");
    const owner = await until("the owner to be told", async () => {
      const status = await sites.owner("primary");
      return status.reason?.code === "GROUP_RETIRED" ? status : undefined;
    });
    assert.deepEqual([owner.state, owner.io], ["at-risk", "serving"]);
    await writer.write(mebibyte);
  });
});
