/**
 * Where the history of a standby ends that takes nothing any more: in a failover, and when it is retired. Decides nothing
 * about whether it may; must never name an end at which the images cannot be opened.
 */
import type { AppliedPosition } from "../image/marker.ts";
import { bytesToHex } from "../protocol/ids.ts";
import { OperationalError } from "../runtime/errors.ts";
import type { OpenStandby } from "./open-standby.ts";
import { describeIncomplete, type Incomplete, isOpenable } from "./scan/completeness.ts";
import type { FailoverDocument, Seal } from "./state.ts";

export function sealAt({ sequence, chain, dataBytesTotal, timeMs }: AppliedPosition): Seal {
  return { sequence, chain: bytesToHex(chain), dataBytesTotal, timeMs };
}

/** The end of what was received; the last point before it where the images could not be opened there. `NOT_CONSISTENT`. */
export async function sealedEnd(open: OpenStandby): Promise<Pick<FailoverDocument, "seal" | "received">> {
  const { end, incompleteAtEnd } = open;
  if (isOpenable(incompleteAtEnd, end.sequence)) return { seal: end, received: null };
  const { trouble } = open.applier;
  // While the images are closed it is not known what they can be taken back to.
  if (trouble !== null)
    throw new OperationalError({ code: trouble.code, message: trouble.message, reaction: "refuse" });
  const target = open.before;
  // A step under way may go beyond it; behind it nothing is decided by what is still going on.
  if (target !== undefined) await open.applier.holdAt(target.sequence);
  const point = open.before;
  if (point === undefined || point.sequence !== target?.sequence) throw notConsistent(incompleteAtEnd);
  const { sequence, dataBytesTotal } = end;
  return { seal: sealAt(point), received: { sequence, dataBytesTotal } };
}

export function notConsistent(incomplete: Incomplete | null): OperationalError {
  return new OperationalError({
    code: "NOT_CONSISTENT",
    message: incomplete === null ? "nothing can be opened" : describeIncomplete(incomplete),
    reaction: "refuse",
    hint: "The images lack content that only the old owner's site has; take it from there.",
  });
}
