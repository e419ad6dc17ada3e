/**
 * Does a scan's work on one chunk: reads it at a sequence and puts its digests or its content into the write order. One read
 * at a time; a chunk's digests, some 0.9 ms, are the longest that it keeps the main thread. Decides nothing.
 */
import type { Extent } from "../../block/device.ts";
import type { Sequence, VolumeNumber } from "../../protocol/ids.ts";
import { blockBytes } from "../../protocol/ids.ts";
import type { DigestLevel, ScanContentRecord } from "../../protocol/record.ts";
import { recordBytes } from "../../protocol/record.ts";
import { chunkDigest, hasBit, leafDigests, scanChunkBytes } from "../../protocol/scan-digest.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Entrance } from "../write-path/entrance.ts";
import type { Digested, PlacedDigests } from "./digest-collector.ts";
import { DigestCollector } from "./digest-collector.ts";
import { readAtSequence } from "./read-at-sequence.ts";
import type { StopSignal } from "./stop-signal.ts";

/** One chunk of a volume. */
export interface ChunkPlace {
  readonly volume: VolumeNumber;
  /** Number of the chunk in its volume. */
  readonly chunk: number;
}

/** Content records of one chunk that are on their way. */
export interface PlacedContent extends ChunkPlace {
  /** Bytes of the records. */
  readonly bytes: number;
  /** Number of the last one; null: there was nothing to put. */
  readonly sequence: Promise<Sequence | null>;
}

export interface ChunkReaderWorld {
  readonly entrance: Entrance;
  readonly clock: Clock;
  readonly stop: StopSignal;
  readonly sizeBytes: (volume: VolumeNumber) => number;
  readonly read: (volume: VolumeNumber, offset: number, length: number) => Promise<Uint8Array>;
  readonly extents: (volume: VolumeNumber, offset: number, length: number) => Promise<Extent[]>;
  readonly digestsPlaced: (record: PlacedDigests) => void;
  readonly contentPlaced: (records: PlacedContent) => void;
  /** Digests that were spoiled while they were collected: to be made again, knowing how often it failed. */
  readonly spoiled: (digested: Digested) => void;
}

export class ChunkReader {
  readonly #world: ChunkReaderWorld;
  readonly #collector: DigestCollector;

  constructor(world: ChunkReaderWorld) {
    this.#world = world;
    this.#collector = new DigestCollector({
      entrance: world.entrance,
      clock: world.clock,
      placed: world.digestsPlaced,
      spoiled: world.spoiled,
    });
  }

  /** `reads`: of this chunk that were spoiled before. Settles when the digest is collected or on its way. */
  async digest(level: DigestLevel, place: ChunkPlace, reads: number): Promise<void> {
    const { start, end } = this.#range(place);
    await readAtSequence(
      this.#world,
      { volume: place.volume, start, end },
      reads,
      (content, watch, taken) => {
        const leaves = leafDigests(content);
        const digests = level === "leaf" ? leaves : chunkDigest(leaves);
        this.#collector.add({ ...place, level, length: end - start, digests, watch, reads: taken });
      },
    );
  }

  /**
   * Content of the leaves with a bit in `leaves`, zeroes too; null: of all that is allocated and not zero, for a standby that
   * was made from nothing and holds every write of this history: what was never written reads as zeroes there as well.
   */
  async content(place: ChunkPlace, leaves: Uint8Array | null): Promise<void> {
    const { volume } = place;
    const { start, end } = this.#range(place);
    const span = leaves === null ? await this.#allocated(volume, start, end) : markedSpan(leaves, start, end);
    if (span === null) {
      this.#world.contentPlaced({ ...place, bytes: 0, sequence: Promise.resolve(null) });
      return;
    }
    await readAtSequence(this.#world, { volume, ...span }, 0, (content, watch) => {
      const records = contentRecords(volume, span.start, content, (at, bytes) =>
        leaves === null ? (isZero(bytes) ? "skip" : "data") : kindOf(leaves, at - start, bytes),
      );
      const { entrance } = this.#world;
      const sequences = records.map((record) => entrance.put(record));
      entrance.release(watch);
      this.#world.contentPlaced({
        ...place,
        bytes: records.reduce((sum, record) => sum + recordBytes(record), 0),
        sequence: Promise.all(sequences).then((all) => all.at(-1) ?? null),
      });
    });
  }

  /** What is collected goes into the queue now: nothing more comes for the moment. */
  flush(): void {
    this.#collector.flush();
  }

  /** Ends the watches of what is collected; nothing of it is put. */
  drop(): void {
    this.#collector.drop();
  }

  #range({ volume, chunk }: ChunkPlace): { start: number; end: number } {
    const start = chunk * scanChunkBytes;
    return { start, end: Math.min(start + scanChunkBytes, this.#world.sizeBytes(volume)) };
  }

  /** From the first to the last byte that may not be zero. */
  async #allocated(volume: VolumeNumber, start: number, end: number) {
    let first: number | null = null;
    let last = start;
    for (let at = start; at < end; ) {
      const extents = await this.#world.extents(volume, at, end - at);
      const before = at;
      for (const { length, zero } of extents) {
        const stop = Math.min(end, at + length);
        if (!zero) {
          first ??= at;
          last = stop;
        }
        at = stop;
      }
      // A device that says nothing of a range is asked for its content.
      if (at === before) return { start: first ?? at, end };
    }
    if (first === null) return null;
    return {
      start: Math.floor(first / blockBytes) * blockBytes,
      end: Math.min(end, Math.ceil(last / blockBytes) * blockBytes),
    };
  }
}

/** From the first marked leaf to the end of the last. */
function markedSpan(leaves: Uint8Array, start: number, end: number) {
  const count = Math.ceil((end - start) / blockBytes);
  let first = 0;
  while (first < count && !hasBit(leaves, first)) first += 1;
  if (first === count) return null;
  let last = count - 1;
  while (!hasBit(leaves, last)) last -= 1;
  return { start: start + first * blockBytes, end: Math.min(end, start + (last + 1) * blockBytes) };
}

type LeafKind = "data" | "zeroes" | "skip";

function kindOf(leaves: Uint8Array, within: number, bytes: Uint8Array): LeafKind {
  if (!hasBit(leaves, within / blockBytes)) return "skip";
  return isZero(bytes) ? "zeroes" : "data";
}

/** One record for each run of leaves of one kind. */
function contentRecords(
  volume: VolumeNumber,
  start: number,
  content: Uint8Array,
  kind: (offset: number, leaf: Uint8Array) => LeafKind,
): ScanContentRecord[] {
  const records: ScanContentRecord[] = [];
  let runStart = 0;
  let run: LeafKind = "skip";
  const close = (at: number) => {
    if (run !== "skip" && at > runStart) {
      const data = run === "data" ? content.subarray(runStart, at) : null;
      records.push({
        kind: "scanContent",
        volume,
        offset: start + runStart,
        length: at - runStart,
        data,
      });
    }
    runStart = at;
  };
  for (let at = 0; at < content.byteLength; at += blockBytes) {
    const next = kind(start + at, content.subarray(at, at + blockBytes));
    if (next !== run) close(at);
    run = next;
  }
  close(content.byteLength);
  return records;
}

const zeroes = Buffer.alloc(blockBytes);

function isZero(leaf: Uint8Array): boolean {
  return zeroes.compare(leaf, 0, leaf.byteLength, 0, leaf.byteLength) === 0;
}
