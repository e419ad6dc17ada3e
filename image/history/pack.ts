/**
 * From what a group's blocks held to what a chunk keeps of them. Pure; works where the blocks stand. Blocks of zeroes and
 * blocks that could not be read have no payload; zeroes that are only zeroed again are not kept at all.
 */
import type { VolumeNumber } from "../../protocol/ids.ts";
import { blockBytes } from "../../protocol/ids.ts";
import type { BlockRun } from "./chunk.ts";
import type { Piece } from "./pieces.ts";

const zeroBlock = new Uint8Array(blockBytes);
const nothingLost: ReadonlySet<number> = new Set();

export interface Packed {
  readonly runs: readonly BlockRun[];
  /** Bytes of the data runs' blocks, from the beginning of the room on. */
  readonly rawBytes: number;
}

/**
 * `blocks` holds the group's blocks but for its holes, one after another, each whole: what a volume's last block lacks is zero.
 * What is kept of them is moved to the front. `lost`: numbers, counted the same, of those that could not be read.
 */
export function packGroup(
  pieces: readonly Piece[],
  blocks: Uint8Array,
  lost: ReadonlySet<number> = nothingLost,
): Packed {
  const list = new RunList();
  let kept = 0;
  let read = 0;
  for (const { volume, first, blocks: count, zeroedOnly, isHole } of pieces) {
    if (isHole) {
      list.add(volume, "zeroes", first, count);
      continue;
    }
    for (let block = first; block < first + count; block += 1) {
      const at = read * blockBytes;
      const isLost = lost.has(read);
      read += 1;
      if (isLost) list.add(volume, "lost", block, 1);
      else if (Buffer.compare(blocks.subarray(at, at + blockBytes), zeroBlock) === 0) {
        if (!zeroedOnly) list.add(volume, "zeroes", block, 1);
      } else {
        list.add(volume, "data", block, 1);
        if (kept !== at) blocks.copyWithin(kept, at, at + blockBytes);
        kept += blockBytes;
      }
    }
  }
  return { runs: list.runs, rawBytes: kept };
}

/** Joins neighbours of one kind. */
class RunList {
  readonly runs: { volume: VolumeNumber; kind: BlockRun["kind"]; first: number; blocks: number }[] = [];

  add(volume: VolumeNumber, kind: BlockRun["kind"], first: number, blocks: number): void {
    const last = this.runs.at(-1);
    if (last?.kind === kind && last.volume === volume && last.first + last.blocks === first)
      last.blocks += blocks;
    else this.runs.push({ volume, kind, first, blocks });
  }
}
