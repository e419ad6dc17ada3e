/**
 * A quiet machine, which a latency's p99 needs to say anything of whoever is measured. On a virtual one the host gives the
 * processors to others at times; Linux counts that as `steal`. And what ran before may have left work behind.
 */
import { readFile } from "node:fs/promises";
import { setTimeout as pause } from "node:timers/promises";
import { mustRun } from "../test/support/child.ts";

/** With more than this share of the processors' time taken, a measurement is made again. */
export const stolenMax = 0.01;
/** So often at most; the calmest is taken then, and the report says so. */
const attemptsMax = 5;

/** A disk rests when so little is written in a second, bytes: a marker, a line of a log. */
const restBytesMax = 256 * 1024;
const restAwaitedMs = 60_000;

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

/**
 * Writes back what the file system of `folder` still holds, and settles when nobody has written to any disk for a second: a store
 * goes on compacting long after its clients have left.
 */
export async function diskRests(folder: string): Promise<void> {
  await mustRun("sync", ["--file-system", folder]);
  const until = performance.now() + restAwaitedMs;
  for (let before = await bytesWritten(); performance.now() < until; ) {
    await pause(1_000);
    const now = await bytesWritten();
    if (now - before <= restBytesMax) return;
    before = now;
  }
  throw new Error(`something writes to the disk on and on; waited ${restAwaitedMs / 1_000} s`);
}

/** By all block devices since the machine started; Linux counts sectors of 512 bytes, Documentation/admin-guide/iostats. */
async function bytesWritten(): Promise<number> {
  const lines = (await readFile("/proc/diskstats", "utf8")).trim().split("\n");
  return lines.reduce((sum, line) => sum + Number(line.trim().split(/\s+/)[9]) * 512, 0);
}
