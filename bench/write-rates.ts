/**
 * Write rates of one shape of load on four systems in turn: plain qemu-nbd, qemu-storage-daemon with a mirror job, our
 * journal only, ours with a standby that keeps up. Shared by S1 and S2. Alternates the systems within each round, so
 * that a noisy minute hits all of them.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { FioResult } from "./fio.ts";
import { runFio } from "./fio.ts";
import { startJournalOnly, startShipping, unixUri, volumeBytes } from "./installations.ts";
import { startMirroredDaemon, startQemuNbd } from "./peers.ts";
import type { BenchOptions, Row } from "./section.ts";
import { figure, median } from "./section.ts";

export interface Shape {
  readonly name: string;
  readonly blockBytes: number;
  readonly depth: number;
}

export interface RateFigures {
  readonly shape: Shape;
  /** Medians of the ratio to the mirrored daemon within each round. */
  readonly journalOnly: number;
  readonly shipping: number;
  readonly rows: readonly Row[];
}

type System = "qemu-nbd" | "mirrored daemon" | "journal only" | "shipping";

export async function measureWriteRates(
  shapes: readonly Shape[],
  options: BenchOptions,
): Promise<RateFigures[]> {
  const folder = await mkdtemp(join(tmpdir(), "splitsite-bench-"));
  const plain = await startQemuNbd(folder, "plain", volumeBytes);
  const mirrored = await startMirroredDaemon(folder, volumeBytes);
  const journal = await startJournalOnly(folder);
  const shipping = await startShipping(folder);
  try {
    const uris: Record<System, string> = {
      "qemu-nbd": plain.uri,
      "mirrored daemon": mirrored.uri,
      "journal only": unixUri(journal, "primary", "data"),
      shipping: unixUri(shipping, "primary", "data"),
    };
    const results: RateFigures[] = [];
    for (const shape of shapes) {
      const seen: Record<System, FioResult[]> = {
        "qemu-nbd": [],
        "mirrored daemon": [],
        "journal only": [],
        shipping: [],
      };
      const drainSeconds: number[] = [];
      for (let round = 1; round <= options.rounds; round += 1) {
        for (const system of Object.keys(uris) as System[]) {
          const { blockBytes, depth } = shape;
          const target = { uri: uris[system] };
          const result = await runFio({
            target,
            rw: "randwrite",
            blockBytes,
            depth,
            seconds: options.seconds,
            sizeBytes: volumeBytes,
          });
          seen[system].push(result);
          options.report(`${shape.name}, round ${round}, ${system}: ${figure(result.iops)} IOPS`);
          if (system === "shipping") {
            // What is left when the writes stop: little when the standby kept up, and it must not load the next one.
            const startedMs = performance.now();
            await shipping.waitIdle("primary", "dr", 300_000);
            drainSeconds.push((performance.now() - startedMs) / 1000);
          }
        }
      }
      const ratio = (system: System) =>
        median(seen[system].map(({ iops }, round) => iops / seen["mirrored daemon"][round]!.iops));
      results.push({
        shape,
        journalOnly: ratio("journal only"),
        shipping: ratio("shipping"),
        rows: (Object.keys(uris) as System[]).map((system) => ({
          name: `${shape.name}, ${system}`,
          cells: {
            IOPS: figure(median(seen[system].map(({ iops }) => iops))),
            "MB/s": figure(median(seen[system].map(({ bytesPerSecond }) => bytesPerSecond / 1e6))),
            "p50 us": figure(median(seen[system].map(({ p50Us }) => p50Us))),
            "p99 us": figure(median(seen[system].map(({ p99Us }) => p99Us))),
            "ratio to mirrored": figure(ratio(system)),
            "drained after s": system === "shipping" ? figure(median(drainSeconds)) : "",
          },
        })),
      });
    }
    return results;
  } finally {
    await journal.dispose();
    await shipping.dispose();
    await plain.stop();
    await mirrored.stop();
    await rm(folder, { recursive: true, force: true });
  }
}
