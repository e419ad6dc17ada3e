/** Scans in words: what is under way, and what the last checks found. Pure. */
import type { ScanReport } from "../../protocol/admin.ts";
import type { ScanStatus, VerifyResult } from "../../protocol/status.ts";
import { verifyHistoryText } from "./history-check.ts";
import { bytesText, countText, durationText, plural, rateText } from "./quantities.ts";

const purposes: Readonly<Record<ScanStatus["purpose"], string>> = {
  verify: "consistency check",
  "first-sync": "first sync",
  resync: "resync",
  repair: "repair",
  "volume-sync": "volume sync",
};
/** Ranges that are written out; all of them stand in the JSON. */
const rangesShown = 20;

/** One line: where a scan is. */
export function scanLine(scan: ScanStatus): string {
  const share = scan.totalBytes === 0 ? 100 : (100 * scan.doneBytes) / scan.totalBytes;
  const parts = [
    `${purposes[scan.purpose]} ${scan.state}`,
    `${share.toFixed(1)} % of ${bytesText(scan.totalBytes)}`,
    ...(scan.state === "running" ? [rateText(scan.bytesPerSecond)] : []),
    ...(scan.etaMs === null || scan.state !== "running" ? [] : [`${durationText(scan.etaMs)} left`]),
    ...(scan.differingBlocks === 0 ? [] : [`${plural(scan.differingBlocks, "block")} differ`]),
    `sent ${bytesText(scan.digestBytes)} of digests, ${bytesText(scan.contentBytes)} of content`,
  ];
  const why = scan.reason === null ? "" : `\n  ${scan.reason.code}: ${scan.reason.message}`;
  return `${parts.join(", ")}${why}\n`;
}

export function verifyText(result: VerifyResult): string {
  const { outcome, begin, end, differingBlocks, differences, uncheckedBytes } = result;
  if (outcome === "given-up") return `given up: the check that began at record ${countText(begin)}\n`;
  const what =
    differingBlocks === 0
      ? "no difference"
      : `${plural(differingBlocks, "block")} of 4 KiB ${differingBlocks === 1 ? "differs" : "differ"}`;
  const where = differences
    .slice(0, rangesShown)
    .map(({ volume, offset, length }) => `  ${volume}: ${bytesText(length)} at byte ${offset}\n`);
  const more =
    differences.length > rangesShown ? `  and ${differences.length - rangesShown} more ranges\n` : "";
  const lost =
    result.unreadableBlocks === 0
      ? ""
      : `  ${plural(result.unreadableBlocks, "block")} of them cannot be read at the standby: its disk is failing\n`;
  const unchecked = uncheckedBytes === 0 ? "" : `  ${bytesText(uncheckedBytes)} could not be compared\n`;
  const span = `records ${countText(begin)} to ${end === null ? "?" : countText(end)}`;
  return `${result.startedAt}: ${what} in ${bytesText(result.checkedBytes)}, ${span}, ${durationText(result.durationMs)}\n${where.join("")}${more}${lost}${unchecked}${verifyHistoryText(result.history)}`;
}

export function reportText({ group, scan, historyCheck, verifies }: ScanReport): string {
  const reading =
    historyCheck === null
      ? ""
      : `the standby reads its before-images: ${bytesText(historyCheck.doneBytes)} of ${bytesText(historyCheck.totalBytes)}${historyCheck.reason === null ? "" : `, waits: ${historyCheck.reason.message} (${historyCheck.reason.code})`}\n`;
  const now = `${scan === null ? "no scan is under way\n" : scanLine(scan)}${reading}`;
  const [newest] = verifies;
  return `${group}: ${now}${newest === undefined ? "never checked\n" : `last check ${verifyText(newest)}`}`;
}
