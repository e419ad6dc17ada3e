/**
 * The door into a group's write order: requests pass the watches of a scan on their way into the queue. Outlives an engine,
 * like the queue behind it. Must never let a request that overlaps a watched range into the queue unnoticed: what a scan
 * read would then not be the content at the number that it gets.
 */
import type { Sequence } from "../../protocol/ids.ts";
import type { BlockRecord, ScanRecord, VolumeChangeRecord } from "../../protocol/record.ts";
import type { Watch, WatchedRange, WatchManner } from "../scan/extent-watch.ts";
import { ExtentWatches } from "../scan/extent-watch.ts";
import type { PendingWrites, WriteRequest } from "./pending-writes.ts";

interface Arrival {
  readonly records: readonly BlockRecord[];
  readonly request: WriteRequest;
}

export class Entrance {
  readonly #pending: PendingWrites;
  readonly #watches = new ExtentWatches<Arrival>();
  readonly #wallMs: () => number;
  readonly #entered: () => void;
  #requests = 0;

  /** `entered`: something new stands in the queue. */
  constructor(pending: PendingWrites, wallMs: () => number, entered: () => void) {
    this.#pending = pending;
    this.#wallMs = wallMs;
    this.#entered = entered;
  }

  /** Requests of clients that came so far. */
  get requests(): number {
    return this.#requests;
  }

  /** Records of one request, in order, at least one; into the queue now, or when no watch holds them any more. */
  enter(records: readonly BlockRecord[], request: WriteRequest): void {
    this.#requests += 1;
    if (this.#watches.count > 0 && !this.#watches.requested(records.map(rangeOf), { records, request }))
      return;
    this.#add(records, request);
  }

  /**
   * Puts a scan's record into the queue, before this returns. Settles with its number once it is in the journal; rejects when
   * the queue is emptied first.
   */
  put(record: ScanRecord): Promise<Sequence> {
    return new Promise((placed, reject) => {
      this.#add([record], { durable: false, placed, resolve: () => {}, reject });
    });
  }

  /**
   * The same, settled once the record survives power loss: its number is then this record's for ever. `noted` is told of
   * the number as soon as the record is in the journal.
   */
  putDurably(
    record: ScanRecord | VolumeChangeRecord,
    noted?: (sequence: Sequence) => void,
  ): Promise<Sequence> {
    return new Promise((resolve, reject) => {
      let placed: Sequence = 0;
      const note = (sequence: Sequence): void => {
        placed = sequence;
        noted?.(sequence);
      };
      this.#add([record], { durable: true, placed: note, resolve: () => resolve(placed), reject });
    });
  }

  watch(range: WatchedRange, manner: WatchManner): Watch {
    return this.#watches.watch(range, manner);
  }

  /** Whom it held back goes on into the queue, in order. */
  release(watch: Watch): void {
    for (const { records, request } of this.#watches.release(watch)) this.#add(records, request);
  }

  /** Settles when everything in the queue by now is in the journal and can be read; rejects when it is emptied first. */
  whenJournalled(): Promise<void> {
    return this.#pending.whenJournalled();
  }

  /** Refuses the requests that a watch holds back. */
  rejectWaiting(error: Error): void {
    for (const { request } of this.#watches.takeWaiting()) request.reject(error);
  }

  #add(records: readonly BlockRecord[], request: WriteRequest): void {
    this.#pending.add(records, request, this.#wallMs());
    this.#entered();
  }
}

function rangeOf({ volume, offset, length }: BlockRecord): WatchedRange {
  return { volume, start: offset, end: offset + length };
}
