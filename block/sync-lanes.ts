/**
 * How many image syncs may be under way in this process. Node gives file work four pool threads, which the journal,
 * reads from disk and compression share; a sync of an image may take a second where a client's FLUSH waits for one
 * of a few hundred microseconds. So images never hold more than two of the threads. Waits in order of asking.
 */

const lanes = 2;
let busy = 0;
const waiting: (() => void)[] = [];

/** Runs `sync` as soon as a lane is free; settles as it does. At most one waiter per flush that its caller awaits. */
export async function inSyncLane(sync: () => Promise<void>): Promise<void> {
  if (busy >= lanes) await new Promise<void>((resolve) => waiting.push(resolve));
  else busy += 1;
  try {
    await sync();
  } finally {
    // The lane passes to the next in line without ever being free in between.
    const next = waiting.shift();
    if (next === undefined) busy -= 1;
    else next();
  }
}
