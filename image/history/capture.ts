/**
 * Captures one step: reads what its blocks hold, makes the set's chunks and appends them. The set survives power
 * loss when this settles. Knows nothing of the index, and holds a few packs (`writesMax` and three) and the runs of one step.
 */
import type { VolumeNumber } from "../../protocol/ids.ts";
import { blockBytes } from "../../protocol/ids.ts";
import { lz4Compress } from "../../protocol/lz4.ts";
import type { BlockPack, ImageReads } from "./before-images.ts";
import { packBeforeImages } from "./before-images.ts";
import type { SetIdentity } from "./chunk.ts";
import { ChunkRoom } from "./chunk-room.ts";
import type { IndexedChunk, Segments } from "./segments.ts";
import type { TouchedRun } from "./touched.ts";

/** The set's chunks, as they stand in the segments. */
export async function appendSet(
  segments: Segments,
  set: SetIdentity,
  touched: ReadonlyMap<VolumeNumber, readonly TouchedRun[]>,
  images: ImageReads,
): Promise<IndexedChunk[]> {
  const chunks: IndexedChunk[] = [];
  const append = async ({ runs, blocks, room }: BlockPack, isLast: boolean): Promise<void> => {
    const head = { ...set, number: chunks.length, isLast, runs };
    const bytes = room.seal(head, blocks.byteLength, compress(blocks));
    const place = await segments.append(head, bytes, () => room.giveBack());
    chunks.push({ place, head });
  };
  await segments.beginSet();
  let last: BlockPack | undefined;
  for await (const pack of packBeforeImages(touched, images)) {
    if (last !== undefined) await append(last, false);
    // Held back until it is known whether it is the last one.
    last = pack;
  }
  // A set that keeps nothing is one chunk without runs: its end is a point all the same.
  await append(last ?? { runs: [], blocks: new Uint8Array(0), room: ChunkRoom.take() }, true);
  await segments.endSet();
  return chunks;
}

/** Pieces of a sample, spread over the blocks: 8 KiB of 256 cost 3 % of compressing them all. */
const samplePieces = 8;
const samplePieceBytes = 1024;
const sample = new Uint8Array(samplePieces * samplePieceBytes);
/** A sample that shrinks less than this says that the blocks are not worth it. */
const sampleShrinks = 0.96;

/** Undefined when there is nothing to compress, or a sample says that it would not shrink. */
function compress(blocks: Uint8Array): Uint8Array | undefined {
  if (blocks.byteLength === 0) return undefined;
  if (blocks.byteLength >= 2 * sample.byteLength) {
    // Every other piece begins in the middle of a block, whose beginning and end often differ from what is between.
    const step = Math.floor(blocks.byteLength / samplePieces / blockBytes) * blockBytes;
    for (let piece = 0; piece < samplePieces; piece += 1) {
      const at = piece * step + (piece % 2) * (blockBytes / 2);
      sample.set(blocks.subarray(at, at + samplePieceBytes), piece * samplePieceBytes);
    }
    if (lz4Compress(sample).byteLength > sampleShrinks * sample.byteLength) return undefined;
  }
  return lz4Compress(blocks);
}
