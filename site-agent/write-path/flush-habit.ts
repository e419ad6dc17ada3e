/**
 * Whether a FLUSH will follow the frame just appended, told from those before it. Pure. A database commits by a write
 * and then its FLUSH: a sync that begins with the write is under way when the FLUSH arrives. Must never decide more
 * than when a sync begins: a wrong guess costs one sync, and never an answer.
 */

/** So many frames in a row, each followed by its FLUSH, make a habit: two writes to a FLUSH never do. */
const framesOfHabit = 4;

export class FlushHabit {
  #followed = 0;
  #last: "frame" | "flush" = "flush";

  /** A frame is in the journal. True: a FLUSH is to be expected. */
  appended(): boolean {
    if (this.#last === "frame") this.#followed = 0;
    this.#last = "frame";
    return this.#followed >= framesOfHabit;
  }

  /** A FLUSH came for what was appended last. */
  flushed(): void {
    if (this.#last === "frame") this.#followed = Math.min(this.#followed + 1, framesOfHabit);
    this.#last = "flush";
  }
}
