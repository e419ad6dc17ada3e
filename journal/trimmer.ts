/**
 * Removes the oldest frames of a log: what the peer has (trim), or what it will get some other way (drop). Owns the head
 * and the waymarks, and the order in which a frame goes: first everything that stands for it is durable, then it is gone.
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
/** Space is asked back from LevelDB after this many write buffers' worth of frames were trimmed. */
const compactAfterBuffers = 2;

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
  #head: Head;
  #trimmedBytes = 0;
  #compactFrom: Sequence;

  constructor(parts: TrimmerParts) {
    this.#parts = parts;
    this.#head = parts.head;
    this.#compactFrom = parts.head.position.sequence;
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
      await this.#removeOldest(going, position, []);
      // The peer is beyond all of these. Those that a crash leaves are true, and go with the next trim.
      await this.#removeWaymarks(this.head.sequence);
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
   * while it loses the head value (two logs, one of them unsynced) is ruled out by the sync. What the write-ahead halves
   * still hold of them is below the head, where nobody looks at it.
   */
  async #removeOldest(
    { firsts, storedBytes, charged }: Oldest,
    position: LogPosition,
    rows: readonly RowChange[],
  ): Promise<void> {
    // A frame that is deleted must not be put afterwards.
    await this.#parts.carrier?.carryThrough(position.sequence);
    const pair: ChainPosition = { sequence: this.head.sequence, chain: this.head.chain };
    const head: Head = { lineage: this.#parts.lineage, position, pairs: addPair(this.#head.pairs, pair) };
    await this.#parts.writer.write("head put", () => this.#parts.store.putHead(encodeHead(head), rows));
    await this.#parts.writer.sync();
    // Readers see the new head before the first frame goes, so a frame that is gone is trimmed, not a hole.
    this.#head = head;
    this.#parts.index.dropFirst(firsts.length);
    this.#parts.memory.trim(position.sequence);
    this.#parts.removed(charged);
    for (let at = 0; at < firsts.length; at += deleteSlice) {
      await this.#parts.writer.write("delete", () =>
        this.#parts.store.deleteFrames(firsts.slice(at, at + deleteSlice)),
      );
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
      await this.#parts.writer.write("delete", () => this.#parts.store.changeRows(rows));
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
}

/** The oldest frames of the index that may go. */
interface Oldest {
  readonly firsts: readonly Sequence[];
  readonly last: Sequence;
  readonly storedBytes: number;
  readonly charged: number;
}
