/**
 * A sparse table of the points of a history, in memory: how many there are, and near which one to look for the newest
 * of them or for those of a time. Pure. The index of the history has them all; this is never asked whether one is there.
 */
import type { Sequence } from "../protocol/ids.ts";

export interface PointLabel {
  readonly sequence: Sequence;
  /** Wall-clock label, ms. */
  readonly timeMs: number;
}

interface Bucket {
  first: PointLabel;
  count: number;
}

/** Points told apart by one row: a day of five steps a second makes 1,700 rows, and a look-up reads this many points. */
export const bucketPoints = 256;

export class PointTable {
  #buckets: Bucket[] = [];
  #count = 0;
  #newest: Sequence | undefined;

  get count(): number {
    return this.#count;
  }

  get newest(): Sequence | undefined {
    return this.#newest;
  }

  /** A point behind all others; one that is known already changes nothing. */
  add(point: PointLabel): void {
    if (this.#newest !== undefined && point.sequence <= this.#newest) return;
    const last = this.#buckets.at(-1);
    if (last === undefined || last.count === bucketPoints) this.#buckets.push({ first: point, count: 1 });
    else last.count += 1;
    this.#newest = point.sequence;
    this.#count += 1;
  }

  clear(): void {
    this.#buckets = [];
    this.#count = 0;
    this.#newest = undefined;
  }

  /** `leading`: the first points that are left, at most `bucketPoints`. What was before the first of them is gone. */
  keepFrom(leading: readonly PointLabel[]): void {
    const [first] = leading;
    if (first === undefined) {
      this.clear();
      return;
    }
    while (this.#buckets[1] !== undefined && this.#buckets[1].first.sequence <= first.sequence)
      this.#buckets.shift();
    const [oldest, next] = this.#buckets;
    if (oldest !== undefined && oldest.first.sequence !== first.sequence) {
      // A bucket is no longer than what was given, so what is left of it can be counted.
      const end = next?.first.sequence ?? Number.POSITIVE_INFINITY;
      oldest.first = first;
      oldest.count = leading.filter(({ sequence }) => sequence < end).length;
    }
    this.#count = this.#buckets.reduce((sum, { count }) => sum + count, 0);
  }

  /** At or behind this there are `limit` points, or all; fewer than `limit + bucketPoints`. 0 without any. */
  beforeNewest(limit: number): Sequence {
    let count = 0;
    for (const bucket of this.#buckets.toReversed()) {
      count += bucket.count;
      if (count >= limit) return bucket.first.sequence;
    }
    return this.#buckets[0]?.first.sequence ?? 0;
  }

  /** Where the newest point labelled `timeMs` or earlier lies, if it is not newer than `bucketPoints` points behind. */
  beforeTime(timeMs: number): Sequence | undefined {
    // From the newest on: where a clock was set back, the later of two answers is the one that is meant.
    return this.#buckets.toReversed().find(({ first }) => first.timeMs <= timeMs)?.first.sequence;
  }
}
