/**
 * The file side of a change of the volume table: the image of a volume that joins, or more of one that grows, durable
 * before anything says that it is there. Every step may be done again until that is said. It never touches a byte that the
 * group holds, and never takes an image that holds something for an empty one.
 */
import type { ImageFiles } from "../../block/image-files.ts";
import type { WantedAnswer } from "../../protocol/control.ts";
import type { VolumeEntry } from "../../protocol/ids.ts";
import { errorCode, errorText, OperationalError } from "../../runtime/errors.ts";
import type { HeldVolume, TableChange } from "./table.ts";

/** What an image is unfit for; an operator mends it, and it is tried again by itself. */
const unfitCodes: ReadonlySet<string> = new Set(["IMAGE_SIZE", "IMAGE_KIND"]);

export interface ImageOfChange {
  readonly images: ImageFiles;
  readonly path: string;
  /** Asked now and then while a device is zeroed; what it throws ends that. */
  readonly requireGoing: () => void;
}

/**
 * When it settles the image is as large as the volume and durable: zeroes, or what was carried there where the volume came
 * with data. OperationalError `IMAGE_NOT_EMPTY`, `VOLUME_IMAGE` (size or kind of what is there; both `retry`) and those of
 * `ImageFiles`; `VOLUME_IMAGE_UNSYNCED` (`stop`).
 */
export async function makeImageOfChange(
  change: Extract<TableChange<HeldVolume>, { kind: "added" | "grown" }>,
  { images, path, requireGoing }: ImageOfChange,
): Promise<void> {
  try {
    if (change.kind === "grown") {
      const { before, volume } = change;
      await images.grow({
        path,
        fromBytes: before.sizeBytes,
        toBytes: volume.sizeBytes,
        onProgress: requireGoing,
      });
      return;
    }
    await makeImage(change.volume, images, path);
  } catch (cause) {
    if (!unfitCodes.has(errorCode(cause))) throw cause;
    throw new OperationalError({
      code: "VOLUME_IMAGE",
      message: `the image of volume ${change.volume.name} does not fit: ${errorText(cause)}`,
      reaction: "retry",
      hint: "A block device must have exactly the size of its volume; move another file away. It goes on by itself.",
      cause,
    });
  }
}

async function makeImage(
  { name, sizeBytes, wholeFrom }: HeldVolume,
  images: ImageFiles,
  path: string,
): Promise<void> {
  if (wholeFrom !== null && (await images.holdsData(path, sizeBytes))) {
    throw new OperationalError({
      code: "IMAGE_NOT_EMPTY",
      message: `volume ${name} joins the group empty, and its image at ${path} holds data`,
      reaction: "retry",
      hint: "Move this image away or choose another path; it goes on by itself.",
    });
  }
  const device = await images.open({ path, sizeBytes, create: "sparse" });
  try {
    // What was carried here may be in the page cache alone. Once it was compared it counts as content.
    await device.flush();
  } catch (cause) {
    // A second sync could succeed without being true of what its operator carried here, and nobody else has that.
    throw new OperationalError({
      code: "VOLUME_IMAGE_UNSYNCED",
      message: `the image of volume ${name} at ${path} could not be synced: ${errorText(cause)}`,
      reaction: "stop",
      hint: "Look at its disk, write the image anew, and restart the gateway.",
      cause,
    });
  } finally {
    await device.close();
  }
}

/** Whether the images of a wanted table could be made now. Looks at names and sizes only; what a new one holds is not read. */
export async function judgeImages(
  wanted: readonly VolumeEntry[],
  held: readonly VolumeEntry[],
  images: ImageFiles,
  pathOf: (volume: VolumeEntry) => string,
): Promise<WantedAnswer> {
  for (const volume of wanted) {
    const before = held.find(({ number }) => number === volume.number);
    if (before?.sizeBytes === volume.sizeBytes) continue;
    const path = pathOf(volume);
    try {
      const { kind, sizeBytes } = await images.identity(path);
      const isFit =
        sizeBytes === volume.sizeBytes || (kind === "file" && (before !== undefined || sizeBytes === 0));
      if (isFit) continue;
      const message = `the image ${path} has ${sizeBytes} bytes, volume ${volume.name} is to have ${volume.sizeBytes}`;
      return { code: "VOLUME_IMAGE", message };
    } catch (error) {
      if (before === undefined && errorCode(error) === "IMAGE_MISSING") continue;
      return { code: errorCode(error), message: errorText(error) };
    }
  }
  return "ready";
}
