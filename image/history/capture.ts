/**
 * Captures one step: reads what its blocks hold, makes the set's chunks and appends them. The set survives power
 * loss when this settles. Knows nothing of the index, and holds two packs and the runs of one step at most.
 */
import type { VolumeNumber } from "../../protocol/ids.ts";
import type { BlockPack, ImageReads } from "./before-images.ts";
import { packBeforeImages } from "./before-images.ts";
import type { SetIdentity } from "./chunk.ts";
import { decodeChunkHead, encodeChunk } from "./chunk.ts";
import type { Segments, WalkedChunk } from "./segments.ts";
import type { TouchedRun } from "./touched.ts";

/** The set's chunks, as they stand in the segments. */
export async function appendSet(
  segments: Segments,
  set: SetIdentity,
  touched: ReadonlyMap<VolumeNumber, readonly TouchedRun[]>,
  images: ImageReads,
): Promise<WalkedChunk[]> {
  const chunks: WalkedChunk[] = [];
  const append = async ({ runs, blocks }: BlockPack, isLast: boolean): Promise<void> => {
    const number = chunks.length;
    const bytes = encodeChunk({ set, number, isLast, runs, blocks }, "lz4");
    const place = await segments.append({ first: set.first, position: set.position, number }, bytes);
    chunks.push({ place, head: decodeChunkHead(bytes), bytes: bytes.byteLength });
  };
  await segments.beginSet();
  // A set that keeps nothing is one chunk without runs: its end is a point all the same.
  let last: BlockPack = { runs: [], blocks: new Uint8Array(0) };
  let isFirst = true;
  for await (const { runs, blocks } of packBeforeImages(touched, images)) {
    if (!isFirst) await append(last, false);
    isFirst = false;
    // Held back until it is known whether it is the last one; the pack is not valid that long.
    last = { runs, blocks: blocks.slice() };
  }
  await append(last, true);
  await segments.endSet();
  return chunks;
}
