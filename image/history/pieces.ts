/**
 * What is read together of the blocks that a step touches: runs cut into pieces, without what the images have not allocated,
 * and pieces gathered into groups, each the content of one chunk. Asks the images for extents, and reads nothing.
 */
import type { Extent } from "../../block/device.ts";
import type { VolumeNumber } from "../../protocol/ids.ts";
import { blockBytes } from "../../protocol/ids.ts";
import { chunkBlocksMax, chunkRunsMax } from "./chunk.ts";
import type { TouchedRun } from "./touched.ts";

/** What the images have allocated. */
export interface ImageExtents {
  sizeBytes(volume: VolumeNumber): number;
  extents(volume: VolumeNumber, offset: number, length: number): Promise<readonly Extent[]>;
  /**
   * Settles when everything below `end` holds what the step before has made of it, and rejects when it never will: waited for
   * before anything below is looked at. Undefined: no step is under way.
   */
  ready?(volume: VolumeNumber, end: number): Promise<void>;
}

export interface Piece {
  readonly volume: VolumeNumber;
  readonly first: number;
  readonly blocks: number;
  readonly zeroedOnly: boolean;
  /** The image has no data there. */
  readonly isHole: boolean;
}

/** Shorter runs are read without asking where data lies: two system calls cost more than reading zeroes. */
const askExtentsBlocks = chunkBlocksMax;

/**
 * Pieces that are read together, in order of volume and block: at most `chunkBlocksMax` blocks that are no holes, and
 * `chunkRunsMax` pieces. What is a hole and only zeroed is in none: the step does not change it.
 */
export async function* groupsOf(
  touched: ReadonlyMap<VolumeNumber, readonly TouchedRun[]>,
  images: ImageExtents,
): AsyncGenerator<Piece[]> {
  let group: Piece[] = [];
  let groupBlocks = 0;
  /** The group before, when this piece begins another one. */
  const add = (piece: Piece): Piece[] | undefined => {
    const blocks = piece.isHole ? 0 : piece.blocks;
    const isFull = groupBlocks + blocks > chunkBlocksMax || group.length === chunkRunsMax;
    const before = isFull ? group : undefined;
    if (isFull) {
      group = [];
      groupBlocks = 0;
    }
    group.push(piece);
    groupBlocks += blocks;
    return before;
  };
  for (const [volume, runs] of [...touched].sort(([a], [b]) => a - b)) {
    for (const run of runs) {
      // Thousands a step, and nothing is asked for them.
      if (run.blocks < askExtentsBlocks) {
        const full = add({ volume, ...run, isHole: false });
        if (full !== undefined) yield full;
        continue;
      }
      for await (const piece of piecesOf(volume, run, images)) {
        const full = add(piece);
        if (full !== undefined) yield full;
      }
    }
  }
  if (group.length > 0) yield group;
}

/** A long run cut into what is read at once; only what the images have allocated. */
async function* piecesOf(
  volume: VolumeNumber,
  { first, blocks, zeroedOnly }: TouchedRun,
  images: ImageExtents,
): AsyncGenerator<Piece> {
  const end = first + blocks;
  for (let block = first; block < end; ) {
    const left = end - block;
    const hole = left < askExtentsBlocks ? 0 : await holeBlocks(images, volume, block, left);
    if (hole > 0 && !zeroedOnly) yield { volume, first: block, blocks: hole, zeroedOnly, isHole: true };
    block += hole;
    if (hole > 0) continue;
    const part = Math.min(left, chunkBlocksMax);
    yield { volume, first: block, blocks: part, zeroedOnly, isHole: false };
    block += part;
  }
}

/** Whole blocks from `block` on that are known to read as zeroes, at most `most`. */
async function holeBlocks(
  images: ImageExtents,
  volume: VolumeNumber,
  block: number,
  most: number,
): Promise<number> {
  const start = block * blockBytes;
  const sizeBytes = images.sizeBytes(volume);
  const length = Math.min(most * blockBytes, sizeBytes - start);
  await images.ready?.(volume, start + length);
  let end = start;
  for (const extent of await images.extents(volume, start, length)) {
    if (!extent.zero) break;
    end += extent.length;
  }
  // The last block of a volume may be shorter than others.
  return end === sizeBytes ? Math.ceil((end - start) / blockBytes) : Math.floor((end - start) / blockBytes);
}
