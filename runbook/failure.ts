/**
 * How a command fails: one shape with the contract's exit code, a stable id, and what to try. Translates every other
 * error to it, in one table.
 */
import type { AdminError } from "../protocol/admin.ts";
import { ExitCode } from "../protocol/admin.ts";
import { RemoteProtocolError } from "../protocol/remote-error.ts";
import { errorCode, errorText, OperationalError } from "../runtime/errors.ts";
import type { PlacedFinding } from "../runtime/settings/findings.ts";
import { findingText } from "../runtime/settings/findings.ts";

export interface CommandFailureOptions {
  readonly exit: ExitCode;
  /** Stable, upper snake case. */
  readonly id: string;
  readonly message: string;
  readonly why?: string;
  /** What to do next, one sentence. */
  readonly next?: string;
  readonly findings?: readonly PlacedFinding[];
}

/** A command's end other than success. */
export class CommandFailure extends Error {
  readonly exit: ExitCode;
  readonly id: string;
  readonly why: string | undefined;
  readonly next: string;
  readonly findings: readonly PlacedFinding[];

  constructor(options: CommandFailureOptions) {
    super(options.message);
    this.name = "CommandFailure";
    this.exit = options.exit;
    this.id = options.id;
    this.why = options.why;
    this.next = options.next ?? "";
    this.findings = options.findings ?? [];
  }
}

export function usageFailure(
  message: string,
  next = "Add --help to see the options and examples.",
): CommandFailure {
  return new CommandFailure({ exit: ExitCode.usage, id: "USAGE", message, next });
}

/** The daemon's own statement of a failure. */
export function adminFailure(error: AdminError): CommandFailure {
  return new CommandFailure({ exit: error.code, id: error.id, message: error.message, next: error.try });
}

const exitOfCode: Readonly<Record<string, ExitCode>> = {
  CONFIG_INVALID: ExitCode.configuration,
  CONFIG_UNREADABLE: ExitCode.configuration,
  NOT_BUILT: ExitCode.configuration,
  ROLE_NOT_CONFIGURED: ExitCode.configuration,
  TLS_FILES: ExitCode.configuration,
  CERTIFICATE_UNREADABLE: ExitCode.configuration,
  PEER_UNREACHABLE: ExitCode.unreachable,
  PEER_CLOSED: ExitCode.unreachable,
  PEER_CERTIFICATE: ExitCode.notPermitted,
  PEER_TIMEOUT: ExitCode.timeout,
  EACCES: ExitCode.notPermitted,
  EPERM: ExitCode.notPermitted,
};

function isFinding(value: unknown): value is PlacedFinding {
  return typeof value === "object" && value !== null && "line" in value && "key" in value && "hint" in value;
}

export function asFailure(error: unknown): CommandFailure {
  if (error instanceof CommandFailure) return error;
  const code = errorCode(error);
  const message = error instanceof Error ? error.message : String(error);
  const why = error instanceof Error && error.cause !== undefined ? { why: errorText(error.cause) } : {};
  const exit = exitOfCode[code];
  if (error instanceof OperationalError) {
    const findings = error.details["findings"];
    return new CommandFailure({
      exit: exit ?? (error.reaction === "refuse" ? ExitCode.refused : ExitCode.failed),
      id: code,
      message,
      ...why,
      ...(error.hint === undefined ? {} : { next: error.hint }),
      ...(Array.isArray(findings) ? { findings: findings.filter(isFinding) } : {}),
    });
  }
  if (error instanceof RemoteProtocolError) {
    return new CommandFailure({
      exit: ExitCode.failed,
      id: code,
      message,
      next: "Check that both ends run the same version: `splitsite version`.",
    });
  }
  return new CommandFailure({
    exit: exit ?? ExitCode.failed,
    id: code,
    message,
    ...why,
    next: "Look at the log of the daemon; if it says nothing, report this with the command that you ran.",
  });
}

/** The last line on stderr with --json. */
export function failureJson(failure: CommandFailure): string {
  return JSON.stringify({
    type: "error",
    code: failure.exit,
    id: failure.id,
    message: failure.message,
    try: failure.next,
    ...(failure.why === undefined ? {} : { cause: failure.why }),
    ...(failure.findings.length === 0 ? {} : { findings: failure.findings }),
  });
}

/** For people: what, why, what to try. */
export function failureText(failure: CommandFailure): string {
  if (failure.findings.length > 0) {
    return failure.findings
      .map((finding) => `error: ${findingText(finding)}\ntry: ${finding.hint}\n`)
      .join("");
  }
  const cause = failure.why === undefined ? "" : `cause: ${failure.why}\n`;
  const next = failure.next === "" ? "" : `try: ${failure.next}\n`;
  return `error: ${failure.message}\n${cause}${next}`;
}
