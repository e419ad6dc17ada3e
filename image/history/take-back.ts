/**
 * Writes before-images back into the images: of all sets that end behind a point, the newest first, so that at the end
 * every block holds what it held there. Each is what a block held, not a change of it: writing it twice is harmless.
 * Knows nothing of markers, rows and orders; cuts nothing.
 */
import assert from "node:assert/strict";
import type { BlockChange } from "../../block/bulk-write.ts";
import type { Sequence, VolumeNumber } from "../../protocol/ids.ts";
import { blockBytes } from "../../protocol/ids.ts";
import type { FoldedChanges } from "../fold.ts";
import type { AppliedPosition } from "../marker.ts";
import type { ChunkHead } from "./chunk.ts";
import { damaged } from "./reopen.ts";
import type { ChunkPlace, Segments, WalkedChunk } from "./segments.ts";

/** The images, for who takes them back. */
export interface ImageWrites {
  /** Records up to here may be in the images in part, as the marker says. */
  readonly applyingLast: Sequence;
  /** Undefined: these images do not have it. */
  sizeBytes(volume: VolumeNumber): number | undefined;
  /** Durable: the images hold `position`, or what they held before if that is older, and up to `last` in part. */
  mark(position: AppliedPosition, last: Sequence): Promise<void>;
  write(changes: FoldedChanges): Promise<void>;
  /** Everything written survives power loss when it settles. */
  sync(): Promise<void>;
}

/**
 * Chunks of sets that end behind `sequence`, the newest first, without those of a set under way; holds the heads of one segment.
 * OperationalError `HISTORY_DAMAGED` where chunks do not reach the end of a segment.
 */
export async function* chunksBehind(segments: Segments, sequence: Sequence): AsyncGenerator<WalkedChunk> {
  for (const { number, bytes } of [...segments.ended].reverse()) {
    const found: WalkedChunk[] = [];
    let end = 0;
    let isOldest = false;
    for await (const chunk of segments.walk(number)) {
      if (chunk.place.offset >= bytes) break;
      end = chunk.place.offset + chunk.bytes;
      if (chunk.head.position.sequence > sequence) found.push(chunk);
      else isOldest = true;
    }
    if (end !== bytes) throw damaged(`segment ${number} has no chunk at ${end}`);
    yield* found.reverse();
    if (isOldest) return;
  }
}

/** Reads all that would be written back, before anything is. OperationalError `HISTORY_DAMAGED`. */
export async function verifyBehind(segments: Segments, sequence: Sequence): Promise<void> {
  for await (const { place, head } of chunksBehind(segments, sequence)) {
    await segments.read(place);
    if (lacksBlock(head))
      throw damaged(`a block could not be read when it was replaced, before ${head.position.sequence}`);
  }
}

/** End of the newest set behind `sequence` that lacks a block; 0: none does. Reads heads only. `HISTORY_DAMAGED`. */
export async function lackingBehind(segments: Segments, sequence: Sequence): Promise<Sequence> {
  for await (const { head } of chunksBehind(segments, sequence))
    if (lacksBlock(head)) return head.position.sequence;
  return 0;
}

/** It could not be read when it was replaced. */
export function lacksBlock({ runs }: Pick<ChunkHead, "runs">): boolean {
  return runs.some(({ kind }) => kind === "lost");
}

/** Gives the place where the first of these sets begins; undefined when there is none. Errors of both sides. */
export async function writeBack(
  segments: Segments,
  sequence: Sequence,
  images: ImageWrites,
): Promise<ChunkPlace | undefined> {
  let oldest: ChunkPlace | undefined;
  for await (const { place } of chunksBehind(segments, sequence)) {
    const { head, blocks } = await segments.read(place);
    const changes = changesOf(head, blocks, images);
    // One after the other: an older set's image of a block must be the last one written.
    if (changes.size > 0) await images.write(changes);
    oldest = place;
  }
  return oldest;
}

function changesOf(
  head: ChunkHead,
  blocks: Uint8Array,
  images: Pick<ImageWrites, "sizeBytes">,
): Map<VolumeNumber, BlockChange[]> {
  const changes = new Map<VolumeNumber, BlockChange[]>();
  let at = 0;
  for (const { volume, kind, first, blocks: count } of head.runs) {
    assert(kind !== "lost", "looked for before anything is written back");
    const dataAt = at;
    if (kind === "data") at += count * blockBytes;
    const sizeBytes = images.sizeBytes(volume);
    // One that was not whole where the images were handed over stayed behind: no point that can be opened holds it.
    if (sizeBytes === undefined) continue;
    const offset = first * blockBytes;
    // The last block of a volume may be shorter than others.
    const length = Math.min(count * blockBytes, sizeBytes - offset);
    assert(length > 0, "before-images lie in their volume");
    const data = kind === "zeroes" ? null : blocks.subarray(dataAt, dataAt + length);
    const list = changes.get(volume);
    if (list === undefined) changes.set(volume, [{ offset, length, data }]);
    else list.push({ offset, length, data });
  }
  return changes;
}
