/**
 * Scans between two real sites, as an operator meets them: a disk that already holds data gets a standby while writes go
 * on, from nothing and from an image that was carried there; damage at the standby is found, repaired and gone; and until a
 * first sync has ended nobody can take over.
 */
import assert from "node:assert/strict";
import { randomFillSync } from "node:crypto";
import { mkdir, mkdtemp, open, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { chunkBytes, chunkHeadBytes, decodeChunkHead, runBytes } from "../../image/history/chunk.ts";
import { lz4Compress } from "../../protocol/lz4.ts";
import type { OwnerStatus, VerifyResult } from "../../protocol/status.ts";
import { SeededRandom, seedFromEnvironment } from "../support/seeded.ts";
import { groupName, lastJson, TwoSites } from "../support/sites.ts";
import { isSoundChunk } from "../support/sound-chunk.ts";
import { until } from "../support/wait.ts";

const seed = seedFromEnvironment();
const mebibyte = 1 << 20;
const sizeBytes = 48 * mebibyte;
const blockBytes = 4096;

/** A tenth of the disk, in runs of up to a MiB, half of it incompressible. */
function diskWithData(random: SeededRandom): Buffer {
  const disk = Buffer.alloc(sizeBytes);
  for (let filled = 0; filled < sizeBytes / 10; ) {
    const length = (1 + random.below(256)) * blockBytes;
    const at = random.below((sizeBytes - length) / blockBytes) * blockBytes;
    for (let block = at; block < at + length; block += blockBytes) {
      randomFillSync(disk, block, blockBytes / 2);
      disk.fill(1 + random.below(255), block + blockBytes / 2, block + blockBytes);
    }
    filled += length;
  }
  return disk;
}

/** Writes random blocks through NBD until it is stopped; every one of them must be answered. */
async function writing(sites: TwoSites, random: SeededRandom): Promise<() => Promise<number>> {
  const [clients] = await sites.connect("primary");
  const client = clients![0]!;
  let stopped = false;
  const done = (async () => {
    const block = Buffer.alloc(blockBytes);
    let count = 0;
    while (!stopped) {
      randomFillSync(block);
      const reply = await client.write(random.below(sizeBytes / blockBytes) * blockBytes, block);
      assert.equal(reply.outcome, "answered", JSON.stringify(reply));
      count += 1;
      // About a MB/s: a load, not a race.
      await new Promise((resolve) => setTimeout(resolve, 4));
    }
    await client.close();
    return count;
  })();
  return () => {
    stopped = true;
    return done;
  };
}

async function requireEqual(sites: TwoSites, home: string): Promise<void> {
  await sites.waitIdle("primary", "dr");
  const standby = await readFile(await sites.standbyImage("dr", "data"));
  await until("both images to be the same", async () =>
    standby.equals(await readFile(home)) ? true : undefined,
  );
}

async function withSites(
  prepare: (folder: string, disk: Buffer, dataDir: string) => Promise<void>,
  limit: string,
  use: (sites: TwoSites, disk: Buffer, random: SeededRandom, home: string) => Promise<void>,
): Promise<void> {
  const random = new SeededRandom(seed, 31);
  const folder = await mkdtemp(join(tmpdir(), "splitsite-scan-"));
  const disk = diskWithData(random);
  const image = join(folder, "home.img");
  await writeFile(image, disk);
  const dr = join(folder, "dr");
  let sites: TwoSites | undefined;
  try {
    await prepare(folder, disk, dr);
    sites = await TwoSites.create({
      volumes: { data: sizeBytes },
      images: { data: image },
      dataDirs: { dr },
      limit,
    });
    await sites.start("dr");
    await sites.start("primary");
    await sites.waitServing("primary");
    await use(sites, disk, random, image);
  } finally {
    await sites?.dispose();
    await rm(folder, { recursive: true, force: true });
  }
}

/**
 * Flips a bit in the blocks of the first chunk of before-images that has any and is not the last; gives its offset. Not in its
 * head: when the standby opens, the points before that would be given up, and their damage with them.
 */
async function damageHistory(sites: TwoSites, random: SeededRandom): Promise<number> {
  const path = join(sites.dataDir("dr"), "gateway", groupName, "history", "segments", "00000001");
  const content = await readFile(path);
  for (let offset = 0; ; ) {
    const head = decodeChunkHead(content.subarray(offset));
    const next = offset + chunkBytes(head.runs.length, head.storedBytes);
    assert.ok(next < content.byteLength, "a chunk with blocks before the last one");
    if (head.storedBytes > 0) {
      const chunk = content.subarray(offset, next);
      const blocksAt = chunkHeadBytes + head.runs.length * runBytes;
      while (isSoundChunk(chunk)) chunk[blocksAt + random.below(head.storedBytes)]! ^= 1 << random.below(8);
      const file = await open(path, "r+");
      await file.write(chunk, 0, chunk.byteLength, offset);
      await file.close();
      return offset;
    }
    offset = next;
  }
}

const synced = (sites: TwoSites): Promise<OwnerStatus> =>
  until(
    "the first sync to end",
    async () => {
      const owner = await sites.owner("primary");
      // Said of nothing that cannot be opened, however early it is asked.
      return owner.state === "protected" ? owner : undefined;
    },
    120_000,
  );

test(`a disk that holds data gets its standby from nothing, under writes, and no takeover before its end (SEED=${seed})`, async (t) => {
  await withSites(
    () => Promise.resolve(),
    // So slow that it cannot be over before it was looked at: some twelve seconds.
    "2Mbit/s",
    async (sites, disk, random, home) => {
      const stop = await writing(sites, random);
      await until("the first sync to be seen", async () => {
        const owner = await sites.owner("primary");
        return owner.reason?.code === "FIRST_SYNC" && owner.scan !== null ? true : undefined;
      });
      const early = await sites.cli("dr", "failover", "run", groupName, "--yes", "--json", "--reason", "x");
      assert.equal(early.code, 6, early.output);
      assert.match(early.output, /not recoverable yet/);
      assert.equal((await sites.standby("dr")).consistent, null);
      const faster = await sites.cli("primary", "throttle", "set", "100Mbit/s");
      assert.equal(faster.code, 0, faster.output);
      const writes = await stop();
      const owner = await synced(sites);
      await requireEqual(sites, home);
      // What had to go: each chunk compressed as a whole, and the writes that came on top, incompressible.
      let compressed = 0;
      for (let at = 0; at < sizeBytes; at += mebibyte)
        compressed += lz4Compress(disk.subarray(at, at + mebibyte)).length;
      const shipped = owner.link.wireBytes - writes * blockBytes;
      t.diagnostic(`${writes} writes beside it; shipped ${shipped} bytes for ${compressed} compressed`);
      assert.ok(writes > 10 && shipped < compressed * 1.5, `${shipped} of ${compressed}`);
      assert.ok(owner.state === "protected" || owner.state === "catching-up", JSON.stringify(owner.reason));
      await sites.kill("primary");
      const result = await sites.failover("dr");
      assert.equal(result.epoch, 2);
    },
  );
});

test(`a standby whose image was carried there gets only what differs; damage is found, repaired and gone (SEED=${seed})`, async (t) => {
  const differing = 40;
  await withSites(
    async (_folder, disk, dr) => {
      const random = new SeededRandom(seed, 32);
      const carried = Buffer.from(disk);
      for (let count = 0; count < differing; count += 1)
        randomFillSync(carried, random.below(sizeBytes / blockBytes) * blockBytes, blockBytes);
      const path = join(dr, "gateway", groupName, "images", "data.img");
      await mkdir(dirname(path), { recursive: true });
      await writeFile(path, carried);
    },
    "unlimited",
    async (sites, _disk, random, home) => {
      const stop = await writing(sites, random);
      const owner = await synced(sites);
      const writes = await stop();
      await requireEqual(sites, home);
      const shipped = owner.link.wireBytes;
      t.diagnostic(`${writes} writes beside it, ${shipped} bytes on the line`);
      // Digests of 48 chunks, leaves of at most 40 of them, their blocks, and what the client wrote meanwhile.
      assert.ok(
        shipped < (differing * 2 + writes + 100) * (blockBytes + 200) + differing * 4200,
        `${shipped}`,
      );

      const clean = await sites.cli("primary", "verify", groupName, "--json");
      assert.equal(clean.code, 0, clean.output);
      assert.equal((lastJson(clean.stdout) as VerifyResult).differingBlocks, 0);

      const standby = await open(await sites.standbyImage("dr", "data"), "r+");
      const flipped = new Set<number>();
      for (let count = 0; count < 25; count += 1) {
        const at = random.below(sizeBytes);
        const { buffer } = await standby.read(Buffer.alloc(1), 0, 1, at);
        await standby.write(Buffer.of(buffer[0]! ^ (1 << random.below(8))), 0, 1, at);
        flipped.add(Math.floor(at / blockBytes));
      }
      await standby.close();
      const found = await sites.cli("primary", "verify", groupName, "--json");
      assert.equal(found.code, 7, found.output);
      const { differences, differingBlocks } = lastJson(found.stdout) as VerifyResult;
      const told = differences.flatMap(({ volume, offset, length }) => {
        assert.equal(volume, "data");
        return Array.from({ length: length / blockBytes }, (_, index) => offset / blockBytes + index);
      });
      assert.equal(differingBlocks, flipped.size);
      assert.deepEqual(new Set(told), flipped, "exactly the blocks that were damaged");

      assert.deepEqual(
        [clean, found].map(({ stdout }) => {
          const { history } = lastJson(stdout) as VerifyResult;
          return [history.state, history.check?.code];
        }),
        [
          ["done", null],
          ["done", null],
        ],
        "images and before-images are two matters",
      );

      const again = await writing(sites, random);
      const repaired = await sites.cli("primary", "verify", groupName, "--repair", "--yes", "--json");
      await again();
      assert.equal(repaired.code, 0, repaired.output);
      await requireEqual(sites, home);
      const status = await sites.cli("primary", "scan", "status", groupName);
      assert.match(status.stdout, /no difference/);

      const damaged = await damageHistory(sites, random);
      const judged = await sites.cli("primary", "verify", groupName, "--json");
      assert.equal(judged.code, 7, judged.output);
      const { history, differingBlocks: none } = lastJson(judged.stdout) as VerifyResult;
      assert.equal(none, 0);
      assert.equal(history.check?.code, "HISTORY_DAMAGED");
      const [chunk] = history.check.damaged;
      assert.deepEqual([history.check.damagedChunks, chunk?.segment, chunk?.offset], [1, 1, damaged]);
      assert.ok(chunk!.ranges.every(({ volume }) => volume === "data") && chunk!.ranges.length > 0);
      await sites.kill("dr");
      await sites.start("dr");
      const kept = await until("the standby's status", async () => {
        const standby = await sites.standby("dr");
        return standby.history.check === null ? undefined : standby.history.check;
      });
      assert.equal(kept.damagedChunks, 1, "it outlasts a kill");
      const there = await sites.cli("dr", "history", "verify", groupName, "--json");
      assert.equal(there.code, 7, there.output);
    },
  );
});
