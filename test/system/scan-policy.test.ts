/**
 * What follows a verify by itself between two real sites, under writes: with `onMismatch: repair` flipped bits of the standby are
 * found and mended, and a difference that comes back raises the alarm and stops the mending; with `scan.digest: on` a verify
 * that found nothing leaves the digest of its point.
 */
import assert from "node:assert/strict";
import { randomFillSync } from "node:crypto";
import { open, readFile } from "node:fs/promises";
import { test } from "node:test";
import type { PointList, ScanReport } from "../../protocol/admin.ts";
import type { VerifyResult } from "../../protocol/status.ts";
import { SeededRandom, seedFromEnvironment } from "../support/seeded.ts";
import { groupName, lastJson, TwoSites } from "../support/sites.ts";
import { until } from "../support/wait.ts";

const seed = seedFromEnvironment();
const mebibyte = 1 << 20;
const sizeBytes = 16 * mebibyte;
const blockBytes = 4096;
/** What clients write lies in front of this; bits are flipped behind it, where nothing mends them by chance. */
const writtenBytes = 8 * mebibyte;

/** Writes until it is stopped; every write must be answered. */
async function writing(sites: TwoSites, random: SeededRandom): Promise<() => Promise<void>> {
  const [clients] = await sites.connect("primary");
  const client = clients![0]!;
  let stopped = false;
  const done = (async () => {
    const block = Buffer.alloc(blockBytes);
    while (!stopped) {
      randomFillSync(block);
      const reply = await client.write(random.below(writtenBytes / blockBytes) * blockBytes, block);
      assert.equal(reply.outcome, "answered", JSON.stringify(reply));
      // About a MB/s: a load, not a race.
      await new Promise((resolve) => setTimeout(resolve, 4));
    }
    await client.close();
  })();
  return () => {
    stopped = true;
    return done;
  };
}

/** Flips a bit in each of some blocks of the standby's image, behind the gateway's back. */
async function flip(sites: TwoSites, blocks: readonly number[]): Promise<void> {
  const file = await open(await sites.standbyImage("dr", "data"), "r+");
  for (const block of blocks) {
    const at = block * blockBytes + 100;
    const { buffer } = await file.read(Buffer.alloc(1), 0, 1, at);
    await file.write(Buffer.of(buffer[0]! ^ 4), 0, 1, at);
  }
  await file.close();
}

async function verifies(sites: TwoSites): Promise<ScanReport> {
  const { code, stdout, output } = await sites.cli("primary", "scan", "status", groupName, "--json");
  assert.equal(code, 0, output);
  return lastJson(stdout) as ScanReport;
}

/** Orders a verify, and gives what it found. */
async function verify(sites: TwoSites): Promise<VerifyResult> {
  const { stdout, output } = await sites.cli("primary", "verify", groupName, "--json");
  assert.ok(stdout.trim() !== "", output);
  return lastJson(stdout) as VerifyResult;
}

/** Waits until a verify behind the one that began at `after` has ended, and nothing is under way. */
function proofAfter(sites: TwoSites, after: number): Promise<VerifyResult> {
  return until(
    "the proof behind the repair",
    async () => {
      const { scan, verifies: results } = await verifies(sites);
      const [newest] = results;
      return scan === null && newest !== undefined && newest.begin > after && newest.end !== null
        ? newest
        : undefined;
    },
    120_000,
  );
}

async function withSites(
  protection: readonly string[],
  use: (sites: TwoSites, random: SeededRandom) => Promise<void>,
): Promise<void> {
  const sites = await TwoSites.create({ volumes: { data: sizeBytes }, protection });
  try {
    await sites.start("dr");
    await sites.start("primary");
    await sites.waitServing("primary");
    const [clients] = await sites.connect("primary");
    const content = Buffer.alloc(mebibyte);
    for (let at = writtenBytes; at < sizeBytes; at += mebibyte) {
      randomFillSync(content);
      assert.equal((await clients![0]!.write(at, content)).outcome, "answered");
    }
    await sites.waitIdle("primary", "dr");
    await use(sites, new SeededRandom(seed, 96));
  } finally {
    await sites.dispose();
  }
}

function blocksBehind(random: SeededRandom, count: number): number[] {
  const first = writtenBytes / blockBytes;
  const blocks = new Set<number>();
  while (blocks.size < count) blocks.add(first + random.below((sizeBytes - writtenBytes) / blockBytes));
  return [...blocks];
}

test(`onMismatch: repair mends flipped bits by itself under writes; what comes back is an alarm, and left alone (SEED=${seed})`, async () => {
  await withSites(["onMismatch: repair"], async (sites, random) => {
    const stop = await writing(sites, random);
    const blocks = blocksBehind(random, 12);
    await flip(sites, blocks);
    const found = await verify(sites);
    assert.equal(found.differingBlocks, blocks.length);
    const proof = await proofAfter(sites, found.begin);
    assert.equal(proof.differingBlocks, 0, "mended, and proven by another verify");
    assert.ok(sites.log("primary").includes("MISMATCH_REPAIRED"));
    const { pins } = (await sites.standby("dr")).history;
    assert.deepEqual(
      pins.map(({ id }) => id),
      [`repair-${found.begin}`],
      "what was replaced can still be looked at",
    );
    assert.notEqual((await sites.owner("primary")).reason?.code, "MISMATCH_RECURRED");
    // The same place again: a disk that goes on failing is for people.
    const again = blocks.slice(0, 3);
    await flip(sites, again);
    const back = await verify(sites);
    assert.equal(back.differingBlocks, again.length);
    const owner = await until("the alarm", async () => {
      const status = await sites.owner("primary");
      return status.reason?.code === "MISMATCH_RECURRED" ? status : undefined;
    });
    assert.equal(owner.state, "at-risk");
    await stop();
    await sites.waitIdle("primary", "dr");
    const still = await verify(sites);
    assert.equal(still.differingBlocks, again.length, "nothing was sent again");
    assert.equal((await verifies(sites)).scan, null);
    const ordered = await sites.cli("primary", "verify", groupName, "--repair", "--yes", "--json");
    assert.equal(ordered.code, 0, ordered.output);
    await sites.waitIdle("primary", "dr");
    const home = await readFile(await sites.homeImage("primary", "data"));
    assert.ok(home.equals(await readFile(await sites.standbyImage("dr", "data"))));
    await until("the alarm to be answered", async () =>
      (await sites.owner("primary")).reason === null ? true : undefined,
    );
  });
});

test(`scan.digest: on leaves the digest of the point at the end of a clean verify, under writes, and it is right (SEED=${seed})`, async (t) => {
  await withSites(["scan: { digest: on }"], async (sites, random) => {
    const stop = await writing(sites, random);
    const { end, differingBlocks, durationMs } = await verify(sites);
    await stop();
    assert.equal(differingBlocks, 0);
    const list = async (): Promise<PointList["points"]> => {
      const { code, stdout, output } = await sites.cli(
        "dr",
        "points",
        groupName,
        "--limit",
        "10000",
        "--json",
      );
      assert.equal(code, 0, output);
      return (lastJson(stdout) as PointList).points;
    };
    const points = await list();
    const at = points.find(({ sequence }) => sequence >= end!);
    assert.match(at?.digest ?? "", /^[0-9a-f]{64}$/);
    assert.equal(points.filter(({ digest }) => digest !== null).length, 1, "of that point alone");
    t.diagnostic(`a verify of ${sizeBytes} bytes took ${durationMs} ms`);
    await sites.kill("dr");
    await sites.start("dr");
    await until("the points", async () =>
      (await sites.standby("dr")).history.points > 1 ? true : undefined,
    );
    assert.equal((await list()).find(({ sequence }) => sequence === at!.sequence)?.digest, at!.digest);
    // Made from an image of that point, by somebody who trusts neither site.
    const file = `${sites.folder}/point.img`;
    const words = ["image", "export", `${groupName}/data`, file, "--point", `${at!.sequence}`, "--json"];
    assert.equal((await sites.cli("dr", ...words)).code, 0);
    const judged = await sites.cli("dr", "image", "verify", file, "--digest", at!.digest!, "--json");
    assert.equal(judged.code, 0, judged.output);
  });
});
