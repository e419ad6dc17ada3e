/**
 * Which sets stand in the segments: joined from end to end, and as far as they join. Reads and judges only; what is
 * to be cut, given up or indexed anew is the caller's to do.
 */
import type { Sequence } from "../../protocol/ids.ts";
import { errorCode } from "../../runtime/errors.ts";
import type { AppliedPosition } from "../marker.ts";
import type { ChunkPlace, Segments, WalkedChunk } from "./segments.ts";

export interface JoinedSets {
  /** End of the newest whole set; undefined when there is none. */
  readonly newest: AppliedPosition | undefined;
  /** Behind its last chunk. */
  readonly end: ChunkPlace | undefined;
  /** Something stands behind `end` that is not a set. */
  readonly isTorn: boolean;
  /** A set before the newest segment does not join; this is the oldest point from which on all of them do. */
  readonly joinsFrom: AppliedPosition | undefined;
  readonly isBroken: boolean;
}

export interface JoinOptions {
  readonly segments: Segments;
  /** Where the history begins: sets may reach back behind it, and must not begin after it. */
  readonly begin: AppliedPosition;
  /** Segments whose sets end before this are not looked at: they were when it was settled. */
  readonly settled: Sequence | undefined;
  /** Payloads of sets that end behind this are verified: power loss may keep a head and lose what follows. */
  readonly verifyBehind: Sequence;
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
  }

  /** False when the chunk does not continue what was before. */
  async take(chunk: WalkedChunk): Promise<boolean> {
    const { head, place, bytes } = chunk;
    if (this.#mayBeRest && head.number > 0) {
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
    if (head.position.sequence > this.#options.verifyBehind && !(await this.#isWhole(place))) return false;
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
    if (!this.#isStartKnown) this.joinsFrom ??= position;
    this.#chunks = [];
    this.#next = position.sequence + 1;
    this.newest = position;
    this.end = this.at;
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
  const { segments, settled } = options;
  const { list } = segments;
  let index = 0;
  // The set that ends at the mark is looked at: behind it there may be none that is whole.
  while (settled !== undefined && index + 1 < list.length && list[index + 1]!.from - 1 < settled) index += 1;
  const joiner = new Joiner(options, index === 0);
  for (; index < list.length; index += 1) {
    const { number, bytes } = list[index]!;
    let isWhole = true;
    joiner.at = { segment: number, offset: 0 };
    for await (const chunk of segments.walk(number)) {
      isWhole = await joiner.take(chunk);
      if (!isWhole) break;
    }
    isWhole &&= joiner.at.offset === bytes;
    if (!isWhole && index + 1 < list.length) joiner.restart();
  }
  const newest = list.at(-1);
  const { end } = joiner;
  const isTorn =
    newest !== undefined &&
    (end === undefined || end.segment !== newest.number || end.offset !== newest.bytes);
  const { joinsFrom, isBroken } = joiner;
  return { newest: joiner.newest, end, isTorn, joinsFrom, isBroken };
}
