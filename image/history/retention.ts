/**
 * Which segments of before-images may be given back. Pure. Decides over whole segments, the oldest first; never the
 * newest, and never one that a point somebody holds needs.
 */
import type { Sequence } from "../../protocol/ids.ts";
import type { Segment } from "./segments.ts";

export interface RetentionLimits {
  /** A point this old, ms, must still be openable. */
  readonly windowMs: number;
  readonly bytesMax: number;
}

export interface RetentionAnswer {
  /** How many of the oldest segments may go. */
  readonly segments: number;
  /** The oldest point that is left once they are gone; undefined when none goes. */
  readonly oldest: Sequence | undefined;
  /** The history is longer than its limit, or has 80 % of it, and the next segment is kept by a point that is held. */
  readonly heldBeyond: "80%" | "100%" | undefined;
}

/**
 * `held`: points that are pinned or open. A point needs every set that begins behind it, so a segment is needed by
 * points before the end of its last set, which is where the next segment begins. The label of that next segment
 * stands for the time of this end: it is later, so a point is rather kept too long.
 */
export function decideRetention(
  segments: readonly Segment[],
  held: readonly Sequence[],
  limits: RetentionLimits,
  nowMs: number,
): RetentionAnswer {
  const oldestHeld = held.length === 0 ? Number.POSITIVE_INFINITY : Math.min(...held);
  let bytes = segments.reduce((sum, segment) => sum + segment.bytes, 0);
  let count = 0;
  let isHeld = false;
  for (; count < segments.length - 1; count += 1) {
    const next = segments[count + 1]!;
    isHeld = oldestHeld < next.from - 1;
    const unwanted = bytes > limits.bytesMax || next.timeMs < nowMs - limits.windowMs;
    if (isHeld || !unwanted) break;
    bytes -= segments[count]!.bytes;
  }
  const oldest = count === 0 ? undefined : segments[count]!.from - 1;
  const share = bytes / limits.bytesMax;
  const heldBeyond = !isHeld || share < 0.8 ? undefined : share < 1 ? "80%" : "100%";
  return { segments: count, oldest, heldBeyond };
}
