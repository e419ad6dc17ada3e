/**
 * Many seeds of the whole pair, faults and all, with no invariant broken; the other half is in
 * `simulation-second-half.test.ts`. And the same seed gives the same run, event for event: without that a failure could not
 * be looked at twice.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Repeated } from "./run/campaign.ts";
import { halves } from "./run/campaign.ts";
import { campaignHolds } from "./run/campaign-apart.ts";

const [half] = halves();
const repeats = Math.min(half.seeds, Number(process.env["SPLITSITE_SIM_REPEATS"] ?? 100));
let repeated: Repeated | undefined;

test(`${half.seeds} seeds from ${half.first} on break no invariant`, async (context) => {
  repeated = await campaignHolds(context, half, repeats);
});

test(`${repeats} seeds run twice give the same traces`, () => {
  assert.deepEqual(
    repeated,
    { seeds: repeats, traces: repeats, differed: [] },
    "different seeds, different traces",
  );
});
