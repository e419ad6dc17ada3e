/**
 * Reads what blocks hold before a step changes them, and packs it for chunks. Knows nothing of files, sets or the
 * index, and never writes. The blocks must not change until the last pack has been taken.
 */
import type { Extent } from "../../block/device.ts";
import type { VolumeNumber } from "../../protocol/ids.ts";
import { blockBytes } from "../../protocol/ids.ts";
import type { BlockRun } from "./chunk.ts";
import { chunkBlocksMax, chunkRunsMax } from "./chunk.ts";
import type { TouchedRun } from "./touched.ts";

/** The images as they are before the step. */
export interface ImageReads {
  sizeBytes(volume: VolumeNumber): number;
  read(volume: VolumeNumber, offset: number, length: number): Promise<Uint8Array>;
  extents(volume: VolumeNumber, offset: number, length: number): Promise<readonly Extent[]>;
}

/** Runs and content of one chunk. */
export interface BlockPack {
  readonly runs: readonly BlockRun[];
  readonly blocks: Uint8Array;
}

/** Shorter runs are read without asking where data lies: two system calls cost more than reading zeroes. */
const askExtentsBlocks = chunkBlocksMax;
const zeroBlock = new Uint8Array(blockBytes);

interface Piece {
  readonly volume: VolumeNumber;
  readonly first: number;
  readonly blocks: number;
  readonly zeroedOnly: boolean;
  /** The image has no data there. */
  readonly isHole: boolean;
}

/**
 * Packs in order of volume and block. Blocks that read as zeroes and are only zeroed keep nothing: the step does not
 * change them. At most `chunkBlocksMax` blocks are read at once.
 */
export async function* packBeforeImages(
  touched: ReadonlyMap<VolumeNumber, readonly TouchedRun[]>,
  images: ImageReads,
): AsyncGenerator<BlockPack> {
  const packer = new Packer();
  let group: Piece[] = [];
  let groupBlocks = 0;
  for await (const piece of piecesOf(touched, images)) {
    const blocks = piece.isHole ? 0 : piece.blocks;
    if (groupBlocks + blocks > chunkBlocksMax || group.length === chunkRunsMax) {
      yield* packGroup(packer, group, images);
      group = [];
      groupBlocks = 0;
    }
    group.push(piece);
    groupBlocks += blocks;
  }
  yield* packGroup(packer, group, images);
  if (!packer.isEmpty) yield packer.take();
}

/** Runs cut into what is read at once; of long ones only what the images have allocated. */
async function* piecesOf(
  touched: ReadonlyMap<VolumeNumber, readonly TouchedRun[]>,
  images: ImageReads,
): AsyncGenerator<Piece> {
  for (const [volume, runs] of [...touched].sort(([a], [b]) => a - b)) {
    for (const { first, blocks, zeroedOnly } of runs) {
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
  }
}

/** Whole blocks from `block` on that are known to read as zeroes, at most `most`. */
async function holeBlocks(
  images: ImageReads,
  volume: VolumeNumber,
  block: number,
  most: number,
): Promise<number> {
  const start = block * blockBytes;
  const sizeBytes = images.sizeBytes(volume);
  const length = Math.min(most * blockBytes, sizeBytes - start);
  let end = start;
  for (const extent of await images.extents(volume, start, length)) {
    if (!extent.zero) break;
    end += extent.length;
  }
  // The last block of a volume may be shorter than others.
  return end === sizeBytes ? Math.ceil((end - start) / blockBytes) : Math.floor((end - start) / blockBytes);
}

async function* packGroup(
  packer: Packer,
  group: readonly Piece[],
  images: ImageReads,
): AsyncGenerator<BlockPack> {
  const contents = await Promise.all(
    group.map(({ volume, first, blocks, isHole }) => {
      if (isHole) return undefined;
      const offset = first * blockBytes;
      return images.read(volume, offset, Math.min(blocks * blockBytes, images.sizeBytes(volume) - offset));
    }),
  );
  for (const [index, piece] of group.entries()) {
    const content = contents[index];
    if (content === undefined) {
      if (packer.isFull) yield packer.take();
      packer.addZeroes(piece.volume, piece.first, piece.blocks);
      continue;
    }
    for (let block = 0; block < piece.blocks; block += 1) {
      const bytes = content.subarray(block * blockBytes, (block + 1) * blockBytes);
      const isZero = Buffer.compare(bytes, zeroBlock.subarray(0, bytes.byteLength)) === 0;
      if (isZero && piece.zeroedOnly) continue;
      if (packer.isFull) yield packer.take();
      if (isZero) packer.addZeroes(piece.volume, piece.first + block, 1);
      else packer.addData(piece.volume, piece.first + block, bytes);
    }
  }
}

class Packer {
  #runs: { volume: VolumeNumber; kind: BlockRun["kind"]; first: number; blocks: number }[] = [];
  #blocks = new Uint8Array(chunkBlocksMax * blockBytes);
  #used = 0;

  get isEmpty(): boolean {
    return this.#runs.length === 0;
  }

  /** There may be no room for one more run or block. */
  get isFull(): boolean {
    return this.#used === this.#blocks.byteLength || this.#runs.length === chunkRunsMax;
  }

  addZeroes(volume: VolumeNumber, first: number, blocks: number): void {
    this.#add(volume, "zeroes", first, blocks);
  }

  /** `bytes` may be short: a volume's last block is filled with zeroes. */
  addData(volume: VolumeNumber, block: number, bytes: Uint8Array): void {
    this.#add(volume, "data", block, 1);
    this.#blocks.set(bytes, this.#used);
    this.#blocks.fill(0, this.#used + bytes.byteLength, this.#used + blockBytes);
    this.#used += blockBytes;
  }

  #add(volume: VolumeNumber, kind: BlockRun["kind"], first: number, blocks: number): void {
    const last = this.#runs.at(-1);
    if (last?.kind === kind && last.volume === volume && last.first + last.blocks === first)
      last.blocks += blocks;
    else this.#runs.push({ volume, kind, first, blocks });
  }

  /** The pack so far; its content is valid until the next one is asked for. */
  take(): BlockPack {
    const pack = { runs: this.#runs, blocks: this.#blocks.subarray(0, this.#used) };
    this.#runs = [];
    this.#used = 0;
    return pack;
  }
}
