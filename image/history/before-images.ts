/**
 * Reads what blocks hold before a step changes them, and packs it for chunks. Knows nothing of files, sets or the
 * index, and never writes. The blocks must not change until the last pack has been taken.
 */
import type { Extent } from "../../block/device.ts";
import { BlockErrno, BlockError } from "../../block/device.ts";
import type { VolumeNumber } from "../../protocol/ids.ts";
import { blockBytes } from "../../protocol/ids.ts";
import { errorCode } from "../../runtime/errors.ts";
import type { BlockRun } from "./chunk.ts";
import { chunkBlocksMax, chunkRunsMax } from "./chunk.ts";
import { ChunkRoom } from "./chunk-room.ts";
import type { TouchedRun } from "./touched.ts";

/** The images as they are before the step. */
export interface ImageReads {
  sizeBytes(volume: VolumeNumber): number;
  /** `into`, `length` bytes: where they may be put; what is returned is what counts. */
  read(volume: VolumeNumber, offset: number, length: number, into?: Uint8Array): Promise<Uint8Array>;
  extents(volume: VolumeNumber, offset: number, length: number): Promise<readonly Extent[]>;
}

/** Runs and content of one chunk. Who takes it owns the room, and gives it back. */
export interface BlockPack {
  readonly runs: readonly BlockRun[];
  /** A view of the room. */
  readonly blocks: Uint8Array;
  readonly room: ChunkRoom;
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

/** What a piece holds, and which of its blocks could not be read. */
interface Content {
  readonly bytes: Uint8Array;
  readonly lost: ReadonlySet<number>;
}

/** Pieces that are read together, at most `chunkBlocksMax` blocks, and what they hold; undefined for a hole. */
interface Group {
  readonly pieces: readonly Piece[];
  readonly contents: Promise<(Content | undefined)[]>;
}

const nothingLost: ReadonlySet<number> = new Set();

/**
 * Packs in order of volume and block. Blocks that read as zeroes and are only zeroed keep nothing: the step does not
 * change them. Twice `chunkBlocksMax` blocks are read at once: what is packed, and what comes next.
 */
export async function* packBeforeImages(
  touched: ReadonlyMap<VolumeNumber, readonly TouchedRun[]>,
  images: ImageReads,
): AsyncGenerator<BlockPack> {
  const packer = new Packer();
  let current: Group | undefined;
  // Memory that is made anew for every piece costs more than reading into it: what is packed is copied out of it.
  let [room, nextRoom] = [new ReadRoom(), new ReadRoom()];
  for await (const pieces of groupsOf(touched, images)) {
    const next = readGroup(pieces, images, nextRoom);
    if (current !== undefined) yield* packGroup(packer, current);
    current = next;
    [room, nextRoom] = [nextRoom, room];
  }
  if (current !== undefined) yield* packGroup(packer, current);
  if (!packer.isEmpty) yield packer.take();
}

async function* groupsOf(
  touched: ReadonlyMap<VolumeNumber, readonly TouchedRun[]>,
  images: ImageReads,
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

/** Memory for the blocks of one group, 256 KiB at most; made for the longest group so far. */
class ReadRoom {
  #bytes = Buffer.alloc(0);

  /** Nobody may use what was taken of it before. */
  take(bytes: number): Uint8Array {
    if (this.#bytes.byteLength < bytes) this.#bytes = Buffer.allocUnsafeSlow(bytes);
    return this.#bytes;
  }
}

function readGroup(pieces: readonly Piece[], images: ImageReads, room: ReadRoom): Group {
  const blocksRead = pieces.reduce((sum, { blocks, isHole }) => sum + (isHole ? 0 : blocks), 0);
  const bytes = room.take(blocksRead * blockBytes);
  let used = 0;
  const contents = Promise.all(
    pieces.map(({ volume, first, blocks, isHole }) => {
      if (isHole) return undefined;
      const offset = first * blockBytes;
      const length = Math.min(blocks * blockBytes, images.sizeBytes(volume) - offset);
      const into = bytes.subarray(used, used + length);
      used += length;
      return readPiece(images, volume, offset, into);
    }),
  );
  // A failure is met when the group is packed; until then it must not count as unhandled.
  contents.catch(() => undefined);
  return { pieces, contents };
}

/**
 * A sector that the disk cannot read must not keep what overwrites it from being applied: its block is lost to older points, and
 * nothing else is. Any other error is the step's.
 */
async function readPiece(
  images: ImageReads,
  volume: VolumeNumber,
  offset: number,
  into: Uint8Array,
): Promise<Content> {
  const length = into.byteLength;
  try {
    return { bytes: await images.read(volume, offset, length, into), lost: nothingLost };
  } catch (error) {
    if (!isUnreadable(error)) throw error;
  }
  const bytes = new Uint8Array(length);
  const lost = new Set<number>();
  for (let at = 0; at < length; at += blockBytes) {
    try {
      const block = bytes.subarray(at, Math.min(at + blockBytes, length));
      const read = await images.read(volume, offset + at, block.byteLength, block);
      if (read !== block) block.set(read);
    } catch (error) {
      if (!isUnreadable(error)) throw error;
      lost.add(at / blockBytes);
    }
  }
  return { bytes, lost };
}

/** The disk says that these sectors cannot be read; not that the whole image is closed, or gone. */
export function isUnreadable(error: unknown): boolean {
  return error instanceof BlockError && error.errno === BlockErrno.EIO && errorCode(error.cause) === "EIO";
}

/** A long run cut into what is read at once; only what the images have allocated. */
async function* piecesOf(
  volume: VolumeNumber,
  { first, blocks, zeroedOnly }: TouchedRun,
  images: ImageReads,
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

async function* packGroup(packer: Packer, group: Group): AsyncGenerator<BlockPack> {
  const contents = await group.contents;
  for (const [index, piece] of group.pieces.entries()) {
    const content = contents[index];
    if (content === undefined) {
      if (packer.isFull) yield packer.take();
      packer.addZeroes(piece.volume, piece.first, piece.blocks);
      continue;
    }
    for (let block = 0; block < piece.blocks; block += 1) {
      if (content.lost.has(block)) {
        if (packer.isFull) yield packer.take();
        packer.addLost(piece.volume, piece.first + block);
        continue;
      }
      const bytes = content.bytes.subarray(block * blockBytes, (block + 1) * blockBytes);
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
  /** Taken with the first block. */
  #room: ChunkRoom | undefined;
  #used = 0;

  get isEmpty(): boolean {
    return this.#runs.length === 0;
  }

  /** There may be no room for one more run or block. */
  get isFull(): boolean {
    return this.#used === chunkBlocksMax * blockBytes || this.#runs.length === chunkRunsMax;
  }

  addZeroes(volume: VolumeNumber, first: number, blocks: number): void {
    this.#add(volume, "zeroes", first, blocks);
  }

  addLost(volume: VolumeNumber, block: number): void {
    this.#add(volume, "lost", block, 1);
  }

  /** `bytes` may be short: a volume's last block is filled with zeroes. */
  addData(volume: VolumeNumber, block: number, bytes: Uint8Array): void {
    this.#add(volume, "data", block, 1);
    this.#room ??= ChunkRoom.take();
    const { blocks } = this.#room;
    blocks.set(bytes, this.#used);
    if (bytes.byteLength < blockBytes) blocks.fill(0, this.#used + bytes.byteLength, this.#used + blockBytes);
    this.#used += blockBytes;
  }

  #add(volume: VolumeNumber, kind: BlockRun["kind"], first: number, blocks: number): void {
    const last = this.#runs.at(-1);
    if (last?.kind === kind && last.volume === volume && last.first + last.blocks === first)
      last.blocks += blocks;
    else this.#runs.push({ volume, kind, first, blocks });
  }

  /** The pack so far. */
  take(): BlockPack {
    const room = this.#room ?? ChunkRoom.take();
    const pack = { runs: this.#runs, blocks: room.blocks.subarray(0, this.#used), room };
    this.#runs = [];
    this.#room = undefined;
    this.#used = 0;
    return pack;
  }
}
