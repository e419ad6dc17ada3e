/**
 * Cuts frames at record borders: the chain is per record, so any re-packing of a history verifies. Pure. Used when a
 * standby wants a sequence inside a frame, and when a frame is too long for a slow line. It never changes a record, and
 * never cuts a gap: nothing stands at a sequence inside it.
 */
import { strict as assert } from "node:assert";
import { ChainWalker } from "./chain.ts";
import type { Frame } from "./frame.ts";
import { gapOf } from "./frame.ts";
import type { Sequence } from "./ids.ts";
import { recordBytes, recordDataBytes } from "./record.ts";

/**
 * The part of `frame` from record `first` to record `last`, both inclusive and inside the frame. Body and records are
 * views of the given frame; times are kept, the total of data bytes is that at `last`. The whole range returns the frame
 * itself. Costs a walk of the chain up to the cut.
 */
export function sliceFrame(frame: Frame, first: Sequence, last: Sequence): Frame {
  assert(
    first >= frame.first && last <= frame.last && first <= last,
    `slice ${first}..${last} of ${frame.first}..${frame.last}`,
  );
  if (first === frame.first && last === frame.last) return frame;
  assert(gapOf(frame) === undefined, `slice ${first}..${last} of the gap ${frame.first}..${frame.last}`);
  const walker = new ChainWalker(frame.chainBefore);
  let chainBefore = frame.chainBefore;
  let chainAfter = frame.chainAfter;
  let at = 0;
  let start = 0;
  let end = frame.body.byteLength;
  let dataBytesBehind = 0;
  for (let index = 0; index < frame.count; index += 1) {
    const record = frame.records[index]!;
    const sequence = frame.first + index;
    if (sequence === first) {
      start = at;
      chainBefore = walker.value;
    }
    const length = recordBytes(record);
    if (sequence <= last) walker.advance(frame.body.subarray(at, at + length));
    else dataBytesBehind += recordDataBytes(record);
    at += length;
    if (sequence === last) {
      end = at;
      chainAfter = walker.value;
    }
  }
  return {
    lineage: frame.lineage,
    first,
    count: last - first + 1,
    last,
    openedAtMs: frame.openedAtMs,
    closedAtMs: frame.closedAtMs,
    dataBytesTotal: frame.dataBytesTotal - dataBytesBehind,
    chainBefore,
    chainAfter,
    body: frame.body.subarray(start, end),
    records: frame.records.slice(first - frame.first, last - frame.first + 1),
  };
}

/** The part from `from` to the end: what a standby that stopped inside this frame still needs. */
export function splitFrame(frame: Frame, from: Sequence): Frame {
  return sliceFrame(frame, from, frame.last);
}
