/**
 * How far a standby is taken to hold the order, from what its owner has heard of it. Pure. What is said of it goes back to
 * nothing as soon as its site says that it knows nothing (promise 3); what the journal may be trimmed by does not: the shipper
 * refuses whoever comes back with less (SH4), unless it is a standby made anew, which counts from what it holds itself.
 */
import type { Sequence } from "../../protocol/ids.ts";

export interface Holding {
  /** It was durable there up to here, by the last that was heard of a standby that was there. */
  readonly acknowledged: Sequence;
  readonly applied: Sequence;
  /** Its site knows nothing of it, or nothing that is proven to be of this history. */
  readonly isLost: boolean;
}

export type HoldingNews =
  /** A journal begins behind `floor`: what is before that was acknowledged in an earlier life. */
  | { readonly kind: "journalBegan"; readonly floor: Sequence }
  | { readonly kind: "lost" }
  /** Positions and chain agree up to `held`. */
  | { readonly kind: "attached"; readonly held: Sequence }
  | { readonly kind: "acknowledged"; readonly durable: Sequence }
  | { readonly kind: "applied"; readonly applied: Sequence };

export const nothingHeard: Holding = { acknowledged: 0, applied: 0, isLost: false };

export function holdingAfter(holding: Holding, news: HoldingNews): Holding {
  const { acknowledged, isLost } = holding;
  switch (news.kind) {
    case "journalBegan":
      return { ...holding, acknowledged: Math.max(acknowledged, news.floor) };
    case "lost":
      return { acknowledged, applied: 0, isLost: true };
    case "attached":
      return isLost ? { acknowledged: news.held, applied: 0, isLost: false } : holding;
    case "acknowledged":
      return {
        ...holding,
        acknowledged: isLost ? news.durable : Math.max(acknowledged, news.durable),
        isLost: false,
      };
    case "applied":
      return { ...holding, applied: news.applied };
  }
}

/** What may be said that it holds. */
export function heldAt({ acknowledged, isLost }: Holding): Sequence {
  return isLost ? 0 : acknowledged;
}

/**
 * What a failover would be left with: as long as the standby lacks what was dropped behind `since`, it would open a point from
 * before that. Null: it lacks nothing that was dropped.
 */
export function safeAt(holding: Holding, since: Sequence | null): Sequence {
  const held = heldAt(holding);
  return since === null ? held : Math.min(since, held);
}
