/**
 * The loop of a fuzz run: draws an input of the pool, mutates it, runs the target, counts outcomes. An input with an
 * outcome that was not seen before joins the pool, which is all the guidance there is: the formats are simple and their
 * seeds are whole. It ends at the first violation and hands the input over.
 */
import { SeededRandom } from "../support/seeded.ts";
import { readCorpus } from "./corpus.ts";
import { Mutator } from "./mutate.ts";
import type { FuzzTarget } from "./target.ts";

export interface CampaignResult {
  readonly executions: number;
  /** Executions by outcome. */
  readonly outcomes: ReadonlyMap<string, number>;
  readonly failure?: { readonly input: Uint8Array; readonly error: unknown };
}

/** Pool entries: seeds, corpus and first inputs of an outcome; a few hundred codes at most. */
const poolMax = 4096;

/**
 * Runs `target` until `more` says no; it is asked before each round of 64 executions. The corpus and the seeds run first,
 * as they are.
 */
export async function runCampaign(
  target: FuzzTarget,
  seed: number,
  more: (executions: number) => boolean,
): Promise<CampaignResult> {
  const random = new SeededRandom(seed);
  const mutator = new Mutator(random, target.inputBytesMax);
  const outcomes = new Map<string, number>();
  const pool: Uint8Array[] = [
    ...(await target.seeds()),
    ...readCorpus(target.name).map(({ bytes }) => bytes),
  ];
  let executions = 0;
  const execute = (input: Uint8Array, keep: boolean): CampaignResult | undefined => {
    executions += 1;
    try {
      const outcome = target.run(input);
      const count = outcomes.get(outcome) ?? 0;
      if (count === 0 && keep && pool.length < poolMax) pool.push(Uint8Array.from(input));
      outcomes.set(outcome, count + 1);
      return undefined;
    } catch (error) {
      return {
        executions,
        outcomes,
        failure: { input: Uint8Array.from(input), error: withStack(target, input, error) },
      };
    }
  };
  const { stackTraceLimit } = Error;
  // Most inputs end in an error; its stack would cost more than the decoder.
  Error.stackTraceLimit = 0;
  try {
    for (const input of [...pool]) {
      const failed = execute(input, false);
      if (failed !== undefined) return failed;
    }
    while (more(executions)) {
      for (let round = 0; round < 64; round += 1) {
        const input = mutator.mutate(random.pick(pool), random.pick(pool));
        // Most inputs get checksums and magic numbers that fit, or little would reach what lies behind them.
        if (target.repair !== undefined && random.chance(0.75)) target.repair(input);
        const failed = execute(input, true);
        if (failed !== undefined) return failed;
      }
    }
    return { executions, outcomes };
  } finally {
    Error.stackTraceLimit = stackTraceLimit;
  }
}

/** The error of the same input once more, this time with its stack. */
function withStack(target: FuzzTarget, input: Uint8Array, first: unknown): unknown {
  Error.stackTraceLimit = 30;
  try {
    target.run(input);
  } catch (error) {
    return error;
  }
  return first;
}
