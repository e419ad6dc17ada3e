/**
 * When a group that failed is opened again, and when an operator has to look. Pure. A failure to open journal and images may
 * pass by itself where its code is in here: a full disk is freed, a device comes back. Anything that says the files are not
 * what was promised is not: that stops the group.
 */

/** Opened and failed again this often in one window: the group stops and an operator looks. */
const reopensMax = 5;
const reopenWindowMs = 60_000;
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

/** The times at which a group failed and was closed to be opened again. */
export class Reopens {
  #atMs: number[] = [];

  /** Notes one at `nowMs`, monotonic. True: it failed too often, and is not opened again. */
  isOneTooMany(nowMs: number): boolean {
    this.#atMs = this.#atMs.filter((atMs) => nowMs - atMs < reopenWindowMs);
    this.#atMs.push(nowMs);
    return this.#atMs.length > reopensMax;
  }
}
