/**
 * What a group's owner remembers of its repairs: where they were, whether something came back there, and whether the policy
 * may order another one. Pure. What comes back after a repair is no accident any more: from then on only an operator repairs.
 */
import { countOf, fieldsOf, malformed } from "../../protocol/fields.ts";
import type { BlockRange } from "./scan-document.ts";

/** Ranges remembered, the newest: two repairs of as many as one verify lists. */
const rangesRememberedMax = 512;
/** Ranges of an alarm that are kept. */
const recurredMax = 16;
/** Repairs by policy without a verify that found nothing in between: a disk that goes on failing is for people. */
export const repairsInARowMax = 3;

export interface Repairs {
  /** What was repaired. */
  readonly ranges: readonly BlockRange[];
  /** What differed again; empty: nothing did, since an operator last ordered a repair. */
  readonly recurred: readonly BlockRange[];
  /** Ordered by policy since the last verify without a difference. */
  readonly inARow: number;
  /** A repair by policy was begun, and the verify behind it has not ended. */
  readonly awaitsProof: boolean;
}

export const noRepairs: Repairs = { ranges: [], recurred: [], inARow: 0, awaitsProof: false };

/** A repair is about to begin. An operator's order answers an alarm. */
export function afterOrder(repairs: Repairs, by: "operator" | "policy"): Repairs {
  const isPolicy = by === "policy";
  return {
    ranges: repairs.ranges,
    recurred: isPolicy ? repairs.recurred : [],
    inARow: isPolicy ? repairs.inARow + 1 : 0,
    awaitsProof: isPolicy,
  };
}

/**
 * The standby has applied all of a repair of `ranges`. Not before: what was never sent, because the owner died, somebody gave it
 * up or something greater took its place, differs still and not again. May be told twice.
 */
export function afterRepair(repairs: Repairs, ranges: readonly BlockRange[]): Repairs {
  return { ...repairs, ranges: [...repairs.ranges, ...ranges].slice(-rangesRememberedMax) };
}

/** A verify came to its end and found these. */
export function afterVerify(repairs: Repairs, differences: readonly BlockRange[]): Repairs {
  const again = differences.filter((range) => repairs.ranges.some((before) => overlap(range, before)));
  return {
    ranges: repairs.ranges,
    recurred: [...repairs.recurred, ...again].slice(0, recurredMax),
    inARow: differences.length === 0 ? 0 : repairs.inARow,
    awaitsProof: false,
  };
}

/** Why the policy may not order a repair now; null: it may. */
export function policyIsBarred(repairs: Repairs): "MISMATCH_RECURRED" | "REPAIRS_IN_A_ROW" | null {
  if (repairs.recurred.length > 0) return "MISMATCH_RECURRED";
  return repairs.inARow >= repairsInARowMax ? "REPAIRS_IN_A_ROW" : null;
}

function overlap(a: BlockRange, b: BlockRange): boolean {
  return a.volume === b.volume && a.start < b.end && b.start < a.end;
}

/** Documents from before repairs were remembered do not have it. */
export function parseRepairs(value: unknown): Repairs {
  if (value === undefined) return noRepairs;
  const fields = fieldsOf(value, "repairs");
  const { awaitsProof } = fields;
  if (typeof awaitsProof !== "boolean") return malformed("awaits proof");
  return {
    ranges: rangesOf(fields["ranges"], rangesRememberedMax),
    recurred: rangesOf(fields["recurred"], recurredMax),
    inARow: countOf(fields["inARow"], "in a row"),
    awaitsProof,
  };
}

function rangesOf(value: unknown, most: number): BlockRange[] {
  if (!Array.isArray(value) || value.length > most) return malformed("ranges");
  return value.map((each) => {
    const row = fieldsOf(each, "range");
    return {
      volume: countOf(row["volume"], "volume"),
      start: countOf(row["start"], "start"),
      end: countOf(row["end"], "end"),
    };
  });
}
