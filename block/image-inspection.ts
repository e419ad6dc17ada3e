/**
 * Looking at an image before anyone serves it: which file it is, and whether it already holds data. Reads only;
 * never makes, changes or locks anything.
 */
import { constants } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { open } from "node:fs/promises";
import { errorCode, OperationalError } from "../runtime/errors.ts";
import { imageSize } from "./file-device.ts";
import { nextData, nextHole } from "./libc.ts";

/** What tells one image from another that was put in its place (F76). Compare all fields. */
export interface ImageIdentity {
  readonly kind: "file" | "device";
  /** Decimal inode number of a file; "0" for a device, whose node is made anew at every boot. */
  readonly inode: string;
  readonly sizeBytes: number;
  /** Decimal device number, devices only. */
  readonly device?: string;
}

const readBytes = 1024 * 1024;
const zeroes = Buffer.alloc(readBytes);

async function withImage<T>(path: string, use: (file: FileHandle) => Promise<T>): Promise<T> {
  let file: FileHandle;
  try {
    file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (cause) {
    const code = errorCode(cause) === "ENOENT" ? "IMAGE_MISSING" : "IMAGE_UNREADABLE";
    throw new OperationalError({ code, message: `cannot open the image ${path}`, reaction: "stop", cause });
  }
  try {
    return await use(file);
  } finally {
    await file.close();
  }
}

/** OperationalError `IMAGE_MISSING`, `IMAGE_UNREADABLE` or `IMAGE_KIND`. */
export function imageIdentity(path: string): Promise<ImageIdentity> {
  return withImage(path, async (file) => {
    const stats = await file.stat({ bigint: true });
    const sizeBytes = imageSize(path, file.fd, stats);
    if (stats.isFile()) return { kind: "file", inode: String(stats.ino), sizeBytes };
    return { kind: "device", inode: "0", sizeBytes, device: String(stats.rdev) };
  });
}

/**
 * True when any byte of the image is not zero. Only allocated extents of a file are read, a block device as a whole;
 * `onProgress(doneBytes, totalBytes)` is called after every MiB read. A file that does not exist holds nothing.
 * OperationalError `IMAGE_SIZE` when a non-empty image is not of `sizeBytes`.
 */
export async function imageHoldsData(
  path: string,
  sizeBytes: number,
  onProgress: (doneBytes: number, totalBytes: number) => void = () => undefined,
): Promise<boolean> {
  try {
    return await withImage(path, async (file) => {
      const found = imageSize(path, file.fd, await file.stat({ bigint: true }));
      if (found === 0) return false;
      if (found !== sizeBytes) {
        throw new OperationalError({
          code: "IMAGE_SIZE",
          message: `image ${path} has ${found} bytes, the volume ${sizeBytes}`,
          reaction: "stop",
          details: { path, sizeBytes, foundBytes: found },
        });
      }
      return holdsData(file, path, sizeBytes, onProgress);
    });
  } catch (error) {
    if (errorCode(error) === "IMAGE_MISSING") return false;
    throw error;
  }
}

async function holdsData(
  file: FileHandle,
  path: string,
  sizeBytes: number,
  onProgress: (doneBytes: number, totalBytes: number) => void,
): Promise<boolean> {
  const buffer = Buffer.allocUnsafe(Math.min(readBytes, sizeBytes));
  let dataEnd = 0;
  for (let at = 0; at < sizeBytes; ) {
    if (at >= dataEnd) {
      const data = nextData(file.fd, at);
      if (data === "none") break;
      if (data !== "unsupported") at = data;
      const hole = data === "unsupported" ? "none" : nextHole(file.fd, at);
      dataEnd = typeof hole === "number" && hole > at ? hole : sizeBytes;
    }
    const length = Math.min(buffer.byteLength, dataEnd - at, sizeBytes - at);
    const { bytesRead } = await file.read(buffer, 0, length, at);
    if (bytesRead === 0)
      throw new OperationalError({
        code: "IMAGE_UNREADABLE",
        message: `${path} ends at ${at}`,
        reaction: "stop",
      });
    if (buffer.compare(zeroes, 0, bytesRead, 0, bytesRead) !== 0) return true;
    at += bytesRead;
    onProgress(at, sizeBytes);
  }
  onProgress(sizeBytes, sizeBytes);
  return false;
}
