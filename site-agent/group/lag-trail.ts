/** The trail of what a standby lacks, as far as the journal tells after a start. Reads only. */
import type { FrameLog } from "../../journal/frame-log.ts";
import type { OverflowNote } from "../overflow/notes.ts";
import { clientsFrames } from "../write-path/clients-frames.ts";
import { LagTrail } from "../write-path/lag.ts";

/**
 * `note`: what was dropped before the standby had it; null: nothing. `originAtMs`: the time of the seal where this term's
 * journal began, wall ms; 0: it began with the lineage, of which the journal alone tells a time.
 */
export async function lagTrailOf(
  journal: FrameLog,
  note: OverflowNote | null,
  originAtMs: number,
): Promise<LagTrail> {
  const { head } = journal;
  const since = note?.since ?? { ...journal.floor, atMs: head.closedAtMs };
  const trail = new LagTrail({ ...since, closedAtMs: since.atMs }, originAtMs || Number.POSITIVE_INFINITY);
  // What was dropped counts as one, as old as its oldest record.
  if (head.sequence > since.sequence)
    trail.answered({ ...head, last: head.sequence, openedAtMs: since.atMs });
  for (const frame of await clientsFrames(journal)) trail.answered(frame);
  return trail;
}
