/**
 * What it costs to write many small changes into an image: on the main thread, through libuv's pool, on a thread
 * with copied or shared memory. Prints wall time of the batch and CPU time of the main thread per change; the
 * choice that follows from it stands in docs/image.md. Run: `node --import tsx bench/image-apply.ts [FOLDER]`.
 */
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, write, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import type { BlockChange } from "../block/bulk-write.ts";
import { writeChangesTo } from "../block/write-queue.ts";
import { foldRecords, isImageRecord } from "../image/fold.ts";
import { Overlay } from "../image/overlay.ts";
import { buildFrame } from "../protocol/frame.ts";
import { mainThreadCpuMs } from "./main-thread-cpu.ts";

const fileBytes = 1024 * 1024 * 1024;
const blockBytes = 4096;
const count = 4096;
const rounds = 8;
const warmRounds = 2;

function randomOffsets(): number[] {
  const blocks = new Set<number>();
  while (blocks.size < count) blocks.add(Math.floor(Math.random() * (fileBytes / blockBytes)));
  return [...blocks].map((block) => block * blockBytes);
}

async function measure(name: string, run: (offsets: readonly number[]) => Promise<void>): Promise<void> {
  let wallMs = 0;
  let mainMs = 0;
  for (let round = 0; round < warmRounds + rounds; round += 1) {
    const offsets = randomOffsets().sort((a, b) => a - b);
    const startCpu = mainThreadCpuMs();
    const start = performance.now();
    await run(offsets);
    if (round < warmRounds) continue;
    wallMs += performance.now() - start;
    mainMs += mainThreadCpuMs() - startCpu;
  }
  const perSecond = Math.round((count * rounds) / (wallMs / 1000));
  const row = [
    name.padEnd(44),
    `${(wallMs / rounds).toFixed(1)} ms`.padStart(10),
    `${perSecond}/s`.padStart(11),
  ];
  console.log(...row, `main ${((mainMs * 1000) / rounds / count).toFixed(2)} us each`);
}

/** A thread that writes straight from shared frame bodies, for comparison. */
const sharedBodyThread = `
const { parentPort } = require("node:worker_threads");
const { writeSync } = require("node:fs");
parentPort.on("message", ({ fd, bodies, runs }) => {
  const views = bodies.map((body) => new Uint8Array(body));
  for (let i = 0; i < runs.length; i += 3) writeSync(fd, views[runs[i]], runs[i + 1], ${blockBytes}, runs[i + 2]);
  parentPort.postMessage(null);
});`;

async function compareWriters(fd: number): Promise<void> {
  const bodies = Array.from({ length: 16 }, () => new SharedArrayBuffer(1024 * 1024));
  const plain = bodies.map((_, index) => Buffer.allocUnsafeSlow(1024 * 1024).fill(index + 1));
  const views = Array.from({ length: count }, (_, i) =>
    plain[i >> 8]!.subarray((i & 255) * blockBytes, ((i & 255) + 1) * blockBytes),
  );

  await measure("writeSync on the main thread", async (offsets) => {
    for (let i = 0; i < count; i += 1) writeSync(fd, views[i]!, 0, blockBytes, offsets[i]!);
  });
  for (const depth of [4, 16]) {
    await measure(`fs.write through libuv, ${depth} at once`, (offsets) => {
      return new Promise((resolve, reject) => {
        let next = 0;
        let done = 0;
        const one = () => {
          const i = next;
          if (i === count) return;
          next += 1;
          write(fd, views[i]!, 0, blockBytes, offsets[i]!, (error) => {
            if (error !== null) return reject(error);
            done += 1;
            if (done === count) resolve();
            else one();
          });
        };
        for (let i = 0; i < depth; i += 1) one();
      });
    });
  }
  const worker = new Worker(sharedBodyThread, { eval: true });
  await measure("thread, frame bodies in shared memory", (offsets) => {
    return new Promise((resolve) => {
      worker.once("message", () => resolve());
      const runs = new Float64Array(count * 3);
      for (let i = 0; i < count; i += 1) runs.set([i >> 8, (i & 255) * blockBytes, offsets[i]!], i * 3);
      worker.postMessage({ fd, bodies, runs });
    });
  });
  await worker.terminate();
  await measure("thread, copied into shared slots (the one used)", (offsets) => {
    const changes: BlockChange[] = offsets.map((offset, i) => ({
      offset,
      length: blockBytes,
      data: views[i]!,
    }));
    return writeChangesTo(fd, changes);
  });
}

function measurePure(): void {
  const lineage = new Uint8Array(16);
  const data = Buffer.alloc(blockBytes, 1);
  const chainBefore = new Uint8Array(32);
  const frames = Array.from({ length: 64 }, (_, index) => {
    const records = Array.from({ length: 64 }, () => {
      const offset = Math.floor(Math.random() * (fileBytes / blockBytes)) * blockBytes;
      return { kind: "write", volume: 0, offset, length: blockBytes, data } as const;
    });
    return buildFrame({
      lineage,
      first: 1 + index * 64,
      chainBefore,
      dataBytesBefore: 0,
      openedAtMs: 0,
      closedAtMs: 0,
      records,
    });
  });
  const records = frames.flatMap((frame) => frame.records.filter((record) => isImageRecord(record, "apply")));
  const repeat = (name: string, run: () => void) => {
    for (let i = 0; i < 20; i += 1) run();
    const start = performance.now();
    for (let i = 0; i < 20; i += 1) run();
    const ms = (performance.now() - start) / 20;
    console.log(
      name.padEnd(44),
      `${ms.toFixed(2)} ms`.padStart(10),
      `${((ms * 1000) / count).toFixed(2)} us each`,
    );
  };
  repeat("fold of 4,096 random 4 KiB writes", () => {
    foldRecords(records);
  });
  const overlay = new Overlay();
  repeat("overlay: insert and evict of the same", () => {
    for (const frame of frames) overlay.insert(frame);
    overlay.evictThrough(frames.at(-1)!.last);
  });
  for (const frame of frames) overlay.insert(frame);
  repeat("overlay: 4 KiB reads that hit", () => {
    for (const record of records) overlay.read(0, record.offset, blockBytes);
  });
  repeat("overlay: 4 KiB reads that miss", () => {
    for (let i = 0; i < count; i += 1) overlay.read(0, fileBytes + i * blockBytes, blockBytes);
  });
}

const folder = mkdtempSync(join(process.argv[2] ?? tmpdir(), "splitsite-bench-"));
const path = join(folder, "image");
const fd = openSync(path, "w+");
try {
  ftruncateSync(fd, fileBytes);
  const mebibyte = Buffer.alloc(1024 * 1024, 1);
  for (let at = 0; at < fileBytes; at += mebibyte.byteLength)
    writeSync(fd, mebibyte, 0, mebibyte.byteLength, at);
  await compareWriters(fd);
  measurePure();
} finally {
  closeSync(fd);
  rmSync(folder, { recursive: true });
}
