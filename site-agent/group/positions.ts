/**
 * The positions and the lag that an owner tells of: of the journal that is open, or of what a fenced or a retired owner left
 * behind. Pure.
 */
import type { Sequence } from "../../protocol/ids.ts";
import type { Lag } from "../write-path/lag.ts";
import type { AgentGroupState } from "./state.ts";
import type { OwnerFacts } from "./status.ts";

export interface PositionFacts {
  readonly state: Pick<AgentGroupState, "fenced" | "retired"> | undefined;
  /** Null: no journal is open. */
  readonly journal: { readonly written: Sequence; readonly durable: Sequence } | null;
  /** Newest sequence sent by the shipper under way; undefined: there is none. */
  readonly shipped: Sequence | undefined;
  /** What this process knows that the standby holds. */
  readonly held: Sequence;
  readonly applied: Sequence;
  /** Undefined: no journal was opened yet. */
  readonly lag: Lag | undefined;
}

export function positionAndLag(facts: PositionFacts): Pick<OwnerFacts, "position" | "lag"> {
  const { state, journal, applied } = facts;
  const fenced = state?.fenced ?? null;
  const retired = journal === null ? (state?.retired ?? null) : null;
  const written = journal?.written ?? fenced?.written ?? retired?.written ?? 0;
  const left = fenced?.acknowledged ?? retired?.acknowledged ?? facts.held;
  const acknowledged = journal === null ? left : facts.held;
  return {
    position: {
      written,
      durable: journal?.durable ?? written,
      shipped: Math.max(facts.shipped ?? 0, acknowledged),
      acknowledged,
      applied,
    },
    lag: (retired === null ? facts.lag : undefined) ?? {
      writes: retired?.loss.writes ?? written - acknowledged,
      bytes: fenced?.tailBytes ?? retired?.loss.bytes ?? 0,
      ageMs: 0,
      oldestAtMs: null,
    },
  };
}
