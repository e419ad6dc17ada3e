/**
 * The frames of the store and of the write-ahead halves as one history, and how they move from there to the store. Pure.
 * Proves nothing of them but that a frame which is in both is one frame.
 */
import type { Sequence } from "../protocol/ids.ts";
import { journalDamaged } from "./journal-errors.ts";
import type { StoredFrame } from "./store.ts";

/** Frames put into the store in one batch: 256 at most, so that a batch of small ones holds the main thread for 1 ms. */
const batchFramesMax = 256;
/** Bytes of their values: about what one frame of the largest kind is; a longer one goes alone. */
const batchBytesMax = 1024 * 1024;

export interface MergedFrame extends StoredFrame {
  /** The store has it. */
  readonly stored: boolean;
}

/**
 * Both by rising sequence, in one order; `ahead` may begin below `head`, up to which everything was trimmed or dropped,
 * durably, and is no part of the journal any more. JOURNAL_DAMAGED when a frame in both is not the same in both.
 */
export async function* mergedFrames(
  stored: AsyncIterable<StoredFrame>,
  ahead: readonly StoredFrame[],
  head: Sequence,
): AsyncGenerator<MergedFrame> {
  const waiting = ahead.filter(({ first }) => first > head);
  let next = 0;
  for await (const frame of stored) {
    for (; next < waiting.length && waiting[next]!.first < frame.first; next += 1)
      yield { ...waiting[next]!, stored: false };
    if (waiting[next]?.first === frame.first) {
      requireSame(frame, waiting[next]!);
      next += 1;
    }
    yield { ...frame, stored: true };
  }
  for (; next < waiting.length; next += 1) yield { ...waiting[next]!, stored: false };
}

/** Frames of one sequence are one frame, wherever they lie. */
export function requireSame(frame: StoredFrame, other: StoredFrame): void {
  if (Buffer.compare(frame.value, other.value) !== 0) throw journalDamaged("ahead-differs", frame.first);
}

/** The first of `frames` that go into the store together; at least one where there is one. */
export function batchOf(frames: Iterable<StoredFrame>): StoredFrame[] {
  const batch: StoredFrame[] = [];
  let bytes = 0;
  for (const frame of frames) {
    bytes += frame.value.byteLength;
    if (batch.length > 0 && (batch.length === batchFramesMax || bytes > batchBytesMax)) break;
    batch.push(frame);
  }
  return batch;
}
