/**
 * Command line of the simulation: runs many seeds, one after another, and prints what they covered; on a broken
 * invariant the seed, the fewest faults that still break it and the end of the trace, and exit code 1.
 *
 *   node dist/test/sim/main.js --seeds 2000 --first 1
 *   node dist/test/sim/main.js --seed 17 [--faults 0,3] [--verbose] [--lines 400]
 */
import { parseArgs } from "node:util";
import { describeBroken, noteCampaign, runCampaign } from "./run/campaign.ts";
import { shrink, simulate } from "./run/run.ts";

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
    console.log(describeBroken(least));
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
  const seeds = Number(values.seeds);
  const startedMs = performance.now();
  const result = await runCampaign(
    { first, seeds },
    {
      keepGoing: values["keep-going"],
      traceLines: Number(values.lines),
      progress: (seed) => {
        if (process.stdout.isTTY && seed % 20 === 0)
          process.stdout.write(`\r${seed - first + 1} of ${seeds} `);
      },
    },
  );
  const ms = performance.now() - startedMs;
  for (const text of result.broken) console.log(text);
  console.log(result.table);
  const run = result.figures["seeds"]!;
  console.log(`${run} seeds in ${(ms / 1000).toFixed(1)} s, ${(ms / run).toFixed(1)} ms each`);
  for (const what of result.lacking) console.log(`too little: ${what}`);
  noteCampaign(result);
  return result.broken.length === 0 && result.lacking.length === 0;
}

process.exitCode = (await (values.seed === undefined ? many() : one(Number(values.seed)))) ? 0 : 1;
