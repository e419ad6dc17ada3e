/**
 * From the table of commands to a command line: parsing, help, exit codes and the form of errors. The only importer
 * of commander; no command knows it.
 */
import { Command, CommanderError, Option } from "commander";
import { ExitCode } from "../protocol/admin.ts";
import type { Settings } from "../runtime/settings/types.ts";
import { parseDuration, timeForm } from "../runtime/settings/units.ts";
import type { Call, CommandSpec, OptionSpec } from "./command.ts";
import { commands } from "./commands.ts";
import { asFailure, failureJson, failureText, usageFailure } from "./failure.ts";
import { chooseSite } from "./site-choice.ts";
import type { Terminal } from "./terminal.ts";

export const globalOptions: readonly OptionSpec[] = [
  {
    flags: "--config FILE",
    summary: "configuration file (default: $SPLITSITE_CONFIG, then /etc/splitsite/splitsite.yaml)",
  },
  {
    flags: "--site NAME",
    summary: "site meant (default: $SPLITSITE_SITE, then the only site this host can be)",
  },
  { flags: "--json", summary: "machine-readable answer; errors as one JSON line, the last on stderr" },
  { flags: "--yes", summary: "do not ask for confirmation" },
  { flags: "--dry-run", summary: "show what would be done, change nothing" },
  { flags: "--reason TEXT", summary: "why; kept as evidence" },
  { flags: "--timeout TIME", summary: "give up after this long, such as 30s (exit 9)" },
];

const groupSummaries: Readonly<Record<string, string>> = {
  certs: "certificates of the sites and of NBD clients",
  config: "check and show the configuration",
  throttle: "limit of the line between the sites",
  failover: "move a group to the standby's site",
  group: "life of a group",
  history: "what is kept to go back",
  scan: "first sync, consistency check and repair under way",
  image: "content of the volumes",
  journal: "evidence and figures of a journal",
};

/** Runs one command line, program name left out; answers the exit code. Never throws. */
export async function runProgram(words: readonly string[], terminal: Terminal): Promise<ExitCode> {
  let exit: ExitCode = ExitCode.done;
  const program = buildProgram(terminal, (code) => {
    exit = code;
  });
  try {
    await program.parseAsync([...words], { from: "user" });
    return exit;
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return ExitCode.done;
    const failure = error instanceof CommanderError ? usageFailure(usageText(error)) : asFailure(error);
    const json = words.includes("--json");
    terminal.err(json ? `${failureJson(failure)}\n` : failureText(failure));
    return failure.exit;
  }
}

/** `error: unknown option '--x'` without its first word, which our own form of errors adds. */
function usageText(error: CommanderError): string {
  if (error.code === "commander.help") return "a command is missing";
  return error.message.replace(/^error: /, "").split("\n")[0] ?? "";
}

function buildProgram(terminal: Terminal, ended: (code: ExitCode) => void): Command {
  const program = new Command("splitsite");
  program.description("Split-site disaster recovery for block devices: journal, ship, stand by, take over.");
  program.addHelpText("after", "\nEach command has --help with examples. Exit codes: docs/runbook.md.");
  configure(program, terminal);
  for (const { flags, summary } of globalOptions) program.addOption(new Option(angled(flags), summary));
  const groups = new Map<string, Command>();
  for (const spec of commands) {
    const [first = "", second] = spec.path;
    let parent = program;
    if (second !== undefined) {
      parent = groups.get(first) ?? newGroup(program, first, terminal);
      groups.set(first, parent);
    }
    const command = addCommand(parent, spec, terminal, ended);
    // A command may have others below it: its own argument is then whatever is none of their words.
    if (second === undefined) groups.set(first, command);
  }
  return program;
}

function newGroup(program: Command, name: string, terminal: Terminal): Command {
  const group = program.command(name).description(groupSummaries[name] ?? "");
  configure(group, terminal);
  return group;
}

function configure(command: Command, terminal: Terminal): void {
  command.exitOverride();
  // Help that was asked for goes to stdout; parse errors come back as exceptions and are printed in one place.
  command.configureOutput({
    writeOut: (text) => terminal.out(text),
    writeErr: () => undefined,
    outputError: () => undefined,
  });
  command.configureHelp({ showGlobalOptions: true, helpWidth: Math.min(terminal.columns, 110) });
  command.allowExcessArguments(false);
}

function addCommand(
  parent: Command,
  spec: CommandSpec,
  terminal: Terminal,
  ended: (code: ExitCode) => void,
): Command {
  const command = parent.command(spec.path.at(-1) ?? "");
  configure(command, terminal);
  command
    .summary(spec.summary)
    .description(spec.detail === undefined ? spec.summary : `${spec.summary}\n\n${spec.detail}`);
  const names = spec.arguments ?? [];
  for (const { name, summary, required } of names)
    command.argument(required ? `<${name}>` : `[${name}]`, summary);
  for (const { flags, summary, many } of spec.options ?? []) {
    const option = new Option(angled(flags), summary);
    if (many === true) option.default([]).argParser((value: string, before: string[]) => [...before, value]);
    command.addOption(option);
  }
  command.addHelpText("after", `\nExamples:\n${spec.examples.map((example) => `  ${example}`).join("\n")}`);
  command.action(async () => {
    const values = command.args;
    const given = new Map(names.map(({ name }, index) => [name, values[index]]));
    ended(await spec.run(new ParsedCall(terminal, command.optsWithGlobals(), given)));
  });
  return command;
}

class ParsedCall implements Call {
  readonly terminal: Terminal;
  readonly #options: Readonly<Record<string, unknown>>;
  readonly #arguments: ReadonlyMap<string, string | undefined>;
  #settings: Promise<Settings> | undefined;

  constructor(
    terminal: Terminal,
    options: Readonly<Record<string, unknown>>,
    given: ReadonlyMap<string, string | undefined>,
  ) {
    this.terminal = terminal;
    this.#options = options;
    this.#arguments = given;
    // A wrong --timeout is told before anything is done.
    void this.timeoutMs;
  }

  get json() {
    return this.flag("json");
  }

  get yes() {
    return this.flag("yes");
  }

  get dryRun() {
    return this.flag("dry-run");
  }

  get reason() {
    return this.option("reason");
  }

  get timeoutMs() {
    const text = this.option("timeout");
    if (text === undefined) return null;
    const value = parseDuration(text);
    if (value === undefined || value === 0)
      throw usageFailure(`--timeout is \`${text}\`, must be ${timeForm}`);
    return value;
  }

  get configFile() {
    return this.option("config") ?? this.terminal.env["SPLITSITE_CONFIG"] ?? "/etc/splitsite/splitsite.yaml";
  }

  argument(name: string) {
    return this.#arguments.get(name);
  }

  option(name: string) {
    const value = this.#options[camelCase(name)];
    return typeof value === "string" ? value : undefined;
  }

  values(name: string) {
    const value = this.#options[camelCase(name)];
    return Array.isArray(value) ? value.filter((item) => typeof item === "string") : [];
  }

  flag(name: string) {
    return this.#options[camelCase(name)] === true;
  }

  settings() {
    // Loaded here: help and a few commands read no configuration.
    this.#settings ??= import("../runtime/settings/load.ts").then(({ loadSettings }) =>
      loadSettings(this.configFile),
    );
    return this.#settings;
  }

  async site() {
    return chooseSite(await this.settings(), this.option("site") ?? this.terminal.env["SPLITSITE_SITE"]);
  }
}

function camelCase(name: string): string {
  return name.replace(/-([a-z])/g, (_all, letter: string) => letter.toUpperCase());
}

/** `--name VALUE` as the library writes it. */
function angled(flags: string): string {
  return flags.replace(/ (.+)$/, " <$1>");
}
