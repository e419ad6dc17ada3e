/**
 * The images of a change of the volume table, made ready before anything is written down of it: a new one made, or taken as
 * it is, a known one made longer. Everything is durable when it settles, and may be done again until then. Never touches a
 * byte that a volume has.
 */
import { dirname } from "node:path";
import { syncDirectory } from "../../runtime/disk.ts";
import { OperationalError } from "../../runtime/errors.ts";
import type { FilesSettings } from "./files.ts";
import { identityOf, isSameImage } from "./files.ts";
import type { StateVolume } from "./state.ts";
import type { VolumeStep } from "./volume-decision.ts";
import type { ChangingVolume } from "./volume-intent.ts";

export interface Readying {
  readonly files: Pick<FilesSettings, "disk" | "images" | "log">;
  /** As the state has them. */
  readonly held: readonly StateVolume[];
  /** Asked now and then while a device is read or zeroed; what it throws ends the work. */
  readonly goOn: () => void;
}

/**
 * One after another. OperationalErrors of the images; `IMAGE_SIZE` when a device, or an image that is there, does not have
 * the volume's size; `IMAGE_MISMATCH` when a known volume's image is another one.
 */
export async function readyFiles(steps: readonly VolumeStep[], world: Readying): Promise<ChangingVolume[]> {
  const rows: ChangingVolume[] = [];
  for (const step of steps) {
    world.goOn();
    rows.push(step.fromBytes === null ? await add(step, world) : await grow(step, step.fromBytes, world));
  }
  return rows;
}

async function grow(step: VolumeStep, fromBytes: number, world: Readying): Promise<ChangingVolume> {
  const { images } = world.files;
  const { number, name, sizeBytes, imagePath } = step;
  const recorded = world.held.find((volume) => volume.number === number)?.imageIdentity ?? null;
  const found = await identityOf(images, imagePath);
  if (recorded !== null && !isSameImage(recorded, found, sizeBytes)) {
    throw new OperationalError({
      code: "IMAGE_MISMATCH",
      message: `${imagePath} is not the image of volume ${name}`,
      reaction: "stop",
      details: { volume: name, expected: recorded, found },
    });
  }
  await images.grow({ path: imagePath, fromBytes, toBytes: sizeBytes, onProgress: world.goOn });
  const imageIdentity = await identityOf(images, imagePath);
  return { number, name, sizeBytes, imagePath, imageIdentity, holdsData: false };
}

async function add(step: VolumeStep, { files, goOn }: Readying): Promise<ChangingVolume> {
  const { disk, images, log } = files;
  const { number, name, sizeBytes, imagePath } = step;
  await disk.makeDirectory(dirname(imagePath));
  const holdsData = await images.holdsData(imagePath, sizeBytes, (done, total) => {
    goOn();
    log.info("IMAGE_CHECK", "looking for data in the image", { volume: name, done, total });
  });
  // Gives a new file its size and its name, durably; one that is there must have the size already.
  const device = await images.open({ path: imagePath, sizeBytes, create: "sparse" });
  try {
    // Who copied data into it need not have synced it, and the first records build on it.
    await device.flush();
  } finally {
    await device.close();
  }
  await syncDirectory(disk, dirname(imagePath));
  const imageIdentity = await identityOf(images, imagePath);
  return { number, name, sizeBytes, imagePath, imageIdentity, holdsData };
}
