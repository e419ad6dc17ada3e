/**
 * Where the frames kept begin and end, their times, counters and sizes: everything but their content. In memory
 * only, rebuilt on open. Never a source of truth: what it says of a frame is compared with the frame when read.
 *
 * Compact, because a journal of small writes has millions of frames: segments of at most 1024 rows with 64-bit
 * bases and five 32-bit columns, 20 bytes a row. The journal charges a frame at least 1 KiB of its quota, so the
 * index is at most 2 % of it (8 GiB: 160 MiB, when every frame is a single small record).
 */
import type { Sequence } from "../protocol/ids.ts";
import type { FrameSummary } from "./frame-log.ts";

const segmentRows = 1024;
const u32Max = 2 ** 32 - 1;

export interface IndexRow extends FrameSummary {
  readonly storedBytes: number;
}

class Segment {
  readonly #firstBase: number;
  readonly #openedBase: number;
  readonly #closedBase: number;
  readonly #totalBase: number;
  /** Columns one after another: first, openedAt, closedAt, dataBytesTotal (offsets from the bases), storedBytes. */
  #columns: Uint32Array;
  #capacity: number;
  rows = 0;
  /** Last sequence of the newest row. */
  last = 0;

  constructor(row: IndexRow) {
    this.#firstBase = row.first;
    // Wall clocks may jump back: leave room below the first row, 24 days, as above.
    this.#openedBase = row.openedAtMs - 2 ** 31;
    this.#closedBase = row.closedAtMs - 2 ** 31;
    this.#totalBase = row.dataBytesTotal;
    this.#capacity = 16;
    this.#columns = new Uint32Array(5 * this.#capacity);
  }

  /** False when the row does not fit here: full, or an offset beyond 32 bits. */
  push(row: IndexRow): boolean {
    if (this.rows === segmentRows) return false;
    const values = [
      row.first - this.#firstBase,
      row.openedAtMs - this.#openedBase,
      row.closedAtMs - this.#closedBase,
      row.dataBytesTotal - this.#totalBase,
      row.storedBytes,
    ];
    if (values.some((value) => value < 0 || value > u32Max)) return false;
    if (this.rows === this.#capacity) this.#grow();
    for (const [column, value] of values.entries())
      this.#columns[column * this.#capacity + this.rows] = value;
    this.rows += 1;
    this.last = row.last;
    return true;
  }

  #grow(): void {
    const capacity = this.#capacity * 2;
    const columns = new Uint32Array(5 * capacity);
    for (let column = 0; column < 5; column += 1) {
      columns.set(
        this.#columns.subarray(column * this.#capacity, (column + 1) * this.#capacity),
        column * capacity,
      );
    }
    this.#columns = columns;
    this.#capacity = capacity;
  }

  #at(column: number, row: number): number {
    return this.#columns[column * this.#capacity + row]!;
  }

  first(row: number): Sequence {
    return this.#firstBase + this.#at(0, row);
  }

  lastOf(row: number): Sequence {
    return row + 1 < this.rows ? this.first(row + 1) - 1 : this.last;
  }

  row(row: number): IndexRow {
    return {
      first: this.first(row),
      last: this.lastOf(row),
      openedAtMs: this.#openedBase + this.#at(1, row),
      closedAtMs: this.#closedBase + this.#at(2, row),
      dataBytesTotal: this.#totalBase + this.#at(3, row),
      storedBytes: this.#at(4, row),
    };
  }

  /** Row that holds `sequence`, which lies in this segment. */
  find(sequence: Sequence, from: number): number {
    let low = from;
    let high = this.rows - 1;
    while (low < high) {
      const middle = (low + high + 1) >>> 1;
      if (this.first(middle) <= sequence) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}

export class FrameIndex {
  #segments: Segment[] = [];
  /** Rows of the first segment that are dropped. */
  #dropped = 0;
  #rows = 0;

  get length(): number {
    return this.#rows;
  }

  /** Adds the row that follows the last one without a hole. */
  push(row: IndexRow): void {
    if (this.#segments.at(-1)?.push(row) !== true) {
      const segment = new Segment(row);
      segment.push(row);
      this.#segments.push(segment);
    }
    this.#rows += 1;
  }

  /** Rows in order from the one that holds `from` on; all when `from` is before the first. */
  *rowsFrom(from: Sequence): Generator<IndexRow> {
    const segments = this.#segments;
    for (let at = this.#segmentOf(from); at < segments.length; at += 1) {
      const segment = segments[at]!;
      const start = at === 0 ? this.#dropped : 0;
      for (let row = segment.find(from, start); row < segment.rows; row += 1) {
        yield segment.row(row);
      }
    }
  }

  /** First segment whose last sequence reaches `sequence`. */
  #segmentOf(sequence: Sequence): number {
    let low = 0;
    let high = this.#segments.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#segments[middle]!.last < sequence) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Removes the oldest `count` rows. */
  dropFirst(count: number): void {
    let left = Math.min(count, this.#rows);
    this.#rows -= left;
    let gone = 0;
    while (left > 0) {
      const segment = this.#segments[gone]!;
      const here = Math.min(left, segment.rows - this.#dropped);
      this.#dropped += here;
      left -= here;
      if (this.#dropped < segment.rows) break;
      gone += 1;
      this.#dropped = 0;
    }
    if (gone > 0) this.#segments = this.#segments.slice(gone);
  }
}
