/**
 * Reads before-images through and tells which are damaged, by volume and blocks. Changes nothing, and judges neither
 * how sets join nor what the index says. As fast as the caller lets it, and with one chunk in memory.
 */
import type { Sequence } from "../../protocol/ids.ts";
import { errorCode, OperationalError } from "../../runtime/errors.ts";
import type { BlockRange } from "./block-index.ts";
import { chunkAlignBytes } from "./chunk.ts";
import type { ChunkPlace, Segments, WalkedChunk } from "./segments.ts";

/** Damaged chunks that are listed; more say no more about what to do. */
export const damagedChunksMax = 1000;

/**
 * Where a chunk is damaged. `head`: what it is can only be learnt elsewhere. `blocks`: what it keeps is not what was written.
 * `padding`: between it and the next one; nothing needs these bytes, but the disk did not keep them.
 */
export type DamagedPart = "head" | "blocks" | "padding";

export interface DamagedChunk {
  readonly place: ChunkPlace;
  readonly part: DamagedPart;
  /** Of the chunk, or from `place` on in which no head could be read. */
  bytes: number;
  /** What its head says; undefined when the head itself is damaged and nothing else knows. */
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
    let stretch: DamagedChunk | undefined;
    for (let offset = 0; offset < bytes && isThere(number, bytes); ) {
      const place = { segment: number, offset };
      try {
        const chunk = await headAt(segments, place);
        if (chunk === undefined) {
          // Where the next chunk begins, its head would have said: it is looked for, sector by sector.
          if (stretch === undefined) {
            stretch = { place, part: "head", bytes: 0, set: undefined, ranges: [] };
            if (isThere(number, bytes)) report(stretch);
          }
          stretch.bytes += chunkAlignBytes;
          offset += chunkAlignBytes;
          continue;
        }
        stretch = undefined;
        chunks += 1;
        const part = await damagedPart(segments, chunk);
        if (part !== undefined && isThere(number, bytes)) {
          const { first, position, runs } = chunk.head;
          const ranges = runs.map((run) => ({ volume: run.volume, first: run.first, blocks: run.blocks }));
          report({ place, part, bytes: chunk.bytes, set: { first, last: position.sequence }, ranges });
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

/** Sectors that the disk cannot read are damage like any other; what else keeps a file from being read is not. */
function isSegmentUnreadable(error: unknown): boolean {
  return error instanceof OperationalError && errorCode(error.cause) === "EIO";
}

async function headAt(segments: Segments, place: ChunkPlace): Promise<WalkedChunk | undefined> {
  try {
    return await segments.chunkAt(place);
  } catch (error) {
    if (isSegmentUnreadable(error)) return undefined;
    throw error;
  }
}

async function damagedPart(segments: Segments, chunk: WalkedChunk): Promise<DamagedPart | undefined> {
  try {
    await segments.read(chunk.place);
  } catch (error) {
    if (errorCode(error) === "HISTORY_DAMAGED" || isSegmentUnreadable(error)) return "blocks";
    throw error;
  }
  return (await segments.isPaddingZero(chunk)) ? undefined : "padding";
}
