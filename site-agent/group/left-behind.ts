/**
 * What a fenced owner is left with: the tail of its journal that the new owner's history lacks at most. Reads only, and makes
 * nothing up.
 */
import type { FrameLog } from "../../journal/frame-log.ts";
import type { Sequence } from "../../protocol/ids.ts";
import type { Log } from "../../runtime/log.ts";
import { readNotes } from "../overflow/overflow.ts";
import type { FilesSettings } from "./files.ts";
import { openLog } from "./files.ts";
import type { StandbyView } from "./standby-view.ts";
import type { AgentGroupState } from "./state.ts";

export type Tail = Pick<NonNullable<AgentGroupState["fenced"]>, "written" | "acknowledged" | "tailBytes">;

/** `since`: from where on the standby lacks something at most, apart from what the view knows. */
export function leftBehind(
  log: Pick<FrameLog, "tail">,
  since: { readonly sequence: Sequence; readonly dataBytesTotal: number },
  view: Pick<StandbyView, "safe" | "lag">,
): Tail {
  const written = log.tail.sequence;
  // What of this journal is beyond it, and no more: the lag of a standby that is lost counts what was trimmed as well.
  const counted = view.safe < since.sequence ? undefined : view.lag;
  return {
    written,
    acknowledged: Math.max(view.safe, since.sequence),
    tailBytes: counted?.bytes ?? log.tail.dataBytesTotal - since.dataBytesTotal,
  };
}

/** The same for an owner that learns of its successor before it has opened anything. */
export async function leftInJournal(
  state: AgentGroupState,
  files: FilesSettings,
  view: StandbyView,
  told: Log,
): Promise<Tail> {
  try {
    const { log } = await openLog(state, files, "open");
    try {
      return leftBehind(log, (await readNotes(log)).note?.since ?? log.floor, view);
    } finally {
      await log.close("abandon");
    }
  } catch (error) {
    // Fenced it is whatever the journal says; that its tail cannot be counted is told, and nothing is made up.
    told.error("TAIL_UNKNOWN", "what this journal holds beyond the standby is not known", error);
    return { written: 0, acknowledged: 0, tailBytes: 0 };
  }
}
