/**
 * What a command is: a row of the table that program.ts turns into a command line, help and documentation. Types and
 * the parsed call; a command sees nothing of the library that parses.
 */
import type { ExitCode } from "../protocol/admin.ts";
import type { Settings, SiteSettings } from "../runtime/settings/types.ts";
import type { Terminal } from "./terminal.ts";

export interface ArgumentSpec {
  /** Upper case, as it stands in help. */
  readonly name: string;
  readonly summary: string;
  readonly required: boolean;
}

export interface OptionSpec {
  /** `--name` or `--name VALUE`. */
  readonly flags: string;
  readonly summary: string;
  /** May be given more than once. */
  readonly many?: boolean;
}

export interface CommandSpec {
  /** Words after `splitsite`. */
  readonly path: readonly string[];
  readonly summary: string;
  /** More for --help; one paragraph. */
  readonly detail?: string;
  readonly arguments?: readonly ArgumentSpec[];
  readonly options?: readonly OptionSpec[];
  /** Whole command lines; at least one. */
  readonly examples: readonly string[];
  /** Changes something, so that --dry-run means something. */
  readonly changes: boolean;
  run(call: Call): Promise<ExitCode>;
}

/** One parsed command line. */
export interface Call {
  readonly terminal: Terminal;
  readonly json: boolean;
  readonly yes: boolean;
  readonly dryRun: boolean;
  readonly reason: string | undefined;
  /** null: the command's own. */
  readonly timeoutMs: number | null;
  readonly configFile: string;
  argument(name: string): string | undefined;
  /** Value of `--name VALUE`. */
  option(name: string): string | undefined;
  /** Values of an option that may be given more than once. */
  values(name: string): readonly string[];
  /** Whether `--name` was given. */
  flag(name: string): boolean;
  /** The configuration, loaded once. */
  settings(): Promise<Settings>;
  /** The site meant, found as help says. */
  site(): Promise<SiteSettings>;
}

/** Prints an answer: JSON with --json, else the text. */
export function answer(call: Call, json: unknown, text: () => string): void {
  call.terminal.out(call.json ? `${JSON.stringify(json)}\n` : text());
}
