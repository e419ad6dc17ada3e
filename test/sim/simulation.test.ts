/**
 * Many seeds of the whole pair, faults and all, with no invariant broken; the other half is in
 * `simulation-second-half.test.ts`. And the same seed gives the same run, event for event: without that a failure could not
 * be looked at twice.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { halves, runCampaign } from "./run/campaign.ts";
import type { Outcome } from "./run/run.ts";
import { simulate } from "./run/run.ts";

const [half] = halves();
/** So many of the seeds are run a second time. */
const repeats = Math.min(half.seeds, Number(process.env["SPLITSITE_SIM_REPEATS"] ?? 100));
/** How these went the first time. */
const earlier: Pick<Outcome, "seed" | "hash" | "counts">[] = [];

test(`${half.seeds} seeds from ${half.first} on break no invariant`, (context) =>
  runCampaign(
    half,
    (table) => context.diagnostic(table),
    ({ seed, hash, counts }) => {
      if (earlier.length < repeats) earlier.push({ seed, hash, counts });
    },
  ));

// Against the runs of the first test, so with all its other seeds between the two: nothing may be left over from one run
// that another one sees.
test(`${repeats} seeds run twice give the same traces`, async () => {
  assert.equal(earlier.length, repeats, "they were run once");
  for (const { seed, hash, counts } of earlier) {
    const again = await simulate(seed);
    assert.equal(again.hash, hash, `seed ${seed}`);
    assert.deepEqual(again.counts, counts, `seed ${seed}`);
  }
  assert.equal(
    new Set(earlier.map(({ hash }) => hash)).size,
    repeats,
    "and different seeds give different ones",
  );
});
