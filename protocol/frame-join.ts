/**
 * Joins frames into longer ones: the chain is per record, so any re-packing of a history verifies. Pure. A database
 * that syncs after every write makes frames of one record; on the line and in the intake log their headers, two thirds
 * of which no codec shrinks, and one put for each would cost more than their content. It never changes a record, and leaves
 * gaps and changes of the volume table alone.
 */
import type { Frame } from "./frame.ts";
import { frameBodyBytesTarget, gapOf, volumeChangeOf } from "./frame.ts";

/**
 * The same records in as few frames as their target length allows; `frames` are consecutive. Frames that stand alone
 * are returned as they are, joined ones have a body of their own.
 */
export function joinFrames(frames: readonly Frame[]): Frame[] {
  const joined: Frame[] = [];
  let run: Frame[] = [];
  let bytes = 0;
  let isBehindLone = false;
  for (const frame of frames) {
    const isLone = gapOf(frame) !== undefined || volumeChangeOf(frame) !== undefined;
    if (run.length > 0 && (isLone || isBehindLone || bytes + frame.body.byteLength > frameBodyBytesTarget)) {
      joined.push(joinRun(run));
      run = [];
      bytes = 0;
    }
    run.push(frame);
    bytes += frame.body.byteLength;
    isBehindLone = isLone;
  }
  if (run.length > 0) joined.push(joinRun(run));
  return joined;
}

function joinRun(run: readonly Frame[]): Frame {
  const first = run[0]!;
  const last = run[run.length - 1]!;
  if (run.length === 1) return first;
  return {
    lineage: first.lineage,
    first: first.first,
    count: last.last - first.first + 1,
    last: last.last,
    openedAtMs: first.openedAtMs,
    closedAtMs: last.closedAtMs,
    dataBytesTotal: last.dataBytesTotal,
    chainBefore: first.chainBefore,
    chainAfter: last.chainAfter,
    body: Buffer.concat(run.map((frame) => frame.body)),
    records: run.flatMap((frame) => frame.records),
  };
}
