/**
 * Many changes of one device in one call: what applying a run of frames comes down to. Types and the question
 * whether a device takes them. A device without it is written piece by piece through `write` and `zero`.
 */
import type { BlockDevice } from "./device.ts";

/** One disjoint range and what it holds afterwards. */
export interface BlockChange {
  readonly offset: number;
  readonly length: number;
  /** `length` bytes, or null: the range reads as zeroes and may be freed. */
  readonly data: Uint8Array | null;
}

/** Every change below this offset has been made; it never falls. */
export type OnWritten = (offset: number) => void;

export interface BulkWritable {
  /**
   * Applies disjoint changes in any order. The device may read their data until the promise settles. Nothing is
   * durable before `flush`. After a rejection any part of the changes may have been made; making them again is
   * harmless. `onWritten` is told, while it goes on, below which offset all of the changes have been made; they must ascend
   * for it, and nothing is told any more from the first failure on.
   */
  writeChanges(changes: readonly BlockChange[], onWritten?: OnWritten): Promise<void>;
}

export function isBulkWritable(device: BlockDevice): device is BlockDevice & BulkWritable {
  return "writeChanges" in device && typeof device.writeChanges === "function";
}
