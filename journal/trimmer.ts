/**
 * Removes the oldest frames of a log: what the peer has (trim), or what it will get some other way (drop). Owns the head
 * and the waymarks, and the order in which a frame goes: first everything that stands for it is durable, then it is gone.
 * What is trimmed leaves the log at once, and the store by the slice: a crash in between brings some of it back.
 * Must never remove what is not durable.
 */
import type { ChainPosition, LineageBytes, Sequence } from "../protocol/ids.ts";
import { Turns } from "../runtime/turns.ts";
import type { Carrier } from "./carrier.ts";
import { endOf } from "./continuity.ts";
import type { FrameIndex } from "./frame-index.ts";
import type { DropOrder, LogPosition, MarkedPosition } from "./frame-log.ts";
import type { FrameReader } from "./frame-reader.ts";
import { fetchBytesMax } from "./frame-reader.ts";
import type { Head } from "./head.ts";
import { addPair, encodeHead } from "./head.ts";
import { KeptWaymarks } from "./kept-waymarks.ts";
import type { MemoryTail } from "./memory-tail.ts";
import type { FrameStore, RowChange } from "./store.ts";
import type { StoreWriter } from "./store-writer.ts";
import { encodeWaymark, isReachable, waymarksOf } from "./waymark.ts";

/** Least a frame is charged: its key, LevelDB's block index entry and our 20-byte index row are paid with it. */
const frameChargeMin = 1024;
/** Keys deleted in one LevelDB batch: 1,024 held the main thread for 16-22 ms at a time, beside a writer at depth 1. */
const deleteSlice = 128;
/**
 * A slice: trimmed frames stay in the store until they come to this many write buffers, or to this part of the quota. Removing
 * them takes a sync and a compaction, however few they are.
 */
const sliceBuffers = 2;
const slicePartOfQuota = 1 / 8;

/** What a frame of `storedBytes` is charged against the quota. */
export function chargeOf(storedBytes: number): number {
  return Math.max(frameChargeMin, storedBytes);
}

export interface TrimmerParts {
  readonly store: FrameStore;
  readonly writer: StoreWriter;
  /** Null: every frame is in the store. */
  readonly carrier: Carrier | null;
  readonly lineage: LineageBytes;
  readonly index: FrameIndex;
  readonly memory: MemoryTail;
  readonly writeBufferBytes: number;
  readonly bytesMax: number;
  readonly head: Head;
  /** By rising sequence, none beyond the head. */
  readonly waymarks: readonly MarkedPosition[];
  /** Only what is before this may go. */
  readonly durable: () => Sequence;
  readonly reader: FrameReader;
  /** So many charged bytes are the log's no more. */
  readonly removed: (charged: number) => void;
}

export class Trimmer {
  readonly #parts: TrimmerParts;
  readonly #waymarks: KeptWaymarks;
  readonly #turns = new Turns();
  /** What readers see; the store's may be older. */
  #head: Head;
  /** First sequences of frames below the head that the store has yet: of a slice at most, and of what went last. */
  #left: Sequence[] = [];
  /** Charged for what has gone since space was last given back, and where that began. */
  #unreturned = 0;
  #unreturnedFrom: Sequence;

  constructor(parts: TrimmerParts) {
    this.#parts = parts;
    this.#head = parts.head;
    this.#unreturnedFrom = parts.head.position.sequence;
    this.#waymarks = new KeptWaymarks(parts.store, parts.waymarks);
  }

  get head(): LogPosition {
    return this.#head.position;
  }

  /** Positions before `head` whose chain values are still known. */
  get pairs(): readonly ChainPosition[] {
    return this.#head.pairs;
  }

  get waymarks(): KeptWaymarks {
    return this.#waymarks;
  }

  /** Settles when every trim and drop that was asked for is over. */
  settled(): Promise<unknown> {
    return this.#turns.settled();
  }

  trim(through: Sequence): Promise<void> {
    return this.#inTurn(async () => {
      const going = this.#oldestThrough(through);
      if (going === undefined) return;
      const position = await this.#parts.reader.endOfFrameAt(going.firsts.at(-1)!);
      // Survives no crash, and need not: the next opening finds the frames again, and the peer has them still.
      this.#leave(going, this.#headAt(position));
      if (this.#isSlice()) await this.#remove();
      // The peer is beyond all of these. Those that a crash leaves are true, and go with the next trim.
      await this.#removeWaymarks(this.head.sequence);
    });
  }

  /** What was trimmed goes from the store, however little it is. */
  finish(): Promise<void> {
    return this.#inTurn(async () => {
      if (this.#left.length > 0) await this.#remove();
    });
  }

  drop(through: Sequence, order: DropOrder): Promise<void> {
    return this.#inTurn(async () => {
      const { anchors } = order;
      const going = this.#oldestThrough(through);
      if (going === undefined) return;
      const marks: MarkedPosition[] = isReachable(this.head.sequence, anchors) ? [this.head] : [];
      let position = this.head;
      while (position.sequence < going.last) {
        for (const frame of await this.#parts.reader.frames(position.sequence + 1, fetchBytesMax)) {
          if (frame.first > going.last) break;
          order.dropping(frame);
          marks.push(...waymarksOf(frame, anchors));
          position = endOf(frame);
        }
      }
      const fresh = this.#waymarks.unknown(marks);
      const head = this.#headAt(position);
      await this.#settle(head, going.charged, [
        ...order.notes().map((note): RowChange => ({ table: "note", ...note })),
        ...fresh.map(
          (mark): RowChange => ({ table: "waymark", number: mark.sequence, value: encodeWaymark(mark) }),
        ),
      ]);
      this.#waymarks.add(fresh);
      // Readers see the new head before the first frame goes, so a frame that is gone is trimmed, not a hole.
      this.#leave(going, head);
      await this.#deleteLeft();
      await this.#removeWaymarks(Math.min(...anchors));
    });
  }

  endOfOldest(bytes: number, through: Sequence): Sequence {
    let end = this.head.sequence;
    let left = bytes;
    for (const row of this.#parts.index.rowsFrom(0)) {
      if (left <= 0 || row.last > Math.min(through, this.#parts.durable())) break;
      end = row.last;
      left -= chargeOf(row.storedBytes);
    }
    return end;
  }

  #inTurn(run: () => Promise<void>): Promise<void> {
    return this.#turns.take(() => {
      this.#parts.writer.requireUsable();
      return run();
    });
  }

  /** Durable frames that end at or before `through`; undefined: there are none. */
  #oldestThrough(through: Sequence): Oldest | undefined {
    const limit = Math.min(through, this.#parts.durable());
    const firsts: Sequence[] = [];
    let last = 0;
    let charged = 0;
    for (const row of this.#parts.index.rowsFrom(0)) {
      if (row.last > limit) break;
      firsts.push(row.first);
      last = row.last;
      charged += chargeOf(row.storedBytes);
    }
    return firsts.length === 0 ? undefined : { firsts, last, charged };
  }

  #headAt(position: LogPosition): Head {
    const pair: ChainPosition = { sequence: this.head.sequence, chain: this.head.chain };
    return { lineage: this.#parts.lineage, position, pairs: addPair(this.#head.pairs, pair) };
  }

  /** The frames are the log's no more. */
  #leave({ firsts, charged }: Oldest, head: Head): void {
    this.#head = head;
    this.#parts.index.dropFirst(firsts.length);
    this.#parts.memory.trim(head.position.sequence);
    this.#parts.removed(charged);
    for (const first of firsts) this.#left.push(first);
    this.#unreturned += charged;
  }

  /** What has gone, with so much more, is a slice: time to give its space back. */
  #isSlice(going = 0): boolean {
    const { writeBufferBytes, bytesMax } = this.#parts;
    return this.#unreturned + going >= Math.min(sliceBuffers * writeBufferBytes, slicePartOfQuota * bytesMax);
  }

  async #remove(): Promise<void> {
    await this.#settle(this.#head, 0, []);
    await this.#deleteLeft();
  }

  /**
   * The head value and the rows that belong to it are put, as one change, and its log is synced: before a frame below it is
   * deleted. Whatever is lost in between, a head without its frames cannot be left behind: a kill or power loss
   * before the deletion leaves frames below the head, which the next open clears; a deletion that LevelDB's recovery keeps
   * while it loses the head value (two logs, one of them unsynced) is ruled out by the sync. What the write-ahead halves
   * still hold of them is below the head, where nobody looks at it. `going`: charged for what will go with what is left.
   */
  async #settle(head: Head, going: number, rows: readonly RowChange[]): Promise<void> {
    // A frame that is deleted must not be put afterwards.
    await this.#parts.carrier?.carryThrough(head.position.sequence);
    // The table of the newest frames is made by itself: with head and deletions in it, it would lie over all that is kept, and a
    // compaction would rewrite that.
    if (this.#isSlice(going)) await this.#parts.store.flush();
    await this.#parts.writer.write("head put", () => this.#parts.store.putHead(encodeHead(head), rows));
    await this.#parts.writer.sync();
  }

  /** Behind `#settle`. Tombstones alone give no space back; a compaction of what was trimmed does. */
  async #deleteLeft(): Promise<void> {
    const firsts = this.#left;
    this.#left = [];
    for (let at = 0; at < firsts.length; at += deleteSlice) {
      await this.#parts.writer.write("delete", () =>
        this.#parts.store.deleteFrames(firsts.slice(at, at + deleteSlice)),
      );
    }
    if (!this.#isSlice()) return;
    const from = this.#unreturnedFrom;
    this.#unreturned = 0;
    this.#unreturnedFrom = this.head.sequence;
    await this.#parts.store.compact(from, this.head.sequence + 1);
  }

  /** Waymarks below `sequence` go. */
  async #removeWaymarks(sequence: Sequence): Promise<void> {
    const gone = await this.#waymarks.forgetBelow(sequence);
    for (let at = 0; at < gone.length; at += deleteSlice) {
      const rows = gone
        .slice(at, at + deleteSlice)
        .map((number): RowChange => ({ table: "waymark", number, value: null }));
      await this.#parts.writer.write("delete", () => this.#parts.store.changeRows(rows));
    }
  }
}

/** The oldest frames of the index that may go. */
interface Oldest {
  readonly firsts: readonly Sequence[];
  readonly last: Sequence;
  readonly charged: number;
}
