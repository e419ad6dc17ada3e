/**
 * Runs the main job for many seeds, one after another: `node dist/test/demo/many.js COUNT [FIRST_SEED]`. Draws the line
 * anew for each seed: its limit, its delay, how often it resets. Stops at the first doubt and prints how to repeat it.
 */
import { noteEvidence, nothingLost } from "../support/evidence.ts";
import { SeededRandom } from "../support/seeded.ts";
import { runDemo } from "./run.ts";

const count = Number(process.argv[2] ?? "5");
const firstSeed = Number(process.argv[3] ?? "1");
let answered = 0;
for (let seed = firstSeed; seed < firstSeed + count; seed += 1) {
  const random = new SeededRandom(seed, 0xdead);
  const delayMs = random.pick([0, 2, 20, 100]);
  const resetPercent = random.pick([0, 0, 0.2, 1]);
  const limit = random.pick(["unlimited", "100Mbit/s", "20Mbit/s", "4Mbit/s"]);
  const repeat = `--seed ${seed} --delay-ms ${delayMs} --reset-percent ${resetPercent} --limit ${limit} --phase-ms 1500`;
  try {
    const report = await runDemo({
      seed,
      delayMs,
      resetPercent,
      limit,
      bytesPerSecond: 12e6,
      phaseMs: 1_500,
      keep: false,
      report: () => {},
    });
    answered += report.answered;
    const loss = `${report.lossTrueMin}..${report.lossTrueMax}`;
    const verdict = report.doubts.length === 0 ? "consistent" : "DOUBTFUL";
    console.log(
      `${repeat}: ${report.answered} writes, point ${report.point}, loss ${loss}, ${report.failoverMs.toFixed(0)} ms, ${verdict}`,
    );
    if (report.doubts.length > 0) {
      for (const doubt of report.doubts) console.log(`DOUBT  ${doubt}`);
      process.exit(1);
    }
    noteEvidence("failovers", {
      failovers: 1,
      "writes answered": report.answered,
      "ms max": Math.round(report.failoverMs),
      "writes lost beyond the least that was stated max": Math.max(
        0,
        report.lossTrueMax - report.lossStated.writesMin,
      ),
      ...nothingLost,
    });
  } catch (error) {
    console.error(`${repeat}: ${error instanceof Error ? error.message : String(error)}`);
    process.exit(1);
  }
}
console.log(
  `${count} runs, ${answered} writes answered, no doubt. At 95 % confidence a run fails in less than ${((3 / count) * 100).toFixed(1)} %.`,
);
