/**
 * The journal's failures as `OperationalError`s: the one place that knows their codes, reactions and hints.
 * Decides nothing. Codes: JOURNAL_DAMAGED, JOURNAL_MISSING, JOURNAL_EXISTS, JOURNAL_LOCKED, JOURNAL_OPEN_FAILED,
 * JOURNAL_READ_FAILED, JOURNAL_TRIMMED, JOURNAL_FULL, JOURNAL_RESERVE, JOURNAL_POISONED, WATERMARK_MISSING,
 * WATERMARK_DAMAGED.
 */
import type { Sequence } from "../protocol/ids.ts";
import { RemoteProtocolError } from "../protocol/remote-error.ts";
import { OperationalError } from "../runtime/errors.ts";

type Details = Readonly<Record<string, unknown>>;

const resyncHint =
  "Keep the folder and the watermark as they are for analysis; the group needs a resync from a copy that is sound.";

/**
 * The stored history is not the one that was promised. Never repaired, never continued.
 * `sequence`: where it stops being true, null when that is unknown; `problem`: a stable word for what is wrong.
 */
export function journalDamaged(
  problem: string,
  sequence: Sequence | null,
  details: Details = {},
  cause?: unknown,
): OperationalError {
  const inner = cause instanceof RemoteProtocolError ? { format: cause.code } : {};
  return new OperationalError({
    code: "JOURNAL_DAMAGED",
    message: `journal damaged (${problem})${sequence === null ? "" : ` at sequence ${sequence}`}`,
    reaction: "resync",
    hint: resyncHint,
    cause,
    details: { problem, sequence, ...inner, ...details },
  });
}

export function watermarkDamaged(problem: string, path: string): OperationalError {
  return new OperationalError({
    code: "WATERMARK_DAMAGED",
    message: `watermark ${path} is damaged (${problem})`,
    reaction: "resync",
    hint: resyncHint,
    details: { problem, path },
  });
}

export function watermarkMissing(path: string): OperationalError {
  return new OperationalError({
    code: "WATERMARK_MISSING",
    message: `watermark ${path} is missing, so nothing proves that the journal is whole`,
    reaction: "resync",
    hint: resyncHint,
    details: { path },
  });
}

export function journalMissing(directory: string): OperationalError {
  return new OperationalError({
    code: "JOURNAL_MISSING",
    message: `journal ${directory} is missing`,
    reaction: "resync",
    hint: "Mount the file system that holds it, or resync the group.",
    details: { directory },
  });
}

export function journalExists(what: string): OperationalError {
  return new OperationalError({
    code: "JOURNAL_EXISTS",
    message: `${what} exists already; a new journal never replaces one`,
    reaction: "stop",
    hint: "Find out which history it belongs to before it is moved away.",
    details: { path: what },
  });
}

export function journalLocked(directory: string, cause: unknown): OperationalError {
  return new OperationalError({
    code: "JOURNAL_LOCKED",
    message: `journal ${directory} is in use: another agent runs`,
    reaction: "refuse",
    hint: "Stop the other process that uses this data folder.",
    cause,
    details: { directory },
  });
}

export function journalOpenFailed(directory: string, cause: unknown): OperationalError {
  return new OperationalError({
    code: "JOURNAL_OPEN_FAILED",
    message: `journal ${directory} cannot be opened`,
    reaction: "stop",
    hint: "Look at free space, permissions and the disk; the journal was not changed by us.",
    cause,
    details: { directory },
  });
}

export function journalReadFailed(cause: unknown): OperationalError {
  return new OperationalError({
    code: "JOURNAL_READ_FAILED",
    message: "journal cannot be read",
    reaction: "stop",
    hint: "Look at the disk that holds the journal; a table file that was cut short reads like this, too.",
    cause,
  });
}

export function journalTrimmed(sequence: Sequence, head: Sequence): OperationalError {
  return new OperationalError({
    code: "JOURNAL_TRIMMED",
    message: `sequence ${sequence} is behind the head of the journal, ${head}`,
    reaction: "resync",
    details: { sequence, head },
  });
}

export function journalRefuses(room: "full" | "reserve", details: Details): OperationalError {
  return new OperationalError({
    code: room === "full" ? "JOURNAL_FULL" : "JOURNAL_RESERVE",
    message: room === "full" ? "journal has reached its quota" : "file system of the journal is nearly full",
    reaction: "retry",
    hint:
      room === "full"
        ? "Raise journal.maxBytes or mend the link."
        : "Free space on the file system of the journal.",
    details,
  });
}

/** The handle is done for: a failed put or sync was seen, and nothing it says afterwards can be believed. */
export function journalPoisoned(during: string, cause: unknown): OperationalError {
  return new OperationalError({
    code: "JOURNAL_POISONED",
    message: `journal handle is poisoned by a failed ${during}`,
    reaction: "reopen",
    hint: "Close it, open it again and let it verify itself; mend the disk or free space first if that fails.",
    cause,
    details: { during },
  });
}
