/**
 * Watches over ranges of a group's volumes, at the door of the write order: what overlaps a watched range spoils the watch,
 * or waits while the watch holds. Pure. Requests that wait keep their order where they overlap; one that overlaps neither
 * a holding watch nor a request that waits goes on. Never drops a request: it is returned exactly once.
 */
import { strict as assert } from "node:assert";
import type { VolumeNumber } from "../../protocol/ids.ts";

/** Half-open, bytes. */
export interface WatchedRange {
  readonly volume: VolumeNumber;
  readonly start: number;
  readonly end: number;
}

/** `spoil`: requests go on and spoil the watch. `hold`: they wait until it is released. */
export type WatchManner = "spoil" | "hold";

export interface Watch {
  readonly range: WatchedRange;
  readonly manner: WatchManner;
  /** Something that overlaps has gone on since the watch began. Never true of one that holds. */
  readonly spoiled: boolean;
}

/** Chunks with collected digests (64) and the one being read; each request looks through all of them. */
export const watchesMax = 65;

interface Kept extends Watch {
  spoiled: boolean;
}

interface Waiting<Request> {
  readonly ranges: readonly WatchedRange[];
  readonly request: Request;
}

/** The requests that wait are counted, and bounded, by whoever made them: the memory for requests of the NBD server. */
export class ExtentWatches<Request> {
  readonly #watches = new Set<Kept>();
  #waiting: Waiting<Request>[] = [];

  get count(): number {
    return this.#watches.size;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  watch(range: WatchedRange, manner: WatchManner): Watch {
    assert(this.#watches.size < watchesMax, "watches are bounded");
    assert(range.start < range.end, "a watched range holds something");
    const watch: Kept = { range, manner, spoiled: false };
    this.#watches.add(watch);
    return watch;
  }

  /** True: the request goes on now. False: it is kept, and returned by a later `release` or `takeWaiting`. */
  requested(ranges: readonly WatchedRange[], request: Request): boolean {
    if (this.#watches.size === 0) return true;
    if (this.#mustWait(ranges, this.#waiting)) {
      this.#waiting.push({ ranges, request });
      return false;
    }
    this.#spoil(ranges);
    return true;
  }

  /** Ends a watch. Returns the requests that go on now, in their order; they may spoil other watches. */
  release(watch: Watch): Request[] {
    assert(this.#watches.delete(watch as Kept), "a watch is released once");
    if (watch.manner === "spoil" || this.#waiting.length === 0) return [];
    const free: Request[] = [];
    const still: Waiting<Request>[] = [];
    for (const waiting of this.#waiting) {
      if (this.#mustWait(waiting.ranges, still)) {
        still.push(waiting);
      } else {
        this.#spoil(waiting.ranges);
        free.push(waiting.request);
      }
    }
    this.#waiting = still;
    return free;
  }

  /** Gives up the requests that wait, in their order: nobody will serve them. */
  takeWaiting(): Request[] {
    const requests = this.#waiting.map(({ request }) => request);
    this.#waiting = [];
    return requests;
  }

  #mustWait(ranges: readonly WatchedRange[], before: readonly Waiting<Request>[]): boolean {
    for (const watch of this.#watches)
      if (watch.manner === "hold" && overlapsAny(ranges, watch.range)) return true;
    return before.some((waiting) => waiting.ranges.some((range) => overlapsAny(ranges, range)));
  }

  #spoil(ranges: readonly WatchedRange[]): void {
    for (const watch of this.#watches) if (overlapsAny(ranges, watch.range)) watch.spoiled = true;
  }
}

function overlapsAny(ranges: readonly WatchedRange[], other: WatchedRange): boolean {
  return ranges.some(
    ({ volume, start, end }) => volume === other.volume && start < other.end && other.start < end,
  );
}
