/**
 * A group's history: what its images held before each step, put together from segments, index and pins. Owns the
 * folder and the order of steps in it (docs/history.md); gives up by name what does not join. Writes an image only
 * through what its owner lends for taking it back, and never lets a set be counted on that is not synced.
 */
import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import type { Sequence, VolumeNumber } from "../../protocol/ids.ts";
import { isSamePosition } from "../../protocol/ids.ts";
import { syncDirectory } from "../../runtime/disk.ts";
import { errorCode, OperationalError } from "../../runtime/errors.ts";
import { Turns } from "../../runtime/turns.ts";
import type { AppliedPosition } from "../marker.ts";
import type { ImageReads } from "./before-images.ts";
import { BlockIndex } from "./block-index.ts";
import { appendSet } from "./capture.ts";
import type { LogRange } from "./history-errors.ts";
import { indexUnwritten, pointUnknown, refused, rollBackFailed, undoImpossible } from "./history-errors.ts";
import type { Pin } from "./pins.ts";
import { Pins } from "./pins.ts";
import type { HistoryOptions } from "./reopen.ts";
import { clearAll, damaged, damagedUpTo, openJoined, removeOldest, segmentsOptions } from "./reopen.ts";
import { decideRetention } from "./retention.ts";
import type { ChunkPlace, IndexedChunk, WalkedChunk } from "./segments.ts";
import { full, isFull, Segments } from "./segments.ts";
import type { ImageWrites } from "./take-back.ts";
import { chunksBehind, lackingBehind, lacksBlock, verifyBehind, writeBack } from "./take-back.ts";
import type { TouchedRun } from "./touched.ts";
import type { DamagedChunk, VerifyProgress, VerifyReport } from "./verify.ts";
import { verifySegments } from "./verify.ts";

/** Views of one history at once: each holds back what may be given up, and a few chunks in memory. */
export const viewsMax = 64;

interface Parts {
  readonly segments: Segments;
  readonly index: BlockIndex;
  readonly pins: Pins;
}

/** A set that is made before its step begins. */
interface Ahead {
  readonly first: Sequence;
  readonly end: AppliedPosition;
  /** Number of the newest segment before it. */
  readonly newest: number | undefined;
  readonly chunks: Promise<IndexedChunk[]>;
  /** Whether the set gets its end; refused, `chunks` rejects. */
  readonly mayEnd: Leave;
}

/** Given or refused once, by the first who says so. */
class Leave {
  readonly given: Promise<void>;
  #isRefused = false;
  #resolve: () => void = () => {};
  #reject: (error: Error) => void = () => {};

  constructor() {
    this.given = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // Met by who waits for it, when it is its turn.
    this.given.catch(() => undefined);
  }

  get isRefused(): boolean {
    return this.#isRefused;
  }

  give(): void {
    this.#resolve();
  }

  refuse(): void {
    this.#isRefused = true;
    this.#reject(new Error("the set is not wanted any more"));
  }
}

/** Pins may hold a long history for hours: said at most this often, ms, and whenever it gets worse. */
const pinnedLogMs = 60_000;

/** A place where an open view stands. */
export interface HeldPoint {
  readonly sequence: Sequence;
  release(): void;
}

export class History {
  readonly #options: HistoryOptions;
  readonly #segments: Segments;
  readonly #index: BlockIndex;
  readonly #pins: Pins;
  /** End of the newest set, or the beginning; undefined while nothing is captured. */
  #captured: AppliedPosition | undefined;
  #mayHold: Sequence;
  /** End of the newest set that is known to lack a block. */
  #lacking: Sequence = 0;
  #damage: OperationalError | undefined;
  #failed: OperationalError | undefined;
  #ahead: Ahead | undefined;
  readonly #views = new Set<HeldPoint>();
  #toldPinned: { readonly share: string; readonly atMs: number } | undefined;
  readonly #turns = new Turns();

  private constructor(options: HistoryOptions, parts: Parts, mayHold: Sequence) {
    this.#options = options;
    this.#segments = parts.segments;
    this.#index = parts.index;
    this.#pins = parts.pins;
    this.#mayHold = mayHold;
  }

  /**
   * Opens what there is, verifies how far it joins, and brings the index up to it. Damage never fails it: what does
   * not join is given up and told in `damage`. OperationalErrors of the disk, of the index, and `DOCUMENT_DAMAGED`.
   */
  static async open(options: HistoryOptions): Promise<History> {
    const { disk, directory, applied } = options;
    const segmentsDirectory = join(directory, "segments");
    await disk.makeDirectory(segmentsDirectory);
    // The names survive power loss before anything in them is counted on.
    for (const folder of [segmentsDirectory, directory, dirname(directory)])
      await syncDirectory(disk, folder);
    const pins = await Pins.open(disk, join(directory, "pins.json"));
    const index = new BlockIndex(await options.openIndex(join(directory, "index")));
    try {
      let damage: OperationalError | undefined;
      if (pins.begin !== undefined) {
        const found = await openJoined(options, pins, index, segmentsDirectory);
        damage = found.damage;
        if (found.segments !== undefined) {
          const history = new History(options, { segments: found.segments, index, pins }, options.mayHold);
          history.#captured = found.captured;
          history.#damage = damage;
          return history;
        }
      }
      const mayHold = Math.max(applied.sequence, options.mayHold, damagedUpTo(damage));
      // No beginning first: a crash from here on leaves files that the next open removes.
      await pins.setBegin(undefined);
      await clearAll(disk, segmentsDirectory, index);
      const { lineage, segmentBytes } = options;
      const segments = await Segments.open(segmentsOptions(disk, segmentsDirectory, lineage, segmentBytes));
      const history = new History(options, { segments, index, pins }, mayHold);
      history.#damage = damage;
      return history;
    } catch (error) {
      await index.close();
      throw error;
    }
  }

  /** What was given up when this was opened, `HISTORY_DAMAGED`. */
  get damage(): OperationalError | undefined {
    return this.#damage;
  }

  /** Somebody wants to open points: steps are to be captured. */
  get needed(): boolean {
    const { windowMs, isWorthKeeping } = this.#options;
    return (windowMs > 0 && isWorthKeeping?.() !== false) || this.#held().length > 0;
  }

  /** Last sequence that sets cover, or the beginning; undefined while nothing is captured. */
  get captured(): Sequence | undefined {
    return this.#captured?.sequence;
  }

  get oldest(): AppliedPosition | undefined {
    return this.#pins.begin;
  }

  get newest(): AppliedPosition | undefined {
    return this.#captured;
  }

  get bytes(): number {
    return this.#segments.bytes;
  }

  /** The folder of this history, for what belongs to it and is not part of it. */
  get folder(): Pick<HistoryOptions, "disk" | "directory" | "lineage"> {
    return this.#options;
  }

  /** Number of the oldest segment that is there; a later one than all, without any. */
  get oldestSegment(): number {
    return this.#segments.list[0]?.number ?? Number.POSITIVE_INFINITY;
  }

  /** Bytes of the segments that opening the point `sequence` may need: what a pin on it holds back. */
  bytesBehind(sequence: Sequence): number {
    const list = this.#segments.ended;
    // What begins in the next one begins behind the end of this one.
    const needed = list.filter(
      (_, index) => (list[index + 1]?.from ?? Number.POSITIVE_INFINITY) - 1 > sequence,
    );
    return needed.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  get pins(): readonly Pin[] {
    return this.#pins.list;
  }

  /** Points that can be opened, at or behind `from`, oldest first, at most `limit`. */
  async points(from: Sequence, limit: number): Promise<AppliedPosition[]> {
    this.#admit();
    const begin = this.#pins.begin;
    if (begin === undefined) return [];
    const points = begin.sequence >= from ? [begin] : [];
    const behind = Math.max(from - 1, begin.sequence);
    return [...points, ...(await this.asking(() => this.#index.points(behind, limit)))].slice(0, limit);
  }

  /** The point that ends at `sequence`; undefined when there is none. */
  async point(sequence: Sequence): Promise<AppliedPosition | undefined> {
    const [point] = await this.points(sequence, 1);
    return point?.sequence === sequence ? point : undefined;
  }

  /**
   * Before the first write of a step from `held` to `end`: what its blocks hold is kept, and survives power loss when
   * this settles. `touched`: the blocks of the records behind `captured`; asked for only when they are captured.
   */
  beforeStep(
    held: AppliedPosition,
    end: AppliedPosition,
    touched: () => ReadonlyMap<VolumeNumber, readonly TouchedRun[]>,
    images: ImageReads,
  ): Promise<void> {
    return this.#exclusive(async () => {
      const ahead = await this.#takeAhead(end);
      if (ahead !== undefined) return this.#endAhead(ahead);
      if (!this.needed) return this.#passOver(end);
      if (this.#captured === undefined && held.sequence < this.#mayHold) return this.#passOver(end);
      // Durable before the first set: one without a beginning would be removed.
      const captured = this.#captured ?? (await this.#begin(held));
      if (end.sequence <= captured.sequence) return;
      await this.#capture(captured.sequence + 1, end, touched(), images);
    });
  }

  /**
   * Begins to keep what the step from `captured` to `end` changes, while the images do not hold `captured` yet:
   * `images.ready` says what may be looked at. Nothing counts of it, and no crash finds more than a set without its end, before
   * `beforeStep` is called for exactly this step; any other call takes it back. Says no when nothing is captured. What
   * fails is that call's.
   */
  captureAhead(
    end: AppliedPosition,
    touched: ReadonlyMap<VolumeNumber, readonly TouchedRun[]>,
    images: ImageReads,
  ): boolean {
    if (this.#failed !== undefined || this.#ahead !== undefined) return false;
    if (!this.needed || this.#captured === undefined) return false;
    const first = this.#captured.sequence + 1;
    const newest = this.#segments.list.at(-1)?.number;
    const set = { lineage: this.#options.lineage, first, position: end };
    const mayEnd = new Leave();
    const chunks = appendSet(this.#segments, set, touched, images, mayEnd.given);
    // Told to the step that takes it; one that nobody takes is taken back, whatever became of it.
    chunks.catch(() => undefined);
    this.#ahead = { first, end, newest, chunks, mayEnd };
    return true;
  }

  /** What was captured ahead is not what a step will find: nothing of it is taken. */
  giveUpAhead(): void {
    this.#ahead?.mayEnd.refuse();
  }

  /** What was captured ahead for the step that ends at `end`; anything else is taken back. */
  async #takeAhead(end: AppliedPosition): Promise<Ahead | undefined> {
    const ahead = this.#ahead;
    if (ahead === undefined) return undefined;
    const isMeant =
      !ahead.mayEnd.isRefused &&
      this.needed &&
      ahead.first === (this.#captured?.sequence ?? -1) + 1 &&
      isSamePosition(ahead.end, end);
    if (!isMeant) {
      await this.#dropAhead();
      return undefined;
    }
    this.#ahead = undefined;
    return ahead;
  }

  /** Nothing is captured when it settles, and no set is begun. */
  async #dropAhead(): Promise<void> {
    const ahead = this.#ahead;
    if (ahead === undefined) return;
    ahead.mayEnd.refuse();
    await ahead.chunks.catch(() => undefined);
    this.#ahead = undefined;
    await this.#segments.dropSet();
  }

  /**
   * Takes the images back to a point, `sequence`, which they hold durably; everything behind it is gone from images
   * and history. A crash in the middle is finished by `finishRollBack`. Before anything is changed: OperationalError
   * `POINT_UNKNOWN`, `VIEWS_OPEN`, `POINTS_PINNED` (a point behind it is pinned), reaction `refuse`, `HISTORY_DAMAGED`.
   * Afterwards `ROLL_BACK_FAILED`, reaction `reopen`, as every later call.
   */
  rollBack(sequence: Sequence, images: ImageWrites): Promise<void> {
    return this.#exclusive(async () => {
      await this.#dropAhead();
      const point = await this.point(sequence);
      if (point === undefined) throw pointUnknown(sequence);
      if (this.#views.size > 0) throw refused("VIEWS_OPEN", `${this.#views.size} views are open`);
      const pin = this.#pins.list.find((each) => each.sequence > sequence);
      if (pin !== undefined)
        throw refused(
          "POINTS_PINNED",
          `the pin ${pin.id} holds the point ${pin.sequence} behind ${sequence}`,
        );
      await verifyBehind(this.#segments, sequence);
      await this.#order(point, images);
    });
  }

  /** Whether `rollBack` could do it: reads all that it would write back; steps wait meanwhile. Its OperationalErrors. */
  proveRollBack(sequence: Sequence): Promise<void> {
    return this.#exclusive(async () => {
      if ((await this.point(sequence)) === undefined) throw pointUnknown(sequence);
      await verifyBehind(this.#segments, sequence);
    });
  }

  /**
   * End of the newest set that lacks a block, which could not be read when it was replaced: the images cannot be taken back to
   * anything before it. Known of what was captured since this was opened, and of what `findLacking` has looked at; 0: nothing.
   */
  get lacking(): Sequence {
    return this.#lacking;
  }

  /** Looks for such a set behind `sequence`: reads heads. OperationalError `HISTORY_DAMAGED`. */
  findLacking(sequence: Sequence): Promise<void> {
    return this.#exclusive(async () => {
      this.#lacking = Math.max(this.#lacking, await lackingBehind(this.#segments, sequence));
    });
  }

  /**
   * Undoes the sets that end behind what the images' log can still give: power loss, or damage, took the log's end.
   * For images that were just opened and hold `applied`. False when there is nothing to undo. OperationalErrors, the
   * images untouched: `HISTORY_UNDO_IMPOSSIBLE` (`stop`), `HISTORY_DAMAGED`; else `ROLL_BACK_FAILED`.
   */
  undoBehind(log: LogRange, applied: AppliedPosition, images: ImageWrites): Promise<boolean> {
    return this.#exclusive(async () => {
      if (this.#captured === undefined) return false;
      const reached = Math.max(log.last, applied.sequence);
      const first = await this.asking(() => this.#index.beginOfSetBehind(reached));
      if (first === undefined) return false;
      const target = await this.point(first - 1);
      if (target === undefined) {
        throw await this.#indexFailed(damaged(`the index lacks the point ${first - 1}`));
      }
      // The images were between points when the history began, or the marker moved into the middle of a set.
      if (
        target.sequence > reached ||
        (target.sequence < applied.sequence && log.first > target.sequence + 1)
      ) {
        throw undoImpossible(log, target.sequence);
      }
      await verifyBehind(this.#segments, target.sequence);
      for (const { id, sequence } of this.#pins.list.filter((pin) => pin.sequence > target.sequence)) {
        this.#options.log.error("HISTORY_PIN_LOST", "a pinned point is lost with the log's end", undefined, {
          pin: id,
          sequence,
        });
      }
      await this.#order(target, images);
      return true;
    });
  }

  /**
   * Finishes an order to take the images back that a crash has left; false when there is none. OperationalError
   * `ROLL_BACK_FAILED`, reaction `stop`, when the history cannot do it any more and the images are between points.
   */
  finishRollBack(applied: AppliedPosition, images: ImageWrites): Promise<boolean> {
    return this.#exclusive(async () => {
      const target = this.#pins.rollBack;
      if (target === undefined) return false;
      const begin = this.#pins.begin?.sequence ?? Number.POSITIVE_INFINITY;
      const captured = this.#captured?.sequence ?? -1;
      if (begin <= target.sequence && target.sequence <= captured) {
        await this.#takeBack(target, images);
        return true;
      }
      if (applied.sequence <= target.sequence) throw rollBackFailed(target, "stop", this.#damage);
      // The marker was never moved: nothing was written. Who wanted it finds the point unknown.
      this.#options.log.error(
        "ROLL_BACK_DROPPED",
        "the history was damaged before images were taken back",
        undefined,
        {
          sequence: target.sequence,
        },
      );
      await this.#pins.setRollBack(undefined);
      return false;
    });
  }

  /** An order to take the images back is under way, or has failed. */
  get rollingBack(): boolean {
    return this.#pins.rollBack !== undefined;
  }

  async #order(target: AppliedPosition, images: ImageWrites): Promise<void> {
    // Durable before the marker moves: from here on the order is finished, whatever happens.
    await this.#pins.setRollBack(target);
    await this.#takeBack(target, images);
  }

  async #takeBack(target: AppliedPosition, images: ImageWrites): Promise<void> {
    try {
      // True in every state that follows, and durable before the first of them.
      await images.mark(target, Math.max(this.#captured!.sequence, images.applyingLast));
      const cutAt = await writeBack(this.#segments, target.sequence, images);
      // Survives power loss before the marker says so, and before the sets are gone that could do it again.
      await images.sync();
      await images.mark(target, target.sequence);
      for await (const chunk of chunksBehind(this.#segments, target.sequence))
        await this.#index.remove(chunk);
      // Settled before sets are cut: rows of a set that is gone are taken for damage.
      await this.#index.settle(target.sequence);
      if (cutAt !== undefined) await this.#segments.cut(cutAt);
      this.#captured = target;
      this.#mayHold = target.sequence;
      await this.#pins.setRollBack(undefined);
    } catch (cause) {
      this.#failed ??= rollBackFailed(target, "reopen", cause);
      throw this.#failed;
    }
  }

  /**
   * Reads every chunk there is now, while steps go on, and tells which are damaged; `onProgress` is waited for behind
   * each chunk, and so paces it. OperationalError `HISTORY_FAILED`.
   */
  async verify(onProgress: (progress: VerifyProgress) => Promise<void> | void): Promise<VerifyReport> {
    // Between two changes: no set is under way.
    const parts = await this.#exclusive(async () => [...this.#segments.ended]);
    const report = await verifySegments(this.#segments, parts, onProgress);
    const headless = report.damaged.filter(({ set }) => set === undefined);
    if (headless.length === 0) return report;
    // What a chunk cannot say of itself any more, the rows that name it say.
    const isIn = (place: ChunkPlace, stretch: DamagedChunk) =>
      place.segment === stretch.place.segment &&
      place.offset >= stretch.place.offset &&
      place.offset < stretch.place.offset + stretch.bytes;
    const named = await this.asking(() =>
      this.#index.chunksAt((place) => headless.some((stretch) => isIn(place, stretch))),
    );
    const damaged: DamagedChunk[] = [];
    for (const chunk of report.damaged) {
      const inIt = chunk.set === undefined ? named.filter(({ place }) => isIn(place, chunk)) : [];
      if (inIt.length === 0) damaged.push(chunk);
      for (const { place, last, ranges } of inIt) {
        const first = (await this.asking(() => this.#index.beginOfSetBehind(last - 1))) ?? last;
        damaged.push({ ...chunk, place, set: { first, last }, ranges });
      }
    }
    return { ...report, damaged };
  }

  async #passOver(end: AppliedPosition): Promise<void> {
    if (this.#captured !== undefined) {
      this.#mayHold = Math.max(this.#mayHold, this.#captured.sequence);
      // Durable before the step that is not captured: a history with a gap could not be told from one without.
      await this.#pins.setBegin(undefined);
      this.#captured = undefined;
      await this.#index.clear();
      await this.#index.settle(0);
      const oldest = this.#segments.list[0];
      if (oldest !== undefined) await this.#segments.cut({ segment: oldest.number, offset: 0 });
    }
    this.#mayHold = Math.max(this.#mayHold, end.sequence);
  }

  async #begin(held: AppliedPosition): Promise<AppliedPosition> {
    try {
      await this.#pins.setBegin(held);
    } catch (cause) {
      // Neither the old document nor a temporary one is harmed by what finds no space.
      throw isFull(cause) ? full(cause) : cause;
    }
    this.#captured = held;
    return held;
  }

  async #capture(
    first: Sequence,
    position: AppliedPosition,
    touched: ReadonlyMap<VolumeNumber, readonly TouchedRun[]>,
    images: ImageReads,
  ): Promise<void> {
    const before = this.#segments.list.at(-1)?.number;
    const set = { lineage: this.#options.lineage, first, position };
    const chunks = await appendSet(this.#segments, set, touched, images);
    await this.#enter(position, chunks, before);
  }

  async #endAhead({ end, chunks, mayEnd, newest }: Ahead): Promise<void> {
    mayEnd.give();
    await this.#enter(end, await chunks, newest);
  }

  /** `newest`: number of the newest segment before the set, whose chunks are synced. */
  async #enter(
    position: AppliedPosition,
    chunks: readonly IndexedChunk[],
    newest: number | undefined,
  ): Promise<void> {
    if (chunks.some(({ head }) => lacksBlock(head))) {
      this.#lacking = position.sequence;
      this.#options.log.error(
        "BLOCK_LOST",
        "a block could not be read when it was replaced: older points lack it, and the images are not taken back to them",
        undefined,
        { sequence: position.sequence },
      );
    }
    try {
      // Behind the sync: a row of a set that power loss took would answer for a later set with its numbers.
      await this.#index.add(chunks);
      if (this.#segments.list.at(-1)?.number !== newest) await this.#index.settle(position.sequence);
    } catch (error) {
      // The set is there, and would be captured again: only the next open knows what to do with it.
      this.#failed = error instanceof OperationalError ? error : indexUnwritten(error);
      throw this.#failed;
    }
    this.#captured = position;
  }

  /**
   * Pins a point: one of the history, or `held` when no history is kept and the images hold exactly that. Durable
   * when it settles. OperationalErrors of `Pins.add`, and `POINT_UNKNOWN` (reaction `refuse`).
   */
  pin(
    { id, sequence, reason }: Pick<Pin, "id" | "sequence" | "reason">,
    held: AppliedPosition,
    nowMs: number,
  ): Promise<void> {
    return this.#exclusive(async () => {
      const begins =
        this.#captured === undefined && held.sequence === sequence && held.sequence >= this.#mayHold;
      const point = begins ? held : await this.point(sequence);
      if (point === undefined) throw pointUnknown(sequence);
      const chain = Buffer.from(point.chain).toString("hex");
      if (begins) {
        // Durable before the pin: nothing is ever pinned that steps do not care for.
        await this.#begin(held);
      }
      await this.#pins.add({ id, sequence, chain, reason, timeMs: nowMs });
    });
  }

  /** False when there is no such pin. */
  unpin(id: string): Promise<boolean> {
    return this.#exclusive(() => this.#pins.remove(id));
  }

  /** Gives back what nobody wants; says in the log when pins make the history longer than it should be. */
  retain(nowMs: number): Promise<void> {
    return this.#exclusive(async () => {
      if (this.#captured === undefined) return;
      const answer = decideRetention(this.#segments.ended, this.#held(), this.#options, nowMs);
      this.#tellPinned(answer.heldBeyond, nowMs);
      if (answer.oldest === undefined) return;
      const oldest = await this.point(answer.oldest);
      if (oldest === undefined) {
        throw await this.#indexFailed(damaged(`the index lacks the point ${answer.oldest}`));
      }
      // Durable before anything goes: a crash leaves segments before the beginning, and the next open removes them.
      await this.#pins.setBegin(oldest);
      for (let count = 0; count < answer.segments; count += 1) {
        await removeOldest(this.#segments, this.#index, this.#captured.sequence);
      }
    });
  }

  #tellPinned(share: string | undefined, nowMs: number): void {
    const told = this.#toldPinned;
    if (share === undefined || (told?.share === share && Math.abs(nowMs - told.atMs) < pinnedLogMs)) return;
    this.#toldPinned = { share, atMs: nowMs };
    this.#options.log.warn("HISTORY_PINNED", "pins keep more before-images than the limit allows", {
      share,
      bytes: this.bytes,
    });
  }

  /** Keeps what a view at a point needs; OperationalError `POINT_UNKNOWN`, `VIEWS_FULL`, reaction `refuse`. */
  holdPoint(sequence: Sequence): Promise<HeldPoint> {
    return this.#exclusive(async () => {
      if (this.#views.size >= viewsMax) throw refused("VIEWS_FULL", `${viewsMax} views are open already`);
      if ((await this.point(sequence)) === undefined) throw pointUnknown(sequence);
      const point: HeldPoint = { sequence, release: () => this.#views.delete(point) };
      this.#views.add(point);
      return point;
    });
  }

  /** For readers: what the index says now. */
  lookup() {
    this.#admit();
    return this.#index.lookup();
  }

  /** A chunk that the index named. */
  readChunk(place: WalkedChunk["place"]) {
    this.#admit();
    return this.#segments.read(place);
  }

  /** Runs a question to the index; a damaged row ends this history, and the next open makes the index anew. */
  async asking<T>(ask: () => Promise<T>): Promise<T> {
    try {
      const answer = await ask();
      this.#admit();
      return answer;
    } catch (error) {
      if (errorCode(error) !== "HISTORY_INDEX_DAMAGED" || !(error instanceof OperationalError)) throw error;
      throw await this.#indexFailed(error);
    }
  }

  async #indexFailed(error: OperationalError): Promise<OperationalError> {
    if (this.#failed !== undefined) return this.#failed;
    // Told first: from here on nobody believes what the emptied index answers.
    this.#failed = error;
    await this.#index.clear();
    await this.#index.settle(0);
    return error;
  }

  /** Points that somebody holds and that can still be opened. */
  #held(): Sequence[] {
    const begin = this.#pins.begin;
    if (begin === undefined) return [];
    const pinned = this.#pins.list.map(({ sequence }) => sequence);
    const viewed = [...this.#views].map(({ sequence }) => sequence);
    return [...pinned, ...viewed].filter((sequence) => sequence >= begin.sequence);
  }

  #admit(): void {
    if (this.#failed !== undefined) throw this.#failed;
  }

  /** One change at a time, in the order of the calls; their number is bounded by those who call and wait. */
  #exclusive<T>(run: () => Promise<T>): Promise<T> {
    return this.#turns.take(() => {
      this.#admit();
      return run();
    });
  }

  /** Views must be closed. */
  async close(): Promise<void> {
    assert(this.#views.size === 0, "views are closed before their history");
    await this.#turns.settled();
    // What there is of its set is cut by the next open, as after a crash.
    this.#ahead?.mayEnd.refuse();
    await this.#ahead?.chunks.catch(() => undefined);
    await this.#segments.close();
    await this.#index.close();
  }
}
