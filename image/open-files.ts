/**
 * Opens a group's images from their paths: the one way in which both roles come to a `GroupImage` on files or block
 * devices. On failure nothing stays open. What the images must agree with is the caller's to prove.
 */
import type { BlockDevice } from "../block/device.ts";
import type { ImageFiles } from "../block/image-files.ts";
import type { LineageBytes, VolumeEntry } from "../protocol/ids.ts";
import type { Disk } from "../runtime/disk.ts";
import type { Log } from "../runtime/log.ts";
import type { GroupImageOptions } from "./group-image.ts";
import { GroupImage } from "./group-image.ts";
import type { AppliedPosition } from "./marker.ts";

export interface ImageFile extends VolumeEntry {
  /** Absolute path of a regular file or block device. */
  readonly imagePath: string;
  /** As of `OpenImageFilesOptions`, for this one. */
  readonly longer?: "refused" | "opened";
}

export interface OpenImageFilesOptions {
  readonly disk: Disk;
  readonly images: ImageFiles;
  readonly volumes: readonly ImageFile[];
  readonly markerPath: string;
  readonly lineage: LineageBytes;
  /** `create`: the marker is made at `origin`, which the images hold already. `open`: it must exist. */
  readonly mode: "create" | "open";
  /** `sparse`: an image that does not exist is made, empty. `never`: it must exist. */
  readonly createImages: "sparse" | "never";
  /** As of `FileDeviceOptions`, where images must exist. */
  readonly longer?: "refused" | "opened";
  readonly origin: AppliedPosition;
  /** As in `GroupImageOptions`. */
  readonly scanned?: "apply" | "held";
  readonly log: Log;
  /** As of `GroupImageOptions`; undefined: none is kept. */
  readonly openHistory: GroupImageOptions["openHistory"] | undefined;
}

/** OperationalErrors of `ImageFiles.open` and `GroupImage.open`. */
export async function openImageFiles(options: OpenImageFilesOptions): Promise<GroupImage> {
  const { disk, markerPath, lineage, mode, origin, scanned = "apply", log, openHistory } = options;
  const opened: { entry: VolumeEntry; device: BlockDevice }[] = [];
  try {
    for (const volume of options.volumes) {
      const { number, name, sizeBytes, imagePath: path } = volume;
      const { createImages: create, longer = "refused" } = options;
      const device = await options.images.open({ path, sizeBytes, create, longer: volume.longer ?? longer });
      opened.push({ entry: { number, name, sizeBytes }, device });
    }
    return await GroupImage.open({
      disk,
      volumes: opened,
      markerPath,
      lineage,
      mode,
      origin,
      scanned,
      log,
      ...(openHistory === undefined ? {} : { openHistory }),
    });
  } catch (error) {
    for (const { device } of opened) await device.close();
    throw error;
  }
}
