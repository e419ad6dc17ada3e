/**
 * What a simulated run did, one line per event: a bounded tail of lines to print and a running hash of all of them,
 * so that two runs of one seed can be compared in full. Never drives anything, never reads a clock.
 */

/** Lines kept for printing: the last second or so of a busy run, some 100 KiB of text. */
const linesKeptDefault = 1_000;

export class Trace {
  readonly #lines: string[] = [];
  readonly #linesMax: number;
  #count = 0;
  #low = 0x811c9dc5 | 0;
  #high = 0x9e3779b9 | 0;

  constructor(linesMax = linesKeptDefault) {
    this.#linesMax = linesMax;
  }

  /** Lines added so far. */
  get count(): number {
    return this.#count;
  }

  add(text: string): void {
    let low = this.#low;
    let high = this.#high;
    for (let at = 0; at < text.length; at += 1) {
      const unit = text.charCodeAt(at);
      low = Math.imul(low ^ unit, 0x01000193);
      high = Math.imul(high ^ unit, 0x5bd1e995);
    }
    // The end of a line counts as well, and shifts mix what multiplication alone keeps in the high bits.
    this.#low = Math.imul(low ^ (low >>> 15) ^ 10, 0x01000193);
    this.#high = Math.imul(high ^ (high >>> 13) ^ 10, 0x5bd1e995);
    this.#lines[this.#count % this.#linesMax] = text;
    this.#count += 1;
  }

  /** 16 hex digits that depend on every line and their order. */
  get hash(): string {
    const word = (value: number): string => (value >>> 0).toString(16).padStart(8, "0");
    return word(this.#high) + word(this.#low);
  }

  /** The last lines, at most `count`, oldest first. */
  tail(count: number): string[] {
    const kept = Math.min(count, this.#count, this.#linesMax);
    return Array.from({ length: kept }, (_, at) => this.#lines[(this.#count - kept + at) % this.#linesMax]!);
  }
}
