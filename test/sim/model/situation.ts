/**
 * What a group is in the middle of, from the books of its clients and its standby: the other half of "this fault, at that
 * time". Imports nothing of the product.
 */

/** In the order in which a group meets them. */
export const situations = [
  "first sync",
  "idle",
  "steady",
  "lagging",
  "overflow or resync",
  "failing over",
  "taken over",
] as const;
export type Situation = (typeof situations)[number];

/** An answered write that the standby has not called durable for so long makes a lag, ms. */
export const laggingMs = 1_000;

export interface SituationFacts {
  /** Ordered, and no new owner has been seen. */
  readonly failingOver: boolean;
  /** The history goes on at the other site. */
  readonly takenOver: boolean;
  /** Entries were given up, or chunks are noted as dirty, and nothing has mended it. */
  readonly lacksEntries: boolean;
  /** The standby does not hold all that was there before the first entry. */
  readonly lacksBeginning: boolean;
  /** Age of the oldest answered write that the standby has not called durable, ms; undefined: there is none. */
  readonly lagMs: number | undefined;
  /** Requests that are not answered. */
  readonly inFlight: number;
}

export function situationOf(facts: SituationFacts): Situation {
  if (facts.takenOver) return "taken over";
  if (facts.failingOver) return "failing over";
  if (facts.lacksEntries) return "overflow or resync";
  if (facts.lacksBeginning) return "first sync";
  if (facts.lagMs !== undefined) return facts.lagMs >= laggingMs ? "lagging" : "steady";
  return facts.inFlight > 0 ? "steady" : "idle";
}
