/** S11: resident memory of both sites' processes with 8 busy volumes, and while the line is down. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Child } from "../test/support/child.ts";
import type { Relay } from "../test/support/relay.ts";
import { startRelay } from "../test/support/relay.ts";
import type { SiteName, TwoSites } from "../test/support/sites.ts";
import { residentBytes } from "../test/support/sites.ts";
import { requireTools } from "../test/support/tools.ts";
import { startShipping, unixUri } from "./installations.ts";
import type { BenchOptions, Section } from "./section.ts";
import { atMost, skipped } from "./section.ts";

const title = "resident memory, 8 busy volumes";
const eachBytes = 2 ** 27;
const mebibyte = 2 ** 20;

export async function measure(options: BenchOptions): Promise<Section> {
  const missing = requireTools("fio");
  if (missing !== false) return skipped("S11", title, missing);
  const folder = await mkdtemp(join(tmpdir(), "splitsite-bench-"));
  const names = Array.from({ length: 8 }, (_, index) => `v${index}`);
  let relay: Relay | undefined;
  const sites = await startShipping(folder, {
    volumes: Object.fromEntries(names.map((name) => [name, eachBytes])),
    // `auto` packs with LZ4 in some runs and not at all in others, by how fast the line seems: what takes most is measured.
    codec: "lz4",
    line: async (port) => {
      relay = await startRelay({ target: { host: "127.0.0.1", port }, listenPort: 0 });
      return relay.port;
    },
  });
  try {
    const seconds = Math.max(10, options.seconds);
    const connected = await busy(sites, names, seconds);
    options.report(
      `line up: agent ${connected.primary.toFixed(0)} MiB, gateway ${connected.dr.toFixed(0)} MiB`,
    );
    relay!.cut();
    const cut = await busy(sites, names, seconds);
    options.report(`line down: agent ${cut.primary.toFixed(0)} MiB, gateway ${cut.dr.toFixed(0)} MiB`);
    const cells = ({ primary, dr }: Record<SiteName, number>) => ({
      "agent MiB": primary.toFixed(0),
      "gateway MiB": dr.toFixed(0),
    });
    return {
      id: "S11",
      title,
      rows: [
        { name: "standby keeping up", cells: cells(connected) },
        { name: "line down", cells: cells(cut) },
      ],
      goals: [
        atMost("agent, line up", connected.primary, 300, "MiB"),
        atMost("gateway, line up", connected.dr, 300, "MiB"),
        atMost("agent, line down", cut.primary, 300, "MiB"),
      ],
      notes: [
        "peak of VmRSS, four times a second; mixed 4 KiB to 64 KiB random writes on every volume; one process per site; " +
          "every batch packed with LZ4, which takes most memory",
      ],
    };
  } finally {
    await sites.dispose();
    await relay?.close();
    await rm(folder, { recursive: true, force: true });
  }
}

/** Peak resident memory of both sites while fio writes to every volume, MiB. */
async function busy(
  sites: TwoSites,
  names: readonly string[],
  seconds: number,
): Promise<Record<SiteName, number>> {
  const loads = names.map(
    (name) =>
      new Child(`fio ${name}`, "fio", [
        `--name=${name}`,
        "--ioengine=nbd",
        `--uri=${unixUri(sites, "primary", name)}`,
        "--rw=randwrite",
        "--bsrange=4k-64k",
        "--iodepth=8",
        `--size=${eachBytes}`,
        "--time_based",
        `--runtime=${seconds}`,
        "--refill_buffers",
        "--buffer_compress_percentage=50",
        "--thread",
      ]),
  );
  const peak: Record<SiteName, number> = { primary: 0, dr: 0 };
  while (loads.some((load) => load.running)) {
    for (const site of ["primary", "dr"] as const) {
      peak[site] = Math.max(peak[site], residentBytes(sites.child(site).pid) / mebibyte);
    }
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
  for (const load of loads) {
    const { code } = await load.exited;
    if (code !== 0) throw new Error(`fio ended with ${code}:\n${load.output}`);
  }
  return peak;
}
