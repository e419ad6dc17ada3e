/**
 * What a consistency check of a volume without differences costs: bytes on the line for each MiB, and how much slower
 * writes are while it runs at its default pace.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TwoSites } from "../test/support/sites.ts";
import { groupName } from "../test/support/sites.ts";
import { requireTools } from "../test/support/tools.ts";
import { until } from "../test/support/wait.ts";
import { runFio } from "./fio.ts";
import { startShipping, unixUri, volumeBytes } from "./installations.ts";
import type { BenchOptions, Section } from "./section.ts";
import { atLeast, atMost, figure, median, skipped } from "./section.ts";

const title = "a consistency check that finds nothing";
const mebibytes = volumeBytes / 2 ** 20;
const idleMsMax = 120_000;

export async function measure(options: BenchOptions): Promise<Section> {
  const missing = requireTools("fio");
  if (missing !== false) return skipped("verify", title, missing);
  const folder = await mkdtemp(join(tmpdir(), "splitsite-bench-"));
  const sites = await startShipping(folder);
  const uri = unixUri(sites, "primary", "data");
  const common = { target: { uri }, rw: "randwrite", sizeBytes: volumeBytes } as const;
  try {
    // Every byte is allocated and different: what is compared is what a volume in use costs.
    options.report("filling the volume");
    await runFio({
      ...common,
      rw: "write",
      blockBytes: 2 ** 20,
      depth: 4,
      seconds: 60,
      extra: ["--time_based=0", "--ramp_time=0"],
    });
    await sites.waitIdle("primary", "dr", idleMsMax);
    const before = await wireBytes(sites);
    await verify(sites);
    await sites.waitIdle("primary", "dr", idleMsMax);
    const perMebibyte = ((await wireBytes(sites)) - before) / mebibytes;
    options.report(`${figure(perMebibyte)} bytes on the line for each MiB`);
    const alone: number[] = [];
    const beside: number[] = [];
    const write = () => runFio({ ...common, blockBytes: 4096, depth: 32, seconds: options.seconds });
    for (let round = 1; round <= options.rounds; round += 1) {
      alone.push((await write()).iops);
      await sites.waitIdle("primary", "dr", idleMsMax);
      const checked = verify(sites);
      await until("the check to be seen", async () =>
        (await sites.owner("primary")).scan?.purpose === "verify" ? true : undefined,
      );
      beside.push((await write()).iops);
      const running = (await sites.owner("primary")).scan !== null;
      await checked;
      await sites.waitIdle("primary", "dr", idleMsMax);
      if (!running) throw new Error("the check was over before the writes were: measure for a shorter time");
      options.report(
        `round ${round}: ${figure(alone.at(-1)!)} IOPS alone, ${figure(beside.at(-1)!)} beside it`,
      );
    }
    const ratio = median(beside.map((iops, round) => iops / alone[round]!));
    return {
      id: "verify",
      title,
      rows: [
        { name: "alone", cells: { IOPS: figure(median(alone)), ratio: "1.0" } },
        { name: "beside a check", cells: { IOPS: figure(median(beside)), ratio: ratio.toFixed(2) } },
      ],
      goals: [
        atMost("bytes on the line for each MiB of a volume", perMebibyte, 64, "bytes"),
        atLeast("4 KiB random writes, depth 32, beside it / alone", ratio, 0.9),
      ],
      notes: [
        "the line's bytes are those of an idle group; owner, standby and writer share the machine's cores",
      ],
    };
  } finally {
    await sites.dispose();
    await rm(folder, { recursive: true, force: true });
  }
}

async function wireBytes(sites: TwoSites): Promise<number> {
  return (await sites.owner("primary")).link.wireBytes;
}

/** Runs one to its end; it must find nothing. */
async function verify(sites: TwoSites): Promise<void> {
  const { code, output } = await sites.cli("primary", "verify", groupName, "--json");
  if (code !== 0) throw new Error(`verify ended with ${code}: ${output}`);
}
