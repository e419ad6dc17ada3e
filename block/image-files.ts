/**
 * Raw images as both roles come to them: opened as block devices, told apart, looked into. One interface, so that one
 * process can hold two sites whose images forget and fail; `systemImageFiles` is the real thing.
 */
import type { BlockDevice } from "./device.ts";
import type { FileDeviceOptions } from "./file-device.ts";
import { openFileDevice } from "./file-device.ts";
import type { GrowOptions } from "./grow-image.ts";
import { growImage } from "./grow-image.ts";
import type { ImageIdentity } from "./image-inspection.ts";
import { imageHoldsData, imageIdentity } from "./image-inspection.ts";

export interface ImageFiles {
  /** As `openFileDevice`. The caller closes the device. */
  open(options: FileDeviceOptions): Promise<BlockDevice>;
  /** As `imageIdentity`. */
  identity(path: string): Promise<ImageIdentity>;
  /** As `imageHoldsData`. */
  holdsData(
    path: string,
    sizeBytes: number,
    onProgress?: (doneBytes: number, totalBytes: number) => void,
  ): Promise<boolean>;
  /** As `growImage`. */
  grow(options: GrowOptions): Promise<void>;
}

export const systemImageFiles: ImageFiles = {
  open: openFileDevice,
  identity: imageIdentity,
  holdsData: imageHoldsData,
  grow: growImage,
};
