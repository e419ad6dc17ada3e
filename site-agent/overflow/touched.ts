/** What a record of the order changes: the range that a standby without the record may differ in. Pure. */
import type { BlockRecord } from "../../protocol/record.ts";

export interface TouchedRange {
  readonly volume: number;
  readonly start: number;
  readonly end: number;
}

/** Null: it changes no block anywhere. */
export function touchedBy(record: BlockRecord): TouchedRange | null {
  switch (record.kind) {
    case "write":
    case "zeroes":
    case "trim":
    // At the standby it is a write: it was put into the order because the standby differs there.
    case "scanContent":
      return { volume: record.volume, start: record.offset, end: record.offset + record.length };
    case "scanDigest":
    case "scanMark":
    case "gap":
    case "volumeChange":
      return null;
  }
}
