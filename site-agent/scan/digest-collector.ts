/**
 * Collects the digests of a scan, each still watched, and puts them into the write order together: an idle group's check then
 * costs one small batch a second and not one for each chunk. Owns the watches of what it holds. What was spoiled meanwhile is
 * not put but given back, to be read again.
 */
import { strict as assert } from "node:assert";
import type { Sequence, VolumeNumber } from "../../protocol/ids.ts";
import type { DigestLevel, ScanDigestRecord } from "../../protocol/record.ts";
import { scanChunkBytes } from "../../protocol/scan-digest.ts";
import type { Clock, Timer } from "../../runtime/clock.ts";
import type { Entrance } from "../write-path/entrance.ts";
import type { Watch } from "./extent-watch.ts";

/** Digests wait at most this long for others, ms. */
export const collectDigestsMs = 1_000;
/** Chunks with digests that wait; with `chunkRate` of 64 MiB/s it is what a second brings. */
export const collectedChunksMax = 64;

/** The digests of one chunk: its own, or those of its leaves. */
export interface Digested {
  readonly level: DigestLevel;
  readonly volume: VolumeNumber;
  /** Number of the chunk in its volume. */
  readonly chunk: number;
  /** Bytes of the chunk. */
  readonly length: number;
  readonly digests: Uint8Array;
  readonly watch: Watch;
  /** Reads that it took so far. */
  readonly reads: number;
}

/** A digest record that is on its way: of `count` chunks from `chunk` on; one when it is of leaves. */
export interface PlacedDigests {
  readonly level: DigestLevel;
  readonly volume: VolumeNumber;
  readonly chunk: number;
  readonly count: number;
  readonly bytes: number;
  readonly sequence: Promise<Sequence>;
}

export interface CollectorWorld {
  readonly entrance: Entrance;
  readonly clock: Clock;
  readonly placed: (record: PlacedDigests) => void;
  /** To be read again. */
  readonly spoiled: (digested: Digested) => void;
}

export class DigestCollector {
  readonly #world: CollectorWorld;
  #collected: Digested[] = [];
  #timer: Timer | null = null;
  /** Requests of clients when the last digest came. */
  #requestsBefore: number;

  constructor(world: CollectorWorld) {
    this.#world = world;
    this.#requestsBefore = world.entrance.requests;
  }

  /**
   * Takes over the watch. One that holds is put at once: a writer may be waiting for it. So is everything while clients write:
   * the record goes along with theirs, and what waits is spoiled by them and read again.
   */
  add(digested: Digested): void {
    this.#collected.push(digested);
    const { requests } = this.#world.entrance;
    const clientsWrite = requests > this.#requestsBefore;
    this.#requestsBefore = requests;
    const isFull = this.#collected.length >= collectedChunksMax;
    if (digested.watch.manner === "hold" || isFull || clientsWrite) this.flush();
    else this.#timer ??= this.#world.clock.after(collectDigestsMs, () => this.flush());
  }

  /** Puts all that is not spoiled into the queue, before this returns. */
  flush(): void {
    this.#timer?.cancel();
    this.#timer = null;
    const collected = this.#collected;
    this.#collected = [];
    const sound = collected.filter(({ watch }) => !watch.spoiled);
    const { entrance, placed, spoiled } = this.#world;
    const records = joined(sound).map((run) => {
      const record = recordOf(run);
      const { level, volume, chunk } = run[0]!;
      const bytes = record.digests.byteLength;
      return { level, volume, chunk, count: run.length, bytes, sequence: entrance.put(record) };
    });
    for (const { watch } of collected) entrance.release(watch);
    for (const record of records) placed(record);
    for (const digested of collected) if (digested.watch.spoiled) spoiled(digested);
  }

  /** Gives up what is collected. */
  drop(): void {
    this.#timer?.cancel();
    this.#timer = null;
    for (const { watch } of this.#collected.splice(0)) this.#world.entrance.release(watch);
  }
}

/** Neighbouring chunks of one volume in one record; leaves of each chunk in one of their own. */
function joined(digests: readonly Digested[]): Digested[][] {
  const ordered = [...digests].sort((a, b) => a.volume - b.volume || a.chunk - b.chunk);
  const runs: Digested[][] = [];
  for (const digested of ordered) {
    const run = runs.at(-1);
    const last = run?.at(-1);
    if (
      last !== undefined &&
      digested.level === "chunk" &&
      last.level === "chunk" &&
      last.volume === digested.volume &&
      last.chunk + 1 === digested.chunk
    )
      run!.push(digested);
    else runs.push([digested]);
  }
  return runs;
}

function recordOf(run: readonly Digested[]): ScanDigestRecord {
  const { level, volume, chunk } = run[0]!;
  const length = run.reduce((sum, digested) => sum + digested.length, 0);
  assert(run.length <= collectedChunksMax, "a record holds at most what was collected");
  return {
    kind: "scanDigest",
    level,
    volume,
    offset: chunk * scanChunkBytes,
    length,
    digests: Buffer.concat(run.map(({ digests }) => digests)),
  };
}
