/**
 * Lines of a long order for the one who listens, kept until taken. Progress nobody has read yet is replaced by newer
 * progress of the same step, so a slow or absent listener holds one line a step and no more.
 */
import type { AdminLine } from "../protocol/admin.ts";

export class LineQueue implements AsyncIterable<AdminLine> {
  #lines: AdminLine[] = [];
  #ended = false;
  #wake: (() => void) | undefined;

  push(line: AdminLine): void {
    const newest = this.#lines.at(-1);
    if (line.type === "progress" && newest?.type === "progress" && newest.step === line.step)
      this.#lines.pop();
    this.#lines.push(line);
    this.#wake?.();
  }

  /** Nothing follows. */
  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  /** For one listener: lines are gone once taken. */
  async *[Symbol.asyncIterator](): AsyncIterator<AdminLine> {
    for (;;) {
      const line = this.#lines.shift();
      if (line !== undefined) {
        yield line;
      } else if (this.#ended) {
        return;
      } else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }
}
