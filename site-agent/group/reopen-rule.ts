/**
 * Which failures to open journal and images may pass by themselves: a full disk is freed, a device comes back. Pure.
 * Anything that says the files are not what was promised is not in here: that stops the group for an operator.
 */
const passingCodes: ReadonlySet<string> = new Set([
  "JOURNAL_OPEN_FAILED",
  "JOURNAL_READ_FAILED",
  "JOURNAL_POISONED",
  "JOURNAL_FULL",
  "JOURNAL_RESERVE",
  "IMAGE_FULL",
  "IMAGE_MARKER_FAILED",
  "IMAGE_SYNC_FAILED",
  "IMAGE_WRITE_FAILED",
  "IMAGE_UNREADABLE",
  "DOCUMENT_UNREADABLE",
  "HISTORY_FULL",
  "HISTORY_FAILED",
  "HISTORY_INDEX_DAMAGED",
  "INDEX_FAILED",
  "ENOSPC",
  "EDQUOT",
]);

/** True when opening may be tried again while requests wait. */
export function mayPass(code: string): boolean {
  return passingCodes.has(code);
}
