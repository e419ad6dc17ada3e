/** How a point is written on a command line and in a query: `latest`, a sequence, or a time. Pure. */
import type { Sequence } from "./ids.ts";

/** Which point is meant: the newest, the end of a sequence, or the newest at or before a time. */
export type PointChoice =
  | { readonly kind: "latest" }
  | { readonly kind: "sequence"; readonly sequence: Sequence }
  | { readonly kind: "time"; readonly timeMs: number };

export const pointForm = "latest, a sequence, or a time such as 2026-03-02T10:14:06Z";

/** A zone must be said: what is meant by a bare time depends on who reads it. */
const timePattern = /^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,3})?)?(Z|[+-]\d\d:\d\d)$/;

/** Undefined for any other text. */
export function parsePoint(text: string): PointChoice | undefined {
  if (text === "latest") return { kind: "latest" };
  if (/^\d{1,15}$/.test(text)) return { kind: "sequence", sequence: Number(text) };
  const timeMs = timePattern.test(text) ? Date.parse(text) : Number.NaN;
  return Number.isNaN(timeMs) ? undefined : { kind: "time", timeMs };
}
