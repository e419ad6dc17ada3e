/**
 * Blind mutations of bytes: flips, cuts, splices, repeated and swapped ranges, and numbers put where a length or a count
 * may stand. Works in one buffer that is used again for every input, so that making an input costs less than decoding it.
 */
import type { SeededRandom } from "../support/seeded.ts";

const numbers = [
  0,
  1,
  2,
  3,
  7,
  8,
  16,
  28,
  64,
  127,
  128,
  140,
  196,
  255,
  256,
  511,
  512,
  513,
  4095,
  4096,
  4097,
  16_384,
  16_385,
  65_535,
  65_536,
  2 ** 20,
  2 ** 20 + 1,
  2 ** 25,
  2 ** 25 + 1,
  2 ** 26 + 1,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32 - 512,
  2 ** 32 - 1,
];

export class Mutator {
  readonly #random: SeededRandom;
  readonly #buffer: Buffer;
  #length = 0;

  constructor(random: SeededRandom, bytesMax: number) {
    this.#random = random;
    this.#buffer = Buffer.alloc(bytesMax);
  }

  /** A mutated copy of `seed`; `other` lends ranges. The view is good until the next call. */
  mutate(seed: Uint8Array, other: Uint8Array): Buffer {
    const random = this.#random;
    this.#length = Math.min(seed.length, this.#buffer.length);
    this.#buffer.set(seed.length === this.#length ? seed : seed.subarray(0, this.#length));
    for (let left = 1 + (random.uint32() & 3); left > 0; left -= 1) this.#step(other);
    return this.#buffer.subarray(0, this.#length);
  }

  #step(other: Uint8Array): void {
    const random = this.#random;
    const buffer = this.#buffer;
    const length = this.#length;
    if (length === 0) {
      this.#insert(0, other, 0, Math.min(other.length, 1 + random.below(64)));
      return;
    }
    const at = random.below(length);
    switch (random.uint32() & 15) {
      case 0:
      case 1:
      case 2:
        buffer[at]! ^= 1 << (random.uint32() & 7);
        return;
      case 3:
        buffer[at] = random.uint32();
        return;
      case 4:
      case 5:
        this.#number(at, numbers[random.below(numbers.length)]!);
        return;
      case 6:
        this.#number(at, length - at + (random.below(9) - 4));
        return;
      case 7:
        buffer[at] = buffer[at]! + (random.uint32() & 1 ? 1 : -1);
        return;
      case 8:
        this.#length = at;
        return;
      case 9: {
        const cut = Math.min(length - at, 1 + random.below(32));
        buffer.copyWithin(at, at + cut, length);
        this.#length = length - cut;
        return;
      }
      case 10:
      case 11: {
        const from = random.below(length);
        this.#insertOwn(at, from, Math.min(length - from, 1 + random.below(64)));
        return;
      }
      case 12:
      case 13: {
        if (other.length === 0) return;
        const from = random.below(other.length);
        this.#insert(at, other, from, Math.min(other.length - from, 1 + random.below(256)));
        return;
      }
      case 14: {
        // Head of one, tail of the other.
        if (other.length === 0) return;
        const from = random.below(other.length);
        this.#length = at;
        this.#insert(at, other, from, other.length - from);
        return;
      }
      default: {
        const from = random.below(length);
        const count = Math.min(length - from, length - at, 1 + random.below(64));
        buffer.copyWithin(at, from, from + count);
        return;
      }
    }
  }

  /** Writes `value` over 1, 2, 4 or 8 bytes at `at`, big-endian. */
  #number(at: number, value: number): void {
    const size = 1 << (this.#random.uint32() & 3);
    let rest = Math.max(0, value);
    for (let index = size - 1; index >= 0; index -= 1) {
      if (at + index < this.#length) this.#buffer[at + index] = rest % 256;
      rest = Math.floor(rest / 256);
    }
  }

  #insert(at: number, from: Uint8Array, start: number, count: number): void {
    const room = Math.min(count, this.#buffer.length - this.#length);
    if (room <= 0) return;
    this.#buffer.copyWithin(at + room, at, this.#length);
    this.#buffer.set(from.subarray(start, start + room), at);
    this.#length += room;
  }

  #insertOwn(at: number, start: number, count: number): void {
    this.#insert(at, Buffer.from(this.#buffer.subarray(start, start + count)), 0, count);
  }
}
