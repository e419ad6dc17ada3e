/**
 * Tells a slow program from a machine that was taken away: on a virtual machine the host gives the processors to others at
 * times, and a latency's p99 then says nothing of whoever is measured. Linux counts that time as `steal`.
 */
import { readFile } from "node:fs/promises";

/** With more than this share of the processors' time taken, a measurement is made again. */
export const stolenMax = 0.01;
/** So often at most; the calmest is taken then, and the report says so. */
const attemptsMax = 5;

export interface Calm<T> {
  readonly value: T;
  /** Share of the processors' time that the host took meanwhile. */
  readonly stolen: number;
}

/** `measured`, again while the host takes too much; the calmest of them. `settle` comes before each. */
export async function calmest<T>(
  settle: () => Promise<unknown>,
  measured: () => Promise<T>,
): Promise<Calm<T>> {
  let best: Calm<T> | undefined;
  for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
    await settle();
    const before = await processorTimes();
    const value = await measured();
    const after = await processorTimes();
    const stolen = (after.stolen - before.stolen) / Math.max(1, after.all - before.all);
    if (best === undefined || stolen < best.stolen) best = { value, stolen };
    if (best.stolen <= stolenMax) break;
  }
  return best!;
}

/** Of all processors together, in ticks: fields of /proc/stat's first line, proc(5); guests' time is within user's. */
async function processorTimes(): Promise<{ stolen: number; all: number }> {
  const [line] = (await readFile("/proc/stat", "utf8")).split("\n");
  const times = line!.trim().split(/\s+/).slice(1, 9).map(Number);
  return { stolen: times[7] ?? 0, all: times.reduce((sum, each) => sum + each, 0) };
}
