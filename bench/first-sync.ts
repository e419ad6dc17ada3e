/**
 * First sync of 1 GiB: what the line carries for a standby that is made from nothing, and for one whose image was carried
 * there, beside a writer. Compared with LZ4 of the same content by the MiB, which is what the content alone would cost.
 */
import { randomFillSync } from "node:crypto";
import { mkdir, mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { lz4Compress } from "../protocol/lz4.ts";
import { mustRun } from "../test/support/child.ts";
import { SeededRandom } from "../test/support/seeded.ts";
import { groupName, TwoSites } from "../test/support/sites.ts";
import { findTool, requireTools } from "../test/support/tools.ts";
import { until } from "../test/support/wait.ts";
import { volumeBytes } from "./installations.ts";
import type { BenchOptions, Row, Section } from "./section.ts";
import { atMost, figure, skipped } from "./section.ts";

const title = "bytes on the line of a first sync of 1 GiB, beside a writer";
const blockBytes = 4_096;
const mebibyte = 2 ** 20;
const blocks = volumeBytes / blockBytes;
const chunks = volumeBytes / mebibyte;
/** Bytes of a chunk's digest, and of the leaf digests of a chunk that differs (docs/scan.md). */
const chunkDigestBytes = 32;
const blocksPerChunk = mebibyte / blockBytes;
const leafDigestsBytes = blocksPerChunk * 16;
/** Pause between the writer's blocks, ms: a load, some 150 writes a second, whose bytes can be told from the scan's. */
const writePauseMs = 5;
const syncMsMax = 10 * 60_000;
const seed = 7;

interface Outcome {
  readonly row: Row;
  readonly ratio: number;
}

export async function measure(options: BenchOptions): Promise<Section> {
  const missing = requireTools("qemu-img");
  if (missing !== false) return skipped("first sync", title, missing);
  const folder = await mkdtemp(join(tmpdir(), "splitsite-bench-"));
  try {
    const disk = join(folder, "disk.img");
    const { filled, compressed } = await fillTenth(disk);
    const empty = await sync("standby made from nothing", folder, disk, compressed, undefined, options);
    const runs = clusters(filled);
    const clustered = await sync("carried, 1 % differs, in MiB runs", folder, disk, 0, runs, options);
    const scattered = await sync(
      "carried, 1 % differs, anywhere",
      folder,
      disk,
      0,
      anywhere(filled),
      options,
    );
    return {
      id: "first sync",
      title,
      rows: [empty.row, clustered.row, scattered.row],
      goals: [
        atMost("from nothing: content / compressed", empty.ratio, 1.05),
        atMost("carried, clustered: content / compressed", clustered.ratio, 1.1),
        atMost("carried, anywhere: content / compressed", scattered.ratio, 1.1),
      ],
      notes: [
        "content: bytes of all batches with their heads, less the digests and 4,096 for each block of the writer",
        "compressed: LZ4 by the MiB of what is allocated, or of the blocks that differ",
        "after each, `qemu-img compare` has said that the images are identical",
      ],
    };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Half of each block is random, half one byte. Gives back the chunks filled, and what LZ4 makes of them, by the MiB. */
async function fillTenth(path: string): Promise<{ filled: number[]; compressed: number }> {
  const random = new SeededRandom(seed, 1);
  const filled = pick(random, chunks, chunks / 10);
  const file = await open(path, "w+");
  let compressed = 0;
  try {
    await file.truncate(volumeBytes);
    for (const chunk of filled) {
      const data = content(random, mebibyte);
      compressed += lz4Compress(data).byteLength;
      await file.write(data, 0, mebibyte, chunk * mebibyte);
    }
  } finally {
    await file.close();
  }
  return { filled, compressed };
}

function content(random: SeededRandom, length: number): Buffer {
  const data = Buffer.alloc(length);
  for (let at = 0; at < length; at += blockBytes) {
    randomFillSync(data, at, blockBytes / 2);
    data.fill(1 + random.below(255), at + blockBytes / 2, at + blockBytes);
  }
  return data;
}

function pick(random: SeededRandom, below: number, count: number): number[] {
  const chosen = new Set<number>();
  while (chosen.size < Math.floor(count)) chosen.add(random.below(below));
  return [...chosen].sort((a, b) => a - b);
}

/*
 * What differs lies in chunks with data: the digests of leaves that are zero are all the same, and how few bytes they are
 * on the line could not be told from the content's.
 */

function clusters(filled: readonly number[]): number[] {
  return pick(new SeededRandom(seed, 2), filled.length, chunks / 100).flatMap((at) =>
    Array.from({ length: blocksPerChunk }, (_, index) => filled[at]! * blocksPerChunk + index),
  );
}

function anywhere(filled: readonly number[]): number[] {
  return pick(new SeededRandom(seed, 3), filled.length * blocksPerChunk, blocks / 100).map(
    (at) => filled[Math.floor(at / blocksPerChunk)]! * blocksPerChunk + (at % blocksPerChunk),
  );
}

/** `differing`: blocks that the image carried to the standby has otherwise; undefined: none was carried. */
async function sync(
  name: string,
  parent: string,
  disk: string,
  dataBytes: number,
  differing: readonly number[] | undefined,
  options: BenchOptions,
): Promise<Outcome> {
  const folder = await mkdtemp(join(parent, "sync-"));
  const home = join(folder, "home.img");
  const dr = join(folder, "dr");
  let compressed = dataBytes;
  await mustRun(findTool("cp")!, ["--sparse=always", disk, home]);
  if (differing !== undefined) {
    const carried = join(dr, "gateway", groupName, "images", "data.img");
    await mkdir(dirname(carried), { recursive: true });
    await mustRun(findTool("cp")!, ["--sparse=always", disk, carried]);
    compressed = await change(home, differing);
  }
  const sites = await TwoSites.create({
    volumes: { data: volumeBytes },
    images: { data: home },
    dataDirs: { dr },
    logBytes: "4GiB",
    parent: folder,
  });
  try {
    await sites.start("dr");
    await sites.start("primary");
    await sites.waitServing("primary");
    const stop = await writing(sites);
    const startedMs = performance.now();
    await until(
      "the first sync to end",
      async () => ((await sites.owner("primary")).state === "protected" ? true : undefined),
      syncMsMax,
    );
    const seconds = (performance.now() - startedMs) / 1_000;
    const writes = await stop();
    await sites.waitIdle("primary", "dr", 120_000);
    const { wireBytes } = (await sites.owner("primary")).link;
    const standby = await sites.standbyImage("dr", "data");
    await sites.stop("primary");
    await sites.stop("dr");
    await mustRun(findTool("qemu-img")!, ["compare", "-f", "raw", "-F", "raw", home, standby]);
    const differingChunks = new Set(differing?.map((block) => Math.floor((block * blockBytes) / mebibyte)));
    const digests =
      differing === undefined ? 0 : chunks * chunkDigestBytes + differingChunks.size * leafDigestsBytes;
    const sent = wireBytes - writes * blockBytes - digests;
    options.report(`${name}: ${figure(seconds)} s, ${figure(wireBytes / 1e6)} MB on the line`);
    return {
      ratio: sent / compressed,
      row: {
        name,
        cells: {
          "line MB": figure(wireBytes / 1e6),
          "writer MB": figure((writes * blockBytes) / 1e6),
          "digests MB": figure(digests / 1e6),
          "content MB": figure(sent / 1e6),
          "compressed MB": figure(compressed / 1e6),
          "content / compressed": (sent / compressed).toFixed(3),
          seconds: figure(seconds),
        },
      },
    };
  } finally {
    await sites.dispose();
    await rm(folder, { recursive: true, force: true });
  }
}

/** Other content in these blocks. Gives back what LZ4 makes of it, a MiB at a time. */
async function change(path: string, changed: readonly number[]): Promise<number> {
  const random = new SeededRandom(seed, 4);
  const file = await open(path, "r+");
  let compressed = 0;
  try {
    for (let at = 0; at < changed.length; at += blocksPerChunk) {
      const some = changed.slice(at, at + blocksPerChunk);
      const data = content(random, some.length * blockBytes);
      compressed += lz4Compress(data).byteLength;
      for (const [index, block] of some.entries())
        await file.write(data, index * blockBytes, blockBytes, block * blockBytes);
    }
  } finally {
    await file.close();
  }
  return compressed;
}

/** Random incompressible blocks through NBD until it is stopped; gives back how many. */
async function writing(sites: TwoSites): Promise<() => Promise<number>> {
  const random = new SeededRandom(seed, 5);
  const [clients] = await sites.connect("primary");
  const client = clients![0]!;
  let stopped = false;
  const done = (async () => {
    const block = Buffer.alloc(blockBytes);
    let count = 0;
    while (!stopped) {
      randomFillSync(block);
      const reply = await client.write(random.below(blocks) * blockBytes, block);
      if (reply.outcome !== "answered") throw new Error(`a write was not answered: ${reply.outcome}`);
      count += 1;
      await new Promise((resolve) => setTimeout(resolve, writePauseMs));
    }
    await client.close();
    return count;
  })();
  return () => {
    stopped = true;
    return done;
  };
}
