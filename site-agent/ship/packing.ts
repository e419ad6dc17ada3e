/**
 * Chooses which records go into one batch: whole frames as far as they fit, cut at record borders where the standby
 * wants a sequence inside a frame or where a frame is too long for the line. Pure; it never reorders or skips a record.
 */
import { strict as assert } from "node:assert";
import { batchRawBytesMax } from "../../protocol/batch.ts";
import type { Frame } from "../../protocol/frame.ts";
import { frameHeaderBytes } from "../../protocol/frame.ts";
import { sliceFrame } from "../../protocol/frame-split.ts";
import type { Sequence } from "../../protocol/ids.ts";
import { recordBytes } from "../../protocol/record.ts";

/**
 * Frames of one batch from `from` on, at most `through`, about `rawBytesTarget` long and never beyond the format's limit.
 * `frames` are consecutive and the first one holds `from`. At least one record is taken, however long it is.
 */
export function packBatch(
  frames: readonly Frame[],
  from: Sequence,
  through: Sequence,
  rawBytesTarget: number,
): Frame[] {
  const target = Math.min(rawBytesTarget, batchRawBytesMax);
  const packed: Frame[] = [];
  let bytes = 0;
  let next = from;
  for (const frame of frames) {
    if (next > through) break;
    assert(
      frame.first <= next && next <= frame.last,
      `frame ${frame.first}..${frame.last} does not hold ${next}`,
    );
    let last = Math.min(frame.last, through);
    const whole = frameHeaderBytes + frame.body.byteLength;
    const room = target - bytes;
    if (whole > room) {
      // Between batches of a fast line frames stay whole; only a frame that exceeds a batch by itself is cut.
      if (packed.length > 0) break;
      last = lastThatFits(frame, next, last, room - frameHeaderBytes);
    }
    packed.push(sliceFrame(frame, next, last));
    bytes += whole;
    next = last + 1;
    if (last < frame.last) break;
  }
  return packed;
}

/** Last sequence of the run from `from` whose records take at most `bodyBytes`; at least `from` itself. */
function lastThatFits(frame: Frame, from: Sequence, through: Sequence, bodyBytes: number): Sequence {
  let bytes = 0;
  let last = from;
  for (let sequence = from; sequence <= through; sequence += 1) {
    bytes += recordBytes(frame.records[sequence - frame.first]!);
    if (bytes > bodyBytes && sequence > from) break;
    last = sequence;
  }
  return last;
}
