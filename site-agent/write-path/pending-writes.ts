/**
 * Requests that have arrived and stand in no frame yet, in arrival order: the group's one write order begins here.
 * Outlives an engine that has to be reopened, so a request that was never answered is neither lost nor refused
 * while the journal is opened again. Pure.
 *
 * Bound: the NBD server admits at most its request memory (512 MiB for the process), and every request here is one
 * that it still counts.
 */
import type { Sequence } from "../../protocol/ids.ts";
import type { BlockRecord } from "../../protocol/record.ts";
import { recordBytes } from "../../protocol/record.ts";

/** A client's request, settled once: answered when it is as safe as it asked, or refused. */
export interface WriteRequest {
  /** Answer only when the records survive power loss, not merely a kill of the process. */
  readonly durable: boolean;
  /** Told of the number of its last record once that is in the journal; it may not be durable yet. */
  readonly placed?: (sequence: Sequence) => void;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/** One record on its way into the journal. `request` stands on the last record of its request only. */
export interface PendingRecord {
  readonly record: BlockRecord;
  /** Wall time of arrival: a label for people. */
  readonly arrivedAtMs: number;
  readonly request: WriteRequest | null;
}

/** Waits until the first `target` records that ever came here have left for good. */
interface Barrier {
  readonly target: number;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

export class PendingWrites {
  #items: PendingRecord[] = [];
  #head = 0;
  #bytes = 0;
  /** Records ever added, and how many of them are in the journal or were refused: the first ones, always. */
  #arrived = 0;
  #left = 0;
  /** Targets only rise. Few: one for each read of a scan. */
  #barriers: Barrier[] = [];

  /** Encoded bytes waiting. */
  get bytes(): number {
    return this.#bytes;
  }

  get count(): number {
    return this.#items.length - this.#head;
  }

  /** Takes the records of one request, at least one. */
  add(records: readonly BlockRecord[], request: WriteRequest, arrivedAtMs: number): void {
    const last = records.length - 1;
    this.#arrived += records.length;
    for (let index = 0; index <= last; index += 1) {
      const record = records[index]!;
      this.#items.push({ record, arrivedAtMs, request: index === last ? request : null });
      this.#bytes += recordBytes(record);
    }
  }

  /**
   * Removes records from the front until their encoded bytes reach `bodyBytesTarget`; at least one. A change of the volume
   * table comes alone: it is the only record of its frame.
   */
  take(bodyBytesTarget: number): PendingRecord[] {
    let bytes = 0;
    let end = this.#head;
    while (end < this.#items.length && bytes < bodyBytesTarget) {
      const { record } = this.#items[end]!;
      const isAlone = record.kind === "volumeChange";
      if (isAlone && end > this.#head) break;
      bytes += recordBytes(record);
      end += 1;
      if (isAlone) break;
    }
    const taken = this.#items.slice(this.#head, end);
    this.#head = end;
    this.#bytes -= bytes;
    if (this.#head === this.#items.length) {
      this.#items = [];
      this.#head = 0;
    } else if (this.#head > 1024) {
      this.#items = this.#items.slice(this.#head);
      this.#head = 0;
    }
    return taken;
  }

  /** Returns records that got no place in the journal to the front, in their order. */
  putBack(items: readonly PendingRecord[]): void {
    this.#items = [...items, ...this.#items.slice(this.#head)];
    this.#head = 0;
    for (const item of items) this.#bytes += recordBytes(item.record);
  }

  /** `count` records that were taken are in the journal and can be read, or were refused: they never come back. */
  settled(count: number): void {
    this.#left += count;
    while (this.#barriers.length > 0 && this.#barriers[0]!.target <= this.#left)
      this.#barriers.shift()!.resolve();
  }

  /**
   * Settles when every record that has come here is in the journal and can be read, whichever engine put it there; rejects
   * when the queue is emptied first.
   */
  whenJournalled(): Promise<void> {
    if (this.#left === this.#arrived) return Promise.resolve();
    return new Promise((resolve, reject) => this.#barriers.push({ target: this.#arrived, resolve, reject }));
  }

  /** Empties the queue, refusing every request with a record in it. */
  rejectAll(error: Error): void {
    const items = this.#items.slice(this.#head);
    const barriers = this.#barriers;
    this.#items = [];
    this.#head = 0;
    this.#bytes = 0;
    this.#barriers = [];
    this.#left += items.length;
    for (const item of items) item.request?.reject(error);
    for (const barrier of barriers) barrier.reject(error);
  }
}
