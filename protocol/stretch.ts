/**
 * Stretches of a history in which the images were between two states of their source: a first sync or resync was bringing
 * what they lacked. Ends of steps in them are no points, whoever holds the history. Pure.
 */
import { countOf, fieldsOf, malformed } from "./fields.ts";
import type { Sequence } from "./ids.ts";

export interface Stretch {
  /** First position that cannot be opened. */
  readonly since: Sequence;
  /** From here on positions can be opened. */
  readonly until: Sequence;
}

/** Kept at most; beyond it the two oldest are joined, and what lies between them is not listed any more. */
export const stretchesMax = 64;

/** `stretches`, which ascend, and one behind them. */
export function withStretch(stretches: readonly Stretch[], next: Stretch): readonly Stretch[] {
  const all = [...stretches, next];
  const [oldest, second, ...rest] = all;
  if (all.length <= stretchesMax || oldest === undefined || second === undefined) return all;
  return [{ since: oldest.since, until: second.until }, ...rest];
}

/** Whether the images were whole when they held `position`. */
export function isOutside(stretches: readonly Stretch[], position: Sequence): boolean {
  return stretches.every(({ since, until }) => position < since || position >= until);
}

/** Documents written before they were kept do not say, and had none. */
export function stretchesOf(value: unknown, what: string): readonly Stretch[] {
  if (value === undefined) return [];
  if (!Array.isArray(value) || value.length > stretchesMax) return malformed(what);
  let end = 0;
  return value.map((row) => {
    const fields = fieldsOf(row, what);
    const since = countOf(fields["since"], `${what} since`);
    const until = countOf(fields["until"], `${what} until`);
    if (since < end || until <= since) malformed(what);
    end = until;
    return { since, until };
  });
}
