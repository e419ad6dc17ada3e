/**
 * Reads a range so that what was read is its content at the number that its record takes: watched while it is read and until
 * the record stands in the queue, and read again when something came between. Owns one watch at a time; hands it over, with
 * the content, to `place`, which ends it. Never lets the writer wait longer than `holdMsMax` at a stretch.
 */
import type { VolumeNumber } from "../../protocol/ids.ts";
import type { Entrance } from "../write-path/entrance.ts";
import type { Watch, WatchedRange } from "./extent-watch.ts";
import type { StopSignal } from "./stop-signal.ts";
import { interrupted } from "./stop-signal.ts";

/** Reads that may be spoiled before the watch holds: a range that is written all the time would never be read else. */
export const readsUntilHold = 3;
/** A read whose watch holds is given up after this, ms, and begun anew: a disk that hangs must not stop the writer. */
const holdMsMax = 1_000;

export interface SequencedWorld {
  readonly entrance: Entrance;
  /** Newest content, what has not reached the image too. The bytes never change. */
  readonly read: (volume: VolumeNumber, offset: number, length: number) => Promise<Uint8Array>;
  readonly stop: StopSignal;
}

/**
 * Calls `place` once, at a moment at which a record that it puts into the queue agrees with `content`; it must put that
 * record and release `watch` before it returns, or keep the watch and look at `spoiled` when it does. A watch that holds is
 * to be released at once. `readsBefore`: reads of this range that were spoiled already; `place` is told of all of them.
 * False: stopped before that. Errors are those of the read, and of a queue that was emptied.
 */
export async function readAtSequence(
  { entrance, read, stop }: SequencedWorld,
  range: WatchedRange,
  readsBefore: number,
  place: (content: Uint8Array, watch: Watch, reads: number) => void,
): Promise<boolean> {
  for (let reads = readsBefore + 1; !stop.stopped; reads += 1) {
    const holds = reads > readsUntilHold;
    const watch = entrance.watch(range, holds ? "hold" : "spoil");
    let placed = false;
    try {
      const content = await stop.or(settled(entrance, read, range), holds ? holdMsMax : undefined);
      if (content === interrupted || watch.spoiled) continue;
      placed = true;
      place(content, watch, reads);
      return true;
    } finally {
      if (!placed) entrance.release(watch);
    }
  }
  return false;
}

/** What came before the watch is found by the read only once it is in the journal. */
async function settled(
  entrance: Entrance,
  read: SequencedWorld["read"],
  { volume, start, end }: WatchedRange,
): Promise<Uint8Array> {
  await entrance.whenJournalled();
  return read(volume, start, end - start);
}
