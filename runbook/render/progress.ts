/**
 * Progress of long work, always on stderr: a bar that redraws on a terminal, plain lines with their time otherwise.
 * The only importer of cli-progress. Silent with --json: its readers want the result.
 */
import { Presets, SingleBar } from "cli-progress";
import type { AdminLine } from "../../protocol/admin.ts";
import type { Terminal } from "../terminal.ts";

type ProgressLine = Extract<AdminLine, { type: "progress" }>;

export interface Progress {
  show(line: ProgressLine): void;
  stop(): void;
}

export function createProgress(terminal: Terminal, json: boolean): Progress {
  if (json) return { show: () => undefined, stop: () => undefined };
  return terminal.progressRedraws ? new BarProgress(terminal) : new LineProgress(terminal);
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

/** A bar while a step counts; a step that does not count is one line. */
class BarProgress implements Progress {
  readonly #terminal: Terminal;
  #bar: SingleBar | undefined;
  #step = "";

  constructor(terminal: Terminal) {
    this.#terminal = terminal;
  }

  show(line: ProgressLine): void {
    if (line.step !== this.#step) this.stop();
    this.#step = line.step;
    if (line.done === undefined || line.total === undefined) {
      this.#terminal.err(`${line.step}: ${line.message}\n`);
      return;
    }
    if (this.#bar === undefined) {
      this.#bar = new SingleBar(
        { format: "{step} {bar} {percentage}% {value}/{total}", hideCursor: true },
        Presets.shades_classic,
      );
      this.#bar.start(line.total, line.done, { step: line.step });
    }
    this.#bar.update(line.done);
  }

  stop(): void {
    this.#bar?.stop();
    this.#bar = undefined;
  }
}

function share(line: ProgressLine): string {
  if (line.done === undefined || line.total === undefined || line.total === 0) return "";
  return ` ${((100 * line.done) / line.total).toFixed(1)}%`;
}
