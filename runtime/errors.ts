/**
 * Errors sorted by who must act. The peer broke the protocol: `RemoteProtocolError`. The world failed (disk,
 * link, refusal): `OperationalError`. We did: `node:assert`. Expected outcomes (gap, duplicate, stale epoch) are
 * values, not errors. Tests and documents use `code`, never the text.
 */

/** What the shell that meets the error should do; nothing retries on the text of a message. */
export type Reaction = "retry" | "reconnect" | "reopen" | "resync" | "refuse" | "stop";

export interface OperationalErrorOptions {
  /** Stable, upper snake case, e.g. `JOURNAL_DAMAGED`. */
  readonly code: string;
  readonly message: string;
  readonly reaction: Reaction;
  /** What the operator does next, one sentence. */
  readonly hint?: string;
  readonly cause?: unknown;
  /** Serialisable facts for logs and `--json`. */
  readonly details?: Readonly<Record<string, unknown>>;
}

/** The world failed. */
export class OperationalError extends Error {
  readonly code: string;
  readonly reaction: Reaction;
  readonly hint: string | undefined;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(options: OperationalErrorOptions) {
    super(options.message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "OperationalError";
    this.code = options.code;
    this.reaction = options.reaction;
    this.hint = options.hint;
    this.details = options.details ?? {};
  }
}

/** Code of any thrown value, for logs: our own code, the system's errno name, or `UNEXPECTED`. */
export function errorCode(error: unknown): string {
  if (typeof error === "object" && error !== null && "code" in error && typeof error.code === "string") {
    return error.code;
  }
  return "UNEXPECTED";
}

/** Message chain of any thrown value, causes included, bounded to 8 levels. */
export function errorText(error: unknown): string {
  const parts: string[] = [];
  let current: unknown = error;
  for (let depth = 0; depth < 8 && current !== undefined; depth += 1) {
    parts.push(current instanceof Error ? current.message : String(current));
    current = current instanceof Error ? current.cause : undefined;
  }
  return parts.join(": ");
}
