/**
 * The frame log on LevelDB: appending, syncing, room, and what belongs to it put together. `open.ts` makes it after it has
 * verified what is stored. It must never believe a file or the store beyond what a settled write or sync says, and never
 * use the handle for a write after one failed.
 */
import assert from "node:assert/strict";
import type { Frame } from "../protocol/frame.ts";
import { encodeFrame, frameBodyBytesMax, gapOf } from "../protocol/frame.ts";
import { sliceFrame } from "../protocol/frame-split.ts";
import type { ChainValue, LineageBytes, Sequence } from "../protocol/ids.ts";
import { bytesEqual } from "../protocol/ids.ts";
import type { Clock } from "../runtime/clock.ts";
import { errorCode, OperationalError } from "../runtime/errors.ts";
import type { Log } from "../runtime/log.ts";
import { Carrier } from "./carrier.ts";
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
import { FrameReader } from "./frame-reader.ts";
import type { Head } from "./head.ts";
import { journalRefuses } from "./journal-errors.ts";
import type { LogFiles } from "./log-files.ts";
import type { MemoryTail } from "./memory-tail.ts";
import { Poison } from "./poison.ts";
import { SharedRun } from "./shared-run.ts";
import type { FrameStore, StoredFrame, StoredRow } from "./store.ts";
import { StoreWriter } from "./store-writer.ts";
import { chargeOf, Trimmer } from "./trimmer.ts";
import type { Watermark } from "./watermark.ts";
import type { WriteAheadLog } from "./write-ahead-log.ts";

/**
 * A shorter body is stored as it is. Packing one of 4 KiB takes a tenth of the time that its writer waits, and such bodies come
 * one by one, from somebody who waits for each: those of many share longer frames.
 */
const packedBodyBytesMin = 8 * 1024;
/** How long one look at the file system's free space is used, counted down by what is appended, ms. */
const freeSpaceAgeMaxMs = 1_000;

export interface LevelFrameLogParts {
  readonly options: FrameLogOptions;
  readonly log: Log;
  readonly clock: Clock;
  /** Bytes the file system of the folder has free for us. */
  readonly freeBytes: (directory: string) => number;
  readonly store: FrameStore;
  /** Empty; null: frames go into the store at once. */
  readonly ahead: WriteAheadLog | null;
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
  readonly #poison: Poison;
  readonly #writer: StoreWriter;
  readonly #carrier: Carrier | null;
  readonly #reader: FrameReader;
  readonly #trimmer: Trimmer;
  readonly #syncs = new SharedRun(() => this.#sync());
  #tail: LogPosition;
  #durable: LogPosition;
  #bytes: number;
  #noticeHeld: boolean;
  #closed = false;
  #appending = false;
  /** First sequence of the newest frame that was put into the store itself. */
  #storedLast: Sequence = 0;
  #free = { bytes: 0, atMs: Number.NEGATIVE_INFINITY };

  constructor(parts: LevelFrameLogParts) {
    const { store, ahead } = parts;
    this.#parts = parts;
    this.#lineage = parts.options.lineage;
    this.#tail = parts.tail;
    this.#durable = parts.tail;
    this.#bytes = parts.bytes;
    this.#noticeHeld = parts.noticeHeld;
    this.#poison = new Poison(parts.log, () => this.#tail.sequence);
    this.#writer = new StoreWriter(parts.files, this.#poison, () => this.#requireUsable());
    this.#carrier = ahead === null ? null : new Carrier(ahead, store, this.#writer);
    this.#reader = new FrameReader({
      ...parts,
      stored: this.#carrier ?? store,
      lineage: this.#lineage,
      head: () => this.head.sequence,
      tail: () => this.#tail.sequence,
    });
    this.#trimmer = new Trimmer({
      ...parts,
      writer: this.#writer,
      carrier: this.#carrier,
      lineage: this.#lineage,
      reader: this.#reader,
      bytesMax: parts.options.bytesMax,
      durable: () => this.#durable.sequence,
      removed: (charged) => {
        this.#bytes -= charged;
      },
    });
  }

  get head(): LogPosition {
    return this.#trimmer.head;
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
    return this.#trimmer.waymarks.oldest ?? this.head;
  }

  get poisoned(): boolean {
    return this.#poison.isThere;
  }

  get whenPoisoned(): Promise<OperationalError> {
    return this.#poison.told;
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
    const isShort = frame.body.byteLength < packedBodyBytesMin;
    const value = encodeFrame(frame, isShort ? "none" : this.#parts.options.compression);
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
      if (!this.#takeAhead(frame.first, value)) await this.#put(frame.first, value);
      const end = endOf(frame);
      // Survives the same kill: from now on a journal that ends before this frame is refused.
      this.#poison.guard("watermark write", () => this.#parts.watermark.writeAnswered(end, this.#parts.boot));
      this.#take(frame, end, value.byteLength);
    } finally {
      this.#appending = false;
    }
  }

  /** Survives a kill of the process: the value is in a half by a write() when this returns true. */
  #takeAhead(first: Sequence, value: Uint8Array): boolean {
    const carrier = this.#carrier;
    return carrier !== null && this.#poison.guard("write ahead", () => carrier.take(first, value));
  }

  /** Survives a kill of the process: the value is in LevelDB's log by a write() when this settles. */
  async #put(first: Sequence, value: Uint8Array): Promise<void> {
    await this.#writer.write("put", () => this.#parts.store.putFrame(first, value));
    this.#storedLast = first;
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
    await this.#poison.guardAsync("watermark write", () =>
      establish(this.#parts.watermark, this.#durable, this.#parts.boot),
    );
    this.#noticeHeld = false;
  }

  #requireUsable(): void {
    this.#poison.refuse();
    if (this.#closed) {
      throw new OperationalError({ code: "JOURNAL_CLOSED", message: "journal is closed", reaction: "stop" });
    }
  }

  sync(): Promise<LogPosition> {
    return this.#syncs.request();
  }

  async #sync(): Promise<LogPosition> {
    this.#requireUsable();
    const target = this.#tail;
    if (target.sequence === this.#durable.sequence) return this.#durable;
    // Survives power loss: each frame so far is in a half, or was put into the store itself, or both.
    const toStore = this.#storedLast > this.#durable.sequence;
    const syncs = [this.#syncAhead(), toStore ? this.#writer.sync() : undefined];
    for (const outcome of await Promise.allSettled(syncs)) {
      if (outcome.status === "rejected") throw outcome.reason;
    }
    // Survives power loss: only now may the promise be written, else it could outlive what it promises.
    await this.#poison.guardAsync("sync", () =>
      this.#parts.watermark.writeDurable(target, this.#parts.boot, false),
    );
    // A put that failed meanwhile makes every sync after it worthless.
    this.#poison.refuse();
    this.#durable = target;
    return target;
  }

  async #syncAhead(): Promise<void> {
    await this.#poison.guardAsync("sync", async () => this.#parts.ahead?.sync());
  }

  frames(from: Sequence, rawBytesMax: number): Promise<Frame[]> {
    return this.#reader.frames(from, rawBytesMax);
  }

  /** Every frame of the store from the head on, by key and value, the memory tail left out: for verification. */
  async *storedFrames(): AsyncGenerator<StoredFrame> {
    await this.#carrier?.carryThrough(this.#tail.sequence);
    yield* this.#parts.store.walk(this.head.sequence + 1);
  }

  async chainAt(sequence: Sequence): Promise<ChainValue | undefined> {
    const position = await this.positionAt(sequence);
    return position?.chain ?? this.#trimmer.pairs.find((pair) => pair.sequence === sequence)?.chain;
  }

  async positionAt(sequence: Sequence): Promise<MarkedPosition | undefined> {
    for (;;) {
      if (sequence === this.#tail.sequence) return this.#tail;
      if (sequence === this.head.sequence) return this.head;
      if (sequence > this.#tail.sequence) return undefined;
      if (sequence < this.head.sequence) return this.#trimmer.waymarks.at(sequence);
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
    return this.#trimmer.trim(through);
  }

  drop(through: Sequence, order: DropOrder): Promise<void> {
    return this.#trimmer.drop(through, order);
  }

  endOfOldest(bytes: number, through: Sequence): Sequence {
    return this.#trimmer.endOfOldest(bytes, through);
  }

  notes(): Promise<StoredRow[]> {
    return this.#parts.store.rows("note");
  }

  async changeNotes(changes: readonly NoteChange[]): Promise<void> {
    await this.#writer.write("note put", () =>
      this.#parts.store.changeRows(changes.map((change) => ({ table: "note", ...change }))),
    );
    await this.#writer.sync();
  }

  async close(how: "clean" | "abandon"): Promise<void> {
    if (this.#closed) return;
    let failure: unknown;
    if (how === "clean" && !this.#poison.isThere) {
      try {
        await this.#trimmer.finish();
        // A clean journal is whole in its store alone.
        await this.#carrier?.carryThrough(this.#tail.sequence);
        await this.#writer.sync();
        await this.sync();
        if (!this.#noticeHeld) {
          await this.#poison.guardAsync("watermark write", () =>
            this.#parts.watermark.writeDurable(this.#durable, this.#parts.boot, true),
          );
        }
      } catch (error) {
        failure = error;
      }
    }
    this.#closed = true;
    await this.#trimmer.settled();
    await this.#carrier?.settled();
    await this.#writer.settled();
    await this.#syncs.settled();
    await this.#parts.ahead?.close();
    await this.#parts.store.close();
    await this.#parts.files.close();
    await this.#parts.watermark.close();
    if (failure !== undefined) throw failure;
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
