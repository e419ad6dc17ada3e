/**
 * The frame log on LevelDB: order of writes, poison, room, trimming, reading. `open.ts` makes it after it has
 * verified what is stored. It must never believe the store beyond what a settled put or sync says, never use the
 * handle for a write after one failed, and never have two LevelDB writes under way at once: a write queued behind
 * a failed append would be acknowledged and then dropped by LevelDB's recovery.
 */
import assert from "node:assert/strict";
import type { Frame } from "../protocol/frame.ts";
import { encodeFrame, frameBodyBytesMax, gapOf } from "../protocol/frame.ts";
import { sliceFrame } from "../protocol/frame-split.ts";
import type { ChainPosition, ChainValue, LineageBytes, Sequence } from "../protocol/ids.ts";
import { bytesEqual } from "../protocol/ids.ts";
import type { Clock } from "../runtime/clock.ts";
import { errorCode, errorText, OperationalError } from "../runtime/errors.ts";
import type { Log } from "../runtime/log.ts";
import { Turns } from "../runtime/turns.ts";
import { endOf, frameDataBytes } from "./continuity.ts";
import type { FrameIndex } from "./frame-index.ts";
import type {
  DropOrder,
  FrameLog,
  FrameLogOptions,
  FrameSummary,
  LogPosition,
  LogRoom,
  MarkedPosition,
  NoteChange,
} from "./frame-log.ts";
import { FrameReader, fetchBytesMax } from "./frame-reader.ts";
import type { Head } from "./head.ts";
import { addPair, encodeHead } from "./head.ts";
import { journalPoisoned, journalRefuses } from "./journal-errors.ts";
import { KeptWaymarks } from "./kept-waymarks.ts";
import type { LogFiles } from "./log-files.ts";
import type { MemoryTail } from "./memory-tail.ts";
import type { FrameStore, RowChange, StoredRow } from "./store.ts";
import type { Watermark } from "./watermark.ts";
import { encodeWaymark, isReachable, waymarksOf } from "./waymark.ts";

/** Least a frame is charged: its key, LevelDB's block index entry and our 20-byte index row are paid with it. */
const frameChargeMin = 1024;
/** How long one look at the file system's free space is used, counted down by what is appended, ms. */
const freeSpaceAgeMaxMs = 1_000;
/** Keys deleted in one LevelDB batch: 1,024 held the main thread for 16-22 ms at a time, beside a writer at depth 1. */
const deleteSlice = 128;
/** Space is asked back from LevelDB after this many write buffers' worth of frames were trimmed. */
const compactAfterBuffers = 2;

/** What a frame of `storedBytes` is charged against the quota. */
export function chargeOf(storedBytes: number): number {
  return Math.max(frameChargeMin, storedBytes);
}

export interface LevelFrameLogParts {
  readonly options: FrameLogOptions;
  readonly log: Log;
  readonly clock: Clock;
  /** Bytes the file system of the folder has free for us. */
  readonly freeBytes: (directory: string) => number;
  readonly store: FrameStore;
  readonly files: LogFiles;
  readonly watermark: Watermark;
  readonly boot: Uint8Array;
  readonly writeBufferBytes: number;
  readonly head: Head;
  /** Verified and synced up to here. */
  readonly tail: LogPosition;
  readonly bytes: number;
  readonly index: FrameIndex;
  readonly memory: MemoryTail;
  /** The watermark still tells of a loss of power; the first append replaces it. */
  readonly noticeHeld: boolean;
  /** By rising sequence, none beyond the head. */
  readonly waymarks: readonly MarkedPosition[];
}

export class LevelFrameLog implements FrameLog {
  readonly #parts: LevelFrameLogParts;
  readonly #lineage: LineageBytes;
  readonly #reader: FrameReader;
  readonly #waymarks: KeptWaymarks;
  #head: Head;
  #tail: LogPosition;
  #durable: LogPosition;
  #bytes: number;
  #noticeHeld: boolean;
  #poison: OperationalError | undefined;
  #closed = false;
  #appending = false;
  /** The LevelDB write under way; settles without rejecting. */
  #writing: Promise<void> | undefined;
  #syncing: Promise<LogPosition> | undefined;
  /** The sync that starts when the one under way ends; everybody who asks meanwhile shares it. */
  #syncNext: Promise<LogPosition> | undefined;
  #nextEvenIfDurable = false;
  readonly #trims = new Turns();
  #trimmedBytes = 0;
  #compactFrom: Sequence;
  #free = { bytes: 0, atMs: Number.NEGATIVE_INFINITY };

  constructor(parts: LevelFrameLogParts) {
    this.#parts = parts;
    this.#lineage = parts.options.lineage;
    this.#head = parts.head;
    this.#tail = parts.tail;
    this.#durable = parts.tail;
    this.#bytes = parts.bytes;
    this.#noticeHeld = parts.noticeHeld;
    this.#compactFrom = parts.head.position.sequence;
    this.#waymarks = new KeptWaymarks(parts.store, parts.waymarks);
    this.#reader = new FrameReader({
      ...parts,
      lineage: this.#lineage,
      head: () => this.head.sequence,
      tail: () => this.#tail.sequence,
    });
  }

  get head(): LogPosition {
    return this.#head.position;
  }

  get tail(): LogPosition {
    return this.#tail;
  }

  get durable(): LogPosition {
    return this.#durable;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get floor(): MarkedPosition {
    return this.#waymarks.oldest ?? this.head;
  }

  get poisoned(): boolean {
    return this.#poison !== undefined;
  }

  /** Frames kept. */
  get frameCount(): number {
    return this.#parts.index.length;
  }

  get bytesMax(): number {
    return this.#parts.options.bytesMax;
  }

  get lineage(): LineageBytes {
    return this.#lineage;
  }

  roomFor(storedBytes: number): LogRoom {
    if (this.#bytes + chargeOf(storedBytes) > this.#parts.options.bytesMax) return "full";
    const nowMs = this.#parts.clock.monotonicMs();
    if (nowMs - this.#free.atMs >= freeSpaceAgeMaxMs) {
      this.#free = { bytes: this.#freeBytes(), atMs: nowMs };
    }
    return this.#free.bytes - storedBytes < this.#parts.options.reserveBytes ? "reserve" : "ok";
  }

  /** Space that cannot be looked at (folder gone, F33) is no space: appends are refused, and nothing is written. */
  #freeBytes(): number {
    try {
      return this.#parts.freeBytes(this.#parts.options.directory);
    } catch (error) {
      this.#parts.log.error("JOURNAL_SPACE_UNKNOWN", "cannot look at the free space of the journal", error);
      return 0;
    }
  }

  async append(frame: Frame): Promise<void> {
    assert(!this.#appending, "appends may not overlap");
    this.#requireContinuation(frame);
    this.#requireUsable();
    const value = encodeFrame(frame, this.#parts.options.compression);
    const room = this.roomFor(value.byteLength);
    if (room !== "ok")
      throw journalRefuses(room, {
        bytes: this.#bytes,
        bytesMax: this.bytesMax,
        freeBytes: this.#free.bytes,
      });
    this.#appending = true;
    try {
      if (this.#noticeHeld) await this.#replaceNotice();
      // Survives a kill of the process: the value is in LevelDB's log by a write() when this settles.
      await this.#write("put", () => this.#parts.store.putFrame(frame.first, value));
      const end = endOf(frame);
      // Survives the same kill: from now on a journal that ends before this frame is refused.
      this.#guard("watermark write", () => this.#parts.watermark.writeAnswered(end, this.#parts.boot));
      this.#take(frame, end, value.byteLength);
    } finally {
      this.#appending = false;
    }
  }

  #requireContinuation(frame: Frame): void {
    const at = this.#tail;
    assert(frame.first === at.sequence + 1, `frame ${frame.first} does not follow ${at.sequence}`);
    assert(bytesEqual(frame.chainBefore, at.chain), "frame does not continue the chain");
    assert(bytesEqual(frame.lineage, this.#lineage), "frame of another history");
    assert(
      frame.dataBytesTotal === at.dataBytesTotal + frameDataBytes(frame),
      "frame miscounts its data bytes",
    );
  }

  #take(frame: Frame, end: LogPosition, storedBytes: number): void {
    this.#tail = end;
    this.#bytes += chargeOf(storedBytes);
    this.#free.bytes -= storedBytes;
    this.#parts.memory.push(frame);
    this.#parts.index.push({
      first: frame.first,
      last: frame.last,
      openedAtMs: frame.openedAtMs,
      closedAtMs: frame.closedAtMs,
      dataBytesTotal: frame.dataBytesTotal,
      storedBytes,
    });
  }

  /** The first append after a loss of power: from here on this boot's answers count. */
  async #replaceNotice(): Promise<void> {
    await this.#guardAsync("watermark write", () =>
      establish(this.#parts.watermark, this.#durable, this.#parts.boot),
    );
    this.#noticeHeld = false;
  }

  /** Runs one LevelDB write when no other is under way. Any failure poisons the handle (F20, F23). */
  async #write(what: string, run: () => Promise<void>): Promise<void> {
    while (this.#writing !== undefined) await this.#writing;
    this.#requireUsable();
    const outcome = run();
    this.#writing = outcome.then(undefined, () => undefined);
    try {
      await outcome;
      this.#parts.files.written();
    } catch (cause) {
      throw this.#poisonedBy(what, cause);
    } finally {
      this.#writing = undefined;
    }
  }

  #guard(what: string, run: () => void): void {
    try {
      run();
    } catch (cause) {
      throw this.#poisonedBy(what, cause);
    }
  }

  async #guardAsync(what: string, run: () => Promise<void>): Promise<void> {
    try {
      await run();
    } catch (cause) {
      throw this.#poisonedBy(what, cause);
    }
  }

  #poisonedBy(what: string, cause: unknown): OperationalError {
    if (this.#poison === undefined) {
      this.#poison = journalPoisoned(what, cause);
      this.#parts.log.error("JOURNAL_POISONED", `the journal stops after a failed ${what}`, cause, {
        sequence: this.#tail.sequence,
      });
    }
    return this.#poison;
  }

  #requireUsable(): void {
    if (this.#poison !== undefined) throw this.#poison;
    if (this.#closed) {
      throw new OperationalError({ code: "JOURNAL_CLOSED", message: "journal is closed", reaction: "stop" });
    }
  }

  sync(): Promise<LogPosition> {
    return this.#requestSync(false);
  }

  /** Never two at once. The one under way may have begun before the newest append, so those who ask share the next. */
  #requestSync(evenIfDurable: boolean): Promise<LogPosition> {
    if (this.#syncing === undefined && this.#syncNext === undefined) return this.#startSync(evenIfDurable);
    this.#nextEvenIfDurable ||= evenIfDurable;
    if (this.#syncNext === undefined) {
      const next = (): Promise<LogPosition> => {
        const forced = this.#nextEvenIfDurable;
        this.#syncNext = undefined;
        this.#nextEvenIfDurable = false;
        return this.#startSync(forced);
      };
      this.#syncNext = (this.#syncing ?? Promise.resolve()).then(next, next);
    }
    return this.#syncNext;
  }

  #startSync(evenIfDurable: boolean): Promise<LogPosition> {
    const running = this.#runSync(evenIfDurable);
    this.#syncing = running;
    const ended = (): void => {
      this.#syncing = undefined;
    };
    running.then(ended, ended);
    return running;
  }

  async #runSync(evenIfDurable: boolean): Promise<LogPosition> {
    this.#requireUsable();
    const target = this.#tail;
    if (target.sequence === this.#durable.sequence && !evenIfDurable) return this.#durable;
    await this.#guardAsync("sync", async () => {
      // Survives power loss: every put settled so far is in one of these logs, or in a table LevelDB has synced.
      await this.#parts.files.sync();
      // Survives power loss: only now may the promise be written, else it could outlive what it promises.
      if (target.sequence !== this.#durable.sequence) {
        await this.#parts.watermark.writeDurable(target, this.#parts.boot, false);
      }
    });
    // A put that failed meanwhile makes every sync after it worthless.
    this.#requireUnpoisoned();
    this.#durable = target;
    return target;
  }

  #requireUnpoisoned(): void {
    if (this.#poison !== undefined) throw this.#poison;
  }

  frames(from: Sequence, rawBytesMax: number): Promise<Frame[]> {
    return this.#reader.frames(from, rawBytesMax);
  }

  /** Every frame of the store from the head on, by key and value, the memory tail left out: for verification. */
  storedFrames(): AsyncGenerator<{ first: Sequence; value: Uint8Array }> {
    return this.#parts.store.walk(this.head.sequence + 1);
  }

  async chainAt(sequence: Sequence): Promise<ChainValue | undefined> {
    const position = await this.positionAt(sequence);
    return position?.chain ?? this.#head.pairs.find((pair) => pair.sequence === sequence)?.chain;
  }

  async positionAt(sequence: Sequence): Promise<MarkedPosition | undefined> {
    for (;;) {
      if (sequence === this.#tail.sequence) return this.#tail;
      if (sequence === this.head.sequence) return this.head;
      if (sequence > this.#tail.sequence) return undefined;
      if (sequence < this.head.sequence) return this.#waymarks.at(sequence);
      try {
        const [frame] = await this.frames(sequence, frameBodyBytesMax);
        assert(frame !== undefined, "a sequence between head and tail is in a frame");
        // Inside a gap nobody told us anything.
        if (sequence !== frame.last && gapOf(frame) !== undefined) return undefined;
        const { chainAfter: chain, dataBytesTotal } = sliceFrame(frame, frame.first, sequence);
        return { sequence, chain, dataBytesTotal };
      } catch (error) {
        // Gone while it was read: the head has moved beyond it, and a waymark may tell.
        if (errorCode(error) !== "JOURNAL_TRIMMED") throw error;
      }
    }
  }

  index(from: Sequence): Promise<readonly FrameSummary[]> {
    return Promise.resolve([...this.#parts.index.rowsFrom(from + 1)].filter((row) => row.last > from));
  }

  trim(through: Sequence): Promise<void> {
    return this.#afterTrims(async () => {
      const going = this.#oldestThrough(through);
      if (going === undefined) return;
      const position = await this.#reader.endOfFrameAt(going.firsts.at(-1)!);
      await this.#removeOldest(going, position, []);
      // The peer is beyond all of these. Those that a crash leaves are true, and go with the next trim.
      await this.#removeWaymarks(this.head.sequence);
    });
  }

  drop(through: Sequence, order: DropOrder): Promise<void> {
    return this.#afterTrims(async () => {
      const { anchors } = order;
      const going = this.#oldestThrough(through);
      if (going === undefined) return;
      const marks: MarkedPosition[] = isReachable(this.head.sequence, anchors) ? [this.head] : [];
      let position = this.head;
      while (position.sequence < going.last) {
        for (const frame of await this.frames(position.sequence + 1, fetchBytesMax)) {
          if (frame.first > going.last) break;
          order.dropping(frame);
          marks.push(...waymarksOf(frame, anchors));
          position = endOf(frame);
        }
      }
      const fresh = this.#waymarks.unknown(marks);
      await this.#removeOldest(going, position, [
        ...order.notes().map((note): RowChange => ({ table: "note", ...note })),
        ...fresh.map(
          (mark): RowChange => ({ table: "waymark", number: mark.sequence, value: encodeWaymark(mark) }),
        ),
      ]);
      this.#waymarks.add(fresh);
      await this.#removeWaymarks(Math.min(...anchors));
    });
  }

  endOfOldest(bytes: number, through: Sequence): Sequence {
    let end = this.head.sequence;
    let left = bytes;
    for (const row of this.#parts.index.rowsFrom(0)) {
      if (left <= 0 || row.last > Math.min(through, this.#durable.sequence)) break;
      end = row.last;
      left -= chargeOf(row.storedBytes);
    }
    return end;
  }

  notes(): Promise<StoredRow[]> {
    return this.#parts.store.rows("note");
  }

  async changeNotes(changes: readonly NoteChange[]): Promise<void> {
    await this.#write("note put", () =>
      this.#parts.store.changeRows(changes.map((change) => ({ table: "note", ...change }))),
    );
    await this.#requestSync(true);
  }

  #afterTrims(run: () => Promise<void>): Promise<void> {
    return this.#trims.take(() => {
      this.#requireUsable();
      return run();
    });
  }

  /** Durable frames that end at or before `through`; undefined: there are none. */
  #oldestThrough(through: Sequence): Oldest | undefined {
    const limit = Math.min(through, this.#durable.sequence);
    const firsts: Sequence[] = [];
    let last = 0;
    let storedBytes = 0;
    let charged = 0;
    for (const row of this.#parts.index.rowsFrom(0)) {
      if (row.last > limit) break;
      firsts.push(row.first);
      last = row.last;
      storedBytes += row.storedBytes;
      charged += chargeOf(row.storedBytes);
    }
    return firsts.length === 0 ? undefined : { firsts, last, storedBytes, charged };
  }

  /**
   * 1. The new head value and the rows that belong to it are put, as one change, and its log is synced. 2. Only then are
   * the frames deleted. Whatever is lost in between, a head without its frames cannot be left behind: a kill or power loss
   * before the deletion leaves frames below the head, which the next open clears; a deletion that LevelDB's recovery keeps
   * while it loses the head value (two logs, one of them unsynced) is ruled out by the sync.
   */
  async #removeOldest(
    { firsts, storedBytes, charged }: Oldest,
    position: LogPosition,
    rows: readonly RowChange[],
  ): Promise<void> {
    const pair: ChainPosition = { sequence: this.head.sequence, chain: this.head.chain };
    const head: Head = { lineage: this.#lineage, position, pairs: addPair(this.#head.pairs, pair) };
    await this.#write("head put", () => this.#parts.store.putHead(encodeHead(head), rows));
    await this.#requestSync(true);
    // Readers see the new head before the first frame goes, so a frame that is gone is trimmed, not a hole.
    this.#head = head;
    this.#parts.index.dropFirst(firsts.length);
    this.#parts.memory.trim(position.sequence);
    this.#bytes -= charged;
    for (let at = 0; at < firsts.length; at += deleteSlice) {
      await this.#write("delete", () => this.#parts.store.deleteFrames(firsts.slice(at, at + deleteSlice)));
    }
    await this.#giveBackSpace(storedBytes);
  }

  /** Waymarks below `sequence` go. */
  async #removeWaymarks(sequence: Sequence): Promise<void> {
    const gone = await this.#waymarks.forgetBelow(sequence);
    for (let at = 0; at < gone.length; at += deleteSlice) {
      const rows = gone
        .slice(at, at + deleteSlice)
        .map((number): RowChange => ({ table: "waymark", number, value: null }));
      await this.#write("delete", () => this.#parts.store.changeRows(rows));
    }
  }

  /** Tombstones alone give no space back; a compaction of what was trimmed does, in slices of some buffers' worth. */
  async #giveBackSpace(storedBytes: number): Promise<void> {
    this.#trimmedBytes += storedBytes;
    if (this.#trimmedBytes < compactAfterBuffers * this.#parts.writeBufferBytes) return;
    this.#trimmedBytes = 0;
    const from = this.#compactFrom;
    this.#compactFrom = this.head.sequence;
    await this.#parts.store.compact(from, this.head.sequence + 1);
  }

  async close(how: "clean" | "abandon"): Promise<void> {
    if (this.#closed) return;
    let failure: unknown;
    if (how === "clean" && this.#poison === undefined) {
      try {
        await this.#trims.settled();
        await this.sync();
        if (!this.#noticeHeld) {
          await this.#guardAsync("watermark write", () =>
            this.#parts.watermark.writeDurable(this.#durable, this.#parts.boot, true),
          );
        }
      } catch (error) {
        failure = error;
      }
    }
    this.#closed = true;
    await this.#settle();
    await this.#parts.store.close();
    await this.#parts.files.close();
    await this.#parts.watermark.close();
    if (failure !== undefined) throw failure;
  }

  /** Waits for what is under way; its outcome belongs to whoever started it. */
  async #settle(): Promise<void> {
    await this.#trims.settled();
    while (this.#writing !== undefined) await this.#writing;
    for (
      let sync = this.#syncing ?? this.#syncNext;
      sync !== undefined;
      sync = this.#syncing ?? this.#syncNext
    ) {
      try {
        await sync;
      } catch (error) {
        this.#parts.log.debug(
          "JOURNAL_CLOSING",
          `a sync ended with ${errorCode(error)}: ${errorText(error)}`,
        );
      }
    }
  }
}

/**
 * Makes all four slots speak of this boot, in an order that leaves a whole promise at every step: answered first
 * (binding only within this boot), then each durable slot, synced one after the other.
 */
export async function establish(
  watermark: Watermark,
  position: LogPosition,
  boot: Uint8Array,
): Promise<void> {
  watermark.writeAnswered(position, boot);
  watermark.writeAnswered(position, boot);
  await watermark.writeDurable(position, boot, false);
  await watermark.writeDurable(position, boot, false);
}

/** The oldest frames of the index that may go. */
interface Oldest {
  readonly firsts: readonly Sequence[];
  readonly last: Sequence;
  readonly storedBytes: number;
  readonly charged: number;
}
