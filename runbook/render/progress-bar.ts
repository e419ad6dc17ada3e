/** Progress as a bar that redraws itself on a terminal; the only importer of cli-progress. */
import { Presets, SingleBar } from "cli-progress";
import type { Terminal } from "../terminal.ts";
import type { Progress, ProgressLine } from "./progress.ts";

/** A bar while a step counts; a step that does not count is one line. */
export class BarProgress implements Progress {
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
