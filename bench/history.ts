/**
 * What keeping before-images costs: steps of 16 MiB into a 1 GiB image, with and without, on one disk in one run; the
 * parts of the history are put together here as a step does it. Prints MB/s of both, their ratio and the CPU time of
 * the main thread. Needs the machine to itself. Run: `node --import tsx bench/history.ts [FOLDER]`.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { FileDevice } from "../block/file-device.ts";
import { openFileDevice } from "../block/file-device.ts";
import type { FoldedChanges } from "../image/fold.ts";
import { BlockIndex } from "../image/history/block-index.ts";
import { appendSet } from "../image/history/capture.ts";
import { Segments } from "../image/history/segments.ts";
import { touchedBlocks } from "../image/history/touched.ts";
import { openLevelOrderedStore } from "../journal/level-ordered-store.ts";
import { systemDisk } from "../runtime/disk.ts";
import { silentLog } from "../runtime/log.ts";

const imageBytes = 1024 * 1024 * 1024;
const stepBytes = 16 * 1024 * 1024;
const steps = 24;
const lineage = new Uint8Array(16).fill(1);
const noise = Buffer.allocUnsafe(stepBytes);
for (let at = 0; at < stepBytes; at += 4) noise.writeUInt32LE((Math.random() * 2 ** 32) >>> 0, at);

/** CPU milliseconds the main thread has used. */
function mainThreadCpuMs(): number {
  return Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, "utf8").split(" ")[0]) / 1e6;
}

/** One folded step of random writes of one size. */
function stepOf(writeBytes: number): FoldedChanges {
  const places = new Set<number>();
  while (places.size < stepBytes / writeBytes)
    places.add(Math.floor(Math.random() * (imageBytes / writeBytes)));
  const changes = [...places]
    .sort((a, b) => a - b)
    .map((place, index) => ({
      offset: place * writeBytes,
      length: writeBytes,
      data: noise.subarray(index * writeBytes, (index + 1) * writeBytes),
    }));
  return new Map([[0, changes]]);
}

class Keeper {
  readonly #device: FileDevice;
  readonly #segments: Segments;
  readonly #index: BlockIndex;
  #last = 0;

  constructor(device: FileDevice, segments: Segments, index: BlockIndex) {
    this.#device = device;
    this.#segments = segments;
    this.#index = index;
  }

  async keep(folded: FoldedChanges): Promise<void> {
    const first = this.#last + 1;
    this.#last += 4096;
    const position = { sequence: this.#last, chain: new Uint8Array(32), dataBytesTotal: 0, timeMs: 0 };
    const set = { lineage, first, position };
    const images = {
      sizeBytes: () => imageBytes,
      read: (_: number, offset: number, length: number) => this.#device.read(offset, length),
      extents: (_: number, offset: number, length: number) => this.#device.extents(offset, length),
    };
    const chunks = await appendSet(this.#segments, set, touchedBlocks([folded]), images);
    await this.#index.add(chunks);
  }
}

async function measure(
  device: FileDevice,
  writeBytes: number,
  keeper: Keeper | undefined,
): Promise<{ mbPerSecond: number; mainMs: number }> {
  let wallMs = 0;
  let mainMs = 0;
  for (let step = -4; step < steps; step += 1) {
    const folded = stepOf(writeBytes);
    const startCpu = mainThreadCpuMs();
    const start = performance.now();
    await keeper?.keep(folded);
    await device.writeChanges(folded.get(0)!);
    await device.flush();
    if (step < 0) continue;
    wallMs += performance.now() - start;
    mainMs += mainThreadCpuMs() - startCpu;
  }
  return { mbPerSecond: (steps * stepBytes) / 1e3 / wallMs, mainMs: mainMs / steps };
}

const folder = mkdtempSync(join(process.argv[2] ?? tmpdir(), "splitsite-bench-"));
try {
  const directory = join(folder, "segments");
  mkdirSync(directory);
  const device = await openFileDevice({
    path: join(folder, "image"),
    sizeBytes: imageBytes,
    create: "sparse",
  });
  for (let at = 0; at < imageBytes; at += stepBytes) await device.write(at, noise, { fua: false });
  await device.flush();
  const segments = await Segments.open({ disk: systemDisk, directory, lineage });
  const index = new BlockIndex(await openLevelOrderedStore(join(folder, "index"), silentLog));
  const keeper = new Keeper(device, segments, index);
  for (const writeBytes of [4096, 65_536, 1024 * 1024]) {
    const without = await measure(device, writeBytes, undefined);
    const kept = await measure(device, writeBytes, keeper);
    console.log(
      `${writeBytes / 1024} KiB`.padStart(9),
      `without ${without.mbPerSecond.toFixed(0)} MB/s, main ${without.mainMs.toFixed(0)} ms a step;`,
      `with ${kept.mbPerSecond.toFixed(0)} MB/s, main ${kept.mainMs.toFixed(0)} ms a step;`,
      `ratio ${(kept.mbPerSecond / without.mbPerSecond).toFixed(2)}`,
    );
  }
  await segments.close();
  await index.close();
  await device.close();
} finally {
  rmSync(folder, { recursive: true });
}
