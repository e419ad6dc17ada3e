/**
 * Volumes that join or grow between two real sites while they are written to: nothing is refused, what was there stays
 * protected, the standby ends up the same, and a failover in the midst hands over what is whole and names what is not.
 */
import assert from "node:assert/strict";
import { randomFillSync } from "node:crypto";
import { readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import type { OwnerStatus } from "../../protocol/status.ts";
import { runTool } from "../support/child.ts";
import { NbdClient } from "../support/nbd-client.ts";
import { NotedWriter } from "../support/noted-writer.ts";
import { SeededRandom, seedFromEnvironment } from "../support/seeded.ts";
import type { SiteName, TwoSitesOptions } from "../support/sites.ts";
import { TwoSites } from "../support/sites.ts";
import { until } from "../support/wait.ts";

const seed = seedFromEnvironment();
const mebibyte = 1 << 20;

interface Row {
  readonly sizeBytes: number;
  readonly image?: string;
}

/** Writes other volumes of the group into the configuration that both sites read; nobody is told. */
async function configure(sites: TwoSites, table: Readonly<Record<string, Row>>): Promise<void> {
  const text = await readFile(sites.configFile, "utf8");
  const rows = Object.entries(table).map(([name, { sizeBytes, image }]) => {
    return `      ${name}: { size: ${sizeBytes}B${image === undefined ? "" : `, image: ${image}`} }\n`;
  });
  const changed = text.replace(/( {4}volumes:\n)[\s\S]*?( {4}protection:)/, `$1${rows.join("")}$2`);
  assert.notEqual(changed, text);
  await writeFile(sites.configFile, changed);
}

const reload = (sites: TwoSites, site: SiteName): void => sites.child(site).signal("SIGHUP");

const isTable = (sizes: Readonly<Record<string, number>>) => (owner: OwnerStatus) =>
  owner.io === "serving" &&
  owner.volumeChange === null &&
  JSON.stringify(owner.volumes.map(({ volume, sizeBytes }) => [volume, sizeBytes])) ===
    JSON.stringify(Object.entries(sizes));

async function withSites(
  options: Partial<TwoSitesOptions>,
  use: (sites: TwoSites, random: SeededRandom) => Promise<void>,
): Promise<void> {
  const volumes = { data: 24 * mebibyte, log: 8 * mebibyte };
  const sites = await TwoSites.create({ volumes, logBytes: "256MiB", ...options });
  try {
    await sites.start("dr");
    await sites.start("primary");
    await sites.waitServing("primary");
    await use(sites, new SeededRandom(seed, 61));
  } finally {
    await sites.dispose();
  }
}

function open(sites: TwoSites, site: SiteName, volume: string): Promise<NbdClient> {
  return NbdClient.connect(sites.nbdSocket(site), sites.exportOf(volume));
}

async function contentOf(client: NbdClient, sizeBytes: number): Promise<Buffer> {
  const content = Buffer.alloc(sizeBytes);
  for (let at = 0; at < sizeBytes; at += mebibyte) {
    const reply = await client.read(at, Math.min(mebibyte, sizeBytes - at));
    assert.ok(reply.outcome === "answered");
    reply.data.copy(content, at);
  }
  return content;
}

async function sameImages(sites: TwoSites, volumes: Readonly<Record<string, string>>): Promise<void> {
  for (const [volume, home] of Object.entries(volumes)) {
    const standby = await sites.standbyImage("dr", volume);
    await until(`volume ${volume} to be the same at both sites`, async () => {
      const formats = ["-f", "raw", "-F", "raw", "-U"];
      const compared = await runTool("qemu-img", ["compare", ...formats, home, standby]);
      return compared.code === 0 ? true : undefined;
    });
    assert.equal((await stat(standby)).size, (await stat(home)).size, volume);
  }
}

/** An image with data in some of its blocks. */
async function imageWithData(sites: TwoSites, name: string, sizeBytes: number): Promise<string> {
  const path = join(sites.folder, `${name}.img`);
  const content = Buffer.alloc(sizeBytes);
  randomFillSync(content, 0, sizeBytes / 2);
  randomFillSync(content, sizeBytes - 4096);
  await writeFile(path, content);
  return path;
}

test(`one volume grows and two join under load, one of them with data (SEED=${seed})`, async (t) => {
  await withSites({}, async (sites, random) => {
    const sizes = { data: 24 * mebibyte, log: 8 * mebibyte };
    const writers = await Promise.all(
      Object.entries(sizes).map(
        async ([volume, size]) => new NotedWriter(random, await open(sites, "primary", volume), size),
      ),
    );
    let resting = false;
    const atWork = Promise.all(
      writers.map(async (writer) => {
        while (!resting) await writer.write(256 * 1024);
      }),
    );
    // Heard at the end; until then a write that is refused must not be lost.
    atWork.catch(() => {});
    const rows = { data: { sizeBytes: 32 * mebibyte }, log: { sizeBytes: 8 * mebibyte } };

    await configure(sites, { ...rows, log: { sizeBytes: 4 * mebibyte } });
    reload(sites, "primary");
    await sites.waitOwner(
      "smaller to be refused",
      ({ volumeChange }) => volumeChange?.code === "VOLUME_SMALLER",
    );
    await configure(sites, { data: rows.data });
    reload(sites, "primary");
    await sites.waitOwner(
      "gone to be refused",
      ({ volumeChange }) => volumeChange?.code === "VOLUME_REMOVED",
    );

    const image = await imageWithData(sites, "old", 16 * mebibyte);
    await configure(sites, {
      ...rows,
      fresh: { sizeBytes: 8 * mebibyte },
      old: { sizeBytes: 16 * mebibyte, image },
    });
    reload(sites, "primary");
    const waiting = await sites.waitOwner("the standby to be waited for", ({ volumeChange }) => {
      return volumeChange?.state === "waiting" && volumeChange.code !== "NOT_ATTACHED";
    });
    assert.match(waiting.volumeChange!.code, /^VOLUME_(NOT_CONFIGURED|SIZE)$/);
    assert.equal(waiting.volumes.length, 2);
    reload(sites, "dr");
    const grown = { data: 32 * mebibyte, log: 8 * mebibyte, fresh: 8 * mebibyte, old: 16 * mebibyte };
    await sites.waitOwner("the new table", isTable(grown));

    const data = await open(sites, "primary", "data");
    assert.equal((await data.write(31 * mebibyte, Buffer.alloc(4096, 7))).outcome, "answered");
    const fresh = new NotedWriter(random, await open(sites, "primary", "fresh"), 8 * mebibyte);
    await fresh.write(2 * mebibyte);
    await sites.waitOwner("everything to be whole", ({ volumes }) =>
      volumes.every(({ wholeFrom }) => wholeFrom !== null),
    );
    resting = true;
    await atWork;
    await sites.waitIdle("primary", "dr");
    const log = sites.log("primary");
    for (const code of ["VOLUME_CHANGED", "VOLUME_SYNC_OVER", "RELOADED"])
      assert.ok(log.includes(code), code);
    const standby = await sites.standby("dr");
    assert.ok(standby.volumes.every(({ wholeFrom }) => wholeFrom !== null));
    const images = {
      data: await sites.homeImage("primary", "data"),
      log: await sites.homeImage("primary", "log"),
      fresh: await sites.homeImage("primary", "fresh"),
      old: image,
    };
    await sameImages(sites, images);
    const expected = Buffer.concat([
      writers[0]!.contentAfter(writers[0]!.writes.length),
      Buffer.alloc(8 * mebibyte),
    ]);
    expected.fill(7, 31 * mebibyte, 31 * mebibyte + 4096);
    assert.ok(expected.equals(await contentOf(data, 32 * mebibyte)), "all that was answered");
    assert.ok(expected.equals(await readFile(await sites.standbyImage("dr", "data"))));
    assert.ok(
      fresh.contentAfter(fresh.writes.length).equals(await readFile(await sites.standbyImage("dr", "fresh"))),
    );

    // What was made live is what a restart finds.
    for (const site of ["primary", "dr"] as const) {
      await sites.stop(site);
      await sites.start(site);
    }
    await sites.waitOwner(
      "the new table again",
      (owner) => isTable(grown)(owner) && owner.state === "protected",
    );
    const verified = await sites.cli("primary", "verify", "erp", "--json");
    assert.equal(verified.code, 0, verified.output);
    const result = await sites.failover("dr");
    assert.deepEqual(
      result.exports.map(({ volume }) => volume),
      ["data", "log", "fresh", "old"],
    );
    await sites.waitServing("dr");
    assert.ok(expected.equals(await contentOf(await open(sites, "dr", "data"), 32 * mebibyte)));
    assert.ok((await readFile(image)).equals(await contentOf(await open(sites, "dr", "old"), 16 * mebibyte)));
    const longest = Math.max(...writers.map(({ longestMs }) => longestMs));
    t.diagnostic(`${writers[0]!.writes.length} writes; the longest took ${Math.round(longest)} ms`);
  });
});

test(`a failover while a volume's data is brought hands over the others, whole, and names the one left out (SEED=${seed})`, async () => {
  await withSites({ limit: "24Mbit/s" }, async (sites, random) => {
    const writer = new NotedWriter(random, await open(sites, "primary", "log"), 8 * mebibyte);
    await writer.write(mebibyte);
    const image = await imageWithData(sites, "old", 48 * mebibyte);
    await configure(sites, {
      data: { sizeBytes: 28 * mebibyte },
      log: { sizeBytes: 8 * mebibyte },
      old: { sizeBytes: 48 * mebibyte, image },
    });
    reload(sites, "dr");
    reload(sites, "primary");
    await sites.waitOwner(
      "the new table",
      isTable({ data: 28 * mebibyte, log: 8 * mebibyte, old: 48 * mebibyte }),
    );
    await writer.write(mebibyte);
    const { position } = await sites.owner("primary");
    await sites.waitOwner(
      "the volume's data to be on its way",
      (owner) =>
        owner.scan?.purpose === "volume-sync" &&
        owner.scan.contentBytes > 2 * mebibyte &&
        owner.position.acknowledged >= position.written,
    );
    assert.equal((await sites.owner("primary")).reason?.code, "VOLUME_SYNC");
    await sites.kill("primary");
    const result = await sites.failover("dr");
    assert.deepEqual(result.leftOut, ["old"]);
    assert.deepEqual(
      result.exports.map(({ volume }) => volume),
      ["data", "log"],
    );
    await sites.waitServing("dr");
    const log = await contentOf(await open(sites, "dr", "log"), 8 * mebibyte);
    assert.ok(writer.contentAfter(writer.writes.length).equals(log), "all that was acknowledged");
    await assert.rejects(open(sites, "dr", "old"));
    const owner = await sites.owner("dr");
    assert.deepEqual(
      owner.volumes.map(({ volume, sizeBytes }) => [volume, sizeBytes]),
      [
        ["data", 28 * mebibyte],
        ["log", 8 * mebibyte],
      ],
    );
    assert.equal(owner.volumeChange?.code, "VOLUME_NOT_HANDED_OVER");
  });
});

const killed = { primary: "the owner", dr: "the standby" } as const;
for (const [site, role] of Object.entries(killed) as [SiteName, string][])
  test(`${role} is killed at random moments of changes: each comes to its end (SEED=${seed})`, async (t) => {
    await withSites({}, async (sites, random) => {
      const before = new NotedWriter(random, await open(sites, "primary", "data"), 24 * mebibyte);
      await before.write(mebibyte);
      const table: Record<string, number> = { data: 24 * mebibyte, log: 8 * mebibyte };
      const kills: string[] = [];
      for (let round = 0; round < 5; round += 1) {
        table["data"] = table["data"]! + mebibyte;
        table[`v${round}`] = (1 + round) * mebibyte;
        await configure(
          sites,
          Object.fromEntries(Object.entries(table).map(([name, sizeBytes]) => [name, { sizeBytes }])),
        );
        reload(sites, "dr");
        reload(sites, "primary");
        await new Promise((resolve) => setTimeout(resolve, random.below(250)));
        await sites.kill(site);
        kills.push(/VOLUME_CHANGED(?![\s\S]*READY)/.test(sites.log(site)) ? "after" : "before");
        await sites.start(site);
        await sites.waitServing("primary");
        await sites.waitOwner("the new table", isTable(table));
        const client = await open(sites, "primary", `v${round}`);
        assert.equal((await client.write(round * mebibyte, Buffer.alloc(4096, 9))).outcome, "answered");
      }
      await sites.waitIdle("primary", "dr");
      const images: Record<string, string> = {};
      for (const name of Object.keys(table)) images[name] = await sites.homeImage("primary", name);
      await sameImages(sites, images);
      const data = await readFile(await sites.standbyImage("dr", "data"));
      assert.ok(
        Buffer.concat([before.contentAfter(before.writes.length), Buffer.alloc(5 * mebibyte)]).equals(data),
      );
      t.diagnostic(`killed: ${kills.join(", ")}`);
    });
  });
