/**
 * A campaign of seeds, and what is said of it: no invariant broken, and enough of everything done that this means
 * something. A broken one is told with its seed, the fewest faults that still break it and the end of its trace;
 * `node dist/test/sim/main.js --seed N` shows it again.
 */
import type { EvidenceFigures } from "../../support/evidence.ts";
import { noteEvidence, nothingLost } from "../../support/evidence.ts";
import { situations } from "../model/situation.ts";
import { describeFault, faultFamilies, faultKinds } from "./faults.ts";
import type { Outcome } from "./run.ts";
import { shrink, simulate } from "./run.ts";
import { struckKey } from "./struck.ts";
import { Tally } from "./tally.ts";

export interface Campaign {
  readonly first: number;
  readonly seeds: number;
}

export interface CampaignOptions {
  /** So many of the seeds are run a second time, when all have been run once. */
  readonly repeats?: number;
  /** Beyond a broken invariant, too. */
  readonly keepGoing?: boolean;
  readonly traceLines?: number;
  /** Told of each seed that has been run. */
  readonly progress?: (seed: number) => void;
}

/** Plain data: it crosses threads. */
export interface CampaignResult {
  readonly broken: readonly string[];
  /** What it did too little of to mean something. */
  readonly lacking: readonly string[];
  readonly table: string;
  readonly figures: EvidenceFigures;
  /** Faults by what their groups were in the middle of. */
  readonly struck: EvidenceFigures;
  readonly repeated: Repeated;
}

export interface Repeated {
  readonly seeds: number;
  /** Different traces among them. */
  readonly traces: number;
  /** Seeds whose second run was not the first one, event for event. */
  readonly differed: readonly number[];
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

export async function runCampaign(
  { first, seeds }: Campaign,
  { repeats = 0, keepGoing = false, traceLines = 80, progress = () => {} }: CampaignOptions = {},
): Promise<CampaignResult> {
  const tally = new Tally();
  const broken: string[] = [];
  const kept: Run[] = [];
  for (let seed = first; seed < first + seeds; seed += 1) {
    const outcome = await simulate(seed, { traceLines });
    tally.add(outcome);
    if (kept.length < repeats) kept.push({ seed, hash: outcome.hash, counts: outcome.counts });
    progress(seed);
    if (outcome.violation === undefined) continue;
    broken.push(describeBroken(await shrink(outcome, { traceLines })));
    if (!keepGoing) break;
  }
  return {
    broken,
    lacking: lackingIn(tally),
    table: tally.table(),
    figures: figuresOf(tally),
    struck: Object.fromEntries(tally.struck),
    repeated: await repeat(kept),
  };
}

/** What stands for a campaign that came to its end and broke nothing; any other leaves no evidence. */
export function noteCampaign({ broken, lacking, figures, struck }: CampaignResult): void {
  if (broken.length > 0 || lacking.length > 0) return;
  noteEvidence("simulation", figures);
  noteEvidence("faults by state", struck);
}

/** Every family of faults in every situation of a group. */
const struckCells = faultFamilies.flatMap((family) =>
  situations.map((situation) => struckKey(family, situation)),
);

type Run = Pick<Outcome, "seed" | "hash" | "counts">;

/**
 * Each is run against its first time, so with all other seeds between the two: nothing may be left over from one run that
 * another one sees.
 */
async function repeat(kept: readonly Run[]): Promise<Repeated> {
  const differed: number[] = [];
  for (const { seed, hash, counts } of kept) {
    const again = await simulate(seed);
    if (again.hash !== hash || JSON.stringify(again.counts) !== JSON.stringify(counts)) differed.push(seed);
  }
  return { seeds: kept.length, traces: new Set(kept.map(({ hash }) => hash)).size, differed };
}

export function describeBroken({ seed, violation, faults, trace }: Outcome): string {
  return [
    `seed ${seed}: ${violation?.message}`,
    `faults (--faults ${faults.map(({ id }) => id).join(",") || "none"}):`,
    ...faults.map((fault) => `  ${describeFault(fault)}`),
    ...trace.map((line) => `  | ${line}`),
  ].join("\n");
}

/** A few seeds need not meet everything; nothing is asked of them but that they prove something. */
function lackingIn(tally: Tally): string[] {
  const { seeds } = tally;
  const lacking: string[] = [];
  const ask = (isThere: boolean, what: string): void => {
    if (!isThere) lacking.push(what);
  };
  ask(tally.invalidShare <= 0.02, `proof: ${tally.invalid.length} runs of ${seeds} proved too little`);
  if (seeds < 100) return lacking;
  ask(tally.sum("crashes") >= 3 * seeds, "crashes: three a run on average");
  for (const kind of faultKinds) ask(tally.fired.has(kind), `faults: ${kind}`);
  for (const name of ["failovers", "diskFaults", "replayed", "compares", "points", "returns"] as const)
    ask(tally.sum(name) > seeds / 10, name);
  for (const name of ["firstSyncs", "verified", "flips"] as const) ask(tally.sum(name) > seeds / 10, name);
  ask(tally.sum("gaps") > seeds / 10 && tally.sum("takenBack") > seeds / 200, "journals that overflowed");
  // Far below what is usual, 25 to 58 in a thousand: a verify that finds one finds several, so the sum wanders.
  ask(tally.sum("found") > seeds / 100, "something for verifies to find");
  for (const name of ["changesBegun", "volumeRecords"] as const) ask(tally.sum(name) > seeds / 8, name);
  ask(tally.sum("leftOut") >= Math.floor(seeds / 400), "failovers that left a volume out");
  // The rarest come three times in a hundred seeds.
  if (seeds >= 500) for (const cell of struckCells) ask(tally.struck.has(cell), `faults: ${cell}`);
  for (const name of ["pauses", "retired"] as const) ask(tally.sum(name) > seeds / 20, name);
  ask(tally.sum("retiresRefused") >= Math.floor(seeds / 200), "orders to retire that were refused");
  return lacking;
}

function figuresOf(tally: Tally): EvidenceFigures {
  return {
    seeds: tally.seeds,
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
    "writes stated as lag too much max": tally.sum("lagTooMuchMax"),
    "ms for which protected was shown and not so max": Math.round(tally.sum("protectedTooLongMsMax")),
    "runs that proved too little": tally.invalid.length,
    ...nothingLost,
  };
}
