/**
 * Reads what a group of blocks holds before a step changes them. Knows nothing of files, sets or the index, and never
 * writes. The blocks must not change until it settles.
 */
import { BlockErrno, BlockError } from "../../block/device.ts";
import type { VolumeNumber } from "../../protocol/ids.ts";
import { blockBytes } from "../../protocol/ids.ts";
import { errorCode } from "../../runtime/errors.ts";
import type { ImageExtents, Piece } from "./pieces.ts";

/** The images as they are before the step. */
export interface ImageReads extends ImageExtents {
  /** `into`, `length` bytes: where they may be put; what is returned is what counts. */
  read(volume: VolumeNumber, offset: number, length: number, into?: Uint8Array): Promise<Uint8Array>;
  /** As `DescriptorLender` has it; undefined where the volume's device is none. */
  lendDescriptor?<T>(volume: VolumeNumber, work: (fd: number) => Promise<T>): Promise<T> | undefined;
}

/**
 * Fills `blocks` with what the pieces hold, holes left out, one block after another; what a volume's last block lacks is
 * filled with zeroes. Answers which blocks could not be read, counted the same. All pieces are read at once.
 * Rejects with the first failure.
 */
export async function readGroup(
  pieces: readonly Piece[],
  images: ImageReads,
  blocks: Uint8Array,
): Promise<ReadonlySet<number>> {
  const lost = new Set<number>();
  let used = 0;
  const readings: Promise<void>[] = [];
  for (const { volume, first, blocks: count, isHole } of pieces) {
    if (isHole) continue;
    const offset = first * blockBytes;
    const end = used + count * blockBytes;
    const length = Math.min(count * blockBytes, images.sizeBytes(volume) - offset);
    blocks.fill(0, used + length, end);
    readings.push(
      readPiece(images, volume, offset, blocks.subarray(used, used + length), used / blockBytes, lost),
    );
    used = end;
  }
  // All of them settle first: nothing is read into this memory any more when a failure is told.
  await Promise.allSettled(readings);
  await Promise.all(readings);
  return lost;
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
  firstBlock: number,
  lost: Set<number>,
): Promise<void> {
  try {
    put(await images.read(volume, offset, into.byteLength, into), into);
    return;
  } catch (error) {
    if (!isUnreadable(error)) throw error;
  }
  for (let at = 0; at < into.byteLength; at += blockBytes) {
    try {
      const block = into.subarray(at, Math.min(at + blockBytes, into.byteLength));
      put(await images.read(volume, offset + at, block.byteLength, block), block);
    } catch (error) {
      if (!isUnreadable(error)) throw error;
      lost.add(firstBlock + at / blockBytes);
    }
  }
}

function put(read: Uint8Array, into: Uint8Array): void {
  if (read !== into) into.set(read);
}

/** The disk says that these sectors cannot be read; not that the whole image is closed, or gone. */
export function isUnreadable(error: unknown): boolean {
  return error instanceof BlockError && error.errno === BlockErrno.EIO && errorCode(error.cause) === "EIO";
}
