/**
 * `make demo`: the main job on this machine with real processes, and a verdict. Ends with 0 only when there is no
 * doubt about anything it saw.
 */
import { parseArgs } from "node:util";
import { seedFromEnvironment } from "../support/seeded.ts";
import type { DemoReport } from "./run.ts";
import { runDemo } from "./run.ts";

const { values } = parseArgs({
  options: {
    seed: { type: "string" },
    "delay-ms": { type: "string", default: "20" },
    "reset-percent": { type: "string", default: "0" },
    limit: { type: "string", default: "40Mbit/s" },
    "phase-ms": { type: "string", default: "4000" },
    "write-rate": { type: "string", default: "6" },
    keep: { type: "boolean", default: false },
  },
});

const startedMs = performance.now();
const seed = values.seed === undefined ? seedFromEnvironment() : number("seed", values.seed, 0, 2 ** 32 - 1);

console.log(`splitsite demo, seed ${seed} (repeat with --seed ${seed})`);
try {
  const report = await runDemo({
    seed,
    delayMs: number("delay-ms", values["delay-ms"], 0, 10_000),
    resetPercent: number("reset-percent", values["reset-percent"], 0, 100),
    limit: values.limit,
    bytesPerSecond: number("write-rate", values["write-rate"], 0.1, 10_000) * 1e6,
    phaseMs: number("phase-ms", values["phase-ms"], 500, 600_000),
    keep: values.keep,
    report: (line) =>
      console.log(`${((performance.now() - startedMs) / 1000).toFixed(1).padStart(6)} s  ${line}`),
  });
  console.log(`\n${table(report)}`);
  for (const doubt of report.doubts) console.log(`DOUBT  ${doubt}`);
  process.exitCode = report.doubts.length === 0 ? 0 : 1;
} catch (error) {
  console.error(
    `\nthe demo did not get to its end: ${error instanceof Error ? error.message : String(error)}`,
  );
  console.error(`verdict  NOT PROVEN (seed ${seed})`);
  process.exitCode = 1;
}

function number(name: string, text: string, least: number, most: number): number {
  const value = Number(text);
  if (text === "" || !(value >= least && value <= most)) {
    console.error(`--${name} must be a number from ${least} to ${most}, not ${text}`);
    process.exit(2);
  }
  return value;
}

function table(report: DemoReport): string {
  const { lossStated: loss } = report;
  const ratio =
    report.wireBytes > 0 ? `${(report.rawBytes / report.wireBytes).toFixed(2)} : 1` : "nothing was sent";
  const stated =
    loss.known === "exact"
      ? `exactly ${loss.writesMin} writes`
      : loss.known === "unknown"
        ? `unknown since ${loss.since ?? "ever"}, at least ${loss.writesMin} writes`
        : `bounded, at least ${loss.writesMin} writes`;
  const trueLoss =
    report.lossTrueMin === report.lossTrueMax
      ? `${report.lossTrueMin} writes`
      : `${report.lossTrueMin} to ${report.lossTrueMax} writes`;
  const rows: [string, string][] = [
    ["seed", String(report.seed)],
    ["writes answered", `${report.answered}, and ${report.unknown} without an answer`],
    ["written", `${(report.bytes / 1e6).toFixed(1)} MB`],
    ["compression", `${ratio} on the line`],
    ["while cut", `${report.answeredWhileCut} requests answered`],
    ["worst lag", `${report.lagWorstWrites} writes, ${(report.lagWorstMs / 1000).toFixed(1)} s (RPO)`],
    ["acknowledged", `record ${report.acknowledgedSeen} seen before the loss`],
    ["point", `record ${report.point}`],
    ["loss stated", stated],
    ["loss true", trueLoss],
    [
      "failover",
      `${report.failoverMs.toFixed(0)} ms; ${(report.servedAgainMs / 1000).toFixed(1)} s from command to first read (RTO)`,
    ],
    ["blocks checked", `${report.blocksRead} of 4 KiB, every one`],
    ["verdict", report.doubts.length === 0 ? "consistent" : "DOUBTFUL"],
  ];
  return rows.map(([name, value]) => `${name.padEnd(16)} ${value}`).join("\n");
}
