/**
 * A volume at a point as a read-only block device, while the image goes on. Holds its point until it is closed; never
 * writes, and never closes the image.
 */
import type { BlockDevice, Extent } from "../../block/device.ts";
import { BlockErrno, BlockError } from "../../block/device.ts";
import type { Sequence, VolumeNumber } from "../../protocol/ids.ts";
import { errorText, OperationalError } from "../../runtime/errors.ts";
import type { GroupImage } from "../group-image.ts";
import { AsOfReader } from "./as-of.ts";
import type { HeldPoint, History } from "./history.ts";

/** Bytes of one read, as of the image itself. */
const readBytesMax = 32 * 1024 * 1024;

/**
 * Opens a volume as of `sequence`. OperationalErrors of `History.holdPoint`, and `POINT_UNKNOWN` (reaction `refuse`)
 * for a point that the images have not reached again after a crash, or when no history is kept.
 */
export async function openView(
  image: GroupImage,
  volume: VolumeNumber,
  sequence: Sequence,
): Promise<BlockDevice> {
  const { history } = image;
  if (history === undefined || sequence > image.held.sequence) {
    throw new OperationalError({
      code: "POINT_UNKNOWN",
      message: `${sequence} is not a point that can be opened now`,
      reaction: "refuse",
    });
  }
  const held = await history.holdPoint(sequence);
  return new ViewDevice(history, image, volume, held);
}

class ViewDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly blockSize = { minimum: 512, preferred: 4096, maximum: readBytesMax };
  readonly can = {
    write: false,
    flush: false,
    fua: false,
    trim: false,
    zero: false,
    fastZero: false,
    cache: false,
    extents: false,
    multiConn: true,
  };
  readonly #reader: AsOfReader;
  readonly #volume: VolumeNumber;
  readonly #held: HeldPoint;

  constructor(history: History, image: GroupImage, volume: VolumeNumber, held: HeldPoint) {
    this.sizeBytes = image.device(volume).sizeBytes;
    this.#reader = new AsOfReader(history, image, held.sequence);
    this.#volume = volume;
    this.#held = held;
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    try {
      return await this.#reader.read(this.#volume, offset, length);
    } catch (cause) {
      if (cause instanceof BlockError) throw cause;
      throw new BlockError(BlockErrno.EIO, `as of ${this.#held.sequence}: ${errorText(cause)}`, cause);
    }
  }

  async extents(_offset: number, length: number): Promise<Extent[]> {
    return [{ length, hole: false, zero: false }];
  }

  async write(): Promise<void> {
    throw readOnly();
  }

  async trim(): Promise<void> {
    throw readOnly();
  }

  async zero(): Promise<void> {
    throw readOnly();
  }

  async flush(): Promise<void> {}

  async cache(): Promise<void> {}

  /** Gives the point back; the image stays open. */
  async close(): Promise<void> {
    this.#held.release();
  }
}

function readOnly(): BlockError {
  return new BlockError(BlockErrno.EPERM, "a point of the past is read only");
}
