/**
 * Progress of long work, always on stderr: a bar that redraws on a terminal (progress-bar.ts), plain lines with their time
 * otherwise. Silent with --json: its readers want the result.
 */
import type { AdminLine } from "../../protocol/admin.ts";
import type { Terminal } from "../terminal.ts";

export type ProgressLine = Extract<AdminLine, { type: "progress" }>;

export interface Progress {
  show(line: ProgressLine): void;
  stop(): void;
}

export async function createProgress(terminal: Terminal, json: boolean): Promise<Progress> {
  if (json) return { show: () => undefined, stop: () => undefined };
  if (!terminal.progressRedraws) return new LineProgress(terminal);
  // Loaded here: most commands show no bar.
  const { BarProgress } = await import("./progress-bar.ts");
  return new BarProgress(terminal);
}

class LineProgress implements Progress {
  readonly #terminal: Terminal;

  constructor(terminal: Terminal) {
    this.#terminal = terminal;
  }

  show(line: ProgressLine): void {
    this.#terminal.err(`${line.time} ${line.step}${share(line)}: ${line.message}\n`);
  }

  stop(): void {}
}

function share(line: ProgressLine): string {
  if (line.done === undefined || line.total === undefined || line.total === 0) return "";
  return ` ${((100 * line.done) / line.total).toFixed(1)}%`;
}
