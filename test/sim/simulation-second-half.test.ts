/** The other half of the seeds of `simulation.test.ts`. */
import { test } from "node:test";
import { halves, runCampaign } from "./run/campaign.ts";

const [, half] = halves();

const skip = half.seeds === 0 && "one seed has no second half";

test(`${half.seeds} seeds from ${half.first} on break no invariant`, { skip }, (context) =>
  runCampaign(half, (table) => context.diagnostic(table)),
);
