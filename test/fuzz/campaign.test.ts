/**
 * A short fuzz run of every target with mutated inputs, and the proof that such a run finds mistakes: planted ones must
 * be found. SPLITSITE_FUZZ_RUNS sets the executions of each target (10,000); SEED replays a run.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { crc32 } from "node:zlib";
import { noteEvidence } from "../support/evidence.ts";
import { seedFromEnvironment } from "../support/seeded.ts";
import { runCampaign } from "./campaign.ts";
import { keepInput } from "./corpus.ts";
import { type FuzzTarget, require } from "./target.ts";
import { headTarget } from "./targets/formats.ts";
import { fuzzTargets } from "./targets.ts";

const seed = seedFromEnvironment();
const runs = Number(process.env["SPLITSITE_FUZZ_RUNS"] ?? 10_000);
/** The loader parses YAML, 3 ms a file: fewer runs. */
const runsOf = (target: FuzzTarget): number => (target.name === "settings" ? Math.ceil(runs / 50) : runs);

describe(`mutated inputs, seed ${seed}`, () => {
  for (const target of fuzzTargets) {
    test(`${target.name}: every input is taken whole or refused by a code`, async (context) => {
      const result = await runCampaign(target, seed, (done) => done < runsOf(target));
      context.diagnostic(`${result.executions} executions, ${result.outcomes.size} outcomes`);
      if (result.failure !== undefined) {
        const path = keepInput(target.name, "found", result.failure.input);
        assert.fail(new Error(`seed ${seed}, input kept as ${path}`, { cause: result.failure.error }));
      }
      // A run that never got behind the first check proves nothing.
      assert.ok(result.outcomes.size >= 2, [...result.outcomes.keys()].join());
      noteEvidence("fuzzing", { executions: result.executions, "rules broken": 0 });
    });
  }
});

/** A campaign on `target` with `run` in its place must end with a violation. */
async function findsPlanted(target: FuzzTarget, run: FuzzTarget["run"]): Promise<void> {
  const result = await runCampaign({ ...target, run }, 1, (done) => done < 20_000);
  assert.ok(result.failure !== undefined, `not found in ${result.executions} executions`);
}

describe("planted mistakes are found", () => {
  test("a checksum that nobody compares", () =>
    findsPlanted(headTarget, (input) => {
      if (input.length < 84) return "short";
      const mended = Buffer.from(input);
      mended.writeUInt32BE(crc32(mended.subarray(0, mended.length - 4)), mended.length - 4);
      const outcome = headTarget.run(mended);
      require(outcome !== "ok" || mended.equals(input), "taken although damaged");
      return outcome;
    }));

  test("a length that is believed: the error is not of the declared class", () =>
    findsPlanted(headTarget, (input) => {
      const view = new DataView(input.buffer, input.byteOffset, input.byteLength);
      for (let pair = 0; input.length >= 84 && pair < view.getUint16(6); pair += 1)
        view.getBigUint64(80 + 40 * pair);
      return headTarget.run(input);
    }));
});
