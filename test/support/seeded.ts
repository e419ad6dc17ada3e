/**
 * Seeded randomness for tests and benches: the same seed gives the same draws on every machine. Never used for
 * anything secret, and never imported by the product.
 */

export class SeededRandom {
  #a: number;
  #b: number;
  #c: number;
  #d: number;

  /** `seed` and `stream` are unsigned 32-bit; different streams of one seed are independent. */
  constructor(seed: number, stream = 0) {
    this.#a = 0x9e3779b9 ^ seed;
    this.#b = 0x243f6a88 ^ stream;
    this.#c = 0xb7e15162;
    this.#d = 1;
    for (let round = 0; round < 12; round += 1) this.uint32();
  }

  /** Uniform in 0..2^32-1 (sfc32). */
  uint32(): number {
    const sum = (this.#a + this.#b + this.#d) | 0;
    this.#d = (this.#d + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + sum) | 0;
    return sum >>> 0;
  }

  /** Uniform in [0, 1). */
  fraction(): number {
    return this.uint32() / 2 ** 32;
  }

  /** Uniform whole number in 0..`end`-1. */
  below(end: number): number {
    return Math.floor(this.fraction() * end);
  }

  chance(probability: number): boolean {
    return this.fraction() < probability;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }

  shuffle<T>(items: T[]): T[] {
    for (let last = items.length - 1; last > 0; last -= 1) {
      const other = this.below(last + 1);
      [items[last], items[other]] = [items[other]!, items[last]!];
    }
    return items;
  }
}

/** Seed of a test run: `SEED` of the environment when given, else drawn; print it so that a failure can be replayed. */
export function seedFromEnvironment(): number {
  const text = process.env["SEED"];
  if (text !== undefined && text !== "") {
    const seed = Number(text);
    if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32)
      throw new Error(`SEED=${text} is not 0..2^32-1`);
    return seed;
  }
  return Math.floor(Math.random() * 2 ** 32);
}
