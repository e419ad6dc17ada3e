/**
 * Going back, as an operator does it: points of a standby are listed and exported while writes and apply go on, and
 * each is a prefix of what the client sent; after a restart and after a failover the old points are still true.
 */
import assert from "node:assert/strict";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import type { ExportedPoint, PinReport, PointList } from "../../protocol/admin.ts";
import type { PointDigest } from "../../protocol/point-digest.ts";
import { ExpectedRecord } from "../support/expected.ts";
import { judgePrefix } from "../support/prefix-oracle.ts";
import { SeededRandom, seedFromEnvironment } from "../support/seeded.ts";
import type { SiteName } from "../support/sites.ts";
import { groupName, lastJson, TwoSites } from "../support/sites.ts";
import { imageFile, readGroup, type VolumeState } from "../support/state-reader.ts";
import { until } from "../support/wait.ts";
import { runWorkload } from "../support/workload.ts";

const seed = seedFromEnvironment();
const volumes = { data: 4 << 20, log: 1 << 20 };

async function pointsAt(sites: TwoSites, site: SiteName, ...more: string[]): Promise<PointList["points"]> {
  const ran = await sites.cli(site, "points", groupName, "--json", ...more);
  assert.equal(ran.code, 0, ran.output);
  return (JSON.parse(ran.stdout) as PointList).points;
}

let exported = 0;

/** All volumes of the group at one point, through the command. */
async function stateAt(sites: TwoSites, site: SiteName, sequence: number): Promise<VolumeState[]> {
  const files: { path: string; sizeBytes: number }[] = [];
  for (const { name, sizeBytes } of sites.volumes) {
    exported += 1;
    const path = join(sites.folder, `exported-${exported}.img`);
    const ran = await sites.cli(
      site,
      ...["image", "export", `${groupName}/${name}`, path, "--point", String(sequence), "--json"],
    );
    assert.equal(ran.code, 0, ran.output);
    const result = JSON.parse(ran.stdout.trimEnd().split("\n").at(-1)!) as ExportedPoint;
    assert.deepEqual([result.sequence, result.sizeBytes], [sequence, sizeBytes]);
    files.push({ path, sizeBytes });
  }
  return readGroup(
    files.map(({ path, sizeBytes }) => imageFile(path, sizeBytes)),
    seed,
  );
}

interface Verdict {
  readonly sound: boolean;
  readonly problem: { readonly code: string } | null;
}

/** A copy of a point is checked far from both sites: sound as it is, and not with one bit flipped. */
async function checkImage(sites: TwoSites, sequence: number): Promise<void> {
  const folder = join(sites.folder, "taken-away");
  await mkdir(folder);
  const image = join(folder, "copy.img");
  const made = await sites.cli("dr", "points", groupName, "--digest", String(sequence), "--json");
  assert.equal(made.code, 0, made.output);
  const { digest, chain, volumes: digests } = lastJson(made.stdout) as PointDigest;
  const exporting = await sites.cli(
    "dr",
    ...["image", "export", `${groupName}/data`, image, "--point", String(sequence), "--json"],
  );
  assert.equal(exporting.code, 0, exporting.output);
  const listed = await pointsAt(sites, "dr", "--from", String(sequence), "--limit", "1");
  assert.deepEqual([listed[0]?.digest, listed[0]?.chain], [digest, chain], "the list knows what was made");
  const verify = async (...more: string[]) => {
    const ran = await sites.cli("primary", "image", "verify", image, ...more, "--json");
    return { code: ran.code, output: ran.output, verdict: lastJson(ran.stdout) as Verdict };
  };
  const right = ["--point", String(sequence), "--digest", digest];
  const sound = await verify(...right);
  assert.equal(sound.code, 0, sound.output);
  // Of the other volume it is not.
  const other = await verify("--volume", digests.find(({ name }) => name !== "data")!.name);
  assert.deepEqual([other.code, other.verdict.problem?.code], [7, "SIZE_DIFFERS"]);
  for (const [wrong, code] of [
    [["--digest", "0".repeat(64)], "DIGEST_DIFFERS"],
    [["--point", String(sequence + 1)], "POINT_DIFFERS"],
  ] as const) {
    const ran = await sites.cli("primary", "image", "verify", image, ...wrong, "--json");
    assert.equal(ran.code, 7, ran.output);
    assert.match(ran.output, new RegExp(code));
  }
  const content = await readFile(image);
  content[content.length - 1]! ^= 1;
  await writeFile(image, content);
  const flipped = await verify(...right);
  assert.deepEqual([flipped.code, flipped.verdict.problem?.code], [7, "CONTENT_DIFFERS"]);
  const record = await readFile(`${image}.point.json`, "utf8");
  await writeFile(`${image}.point.json`, record.replace(/"sequence": \d+/, `"sequence": ${sequence + 1}`));
  const forged = await sites.cli("primary", "image", "verify", image, "--json");
  assert.equal(forged.code, 7, forged.output);
  assert.match(forged.output, /RECORD_DAMAGED/);
  const again = await sites.cli("dr", "image", "export", `${groupName}/data`, image);
  assert.equal(again.code, 6, "what is there is never written over");
}

/** Pins the point, and leaves it pinned. */
async function checkPins(sites: TwoSites, sequence: number): Promise<void> {
  const ran = async (code: number, ...words: string[]) => {
    const { code: ended, output, stdout } = await sites.cli("dr", "points", ...words, "--json");
    assert.equal(ended, code, output);
    return { output, report: code === 0 ? (lastJson(stdout) as PinReport) : undefined };
  };
  const pin = (code: number, point: string, ...more: string[]) => ran(code, "pin", groupName, point, ...more);
  const { report } = await pin(0, String(sequence), "--label", "before the upgrade");
  const { bytes } = (await sites.standby("dr")).history;
  assert.deepEqual(
    [report?.id, report?.sequence, report?.label, report?.historyBytes],
    [`pin-${sequence}`, sequence, "before the upgrade", bytes],
  );
  assert.ok(report!.keptBytes > 0 && report!.keptBytes <= bytes, `${report!.keptBytes} of ${bytes}`);
  await pin(0, String(sequence));
  const [row] = await pointsAt(sites, "dr", "--from", String(sequence), "--limit", "1");
  assert.deepEqual(row?.pins, [`pin-${sequence}`]);
  const newest = (await pin(0, "latest")).report!;
  assert.match((await pin(6, "999999999")).output, /POINT_UNKNOWN/);
  const [oldest] = await pointsAt(sites, "dr", "--from", "0", "--limit", "1");
  assert.match((await pin(6, String(oldest!.sequence), "--label", "x".repeat(257))).output, /PIN_INVALID/);
  await pin(2, "yesterday");
  assert.equal((await ran(0, "unpin", groupName, String(newest.sequence))).report?.id, newest.id);
  assert.match((await ran(6, "unpin", groupName, newest.id)).output, /PIN_UNKNOWN/);
}

test(`old points are prefixes of the client's own record, before and after a failover (SEED=${seed})`, async (t) => {
  const random = new SeededRandom(seed, 21);
  const sites = await TwoSites.create({ volumes });
  t.after(() => sites.dispose());
  await Promise.all([sites.start("dr"), sites.start("primary")]);
  await sites.waitServing("primary");
  const record = new ExpectedRecord(seed, Object.values(volumes));
  const load = async (site: SiteName) => {
    const clients = await sites.connect(site, 2);
    const stop = new AbortController();
    const done = runWorkload({ record, clients, depth: 6, bytesPerSecond: 2e6, signal: stop.signal });
    return async () => {
      stop.abort();
      await done;
      for (const client of clients.flat()) await client.close();
    };
  };
  const check = async (site: SiteName, sequence: number, what: string) => {
    const state = await stateAt(sites, site, sequence);
    const verdict = judgePrefix({ record, state, sequence });
    assert.ok(verdict.consistent, `${what} ${sequence}: ${JSON.stringify(verdict)}`);
    return state;
  };

  const rest = await load("primary");
  const early = await until("some points", async () => {
    const standby = await sites.standby("dr");
    return standby.history.points > 10 ? standby : undefined;
  });
  assert.ok(early.history.bytes > 0 && early.history.oldest < early.history.newest);
  const listed = await pointsAt(sites, "dr", "--limit", "1000");
  const drawn = random.shuffle(listed.map(({ sequence }) => sequence)).slice(0, 2);
  for (const sequence of drawn) {
    const before = (await sites.standby("dr")).position.applied;
    await check("dr", sequence, "while apply goes on, point");
    await until("apply to go on", async () =>
      (await sites.standby("dr")).position.applied > before ? true : undefined,
    );
  }
  await checkImage(sites, drawn[0]!);
  await rest();
  const written = await sites.waitIdle("primary", "dr");
  const status = await sites.standby("dr");
  assert.equal(status.consistent?.sequence, written);
  assert.equal(status.history.newest, written);
  const all = await pointsAt(sites, "dr", "--from", "0", "--limit", "10000");
  assert.equal(all.length, status.history.points, "status counts what is listed");
  assert.deepEqual([all[0]?.sequence, all.at(-1)?.sequence], [status.history.oldest, written]);
  const refused = await sites.cli(
    "dr",
    ...["image", "export", `${groupName}/data`, join(sites.folder, "no.img"), "--point", "999999999"],
  );
  assert.equal(refused.code, 6, refused.output);
  assert.equal((await sites.cli("primary", "points", groupName)).code, 6, "a group at home keeps none");

  await checkPins(sites, drawn[0]!);
  await sites.kill("dr");
  await sites.start("dr");
  await sites.waitIdle("primary", "dr");
  assert.deepEqual(
    (await sites.standby("dr")).history.pins.map(({ id }) => id),
    [`pin-${drawn[0]}`],
    "a pin outlasts a kill",
  );
  const again = await until("the points to be counted", async () => {
    const { history } = await sites.standby("dr");
    return history.points === all.length ? history : undefined;
  });
  assert.equal(again.problem, null);
  const kept = await check("dr", drawn[0]!, "after a kill, point");

  await sites.kill("primary");
  await sites.failover("dr");
  await sites.waitServing("dr");
  const more = await load("dr");
  await until("the new owner to have written more", async () => {
    const { history } = await sites.owner("dr");
    return history !== null && history.newest > written + 50 ? true : undefined;
  });
  assert.deepEqual(await stateAt(sites, "dr", drawn[0]!), kept, "the old point, under the new owner");
  await more();
  await sites.kill("dr");
  await sites.start("dr");
  await sites.waitServing("dr");
  assert.equal((await sites.owner("dr")).history?.problem, null);
  assert.deepEqual(
    await stateAt(sites, "dr", drawn[0]!),
    kept,
    "the old point, after a kill of the new owner",
  );
  const newer = (await pointsAt(sites, "dr", "--from", String(written + 1))).at(-1);
  assert.ok(newer !== undefined, "the new owner makes points of its own");
  await check("dr", newer.sequence, "a point of the new owner,");
  t.diagnostic(`${all.length} points before the failover, ${exported} exports`);
});
