/** The other half of the seeds of `simulation.test.ts`. */
import { test } from "node:test";
import { halves } from "./run/campaign.ts";
import { campaignHolds } from "./run/campaign-apart.ts";

const [, half] = halves();

const skip = half.seeds === 0 && "one seed has no second half";

test(`${half.seeds} seeds from ${half.first} on break no invariant`, { skip }, async (context) => {
  await campaignHolds(context, half, 0);
});
