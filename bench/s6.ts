/** S6: the throttle keeps its limit and uses it, measured from outside by the bytes that cross the line. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Relay, RelaySample } from "../test/support/relay.ts";
import { startRelay } from "../test/support/relay.ts";
import { requireTools } from "../test/support/tools.ts";
import { runFio } from "./fio.ts";
import { startShipping, unixUri, volumeBytes } from "./installations.ts";
import type { BenchOptions, Section } from "./section.ts";
import { atLeast, atMost, skipped } from "./section.ts";

const title = "the throttle over 10 s and 1 s windows with a backlog";
const limit = "20Mbit/s";
const limitBytesPerSecond = 20e6 / 8;
const measureMs = 30_000;

/** Highest and lowest rate over any window of `windowMs`, as parts of the limit. */
function windows(
  samples: readonly RelaySample[],
  fromMs: number,
  toMs: number,
  windowMs: number,
): { least: number; most: number } {
  let least = Number.POSITIVE_INFINITY;
  let most = 0;
  for (let start = fromMs; start + windowMs <= toMs; start += 50) {
    let bytes = 0;
    for (const sample of samples)
      if (sample.atMs >= start && sample.atMs < start + windowMs) bytes += sample.bytes;
    const part = bytes / (windowMs / 1000) / limitBytesPerSecond;
    least = Math.min(least, part);
    most = Math.max(most, part);
  }
  return { least, most };
}

export async function measure(options: BenchOptions): Promise<Section> {
  const missing = requireTools("fio");
  if (missing !== false) return skipped("S6", title, missing);
  const folder = await mkdtemp(join(tmpdir(), "splitsite-bench-"));
  let relay: Relay | undefined;
  const sites = await startShipping(folder, {
    limit,
    line: async (port) => {
      relay = await startRelay({ target: { host: "127.0.0.1", port }, listenPort: 0, delayMs: 10 });
      return relay.port;
    },
  });
  try {
    // Far more than the line takes in the time of the measurement.
    await runFio({
      target: { uri: unixUri(sites, "primary", "data") },
      rw: "randwrite",
      blockBytes: 65536,
      depth: 16,
      seconds: 4,
      sizeBytes: volumeBytes,
    });
    const fromMs = performance.now();
    options.report(
      `backlog of ${((await sites.owner("primary")).lag.bytes / 1e6).toFixed(0)} MB, measuring ${measureMs / 1000} s at ${limit}`,
    );
    await new Promise((resolve) => setTimeout(resolve, measureMs));
    const toMs = performance.now();
    const backlog = (await sites.owner("primary")).lag.bytes;
    const long = windows(relay!.upSamples, fromMs, toMs, 10_000);
    const short = windows(relay!.upSamples, fromMs, toMs, 1_000);
    const percent = (part: number) => `${(part * 100).toFixed(1)} %`;
    return {
      id: "S6",
      title,
      rows: [
        { name: "any 10 s window", cells: { least: percent(long.least), most: percent(long.most) } },
        { name: "any 1 s window", cells: { least: percent(short.least), most: percent(short.most) } },
      ],
      goals: [
        atLeast("least over 10 s", long.least, 0.95),
        atMost("most over 10 s", long.most, 1.01),
        atMost("most over 1 s", short.most, 1.1),
      ],
      notes: [
        `limit ${limit}; TCP payload as the line carries it, TLS and HTTP included`,
        backlog > 0 ? "a backlog was there to the end" : "INVALID: the backlog ran out",
      ],
    };
  } finally {
    await sites.dispose();
    await relay?.close();
    await rm(folder, { recursive: true, force: true });
  }
}
