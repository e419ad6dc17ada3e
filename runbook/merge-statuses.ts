/** One list of a site's groups out of what its two roles say. Pure. */
import type { GroupStatus } from "../protocol/status.ts";

/**
 * Owners first. A standby that was handed over to this site's own agent is left out: the agent's entry is that group
 * now, and two would read as two histories.
 */
export function mergeStatuses(statuses: readonly GroupStatus[]): GroupStatus[] {
  const owned = new Set(statuses.filter(({ role }) => role === "owner").map(({ group }) => group));
  const kept = statuses.filter(
    (status) =>
      !(status.role === "standby" && owned.has(status.group) && status.reason?.code === "HANDED_OVER"),
  );
  return kept.toSorted((a, b) => (a.role === b.role ? 0 : a.role === "owner" ? -1 : 1));
}
