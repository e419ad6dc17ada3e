/**
 * A campaign of seeds, and what a test says of it: no invariant broken, and enough of everything done that this means
 * something. A failure tells the seed, the fewest faults that still break it and the end of its trace;
 * `node dist/test/sim/main.js --seed N` shows it again.
 */
import assert from "node:assert/strict";
import { noteEvidence, nothingLost } from "../../support/evidence.ts";
import { describeFault, faultKinds } from "./faults.ts";
import type { Outcome } from "./run.ts";
import { shrink, simulate } from "./run.ts";
import { Tally } from "./tally.ts";

export interface Campaign {
  readonly first: number;
  readonly seeds: number;
}

/** What the environment asks for, in two halves, for two test files that run beside each other. */
export function halves(): readonly [Campaign, Campaign] {
  const seeds = Number(process.env["SPLITSITE_SIM_SEEDS"] ?? 2_000);
  const first = Number(process.env["SPLITSITE_SIM_FIRST"] ?? 1);
  const half = Math.ceil(seeds / 2);
  return [
    { first, seeds: half },
    { first: first + half, seeds: seeds - half },
  ];
}

/** Runs and judges them; `seen` is told of each outcome, `report` of the sums. */
export async function runCampaign(
  { first, seeds }: Campaign,
  report: (table: string) => void,
  seen: (outcome: Outcome) => void = () => {},
): Promise<void> {
  const tally = new Tally();
  for (let seed = first; seed < first + seeds; seed += 1) {
    const outcome = await simulate(seed);
    tally.add(outcome);
    seen(outcome);
    if (outcome.violation === undefined) continue;
    const least = await shrink(outcome);
    const faults = least.faults.map(describeFault).join("\n  ");
    assert.fail(
      `seed ${seed}: ${least.violation?.message}\nfaults ${least.faults.map(({ id }) => id).join(",")}\n  ${faults}\n` +
        `trace:\n  ${least.trace.slice(-80).join("\n  ")}`,
    );
  }
  report(tally.table());
  assert.ok(tally.invalidShare <= 0.02, `${tally.invalid.length} runs of ${seeds} proved too little`);
  if (seeds < 100) return;
  assert.ok(tally.sum("crashes") >= 3 * seeds, "three crashes a run on average");
  assert.deepEqual(
    faultKinds.filter((kind) => !tally.fired.has(kind)),
    [],
    "every kind of fault happened",
  );
  for (const name of ["failovers", "diskFaults", "replayed", "compares", "points", "returns"] as const)
    assert.ok(tally.sum(name) > seeds / 10, `${name} happened`);
  for (const name of ["firstSyncs", "verified", "flips"] as const)
    assert.ok(tally.sum(name) > seeds / 10, `${name} happened`);
  assert.ok(tally.sum("gaps") > seeds / 10 && tally.sum("takenBack") > seeds / 200, "journals overflowed");
  // Far below what is usual, 25 to 58 in a thousand: a verify that finds one finds several, so the sum wanders.
  assert.ok(tally.sum("found") > seeds / 100, "verifies had something to find");
  for (const name of ["changesBegun", "volumeRecords"] as const)
    assert.ok(tally.sum(name) > seeds / 8, `${name} happened`);
  assert.ok(tally.sum("leftOut") >= Math.floor(seeds / 400), "failovers left a volume out");
  for (const name of ["pauses", "retired"] as const)
    assert.ok(tally.sum(name) > seeds / 20, `${name} happened`);
  assert.ok(tally.sum("retiresRefused") >= Math.floor(seeds / 200), "orders to retire were refused");
  noteEvidence("simulation", {
    seeds,
    crashes: tally.sum("crashes"),
    "power cuts": tally.sum("powerCuts"),
    failovers: tally.sum("failovers"),
    "disk faults": tally.sum("diskFaults"),
    "batches replayed": tally.sum("replayed"),
    "writes answered": tally.sum("answered"),
    flushes: tally.sum("flushes"),
    "images compared": tally.sum("compares"),
    "points of the past read": tally.sum("points"),
    "gaps taken by standbys": tally.sum("gaps"),
    "failovers that went back behind a gap": tally.sum("takenBack"),
    "first syncs": tally.sum("firstSyncs"),
    "changes of volumes begun": tally.sum("changesBegun"),
    "volumes that joined or grew": tally.sum("volumeRecords"),
    "failovers that left a volume out": tally.sum("leftOut"),
    "pauses by order": tally.sum("pauses"),
    "sites at which a group was retired": tally.sum("retired"),
    "verifies judged": tally.sum("verified"),
    "bits turned over at rest and found": tally.sum("found"),
    "runs that proved too little": tally.invalid.length,
    ...nothingLost,
  });
}
