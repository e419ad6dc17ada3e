/**
 * Disjoint intervals of blocks with the sequence that last covered them. Pure. A newer interval replaces what it
 * covers of older ones. A sorted list: the callers hold few intervals, and none of them costs by its length.
 */
import type { Sequence } from "../protocol/ids.ts";

interface Range {
  readonly start: number;
  readonly end: number;
  readonly sequence: Sequence;
}

export class RangeMap {
  #ranges: Range[] = [];

  get size(): number {
    return this.#ranges.length;
  }

  /** Index of the first interval that ends after `at`. */
  #after(at: number): number {
    let low = 0;
    let high = this.#ranges.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#ranges[middle]!.end > at) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** Covers blocks `start..end` (half-open) by `sequence`, which is newer than all before. */
  set(start: number, end: number, sequence: Sequence): void {
    const from = this.#after(start);
    let to = from;
    const kept: Range[] = [];
    const first = this.#ranges[from];
    if (first !== undefined && first.start < start)
      kept.push({ start: first.start, end: start, sequence: first.sequence });
    kept.push({ start, end, sequence });
    for (let range = this.#ranges[to]; range !== undefined && range.start < end; range = this.#ranges[to]) {
      if (range.end > end) kept.push({ start: end, end: range.end, sequence: range.sequence });
      to += 1;
    }
    this.#ranges.splice(from, to - from, ...kept);
  }

  /** Sequence that covers the block, undefined when none does. */
  sequenceAt(block: number): Sequence | undefined {
    const range = this.#ranges[this.#after(block)];
    return range !== undefined && range.start <= block ? range.sequence : undefined;
  }

  /** Drops intervals of sequences up to `last`. */
  dropThrough(last: Sequence): void {
    if (this.#ranges.length === 0) return;
    this.#ranges = this.#ranges.filter((range) => range.sequence > last);
  }
}
