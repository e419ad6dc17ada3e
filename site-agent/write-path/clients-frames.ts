/**
 * What clients have in a journal that was just opened: the ground of lag, and of what the other site is told. Reads and
 * judges nothing else.
 */
import type { FrameLog } from "../../journal/frame-log.ts";
import type { AnsweredFrame } from "./lag.ts";
import { clientsPart } from "./lag.ts";

/**
 * What clients have in a journal, oldest first, as far as its lag is counted: without what a scan put at its end. Frames
 * are read one by one from the end until one of a client is found: as many as a scan puts into an idle group's order.
 */
export async function clientsFrames(
  log: Pick<FrameLog, "head" | "index" | "frames">,
): Promise<readonly AnsweredFrame[]> {
  const rows = await log.index(log.head.sequence);
  for (let at = rows.length - 1; at >= 0; at -= 1) {
    const row = rows[at]!;
    const [frame] = await log.frames(row.first, 1);
    const part = frame === undefined ? row : clientsPart(frame);
    if (part !== undefined) return [...rows.slice(0, at), part];
  }
  return [];
}
