/**
 * Reads the frames for apply steps out of the intake, at most one step ahead of the one that is being applied. It gives only
 * what is synced, and decides nothing: which of the frames make a step is asked when the step begins, never when they are
 * read. What was read ahead for another position is thrown away.
 */
import type { FrameLog } from "../../journal/frame-log.ts";
import type { Frame } from "../../protocol/frame.ts";
import type { Sequence } from "../../protocol/ids.ts";
import { fromIntake, IntakeFailure } from "./intake-failure.ts";

interface Ahead {
  readonly from: Sequence;
  readonly frames: Promise<readonly Frame[]>;
}

export class StepReader {
  readonly #intake: FrameLog;
  readonly #stepBytesMax: number;
  /** Memory: one step, and one frame more at most. */
  #ahead: Ahead | undefined;

  /** `stepBytesMax`: body bytes that one reading gives, about; a single frame may be longer. */
  constructor(intake: FrameLog, stepBytesMax: number) {
    this.#intake = intake;
    this.#stepBytesMax = stepBytesMax;
  }

  /** Synced frames from the one that holds `from` on, which must be durable. Rejects with IntakeFailure. */
  async take(from: Sequence): Promise<readonly Frame[]> {
    const ahead = this.#ahead;
    this.#ahead = undefined;
    if (ahead?.from === from) return ahead.frames;
    await settled(ahead);
    return this.#read(from);
  }

  /** Begins to read what `take(from)` will ask for; `from` must be durable. Nothing happens while something is read ahead. */
  readAhead(from: Sequence): void {
    if (this.#ahead !== undefined) return;
    this.#ahead = { from, frames: this.#read(from) };
    // Told to whoever takes it. One that nobody takes has harmed nothing: who reads there next meets it again.
    this.#ahead.frames.catch(() => undefined);
  }

  /** What is being read ahead for `take(from)`, which gets it all the same; undefined when nothing is. Rejects as `take`. */
  ahead(from: Sequence): Promise<readonly Frame[]> | undefined {
    return this.#ahead?.from === from ? this.#ahead.frames : undefined;
  }

  /** Nothing is read when it settles. */
  async close(): Promise<void> {
    const ahead = this.#ahead;
    this.#ahead = undefined;
    await settled(ahead);
  }

  async #read(from: Sequence): Promise<readonly Frame[]> {
    const found = await fromIntake(this.#intake.frames(from, this.#stepBytesMax));
    const synced = found.filter((frame) => frame.last <= this.#intake.durable.sequence);
    if (synced.length === 0) throw new IntakeFailure("intake holds no frame where one is durable");
    return synced;
  }
}

async function settled(ahead: Ahead | undefined): Promise<void> {
  await ahead?.frames.catch(() => undefined);
}
