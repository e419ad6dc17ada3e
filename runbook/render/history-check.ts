/** What reading before-images found, in words. Pure. */
import type { HistoryCheck, VerifyResult } from "../../protocol/status.ts";
import { bytesText, countText, plural } from "./quantities.ts";

/** Damaged chunks that are written out; all that are listed stand in the JSON. */
const chunksShown = 20;

/** One line, and one for each damaged chunk. */
export function historyCheckText(check: HistoryCheck): string {
  const what =
    check.damagedChunks === 0
      ? "no damage"
      : `${plural(check.damagedChunks, "chunk")} DAMAGED (${check.code ?? "HISTORY_DAMAGED"})`;
  const head = `before-images: ${what} in ${bytesText(check.checkedBytes)}, ${plural(check.chunks, "chunk")}, ${check.startedAt}\n`;
  const rows = check.damaged.slice(0, chunksShown).map(({ segment, offset, part, pointsUpTo, ranges }) => {
    const where = ranges.map(
      (range) => `${range.volume}: ${bytesText(range.length)} at byte ${range.offset}`,
    );
    const means =
      part === "padding"
        ? "no point needs what is damaged"
        : pointsUpTo === null
          ? "it is not known which points need it"
          : `points up to record ${countText(pointsUpTo)} may not be readable there`;
    return `  segment ${segment} at ${offset} (${part}): ${where.join(", ") || "no block is known"}; ${means}\n`;
  });
  const more =
    check.damagedChunks > rows.length ? `  and ${check.damagedChunks - rows.length} more chunks\n` : "";
  const hint =
    check.damagedChunks === 0 ? "" : "  the images and the newest point are not touched; look at the disk\n";
  return `${head}${rows.join("")}${more}${hint}`;
}

/** The part of a verify's result. */
export function verifyHistoryText({ state, check }: VerifyResult["history"]): string {
  if (check !== null) return `  ${historyCheckText(check)}`;
  if (state === "pending") return "  before-images: being read\n";
  return state === "none" ? "  before-images: none are kept\n" : "  before-images: not checked\n";
}
