/**
 * Looks at an open frame log for an operator: figures, and a proof that every stored frame is still the history it
 * was. Reads the store itself, not the memory tail. Changes nothing and repairs nothing.
 */
import assert from "node:assert/strict";
import type { JournalStats, JournalVerdict } from "../protocol/admin.ts";
import type { Sequence } from "../protocol/ids.ts";
import { bytesEqual, bytesToHex } from "../protocol/ids.ts";
import { errorCode, OperationalError } from "../runtime/errors.ts";
import { ContinuityCheck } from "./continuity.ts";
import type { FrameLog } from "./frame-log.ts";
import { journalDamaged } from "./journal-errors.ts";
import { LevelFrameLog } from "./level-frame-log.ts";

/** Frames between two calls of the progress callback. */
const progressEveryFrames = 64;

export type FrameLogStats = Omit<JournalStats, "group" | "epoch">;
export type FrameLogVerdict = Omit<JournalVerdict, "group">;

export interface VerifyProgress {
  /** Last sequence found sound, and where the verification ends. */
  readonly sequence: Sequence;
  readonly end: Sequence;
}

export function journalStats(log: FrameLog): FrameLogStats {
  const store = levelLog(log);
  return {
    head: log.head.sequence,
    tail: log.tail.sequence,
    durable: log.durable.sequence,
    frames: store.frameCount,
    bytes: log.bytes,
    maxBytes: store.bytesMax,
  };
}

/**
 * Reads every stored frame up to the tail at the time of the call: CRC, chain, density, counters, lineage. Frames
 * appended or trimmed meanwhile do no harm. A problem is in the verdict; it throws only when it cannot read.
 */
export async function verifyFrameLog(
  log: FrameLog,
  onProgress?: (progress: VerifyProgress) => void,
): Promise<FrameLogVerdict> {
  const store = levelLog(log);
  const head = store.head;
  const tail = log.tail;
  const check = new ContinuityCheck(store.lineage, head);
  let frames = 0;
  let bytes = 0;
  const verdict = (problem: FrameLogVerdict["problem"]): FrameLogVerdict => ({
    sound: problem === null,
    first: head.sequence + 1,
    last: check.position.sequence,
    frames,
    bytes,
    chain: bytesToHex(check.position.chain),
    problem,
  });
  try {
    for await (const { first, value } of store.storedFrames()) {
      if (first > tail.sequence) break;
      const frame = check.take(first, value);
      frames += 1;
      bytes += value.byteLength;
      if (frames % progressEveryFrames === 0) onProgress?.({ sequence: frame.last, end: tail.sequence });
    }
    if (check.position.sequence !== tail.sequence)
      throw journalDamaged("hole", check.position.sequence + 1, { tail: tail.sequence });
    if (!bytesEqual(check.position.chain, tail.chain)) throw journalDamaged("tail-chain", tail.sequence);
  } catch (error) {
    if (!(error instanceof OperationalError) || errorCode(error) !== "JOURNAL_DAMAGED") throw error;
    const sequence = error.details["sequence"];
    return verdict({
      code: error.code,
      message: error.message,
      sequence: typeof sequence === "number" ? sequence : null,
    });
  }
  onProgress?.({ sequence: tail.sequence, end: tail.sequence });
  return verdict(null);
}

function levelLog(log: FrameLog): LevelFrameLog {
  assert(log instanceof LevelFrameLog, "a log that openFrameLog made");
  return log;
}
