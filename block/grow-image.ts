/**
 * Makes an image longer, before anybody counts on it: what is new reads as zeroes, durably. Touches no byte of the volume
 * as it was, and never makes an image.
 */
import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { errorCode, errorText, OperationalError } from "../runtime/errors.ts";
import { imageSize } from "./file-device.ts";
import { inSyncLane } from "./sync-lanes.ts";
import { zeroIn } from "./write-queue.ts";

/** Zeroed in one order: whoever has to stop is asked after each. */
const zeroStepBytes = 64 * 1024 * 1024;

export interface GrowOptions {
  readonly path: string;
  /** What the volume has now: bytes before it are not touched. Whole sectors. */
  readonly fromBytes: number;
  /** What it is to have; more. */
  readonly toBytes: number;
  /** Told of the bytes that are ready; what it throws ends the growing, which may be done again. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
}

/**
 * A regular file is extended, sparse; a block device must have `toBytes` already. When it settles, the range from
 * `fromBytes` to `toBytes` reads as zeroes also after power loss. May be done again until the first write to that range.
 * OperationalErrors `IMAGE_MISSING`, `IMAGE_KIND`, `IMAGE_UNREADABLE`, `IMAGE_SIZE` (a file shorter than `fromBytes`, a
 * device not of `toBytes`), `IMAGE_GROW_FAILED` (`retry`: a full disk is freed).
 */
export async function growImage(options: GrowOptions): Promise<void> {
  const { path, fromBytes, toBytes } = options;
  const file = await openToGrow(path);
  try {
    const stats = await file.stat({ bigint: true });
    const size = imageSize(path, file.fd, stats);
    if (stats.isFile()) {
      if (size < fromBytes) throw wrongSize(options, size);
      // What stands behind the volume was never part of it: what a first try left, or its operator.
      if (size > fromBytes) await attempt(options, file.truncate(fromBytes));
      await attempt(options, file.truncate(toBytes));
    } else {
      if (size !== toBytes) throw wrongSize(options, size);
      await zeroDevice(options, file.fd);
    }
    // Power loss before this leaves the image as long as it was, or longer by what nobody counts on.
    await attempt(
      options,
      inSyncLane(() => file.sync()),
    );
  } finally {
    await file.close();
  }
}

/** A device's new end holds whatever stood on the disk before. */
async function zeroDevice(options: GrowOptions, fd: number): Promise<void> {
  const { fromBytes, toBytes, onProgress } = options;
  for (let at = fromBytes; at < toBytes; at += zeroStepBytes) {
    const length = Math.min(zeroStepBytes, toBytes - at);
    await attempt(options, zeroIn(fd, at, length, { mayFree: false, fast: false }));
    onProgress?.(at + length - fromBytes, toBytes - fromBytes);
  }
}

async function attempt({ path, toBytes }: GrowOptions, work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (cause) {
    throw new OperationalError({
      code: "IMAGE_GROW_FAILED",
      message: `cannot make ${path} ${toBytes} bytes long: ${errorText(cause)}`,
      reaction: "retry",
      cause,
    });
  }
}

async function openToGrow(path: string) {
  try {
    return await open(path, constants.O_RDWR | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (cause) {
    throw new OperationalError({
      code: errorCode(cause) === "ENOENT" ? "IMAGE_MISSING" : "IMAGE_UNREADABLE",
      message: `cannot open the image ${path}: ${errorText(cause)}`,
      reaction: "stop",
      cause,
    });
  }
}

function wrongSize({ path, fromBytes, toBytes }: GrowOptions, found: number): OperationalError {
  return new OperationalError({
    code: "IMAGE_SIZE",
    message: `image ${path} has ${found} bytes; it cannot grow from ${fromBytes} to ${toBytes}`,
    reaction: "stop",
    hint: "Extend a block device to exactly the configured size first; a file that is shorter than its volume is damaged.",
    details: { path, fromBytes, toBytes, foundBytes: found },
  });
}
