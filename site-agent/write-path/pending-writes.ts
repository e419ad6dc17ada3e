/**
 * Requests that have arrived and stand in no frame yet, in arrival order: the group's one write order begins here.
 * Outlives an engine that has to be reopened, so a request that was never answered is neither lost nor refused
 * while the journal is opened again. Pure.
 *
 * Bound: the NBD server admits at most its request memory (512 MiB for the process), and every request here is one
 * that it still counts.
 */
import type { BlockRecord } from "../../protocol/record.ts";
import { recordBytes } from "../../protocol/record.ts";

/** A client's request, settled once: answered when it is as safe as it asked, or refused. */
export interface WriteRequest {
  /** Answer only when the records survive power loss, not merely a kill of the process. */
  readonly durable: boolean;
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

export class PendingWrites {
  #items: PendingRecord[] = [];
  #head = 0;
  #bytes = 0;

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
    for (let index = 0; index <= last; index += 1) {
      const record = records[index]!;
      this.#items.push({ record, arrivedAtMs, request: index === last ? request : null });
      this.#bytes += recordBytes(record);
    }
  }

  /** Removes records from the front until their encoded bytes reach `bodyBytesTarget`; at least one. */
  take(bodyBytesTarget: number): PendingRecord[] {
    let bytes = 0;
    let end = this.#head;
    while (end < this.#items.length && bytes < bodyBytesTarget) {
      bytes += recordBytes(this.#items[end]!.record);
      end += 1;
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

  /** Empties the queue, refusing every request with a record in it. */
  rejectAll(error: Error): void {
    const items = this.#items.slice(this.#head);
    this.#items = [];
    this.#head = 0;
    this.#bytes = 0;
    for (const item of items) item.request?.reject(error);
  }
}
