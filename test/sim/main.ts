/**
 * Command line of the simulation: runs many seeds, one after another, and prints what they covered; on a broken
 * invariant the seed, the fewest faults that still break it and the end of the trace, and exit code 1.
 *
 *   node dist/test/sim/main.js --seeds 2000 --first 1
 *   node dist/test/sim/main.js --seed 17 [--faults 0,3] [--verbose] [--lines 400]
 */
import { parseArgs } from "node:util";
import { describeFault, faultKinds } from "./run/faults.ts";
import type { Outcome } from "./run/run.ts";
import { shrink, simulate } from "./run/run.ts";
import { Tally } from "./run/tally.ts";

const { values } = parseArgs({
  options: {
    seeds: { type: "string", default: "200" },
    first: { type: "string", default: "1" },
    seed: { type: "string" },
    faults: { type: "string" },
    lines: { type: "string", default: "120" },
    verbose: { type: "boolean", default: false },
    "keep-going": { type: "boolean", default: false },
  },
});

function printFailure(outcome: Outcome, lines: number): void {
  console.log(`seed ${outcome.seed}: ${outcome.violation?.message}`);
  console.log(`faults (--faults ${outcome.faults.map(({ id }) => id).join(",") || "none"}):`);
  for (const fault of outcome.faults) console.log(`  ${describeFault(fault)}`);
  for (const line of outcome.trace.slice(-lines)) console.log(`  | ${line}`);
}

async function one(seed: number): Promise<boolean> {
  const lines = Number(values.lines);
  const chosen =
    values.faults === undefined
      ? {}
      : {
          faults: new Set(
            values.faults
              .split(",")
              .filter((id) => id !== "" && id !== "none")
              .map(Number),
          ),
        };
  const outcome = await simulate(seed, { ...chosen, traceLines: lines });
  if (outcome.violation !== undefined) {
    const least = values.faults === undefined ? await shrink(outcome, { traceLines: lines }) : outcome;
    printFailure(least, lines);
    return false;
  }
  console.log(
    `seed ${seed}: ${JSON.stringify(outcome.counts)} hash ${outcome.hash} ${outcome.invalid ?? ""}`,
  );
  if (values.verbose) for (const line of outcome.trace) console.log(`  | ${line}`);
  return true;
}

async function many(): Promise<boolean> {
  const first = Number(values.first);
  const count = Number(values.seeds);
  const tally = new Tally();
  const failed: string[] = [];
  const startedMs = performance.now();
  for (let seed = first; seed < first + count; seed += 1) {
    const outcome = await simulate(seed);
    tally.add(outcome);
    if (outcome.violation !== undefined) {
      failed.push(`seed ${seed}: ${outcome.violation.message.slice(0, 300)}`);
      if (!values["keep-going"]) {
        printFailure(await shrink(outcome, { traceLines: Number(values.lines) }), Number(values.lines));
        break;
      }
      console.log(failed.at(-1));
    }
    if (process.stdout.isTTY && seed % 20 === 0) process.stdout.write(`\r${seed - first + 1} of ${count} `);
  }
  const seconds = (performance.now() - startedMs) / 1000;
  console.log(tally.table());
  console.log(
    `${tally.seeds} seeds in ${seconds.toFixed(1)} s, ${((seconds * 1000) / tally.seeds).toFixed(1)} ms each`,
  );
  const missing = faultKinds.filter((kind) => !tally.fired.has(kind));
  if (missing.length > 0) console.log(`never fired: ${missing.join(", ")}`);
  return failed.length === 0 && tally.invalidShare <= 0.02;
}

process.exitCode = (await (values.seed === undefined ? many() : one(Number(values.seed)))) ? 0 : 1;
