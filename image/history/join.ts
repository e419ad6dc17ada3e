/**
 * Which sets stand in the segments: joined from end to end, and as far as they join. Reads and judges only; what is
 * to be cut, given up or indexed anew is the caller's to do.
 */
import type { Sequence } from "../../protocol/ids.ts";
import { errorCode } from "../../runtime/errors.ts";
import type { AppliedPosition } from "../marker.ts";
import { chunkAlignBytes } from "./chunk.ts";
import type { ChunkPlace, Segments, WalkedChunk } from "./segments.ts";

export interface JoinedSets {
  /** End of the newest whole set; undefined when there is none. */
  readonly newest: AppliedPosition | undefined;
  /** Behind its last chunk. */
  readonly end: ChunkPlace | undefined;
  /** Something stands behind `end` that is not a set. */
  readonly isTorn: boolean;
  /** Sets that were whole once do not join; `joinsFrom` is the oldest point from which on all of them do. */
  readonly isBroken: boolean;
  readonly joinsFrom: AppliedPosition | undefined;
  /** The newest segment itself is damaged, before this place, where the sets behind `joinsFrom` begin. */
  readonly damagedBefore: ChunkPlace | undefined;
}

export interface JoinOptions {
  readonly segments: Segments;
  /** Where the history begins: sets may reach back behind it, and must not begin after it. */
  readonly begin: AppliedPosition;
  /** Segments whose sets end before this are not looked at: they were when it was settled. */
  readonly settled: Sequence | undefined;
  /**
   * Sets that begin up to here were whole on the disk once: where they end early, that is damage and no torn end. Payloads of
   * those that end behind it are verified: power loss may keep a head and lose what follows.
   */
  readonly syncedThrough: Sequence;
  /** Chunks of a whole set that joins, in order. */
  readonly onSet?: (chunks: readonly WalkedChunk[]) => Promise<void>;
}

class Joiner {
  readonly #options: JoinOptions;
  #next: Sequence | undefined;
  /** Chunks of the set under way. */
  #chunks: WalkedChunk[] = [];
  /** The next chunks may be the rest of a set whose beginning is not looked at. */
  #mayBeRest = true;
  #isStartKnown = true;
  newest: AppliedPosition | undefined;
  end: ChunkPlace | undefined;
  joinsFrom: AppliedPosition | undefined;
  /** Behind the last chunk of the set that ends at `joinsFrom`. */
  joinsAt: ChunkPlace | undefined;
  isBroken = false;
  /** Behind the last chunk that was looked at. */
  at: ChunkPlace | undefined;

  constructor(options: JoinOptions, isFirst: boolean) {
    this.#options = options;
    const from = options.segments.list[0]?.from ?? 0;
    if (isFirst && from > options.begin.sequence + 1) this.restart();
  }

  /** What follows does not join what was before. */
  restart(): void {
    this.isBroken = true;
    this.#isStartKnown = false;
    this.#next = undefined;
    this.#chunks = [];
    this.#mayBeRest = true;
    this.newest = undefined;
    this.end = undefined;
    this.joinsFrom = undefined;
    this.joinsAt = undefined;
  }

  /** False when the chunk does not continue what was before. */
  async take(chunk: WalkedChunk): Promise<boolean> {
    const { head, place, bytes } = chunk;
    if (this.#mayBeRest && head.number > 0) {
      const { syncedThrough, settled } = this.#options;
      if (head.first > syncedThrough && head.position.sequence > (settled ?? 0)) return false;
      this.at = { segment: place.segment, offset: place.offset + bytes };
      if (head.isLast) this.#finish(head.position);
      return true;
    }
    this.#mayBeRest = false;
    const [opening] = this.#chunks;
    const continues =
      opening === undefined
        ? this.#next === undefined || head.first === this.#next
        : head.first === opening.head.first && head.position.sequence === opening.head.position.sequence;
    if (!continues || head.number !== this.#chunks.length) return false;
    if (head.position.sequence > this.#options.syncedThrough && !(await this.#isWhole(place))) return false;
    this.#chunks.push(chunk);
    this.at = { segment: place.segment, offset: place.offset + bytes };
    if (!head.isLast) return true;
    const chunks = this.#chunks;
    const isJoined = this.#isStartKnown || this.joinsFrom !== undefined;
    this.#finish(head.position);
    if (isJoined) await this.#options.onSet?.(chunks);
    return true;
  }

  #finish(position: AppliedPosition): void {
    // The position before the first set behind a gap stands nowhere: the end of that set is where all joins again.
    if (!this.#isStartKnown && this.joinsFrom === undefined) {
      this.joinsFrom = position;
      this.joinsAt = this.at;
    }
    this.#chunks = [];
    this.#next = position.sequence + 1;
    this.newest = position;
    this.end = this.at;
  }

  /** Whether whole sets are known up to there. */
  hasReached(sequence: Sequence): boolean {
    return (this.newest ?? this.#options.begin).sequence >= sequence;
  }

  async #isWhole(place: ChunkPlace): Promise<boolean> {
    try {
      await this.#options.segments.read(place);
      return true;
    } catch (error) {
      if (errorCode(error) === "HISTORY_DAMAGED") return false;
      throw error;
    }
  }
}

/** OperationalErrors of `Segments` and of `onSet`. */
export async function joinSets(options: JoinOptions): Promise<JoinedSets> {
  const { segments, settled, syncedThrough } = options;
  const { list } = segments;
  let index = 0;
  // The set that ends at the mark is looked at: behind it there may be none that is whole.
  while (settled !== undefined && index + 1 < list.length && list[index + 1]!.from - 1 < settled) index += 1;
  const joiner = new Joiner(options, index === 0);
  let isNewestDamaged = false;
  for (; index < list.length; index += 1) {
    const { number, bytes } = list[index]!;
    const isNewest = index + 1 === list.length;
    let isWhole = await takeSegment(segments, joiner, { segment: number, offset: 0 }, bytes);
    while (!isWhole && isNewest && !joiner.hasReached(syncedThrough)) {
      isNewestDamaged = true;
      const next = await nextChunk(segments, joiner.at!, bytes);
      joiner.restart();
      if (next === undefined) break;
      isWhole = await takeSegment(segments, joiner, next, bytes);
    }
    if (!isWhole && !isNewest) joiner.restart();
  }
  const newest = list.at(-1);
  const { end } = joiner;
  const isTorn =
    newest !== undefined &&
    (end === undefined || end.segment !== newest.number || end.offset !== newest.bytes);
  const { joinsFrom, isBroken } = joiner;
  const damagedBefore = isNewestDamaged ? joiner.joinsAt : undefined;
  return { newest: joiner.newest, end, isTorn, isBroken, joinsFrom, damagedBefore };
}

/** True when the segment's chunks, from a place on, join up to its end. */
async function takeSegment(
  segments: Segments,
  joiner: Joiner,
  from: ChunkPlace,
  bytes: number,
): Promise<boolean> {
  joiner.at = from;
  for await (const chunk of segments.walk(from.segment, from.offset)) {
    if (!(await joiner.take(chunk))) return false;
  }
  return joiner.at.offset === bytes;
}

/** Behind a damaged head nothing says where the next chunk begins: it is looked for, sector by sector. */
async function nextChunk(
  segments: Segments,
  { segment, offset }: ChunkPlace,
  bytes: number,
): Promise<ChunkPlace | undefined> {
  for (let at = offset + chunkAlignBytes; at < bytes; at += chunkAlignBytes) {
    const place = { segment, offset: at };
    if ((await segments.chunkAt(place)) !== undefined) return place;
  }
  return undefined;
}
