/**
 * S10: from the order to take over until the disks of the new owner answer a read and a write, less what was left to
 * apply, which is nothing here. The same for a small volume and for a sparse one of a thousand times its size.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { requireTools } from "../test/support/tools.ts";
import { runFio } from "./fio.ts";
import { startShipping, unixUri } from "./installations.ts";
import type { BenchOptions, Section } from "./section.ts";
import { atMost, figure, median, skipped } from "./section.ts";

const title = "failover to the latest point until the disks answer";
const sizes = { "1 GiB": 2 ** 30, "1 TiB, sparse": 2 ** 40 } as const;

interface Takeover {
  /** From the order until the first read and write were answered, ms. */
  readonly servedMs: number;
  /** What the product itself states, ms. */
  readonly statedMs: number;
}

export async function measure(options: BenchOptions): Promise<Section> {
  const missing = requireTools("fio");
  if (missing !== false) return skipped("S10", title, missing);
  const seen: Record<string, Takeover[]> = {};
  for (let round = 1; round <= options.rounds; round += 1) {
    for (const [name, sizeBytes] of Object.entries(sizes)) {
      const result = await takeOver(sizeBytes, options.seconds);
      seen[name] = [...(seen[name] ?? []), result];
      options.report(`round ${round}, ${name}: answering after ${figure(result.servedMs)} ms`);
    }
  }
  const servedOf = (name: string): number => median(seen[name]!.map(({ servedMs }) => servedMs));
  return {
    id: "S10",
    title,
    rows: Object.entries(seen).map(([name, results]) => ({
      name,
      cells: {
        "order to answers ms": figure(servedOf(name)),
        "stated by the product ms": figure(median(results.map(({ statedMs }) => statedMs))),
      },
    })),
    goals: Object.keys(sizes).map((name) => atMost(`${name}, seconds`, servedOf(name) / 1000, 2, "s")),
    notes: [
      "4 KiB random writes over the whole volume, all of them applied at the standby, then kill -9 of the owner's site",
      "the order is the CLI's, so the start of its process is in the figure; measured from it to the answers to one FUA write and one read of each volume",
    ],
  };
}

async function takeOver(sizeBytes: number, seconds: number): Promise<Takeover> {
  const folder = await mkdtemp(join(tmpdir(), "splitsite-bench-"));
  const sites = await startShipping(folder, { volumes: { data: sizeBytes } });
  try {
    await runFio({
      target: { uri: unixUri(sites, "primary", "data") },
      rw: "randwrite",
      blockBytes: 4096,
      depth: 8,
      seconds,
      sizeBytes,
    });
    await sites.waitIdle("primary", "dr", 120_000);
    await sites.kill("primary");
    const startedMs = performance.now();
    const { durationMs } = await sites.failover("dr");
    const [clients] = await sites.connect("dr");
    const client = clients![0]!;
    for (const reply of [
      await client.write(0, Buffer.alloc(4096, 1), true),
      await client.read(sizeBytes - 4096, 4096),
    ]) {
      if (reply.outcome !== "answered") throw new Error(`the new owner did not answer: ${reply.outcome}`);
    }
    const servedMs = performance.now() - startedMs;
    await client.close();
    return { servedMs, statedMs: durationMs };
  } finally {
    await sites.dispose();
    await rm(folder, { recursive: true, force: true });
  }
}
