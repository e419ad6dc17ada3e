/**
 * Folding: from records in order to what the image holds after the last of them. Pure. Per volume a list of
 * disjoint changes in ascending order, in which the newest record of every byte won; bytes are views into the
 * records' data, never copies. Costs O(n log n) in the records, whatever the length of their ranges.
 */
import type { BlockChange } from "../block/bulk-write.ts";
import type { VolumeNumber } from "../protocol/ids.ts";
import type { BlockRecord, ClientRecord, ScanContentRecord } from "../protocol/record.ts";
import { isOfClient } from "../protocol/record.ts";

/** Disjoint, ascending changes by volume. Neighbouring ranges of zeroes are one change. */
export type FoldedChanges = ReadonlyMap<VolumeNumber, readonly BlockChange[]>;

/** A record that may change an image. */
export type ImageRecord = ClientRecord | ScanContentRecord;

/** Digests and marks of a scan, and gaps, change nothing; scan content only where the images do not hold it already. */
export function isImageRecord(record: BlockRecord, scanned: "apply" | "held"): record is ImageRecord {
  return record.kind === "scanContent" ? scanned === "apply" : isOfClient(record);
}

/** The bytes that a record writes; null: zeroes. */
export function dataOf(record: ImageRecord): Uint8Array | null {
  return "data" in record ? record.data : null;
}

/** Folds `records`, oldest first. */
export function foldRecords(records: Iterable<ImageRecord>): FoldedChanges {
  const byVolume = new Map<VolumeNumber, ImageRecord[]>();
  for (const record of records) {
    const list = byVolume.get(record.volume);
    if (list === undefined) byVolume.set(record.volume, [record]);
    else list.push(record);
  }
  const folded = new Map<VolumeNumber, readonly BlockChange[]>();
  for (const [volume, list] of byVolume) folded.set(volume, foldVolume(list));
  return folded;
}

/**
 * A sweep over the records by offset. `open` holds the ages (indices) of records that reach beyond the sweep,
 * newest first; the newest one supplies the bytes until it ends or a newer one begins.
 */
function foldVolume(records: readonly ImageRecord[]): readonly BlockChange[] {
  const byOffset = new Uint32Array(records.length);
  for (let age = 0; age < records.length; age += 1) byOffset[age] = age;
  byOffset.sort((a, b) => records[a]!.offset - records[b]!.offset);
  const changes = new ChangeList(records);
  const open = new AgeHeap();
  let at = 0;
  const sweepTo = (end: number) => {
    while (at < end) {
      const age = open.newest;
      if (age === undefined) {
        at = end;
        return;
      }
      const record = records[age]!;
      const recordEnd = record.offset + record.length;
      const upTo = Math.min(recordEnd, end);
      if (upTo > at) {
        changes.take(age, at, upTo);
        at = upTo;
      }
      if (recordEnd <= at) open.dropNewest();
    }
  };
  for (const age of byOffset) {
    sweepTo(records[age]!.offset);
    open.add(age);
  }
  sweepTo(Number.MAX_SAFE_INTEGER);
  return changes.finish();
}

/** Collects ranges in ascending order, joining what comes from one record or reads as zeroes side by side. */
class ChangeList {
  readonly #records: readonly ImageRecord[];
  readonly #changes: BlockChange[] = [];
  #age = -1;
  #start = 0;
  #end = 0;

  constructor(records: readonly ImageRecord[]) {
    this.#records = records;
  }

  take(age: number, start: number, end: number): void {
    if (start === this.#end && (age === this.#age || (this.#zeroes(age) && this.#zeroes(this.#age)))) {
      this.#end = end;
      return;
    }
    this.#close();
    this.#age = age;
    this.#start = start;
    this.#end = end;
  }

  #zeroes(age: number): boolean {
    return age >= 0 && dataOf(this.#records[age]!) === null;
  }

  #close(): void {
    if (this.#age < 0) return;
    const record = this.#records[this.#age]!;
    const offset = this.#start;
    const length = this.#end - offset;
    let data = dataOf(record);
    if (data !== null && length !== record.length) {
      const within = offset - record.offset;
      data = data.subarray(within, within + length);
    }
    this.#changes.push({ offset, length, data });
  }

  finish(): readonly BlockChange[] {
    this.#close();
    return this.#changes;
  }
}

/** Binary heap of ages, the highest (newest) on top. */
class AgeHeap {
  readonly #ages: number[] = [];

  get newest(): number | undefined {
    return this.#ages[0];
  }

  add(age: number): void {
    const ages = this.#ages;
    let index = ages.length;
    ages.push(age);
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (ages[parent]! >= age) break;
      ages[index] = ages[parent]!;
      index = parent;
    }
    ages[index] = age;
  }

  dropNewest(): void {
    const ages = this.#ages;
    const last = ages.pop()!;
    if (ages.length === 0) return;
    let index = 0;
    for (;;) {
      let child = index * 2 + 1;
      if (child >= ages.length) break;
      if (child + 1 < ages.length && ages[child + 1]! > ages[child]!) child += 1;
      if (ages[child]! <= last) break;
      ages[index] = ages[child]!;
      index = child;
    }
    ages[index] = last;
  }
}
