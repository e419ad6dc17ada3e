/**
 * S9: a gateway's apply with and without history. Frames of random, incompressible writes lie durable in the intake; then the
 * apply loop, as a gateway runs it, brings them into images that are full already: before-images, images, marker and
 * trimming of the intake, each with its syncs. Receiving them is not in the figure, nor is what receiving leaves behind: the
 * store's compactions end first.
 *
 * The images are as full as a first sync makes them, written in pieces of the size that a gateway writes. It matters: the kernel
 * keeps what was written at once as one folio, and goes over all blocks of a folio for each write into it and for each sync.
 */
import { hash, randomFillSync, randomInt } from "node:crypto";
import { mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { systemImageFiles } from "../block/image-files.ts";
import { slotDataBytes } from "../block/write-orders.ts";
import { Applier } from "../gateway/apply/applier.ts";
import { openImage } from "../gateway/apply/open-image.ts";
import { historyOpener } from "../image/past.ts";
import type { FrameLog } from "../journal/frame-log.ts";
import { levelEngine } from "../journal/level-engine.ts";
import { openLevelOrderedStore } from "../journal/level-ordered-store.ts";
import { openFrameLog } from "../journal/open.ts";
import type { BlockRecord } from "../protocol/record.ts";
import { systemClock } from "../runtime/clock.ts";
import { systemDisk } from "../runtime/disk.ts";
import { bootId } from "../runtime/host.ts";
import { silentLog } from "../runtime/log.ts";
import type { HistorySettings } from "../runtime/settings/types.ts";
import { FrameSource, lineage, originOf } from "../test/image/frames.ts";
import { ApplyFloor, stepBytes } from "./apply-floor.ts";
import { calmest, diskRests, stolenMax } from "./calm.ts";
import { mainThreadCpuMs } from "./main-thread-cpu.ts";
import type { BenchOptions, Section } from "./section.ts";
import { atLeast, figure, median } from "./section.ts";

const mebibyte = 2 ** 20;
const imageBytes = 2 ** 30;
/** Raw bytes of one frame, as the sites make them. */
const frameBytes = mebibyte;
/** What one measurement applies: some 32 steps, so that opening the images, and the first step, with none before it, weigh little. */
const workBytes = 512 * mebibyte;
const sizes = { "4 KiB": 4096, "64 KiB": 65_536, "1 MiB": mebibyte } as const;
/** Longer than since 1970, from where the frames count their time: nothing grows too old. */
const windowMs = 100 * 365 * 86_400_000;
const volumes = [{ number: 0, name: "data", sizeBytes: imageBytes }];
const noise = randomFillSync(Buffer.allocUnsafe(16 * mebibyte));

export async function measure(options: BenchOptions): Promise<Section> {
  const folder = await mkdtemp(join(tmpdir(), "splitsite-bench-"));
  // The images' write thread does not keep a process going; in a site the servers do.
  const going = setInterval(() => {}, 60_000);
  try {
    const kept = await Standby.make(join(folder, "kept"), { windowMs, bytesMax: 64 * 2 ** 30 });
    const bare = await Standby.make(join(folder, "bare"), { windowMs: 0, bytesMax: 1 });
    await systemDisk.makeDirectory(join(folder, "floor"));
    const floor = new ApplyFloor({ folder: join(folder, "floor"), imageBytes, noise });
    const standbys = { "history on": kept, "history off": bare };
    const seen: Record<string, number[]> = {};
    const mainMs: Record<string, number[]> = {};
    for (let round = 0; round <= options.rounds; round += 1) {
      for (const [size, writeBytes] of Object.entries(sizes)) {
        const note = (name: string, rate: number): void => {
          // The first round compiles and makes the files as long as they will be.
          if (round === 0) return;
          const key = `${size}, ${name}`;
          seen[key] = [...(seen[key] ?? []), rate];
          options.report(`round ${round}, ${key}: ${figure(rate)} MB/s`);
        };
        for (const [name, standby] of Object.entries(standbys)) {
          const { value, stolen } = await calmest(
            async () => {
              await standby.receive(writeBytes);
              await diskRests(folder);
            },
            () => standby.apply(),
          );
          note(name, value.rate);
          if (stolen > stolenMax)
            options.report(`the host took ${figure(stolen * 100)} % of the processors meanwhile`);
          if (round > 0)
            mainMs[`${size}, ${name}`] = [...(mainMs[`${size}, ${name}`] ?? []), value.mainThreadMs];
          const plain = await calmest(
            () => diskRests(folder),
            async () => floor.run(writeBytes, workBytes, name === "history on"),
          );
          note(`${name}, plain`, plain.value);
        }
      }
    }
    await kept.close();
    await bare.close();
    floor.close();
    const ratio = (over: string, under: string): number =>
      median(seen[over]!.map((rate, round) => rate / seen[under]![round]!));
    const { sha256, crc32: crc } = digestSpeeds();
    const goal = (size: string, least: number) => ({
      ...atLeast(`${size}, history on, MB/s`, median(seen[`${size}, history on`]!), least),
      unit: "MB/s",
    });
    return {
      id: "S9",
      title: "apply at a gateway",
      rows: Object.keys(sizes).map((size) => ({
        name: size,
        cells: {
          "history on MB/s": figure(median(seen[`${size}, history on`]!)),
          "plain MB/s": figure(median(seen[`${size}, history on, plain`]!)),
          "on / plain": figure(ratio(`${size}, history on`, `${size}, history on, plain`)),
          "history off MB/s": figure(median(seen[`${size}, history off`]!)),
          "off / plain": figure(ratio(`${size}, history off`, `${size}, history off, plain`)),
          "on / off": figure(ratio(`${size}, history on`, `${size}, history off`)),
          "main thread, on, ms/step": figure(median(mainMs[`${size}, history on`]!)),
          off: figure(median(mainMs[`${size}, history off`]!)),
        },
      })),
      goals: [goal("4 KiB", 100), goal("64 KiB", 200), goal("1 MiB", 200)],
      notes: [
        "plain: what the disk and the kernel allow, the same bytes written to the same files with the same syncs, one after another, and nothing else (bench/apply-floor.ts)",
        `${workBytes / mebibyte} MiB of random incompressible writes over an image of 1 GiB that is full; reading the intake and trimming it are in the figure`,
        `one core does ${figure(sha256)} GB/s of SHA-256, which every byte passes twice, and ${figure(crc)} GB/s of CRC-32, here and now`,
      ],
    };
  } finally {
    clearInterval(going);
    await rm(folder, { recursive: true, force: true });
  }
}

/** What the two digests of every byte, and its checksum, are up against: GB/s of one core. */
function digestSpeeds(): { readonly sha256: number; readonly crc32: number } {
  const piece = noise.subarray(0, mebibyte);
  const speed = (digest: () => void): number => {
    const startedMs = performance.now();
    for (let count = 0; count < 256; count += 1) digest();
    return (256 * mebibyte) / 1e6 / (performance.now() - startedMs);
  };
  return { sha256: speed(() => hash("sha256", piece, "buffer")), crc32: speed(() => crc32(piece)) };
}

class Standby {
  readonly #folder: string;
  readonly #history: HistorySettings;
  readonly #log: FrameLog;
  readonly #source = new FrameSource(originOf(volumes));
  #isMade = false;

  private constructor(folder: string, history: HistorySettings, log: FrameLog) {
    this.#folder = folder;
    this.#history = history;
    this.#log = log;
  }

  static async make(folder: string, history: HistorySettings): Promise<Standby> {
    await systemDisk.makeDirectory(folder);
    const image = await open(join(folder, "data.img"), "w");
    for (let at = 0; at < imageBytes; at += slotDataBytes)
      await image.write(noise, at % noise.byteLength, slotDataBytes, at);
    await image.sync();
    await image.close();
    const { timeMs: closedAtMs, ...origin } = originOf(volumes);
    const { log } = await openFrameLog(
      {
        directory: join(folder, "intake"),
        watermarkPath: join(folder, "intake.watermark"),
        ahead: null,
        lineage,
        origin: { ...origin, closedAtMs },
        mode: "create",
        compression: "none",
        bytesMax: 4 * workBytes,
        reserveBytes: 0,
        memoryTailBytes: 64 * mebibyte,
        writeBufferBytes: 16 * mebibyte,
        bootId: bootId(),
      },
      silentLog,
      { disk: systemDisk, stores: levelEngine, clock: systemClock },
    );
    return new Standby(folder, history, log);
  }

  /** Frames with `workBytes` of writes of one size, durable in the intake. */
  async receive(writeBytes: number): Promise<void> {
    for (let left = workBytes; left > 0; left -= frameBytes) {
      const records = Array.from({ length: frameBytes / writeBytes }, (): BlockRecord => {
        const from = randomInt((noise.byteLength - writeBytes) / 512) * 512;
        const offset = randomInt(imageBytes / writeBytes) * writeBytes;
        const data = noise.subarray(from, from + writeBytes);
        return { kind: "write", volume: 0, offset, length: writeBytes, data };
      });
      await this.#log.append(this.#source.next(records));
    }
    await this.#log.sync();
  }

  /** Applies what was received: MB/s, and the CPU that a step takes of the main thread, which a gateway needs to receive. */
  async apply(): Promise<{ readonly rate: number; readonly mainThreadMs: number }> {
    const { sequence } = this.#log.durable;
    let applied: () => void = () => {};
    const ended = new Promise<void>((resolve) => {
      applied = resolve;
    });
    const applier = new Applier({
      intake: this.#log,
      open: () => this.#open(),
      history: this.#history,
      clock: systemClock,
      log: silentLog,
      incomplete: () => null,
      incompleteAtEnd: () => null,
      beforeStep: async () => {},
      changeTable: async () => false,
      isWhole: () => true,
      sealed: undefined,
      onApplied: (at) => {
        if (at === sequence) applied();
      },
      onIntakeBroken: (error) => {
        throw error;
      },
    });
    const startedMs = performance.now();
    const startedCpuMs = mainThreadCpuMs();
    await applier.start();
    if (applier.trouble !== null) throw new Error(`apply is stopped: ${applier.trouble.message}`);
    await ended;
    const keptBytes = applier.past?.status?.bytes ?? 0;
    if (this.#history.windowMs > 0 !== keptBytes >= workBytes / 2)
      throw new Error(`the history has ${keptBytes} bytes`);
    const rate = workBytes / 1e3 / (performance.now() - startedMs);
    const mainThreadMs = (mainThreadCpuMs() - startedCpuMs) / (workBytes / stepBytes);
    await applier.stop();
    return { rate, mainThreadMs };
  }

  #open() {
    const mode = this.#isMade ? "open" : "create";
    this.#isMade = true;
    const directory = join(this.#folder, "history");
    const openHistory = historyOpener(
      {
        disk: systemDisk,
        directory,
        openIndex: (index) => openLevelOrderedStore(index, silentLog),
        settings: this.#history,
        reserveBytes: 0,
        log: silentLog,
      },
      lineage,
      0,
    );
    return openImage({
      storage: {
        disk: systemDisk,
        images: systemImageFiles,
        stores: levelEngine,
        openIndex: (index) => openLevelOrderedStore(index, silentLog),
        bootId: bootId(),
      },
      volumes: volumes.map((volume) => ({ ...volume, imagePath: join(this.#folder, "data.img") })),
      markerPath: join(this.#folder, "marker"),
      lineage,
      mode,
      origin: originOf(volumes),
      log: silentLog,
      openHistory,
    });
  }

  async close(): Promise<void> {
    await this.#log.close("clean");
  }
}
