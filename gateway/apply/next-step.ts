/**
 * Which of the frames at hand make the next apply step. Pure. A step ends before what makes images incomplete that could
 * be opened. A gap is a step of its own, so that the position before it is a point; so is a change of the volume table, for
 * which the images are opened anew. It never leaves out a record, and never cuts inside a gap.
 */
import type { Frame } from "../../protocol/frame.ts";
import { gapOf, volumeChangeOf } from "../../protocol/frame.ts";
import { sliceFrame } from "../../protocol/frame-split.ts";
import type { Sequence } from "../../protocol/ids.ts";
import { changesIn, type Incomplete } from "../scan/completeness.ts";

/**
 * `frames` are consecutive and the first of them holds `applied + 1`; `state` is what is known of the images' completeness.
 * Nothing behind `limit`, which is `applied` or behind it. Empty only where `limit` is `applied`, or `frames` is.
 */
export function nextStep(
  frames: readonly Frame[],
  applied: Sequence,
  state: Incomplete | null,
  limit: Sequence = Number.MAX_SAFE_INTEGER,
): readonly Frame[] {
  const step: Frame[] = [];
  let next = state;
  for (const whole of frames) {
    const first = Math.max(whole.first, applied + 1);
    if (first > limit) return step;
    // A step may have ended in the middle of a frame, and so may this one.
    const frame = sliceFrame(whole, first, Math.min(whole.last, limit));
    if (gapOf(frame) !== undefined || volumeChangeOf(frame) !== undefined)
      return step.length === 0 ? [frame] : step;
    for (const { sequence, after, isLoss } of changesIn(frame, next)) {
      next = after;
      if (!isLoss || sequence === applied + 1) continue;
      if (sequence > frame.first) step.push(sliceFrame(frame, frame.first, sequence - 1));
      return step;
    }
    step.push(frame);
  }
  return step;
}

/** Whether a step is nothing but content and digests: no gap, change of the volume table or mark of a scan. */
export function changesImagesAlone(frames: readonly Frame[]): boolean {
  return frames.every(
    (frame) =>
      gapOf(frame) === undefined &&
      volumeChangeOf(frame) === undefined &&
      frame.records.every(({ kind }) => kind !== "scanMark"),
  );
}
