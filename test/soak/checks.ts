/**
 * `make soak-checks MINUTES=10`: consistency checks of a group under full write load, one after the other for so long, not one
 * of which may report anything; then single bits of the standby's images and of its before-images are turned over at rest, and
 * the next check must find exactly these blocks and chunks, repair must mend the images the right way round, and the check
 * after it find them sound, and the same before-images damaged. Ends with 0 only then.
 */
import { strict as assert } from "node:assert";
import { randomFillSync } from "node:crypto";
import { open, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { ChunkHead } from "../../image/history/chunk.ts";
import { chunkBytes, decodeChunkHead } from "../../image/history/chunk.ts";
import { blockBytes } from "../../protocol/ids.ts";
import type { VerifyResult } from "../../protocol/status.ts";
import { noteEvidence } from "../support/evidence.ts";
import { SeededRandom, seedFromEnvironment } from "../support/seeded.ts";
import { groupName, lastJson, TwoSites } from "../support/sites.ts";
import { isSoundChunk } from "../support/sound-chunk.ts";
import { until } from "../support/wait.ts";

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "10" },
    flips: { type: "string", default: "200" },
    seed: { type: "string" },
  },
});
const minutes = Number(values.minutes);
const flips = Number(values.flips);
const seed = values.seed === undefined ? seedFromEnvironment() : Number(values.seed);
if (!(minutes > 0) || !(flips > 0) || !Number.isInteger(seed)) {
  console.error("--minutes and --flips must be numbers above 0, --seed a whole number");
  process.exit(2);
}

const volumes = { data: 192 * 2 ** 20, wal: 64 * 2 ** 20 };
type VolumeName = keyof typeof volumes;
const names = Object.keys(volumes) as VolumeName[];
/** Writers of each volume, each with one request in flight and no pause but for a standby that is too far behind. */
const writersPerVolume = 4;
/**
 * They rest while the standby is further behind than this, bytes: full load is what both sites can bear. A check waits while the
 * journal is half full, so beside writers who outrun the standby for ever none would end.
 */
const lagBytesMax = 64 * 2 ** 20;
const lookMs = 250;

console.log(
  `checks for ${minutes} minutes, then ${flips} bits of images and ${flips} of before-images, seed ${seed}`,
);
const random = new SeededRandom(seed, 91);
const sites = await TwoSites.create({ volumes, limit: "unlimited" });
// Under full load each MiB may have to be read four times.
sites.cliMsMax = 20 * 60_000;
try {
  await Promise.all([sites.start("dr"), sites.start("primary")]);
  await sites.waitServing("primary");
  const writers = await startWriters();
  const endMs = performance.now() + minutes * 60_000;
  let checks = 0;
  let checkedBytes = 0;
  while (performance.now() < endMs) {
    const { checkedBytes: bytes, uncheckedBytes, overwrittenChunks } = await verify(0);
    checks += 1;
    checkedBytes += bytes;
    assert.equal(uncheckedBytes, 0, "everything was compared");
    console.log(
      `check ${checks}: no difference, ${overwrittenChunks} chunks overwritten, ${writers.count()} writes so far`,
    );
  }
  const writes = await writers.stop();
  assert.ok(
    checks > 0 && writes > 100 * minutes,
    `${checks} checks beside ${writes} writes prove too little`,
  );
  await sites.waitIdle("primary", "dr", 120_000);

  const flipped = await flipImages();
  const damaged = await flipBeforeImages();
  const found = await verify(7);
  const told = new Set(
    found.differences.flatMap(({ volume, offset, length }) =>
      Array.from({ length: length / blockBytes }, (_, index) => `${volume}:${offset / blockBytes + index}`),
    ),
  );
  assert.equal(found.differingBlocks, flipped.size);
  assert.deepEqual(told, flipped, "exactly the blocks whose bits were turned over");
  requireDamage(found, damaged);
  console.log(`${flips} bits in ${flipped.size} blocks of images: all found, nothing else`);
  console.log(`${flips} bits in ${damaged.size} chunks of before-images: all found, nothing else`);

  const repaired = await sites.cli("primary", "verify", groupName, "--repair", "--yes", "--json");
  assert.equal(repaired.code, 7, repaired.output);
  const judged = await verify(7);
  assert.equal(judged.differingBlocks, 0, "the images are sound again");
  requireDamage(judged, damaged);
  for (const name of names) {
    const home = await readFile(await sites.homeImage("primary", name));
    await until("both images to be the same", async () =>
      home.equals(await readFile(await sites.standbyImage("dr", name))) ? true : undefined,
    );
  }
  console.log(
    "repaired: the standby's images are the owner's again, and a check finds no more than before-images",
  );
  noteEvidence("corruptions", { injected: 2 * flips, found: 2 * flips, undetected: 0 });
  console.log(
    `${checks} checks of ${(checkedBytes / 2 ** 30).toFixed(1)} GiB beside ${writes} writes: no false report`,
  );
} finally {
  await sites.dispose();
}

interface Writers {
  count(): number;
  /** Ends them and gives back how many writes were answered. */
  stop(): Promise<number>;
}

async function startWriters(): Promise<Writers> {
  const clients = await sites.connect("primary", writersPerVolume);
  let stopped = false;
  let count = 0;
  let goOn: () => void = () => {};
  /** Settled while the standby keeps up. */
  let mayWrite = Promise.resolve();
  const look = async (): Promise<void> => {
    for (let isBehind = false; !stopped; await new Promise((resolve) => setTimeout(resolve, lookMs))) {
      const wasBehind: boolean = isBehind;
      isBehind = (await sites.owner("primary")).lag.bytes > lagBytesMax;
      if (isBehind === wasBehind) continue;
      if (isBehind) mayWrite = new Promise((resolve) => (goOn = resolve));
      else goOn();
    }
    goOn();
  };
  const running = clients.flatMap((own, volume) =>
    own.map(async (client, index) => {
      const draw = new SeededRandom(seed, 100 + volume * writersPerVolume + index);
      const sizeBytes = volumes[names[volume]!];
      while (!stopped) {
        await mayWrite;
        const data = Buffer.alloc(blockBytes * draw.pick([1, 1, 1, 2, 4, 16]));
        randomFillSync(data, 0, data.byteLength / 2);
        const at = draw.below((sizeBytes - data.byteLength) / blockBytes) * blockBytes;
        const reply = await client.write(at, data);
        assert.equal(
          reply.outcome,
          "answered",
          `${JSON.stringify(reply)}\n${sites.log("primary").slice(-4_000)}`,
        );
        count += 1;
      }
      await client.close();
    }),
  );
  const ended = Promise.all([...running, look()]);
  // Told by `stop`; where a check fails first, its error is the one to be seen.
  ended.catch(() => {});
  return {
    count: () => count,
    stop: async () => {
      stopped = true;
      await ended;
      return count;
    },
  };
}

async function verify(code: number): Promise<VerifyResult> {
  const finished = await sites.cli("primary", "verify", groupName, "--json");
  assert.equal(finished.code, code, finished.output);
  const result = lastJson(finished.stdout) as VerifyResult;
  if (code === 0) assert.equal(result.differingBlocks, 0, finished.output);
  return result;
}

/** One bit in each of so many places of the standby's images; the blocks they lie in, as VOLUME:NUMBER. */
async function flipImages(): Promise<Set<string>> {
  const flipped = new Set<string>();
  const seen = new Set<string>();
  while (seen.size < flips) {
    const name = random.pick(names);
    const at = random.below(volumes[name]);
    const bit = random.below(8);
    if (seen.has(`${name}:${at}:${bit}`)) continue;
    seen.add(`${name}:${at}:${bit}`);
    await flip(await sites.standbyImage("dr", name), at, bit);
    flipped.add(`${name}:${Math.floor(at / blockBytes)}`);
  }
  return flipped;
}

function segmentsFolder(): string {
  return join(sites.dataDir("dr"), "gateway", groupName, "history", "segments");
}

function segmentPath(segment: number): string {
  return join(segmentsFolder(), `${segment}`.padStart(8, "0"));
}

/** One bit in each of so many places of the chunks that the standby keeps; those they lie in, by SEGMENT:OFFSET. */
async function flipBeforeImages(): Promise<Map<string, ChunkHead>> {
  const chunks: { path: string; segment: number; offset: number; bytes: number; head: ChunkHead }[] = [];
  for (const file of (await readdir(segmentsFolder())).sort()) {
    const path = segmentPath(Number(file));
    const content = await readFile(path);
    for (let offset = 0; offset < content.byteLength; ) {
      const head = decodeChunkHead(content.subarray(offset));
      const bytes = chunkBytes(head.runs.length, head.storedBytes);
      chunks.push({ path, segment: Number(file), offset, bytes, head });
      offset += bytes;
    }
  }
  const damaged = new Map<string, ChunkHead>();
  const seen = new Set<string>();
  while (seen.size < flips) {
    const { path, segment, offset, bytes, head } = random.pick(chunks);
    const at = offset + random.below(bytes);
    const bit = random.below(8);
    if (seen.has(`${segment}:${at}:${bit}`)) continue;
    seen.add(`${segment}:${at}:${bit}`);
    await flip(path, at, bit);
    damaged.set(`${segment}:${offset}`, head);
  }
  await dropHarmless(damaged);
  return damaged;
}

async function flip(path: string, at: number, bit: number): Promise<void> {
  const file = await open(path, "r+");
  try {
    const { buffer } = await file.read(Buffer.alloc(1), 0, 1, at);
    await file.write(Buffer.of(buffer[0]! ^ (1 << bit)), 0, 1, at);
  } finally {
    await file.close();
  }
}

/** Takes out what unpacks to the same blocks all the same, as a match of LZ4 that points elsewhere may: it lost nothing. */
async function dropHarmless(damaged: Map<string, ChunkHead>): Promise<void> {
  for (const place of [...damaged.keys()]) {
    const [segment, offset] = place.split(":").map(Number) as [number, number];
    if (!isSoundChunk((await readFile(segmentPath(segment))).subarray(offset))) continue;
    damaged.delete(place);
    console.log(`${place}: unpacks to the same blocks`);
  }
}

/** That exactly these chunks are told, and each block of theirs by volume and range. */
function requireDamage({ history }: VerifyResult, damaged: ReadonlyMap<string, ChunkHead>): void {
  const told = new Map(history.check?.damaged.map((each) => [`${each.segment}:${each.offset}`, each]));
  assert.deepEqual(
    new Set(told.keys()),
    new Set(damaged.keys()),
    "exactly the chunks whose bits were turned over",
  );
  assert.equal(history.check?.damagedChunks, damaged.size);
  for (const [place, head] of damaged) {
    // No point needs what stands between two chunks.
    if (told.get(place)!.part === "padding") continue;
    for (const { volume, first, blocks } of head.runs) {
      const within = told.get(place)!.ranges.some((range) => {
        const end = range.offset + range.length;
        return (
          range.volume === names[volume] &&
          range.offset <= first * blockBytes &&
          Math.min((first + blocks) * blockBytes, volumes[names[volume]!]) <= end
        );
      });
      assert.ok(within, `${place}: blocks ${first} to ${first + blocks - 1} of ${names[volume]} are told`);
    }
  }
}
