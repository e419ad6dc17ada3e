/**
 * Reads before-images through and tells which are damaged, by volume and blocks. Changes nothing, and judges neither
 * how sets join nor what the index says. As fast as the caller lets it, and with one chunk in memory.
 */
import type { Sequence, VolumeNumber } from "../../protocol/ids.ts";
import { errorCode } from "../../runtime/errors.ts";
import { chunkAlignBytes } from "./chunk.ts";
import type { ChunkPlace, Segments } from "./segments.ts";

/** Damaged chunks that are listed; more say no more about what to do. */
export const damagedChunksMax = 1000;

export interface BlockRange {
  readonly volume: VolumeNumber;
  readonly first: number;
  readonly blocks: number;
}

export interface DamagedChunk {
  readonly place: ChunkPlace;
  /** What its head says; undefined when the head itself is damaged: anything may have stood there. */
  readonly set: { readonly first: Sequence; readonly last: Sequence } | undefined;
  readonly ranges: readonly BlockRange[];
}

export interface VerifyProgress {
  readonly chunks: number;
  /** Of the segments, as far as they have been read. */
  readonly bytes: number;
  readonly bytesTotal: number;
}

export interface VerifyReport extends VerifyProgress {
  readonly damaged: readonly DamagedChunk[];
  /** There are more than the list holds. */
  readonly isCut: boolean;
}

/** What is to be read: whole sets, as they stood when the list was made. */
export interface VerifyPart {
  readonly number: number;
  readonly bytes: number;
}

/**
 * `onProgress` is waited for behind each chunk. Segments that are given back or cut meanwhile are passed over.
 * OperationalError `HISTORY_FAILED` when a segment cannot be read.
 */
export async function verifySegments(
  segments: Segments,
  parts: readonly VerifyPart[],
  onProgress: (progress: VerifyProgress) => Promise<void> | void,
): Promise<VerifyReport> {
  const bytesTotal = parts.reduce((sum, { bytes }) => sum + bytes, 0);
  const damaged: DamagedChunk[] = [];
  let found = 0;
  let chunks = 0;
  let before = 0;
  const isThere = (number: number, end: number): boolean =>
    segments.list.some((segment) => segment.number === number && segment.bytes >= end);
  const report = (chunk: DamagedChunk): void => {
    found += 1;
    if (damaged.length < damagedChunksMax) damaged.push(chunk);
  };
  for (const { number, bytes } of parts) {
    let isInDamage = false;
    for (let offset = 0; offset < bytes && isThere(number, bytes); ) {
      const place = { segment: number, offset };
      try {
        const chunk = await segments.chunkAt(place);
        if (chunk === undefined) {
          // Where the next chunk begins, its head would have said: it is looked for, sector by sector.
          if (!isInDamage && isThere(number, bytes)) report({ place, set: undefined, ranges: [] });
          isInDamage = true;
          offset += chunkAlignBytes;
          continue;
        }
        isInDamage = false;
        chunks += 1;
        if (!(await isWhole(segments, place)) && isThere(number, bytes)) {
          const { first, position, runs } = chunk.head;
          const ranges = runs.map((run) => ({ volume: run.volume, first: run.first, blocks: run.blocks }));
          report({ place, set: { first, last: position.sequence }, ranges });
        }
        offset += chunk.bytes;
      } catch (error) {
        // A segment that was given back while it was read is not missed.
        if (isThere(number, bytes)) throw error;
      }
      await onProgress({ chunks, bytes: before + Math.min(offset, bytes), bytesTotal });
    }
    before += bytes;
  }
  return { chunks, bytes: before, bytesTotal, damaged, isCut: found > damaged.length };
}

async function isWhole(segments: Segments, place: ChunkPlace): Promise<boolean> {
  try {
    await segments.read(place);
    return true;
  } catch (error) {
    if (errorCode(error) === "HISTORY_DAMAGED") return false;
    throw error;
  }
}
