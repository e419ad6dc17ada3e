/**
 * The long fuzz run: `node dist/test/fuzz/main.js --target NAME|all --minutes N --seed S`. Prints executions and outcomes
 * by code; an input that breaks a rule is kept in the corpus, where every later test replays it. Ends with 1 then.
 */
import { parseArgs } from "node:util";
import { noteEvidence } from "../support/evidence.ts";
import { seedFromEnvironment } from "../support/seeded.ts";
import { runCampaign } from "./campaign.ts";
import { keepInput } from "./corpus.ts";
import { fuzzTargets } from "./targets.ts";

const { values } = parseArgs({
  options: {
    target: { type: "string", default: "all" },
    minutes: { type: "string", default: "1" },
    seed: { type: "string" },
  },
});
const chosen = fuzzTargets.filter(({ name }) => values.target === "all" || values.target === name);
const minutes = Number(values.minutes);
const seed = values.seed === undefined ? seedFromEnvironment() : Number(values.seed);
if (chosen.length === 0 || !(minutes > 0) || !Number.isInteger(seed)) {
  const names = fuzzTargets.map(({ name }) => name).join(", ");
  throw new Error(`usage: --target all|NAME --minutes N --seed S; targets: ${names}`);
}
for (const target of chosen) {
  const startMs = performance.now();
  const startCpu = process.cpuUsage();
  const endMs = startMs + minutes * 60_000;
  const result = await runCampaign(target, seed, () => performance.now() < endMs);
  const seconds = (performance.now() - startMs) / 1000;
  const cpu = process.cpuUsage(startCpu);
  const cpuSeconds = (cpu.user + cpu.system) / 1e6;
  console.log(
    `${target.name}: seed ${seed}, ${result.executions} executions in ${seconds.toFixed(1)} s ` +
      `(${Math.round(result.executions / cpuSeconds)} a CPU second), ${result.outcomes.size} outcomes`,
  );
  const byCount = [...result.outcomes].toSorted(([, a], [, b]) => b - a);
  console.log(`  ${byCount.map(([code, count]) => `${code} ${count}`).join(", ")}`);
  if (result.failure === undefined) {
    noteEvidence("fuzzing", {
      executions: result.executions,
      "CPU minutes": cpuSeconds / 60,
      "rules broken": 0,
    });
    continue;
  }
  process.exitCode = 1;
  const path = keepInput(target.name, "found", result.failure.input);
  console.log(`  VIOLATION, input kept as ${path}:`, result.failure.error);
}
