/** A campaign as a test: in a thread of its own, told as assertions. */
import assert from "node:assert/strict";
import type { TestContext } from "node:test";
import { apart } from "../../support/apart.ts";
import type { Campaign, Repeated, runCampaign } from "./campaign.ts";
import { noteCampaign } from "./campaign.ts";

/** Fails unless the campaign breaks nothing and means something; gives what became of the seeds that were run twice. */
export async function campaignHolds(
  context: TestContext,
  campaign: Campaign,
  repeats: number,
): Promise<Repeated> {
  const result = await apart<typeof runCampaign>(
    new URL("./campaign.js", import.meta.url),
    "runCampaign",
    campaign,
    { repeats },
  );
  context.diagnostic(result.table);
  assert.equal(result.broken.join("\n"), "");
  assert.deepEqual(result.lacking, []);
  noteCampaign(result);
  return result.repeated;
}
