/** The same seed gives the same run, event for event: without that a failure could not be looked at twice. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { simulate } from "./run/run.ts";

const seeds = Number(process.env["SPLITSITE_SIM_REPEATS"] ?? 100);

test(`${seeds} seeds run twice give the same traces`, async () => {
  const hashes = new Set<string>();
  for (let seed = 10_001; seed <= 10_000 + seeds; seed += 1) {
    const one = await simulate(seed);
    const other = await simulate(seed);
    assert.equal(one.hash, other.hash, `seed ${seed}`);
    assert.deepEqual(one.counts, other.counts, `seed ${seed}`);
    hashes.add(one.hash);
  }
  assert.equal(hashes.size, seeds, "and different seeds give different ones");
});
