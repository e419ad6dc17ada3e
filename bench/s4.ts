/** S4: reads that miss the overlay, as a ratio to qemu-nbd on a file with the same content. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { mustRun } from "../test/support/child.ts";
import { requireTools } from "../test/support/tools.ts";
import { runFio } from "./fio.ts";
import { startShipping, unixUri, volumeBytes } from "./installations.ts";
import { startQemuNbd } from "./peers.ts";
import type { BenchOptions, Section } from "./section.ts";
import { atLeast, figure, median, skipped } from "./section.ts";

const title = "4 KiB random reads, depth 32, nothing in the overlay";
/** Part of the volume that is written before and read then, bytes. */
const filledBytes = volumeBytes / 4;

export async function measure(options: BenchOptions): Promise<Section> {
  const missing = requireTools("fio", "qemu-nbd", "nbdcopy");
  if (missing !== false) return skipped("S4", title, missing);
  const folder = await mkdtemp(join(tmpdir(), "splitsite-bench-"));
  const plain = await startQemuNbd(folder, "plain", volumeBytes);
  const sites = await startShipping(folder);
  try {
    const ours = unixUri(sites, "primary", "data");
    await mustRun("fio", [
      "--name=fill",
      "--ioengine=nbd",
      `--uri=${ours}`,
      "--rw=write",
      "--bs=1m",
      "--iodepth=8",
      `--size=${filledBytes}`,
      "--refill_buffers",
      "--end_fsync=1",
    ]);
    await mustRun("nbdcopy", [ours, plain.uri]);
    await sites.waitIdle("primary", "dr", 120_000);
    // A restart leaves no overlay: everything is in the image.
    await sites.stop("primary");
    await sites.start("primary");
    await sites.waitServing("primary");
    const seen: Record<string, number[]> = { "qemu-nbd": [], ours: [] };
    for (let round = 1; round <= options.rounds; round += 1) {
      for (const [name, uri] of [
        ["qemu-nbd", plain.uri],
        ["ours", ours],
      ] as const) {
        const { iops } = await runFio({
          target: { uri },
          rw: "randread",
          blockBytes: 4096,
          depth: 32,
          seconds: options.seconds,
          sizeBytes: filledBytes,
        });
        seen[name]!.push(iops);
        options.report(`round ${round}, ${name}: ${figure(iops)} IOPS`);
      }
    }
    const ratio = median(seen["ours"]!.map((iops, round) => iops / seen["qemu-nbd"]![round]!));
    return {
      id: "S4",
      title,
      rows: Object.entries(seen).map(([name, iops]) => ({ name, cells: { IOPS: figure(median(iops)) } })),
      goals: [atLeast("ours / qemu-nbd", ratio, 0.7)],
      notes: ["both files are in the page cache"],
    };
  } finally {
    await sites.dispose();
    await plain.stop();
    await rm(folder, { recursive: true, force: true });
  }
}
