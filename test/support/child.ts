/**
 * Child processes of tests and benches: each is the leader of its own process group, its output is kept, and nothing
 * survives the test process, whatever way it ends. Kills by the id of what was started here, never by name.
 */
import type { ChildProcess } from "node:child_process";
import { spawn } from "node:child_process";
import { once } from "node:events";

const living = new Set<ChildProcess>();

function killGroup(child: ChildProcess, signal: NodeJS.Signals): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, signal);
  } catch (error) {
    // ESRCH: the whole group is gone, which is what was wanted.
    if (!(error instanceof Error && "code" in error && error.code === "ESRCH")) throw error;
  }
}

process.on("exit", () => {
  for (const child of living) killGroup(child, "SIGKILL");
});
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.once(signal, () => {
    for (const child of living) killGroup(child, "SIGKILL");
    process.kill(process.pid, signal);
  });
}

/** Output kept per child, bytes: enough for the end of a long log, bounded for a child gone mad. */
const outputBytesMax = 4 * 1024 * 1024;

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export class Child {
  readonly name: string;
  readonly exited: Promise<Exit>;
  readonly #child: ChildProcess;
  #output = "";
  #stdout = "";
  #exit: Exit | undefined;
  readonly #watchers = new Set<() => void>();

  constructor(
    name: string,
    command: string,
    args: readonly string[],
    options: { cwd?: string; env?: NodeJS.ProcessEnv; uid?: number; gid?: number } = {},
  ) {
    this.name = name;
    this.#child = spawn(command, args, { ...options, detached: true, stdio: ["ignore", "pipe", "pipe"] });
    living.add(this.#child);
    this.#child.stdout?.setEncoding("utf8").on("data", (text: string) => {
      this.#stdout = (this.#stdout + text).slice(-outputBytesMax);
      this.#keep(text);
    });
    this.#child.stderr?.setEncoding("utf8").on("data", (text: string) => this.#keep(text));
    this.exited = this.#waitForExit();
  }

  async #waitForExit(): Promise<Exit> {
    try {
      const [code, signal] = (await once(this.#child, "close")) as [number | null, NodeJS.Signals | null];
      this.#exit = { code, signal };
    } catch (error) {
      this.#keep(String(error));
      this.#exit = { code: 127, signal: null };
    }
    living.delete(this.#child);
    for (const watch of this.#watchers) watch();
    return this.#exit;
  }

  #keep(text: string): void {
    this.#output = (this.#output + text).slice(-outputBytesMax);
    for (const watch of this.#watchers) watch();
  }

  /** Standard output and standard error, mixed as they came. */
  get output(): string {
    return this.#output;
  }

  get stdout(): string {
    return this.#stdout;
  }

  get running(): boolean {
    return this.#exit === undefined;
  }

  get pid(): number {
    const { pid } = this.#child;
    if (pid === undefined) throw new Error(`${this.name} did not start: ${this.#output}`);
    return pid;
  }

  /** Waits until its output matches; fails when it exits first or after `timeoutMs`. */
  async waitForOutput(pattern: RegExp, timeoutMs = 20_000): Promise<void> {
    if (pattern.test(this.#output)) return;
    await new Promise<void>((resolve, reject) => {
      const settle = (error?: Error) => {
        clearTimeout(timer);
        this.#watchers.delete(watch);
        if (error === undefined) resolve();
        else reject(error);
      };
      const watch = () => {
        if (pattern.test(this.#output)) settle();
        else if (this.#exit !== undefined)
          settle(new Error(`${this.name} ended (${JSON.stringify(this.#exit)}):\n${this.#output}`));
      };
      const timer = setTimeout(
        () => settle(new Error(`${this.name}: no ${pattern} within ${timeoutMs} ms:\n${this.#output}`)),
        timeoutMs,
      );
      this.#watchers.add(watch);
      watch();
    });
  }

  /** Sends a signal to it and all it started. */
  signal(signal: NodeJS.Signals): void {
    if (this.running) killGroup(this.#child, signal);
  }

  /** kill -9 and wait until it is reaped: from then on it can do nothing any more. */
  async kill(): Promise<Exit> {
    this.signal("SIGKILL");
    return this.exited;
  }

  /** SIGTERM, and after `timeoutMs` kill -9, which is a failure of the caller's expectations and throws. */
  async stop(timeoutMs = 20_000): Promise<Exit> {
    this.signal("SIGTERM");
    let killed = false;
    const timer = setTimeout(() => {
      killed = true;
      this.signal("SIGKILL");
    }, timeoutMs);
    const exit = await this.exited;
    clearTimeout(timer);
    if (killed)
      throw new Error(`${this.name} did not stop within ${timeoutMs} ms:\n${this.#output.slice(-4000)}`);
    return exit;
  }
}

export interface Finished {
  readonly code: number | null;
  readonly stdout: string;
  readonly output: string;
}

/** Runs a program to its end. Exit codes are values here. */
export async function runTool(
  command: string,
  args: readonly string[],
  options: { cwd?: string; env?: NodeJS.ProcessEnv; timeoutMs?: number; uid?: number; gid?: number } = {},
): Promise<Finished> {
  const { timeoutMs = 120_000, ...spawnOptions } = options;
  const child = new Child(command, command, args, spawnOptions);
  const timer = setTimeout(() => child.signal("SIGKILL"), timeoutMs);
  const { code } = await child.exited;
  clearTimeout(timer);
  return { code, stdout: child.stdout, output: child.output };
}

/** As `runTool`, but anything except exit code 0 throws with the output. Returns standard output. */
export async function mustRun(
  command: string,
  args: readonly string[],
  options: Parameters<typeof runTool>[2] = {},
): Promise<string> {
  const { code, stdout, output } = await runTool(command, args, options);
  if (code !== 0) throw new Error(`${command} ${args.join(" ")} ended with ${code}:\n${output}`);
  return stdout;
}
