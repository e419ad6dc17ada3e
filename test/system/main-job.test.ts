/**
 * The main job as the demo does it, small, over a bad line: delay, resets, a thin limit, a cut, the loss of the primary.
 * Any doubt of the demo fails it.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { runDemo } from "../demo/run.ts";
import { seedFromEnvironment } from "../support/seeded.ts";

const seed = seedFromEnvironment();

test(`replicate over a bad line, lose the primary, take over, and nothing lied (SEED=${seed})`, async (t) => {
  const lines: string[] = [];
  try {
    const report = await runDemo({
      seed,
      delayMs: 40,
      resetPercent: 5,
      limit: "10Mbit/s",
      bytesPerSecond: 6e6,
      phaseMs: 1_500,
      keep: false,
      report: (line) => lines.push(line),
    });
    assert.deepEqual(report.doubts, [], lines.join("\n"));
    assert.ok(report.answered >= 200, `invalid run, too little work: ${lines.join("\n")}`);
  } finally {
    for (const line of lines) t.diagnostic(line);
  }
});
