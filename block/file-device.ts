/**
 * A raw image as a block device: a regular sparse file, or a block device of the host. Reads take what is in the
 * page cache at once and wait for the disk off the main thread; changes of many ranges go through the write queue.
 * Never follows a symbolic link, never changes the size of an existing image, and never believes a device again
 * whose flush has failed.
 */
import type { BigIntStats } from "node:fs";
import { constants } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { open } from "node:fs/promises";
import { dirname } from "node:path";
import { syncDirectory, systemDisk } from "../runtime/disk.ts";
import { errorCode, errorText, OperationalError } from "../runtime/errors.ts";
import type { BlockChange, BulkWritable, OnWritten } from "./bulk-write.ts";
import type { BlockCapabilities, BlockDevice, Extent, WriteOptions, ZeroOptions } from "./device.ts";
import { BlockErrno, BlockError } from "./device.ts";
import type { DescriptorLender } from "./lend-descriptor.ts";
import { endOffset, nextData, nextHole, punchHole, readCached } from "./libc.ts";
import { inSyncLane } from "./sync-lanes.ts";
import { writeChangesTo, zeroIn } from "./write-queue.ts";

export interface FileDeviceOptions {
  readonly path: string;
  /** The image must have exactly this size, unless `longer` says otherwise. */
  readonly sizeBytes: number;
  /** `sparse`: make a sparse file when there is none, or an empty one. `never`: it must exist. */
  readonly create: "sparse" | "never";
  readonly readOnly?: boolean;
  /** `opened`: of an image that is longer, the first `sizeBytes`: it is being grown. Default: refused. */
  readonly longer?: "refused" | "opened";
}

/** Longest read tried in the page cache on the main thread: some 20 us of copying; longer ones go to the pool. */
const cachedReadBytesMax = 64 * 1024;
/** Extents told in one answer; each costs two system calls. */
const extentsMax = 1024;
/** Bytes brought into the page cache per read of `cache`. */
const cacheStepBytes = 1024 * 1024;

/** What a failed system call means to an NBD client. */
function blockErrno(error: unknown): BlockErrno {
  switch (errorCode(error)) {
    case "ENOSPC":
    case "EDQUOT":
    case "EFBIG":
      return BlockErrno.ENOSPC;
    case "ENOTSUP":
      return BlockErrno.ENOTSUP;
    case "ENOMEM":
      return BlockErrno.ENOMEM;
    default:
      return BlockErrno.EIO;
  }
}

function blockError(what: string, cause: unknown): BlockError {
  return cause instanceof BlockError
    ? cause
    : new BlockError(blockErrno(cause), `${what}: ${errorText(cause)}`, cause);
}

function noSuchImage(path: string, cause: unknown): OperationalError {
  const code = errorCode(cause);
  if (code === "ENOENT") {
    return new OperationalError({
      code: "IMAGE_MISSING",
      message: `there is no image at ${path}`,
      reaction: "stop",
      hint: "Bring the image back or correct its path; an empty one must never take its place.",
      cause,
    });
  }
  return new OperationalError({
    code: code === "ELOOP" ? "IMAGE_KIND" : "IMAGE_UNREADABLE",
    message:
      code === "ELOOP" ? `${path} is a symbolic link` : `cannot open the image ${path}: ${errorText(cause)}`,
    reaction: "stop",
    cause,
  });
}

/** Size of an open image; a block device is asked by seeking to its end. OperationalError `IMAGE_KIND`. */
export function imageSize(path: string, fd: number, stats: BigIntStats): number {
  if (stats.isFile()) return Number(stats.size);
  const end = stats.isBlockDevice() ? endOffset(fd) : "unsupported";
  if (end === "unsupported") {
    throw new OperationalError({
      code: "IMAGE_KIND",
      message: `${path} is neither a regular file nor a block device`,
      reaction: "stop",
      hint: "Give the path of a raw image file or of a block device.",
    });
  }
  return end;
}

async function openImage(
  path: string,
  flags: number,
  create: boolean,
): Promise<{ file: FileHandle; isNew: boolean }> {
  const openFlags = flags | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  if (create) {
    try {
      return { file: await open(path, openFlags | constants.O_CREAT | constants.O_EXCL, 0o600), isNew: true };
    } catch (cause) {
      if (errorCode(cause) !== "EEXIST") throw noSuchImage(path, cause);
    }
  }
  try {
    return { file: await open(path, openFlags), isNew: false };
  } catch (cause) {
    throw noSuchImage(path, cause);
  }
}

/**
 * Opens the image. OperationalError `IMAGE_MISSING`, `IMAGE_KIND` (link, folder, pipe ...), `IMAGE_SIZE` (smaller or
 * larger than `sizeBytes`), `IMAGE_UNREADABLE`, `IMAGE_CREATE_FAILED`; all with reaction `stop`.
 */
export async function openFileDevice(options: FileDeviceOptions): Promise<FileDevice> {
  const { path, sizeBytes } = options;
  const readOnly = options.readOnly === true;
  const mayCreate = options.create === "sparse" && !readOnly;
  const { file, isNew } = await openImage(path, readOnly ? constants.O_RDONLY : constants.O_RDWR, mayCreate);
  try {
    const stats = await file.stat({ bigint: true });
    let size = imageSize(path, file.fd, stats);
    // An empty file is what a crash between making it and giving it its size leaves behind; one of the right size may
    // have it in the page cache alone, when its maker was killed before the sync.
    if (mayCreate && stats.isFile() && (size === 0 || size === sizeBytes)) {
      await giveSize(file, path, sizeBytes);
      size = sizeBytes;
    }
    const mayBeLonger = options.longer === "opened" && options.create === "never";
    if (mayBeLonger ? size < sizeBytes : size !== sizeBytes) {
      throw new OperationalError({
        code: "IMAGE_SIZE",
        message: `image ${path} has ${size} bytes, the volume ${sizeBytes}`,
        reaction: "stop",
        hint: "This is another volume's image, or the configured size is wrong; images are never resized in place.",
        details: { path, sizeBytes, foundBytes: size, isNew },
      });
    }
    return new FileDevice(file, path, sizeBytes, readOnly, stats.isBlockDevice(), size);
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function giveSize(file: FileHandle, path: string, sizeBytes: number): Promise<void> {
  try {
    await file.truncate(sizeBytes);
    // Power loss before this may leave no file or an empty one, never a name that a marker already counts on.
    await file.sync();
    await syncDirectory(systemDisk, dirname(path));
  } catch (cause) {
    throw new OperationalError({
      code: "IMAGE_CREATE_FAILED",
      message: `cannot make a sparse image of ${sizeBytes} bytes at ${path}: ${errorText(cause)}`,
      reaction: "stop",
      cause,
    });
  }
}

export class FileDevice implements BlockDevice, BulkWritable, DescriptorLender {
  readonly sizeBytes: number;
  readonly blockSize = { minimum: 512, preferred: 4096, maximum: 32 * 1024 * 1024 };
  readonly can: BlockCapabilities;
  readonly path: string;
  readonly #file: FileHandle;
  readonly #isBlockDevice: boolean;
  #readsCached = true;
  /** Set by the first failed flush: what the page cache says is no longer what the disk holds. */
  #lost: BlockError | undefined;
  #closed = false;
  readonly #underWay = new Set<Promise<unknown>>();

  /** Use `openFileDevice`. `imageBytes`: where the image ends, which may be longer than the volume. */
  constructor(
    file: FileHandle,
    path: string,
    sizeBytes: number,
    readOnly: boolean,
    isBlockDevice: boolean,
    imageBytes: number = sizeBytes,
  ) {
    this.#file = file;
    this.#isBlockDevice = isBlockDevice;
    this.path = path;
    this.sizeBytes = sizeBytes;
    this.can = {
      write: !readOnly,
      flush: true,
      fua: !readOnly,
      trim: !readOnly,
      zero: !readOnly,
      fastZero: !readOnly && FileDevice.#canPunch(file.fd, imageBytes, isBlockDevice),
      cache: true,
      extents: true,
      // All connections share one descriptor's inode, and fdatasync covers the inode.
      multiConn: true,
    };
  }

  /** Punching behind the end changes nothing and still tells whether the file system can. */
  static #canPunch(fd: number, imageBytes: number, isBlockDevice: boolean): boolean {
    return !isBlockDevice && punchHole(fd, imageBytes, 4096);
  }

  #admit(changes: boolean): void {
    if (this.#lost !== undefined) throw this.#lost;
    if (this.#closed) throw new BlockError(BlockErrno.ESHUTDOWN, `image ${this.path} is closed`);
    if (changes && !this.can.write) throw new BlockError(BlockErrno.EPERM, `image ${this.path} is read-only`);
  }

  async read(offset: number, length: number, into?: Uint8Array): Promise<Uint8Array> {
    this.#admit(false);
    const target = into ?? Buffer.allocUnsafeSlow(length);
    if (this.#readsCached && length <= cachedReadBytesMax) {
      const read = readCached(this.#file.fd, offset, target);
      if (read === length) return target;
      if (read === "unsupported") this.#readsCached = false;
    }
    await this.#readInto(target, offset);
    return target;
  }

  async #readInto(target: Uint8Array, offset: number): Promise<void> {
    try {
      for (let done = 0; done < target.byteLength; ) {
        const { bytesRead } = await this.#file.read(target, done, target.byteLength - done, offset + done);
        if (bytesRead === 0)
          throw new BlockError(BlockErrno.EIO, `image ${this.path} ends at ${offset + done}`);
        done += bytesRead;
      }
    } catch (cause) {
      throw blockError(`read ${this.path} at ${offset}`, cause);
    }
  }

  async write(offset: number, data: Uint8Array, options: WriteOptions): Promise<void> {
    this.#admit(true);
    try {
      for (let done = 0; done < data.byteLength; ) {
        const { bytesWritten } = await this.#file.write(data, done, data.byteLength - done, offset + done);
        if (bytesWritten === 0) throw new BlockError(BlockErrno.EIO, "write made no progress");
        done += bytesWritten;
      }
    } catch (cause) {
      throw blockError(`write ${this.path} at ${offset}`, cause);
    }
    if (options.fua) await this.flush();
  }

  async writeChanges(changes: readonly BlockChange[], onWritten?: OnWritten): Promise<void> {
    this.#admit(true);
    try {
      await this.#onThread(writeChangesTo(this.#file.fd, changes, onWritten));
    } catch (cause) {
      throw blockError(`write ${this.path}`, cause);
    }
  }

  async lendDescriptor<T>(work: (fd: number) => Promise<T>): Promise<T> {
    this.#admit(false);
    return this.#onThread(work(this.#file.fd));
  }

  /** The thread knows the file by number: it must be done before the number can mean another file. */
  async #onThread<T>(work: Promise<T>): Promise<T> {
    this.#underWay.add(work);
    try {
      return await work;
    } finally {
      this.#underWay.delete(work);
    }
  }

  async flush(): Promise<void> {
    this.#admit(false);
    try {
      // Power loss after this keeps every write answered before it.
      await inSyncLane(() => this.#file.datasync());
    } catch (cause) {
      // The kernel reports a failed write-back once and may then call the pages clean: asking again would be
      // answered with a success that is not true.
      this.#lost ??= new BlockError(
        BlockErrno.EIO,
        `flush of ${this.path} failed: ${errorText(cause)}`,
        cause,
      );
      throw this.#lost;
    }
    if (this.#lost !== undefined) throw this.#lost;
  }

  trim(offset: number, length: number, options: WriteOptions): Promise<void> {
    return this.zero(offset, length, { fua: options.fua, mayTrim: true, fast: false });
  }

  async zero(offset: number, length: number, options: ZeroOptions): Promise<void> {
    this.#admit(true);
    try {
      await this.#onThread(
        zeroIn(this.#file.fd, offset, length, { mayFree: options.mayTrim, fast: options.fast }),
      );
    } catch (cause) {
      throw blockError(`zero ${this.path} at ${offset}+${length}`, cause);
    }
    if (options.fua) await this.flush();
  }

  async extents(offset: number, length: number): Promise<Extent[]> {
    this.#admit(false);
    if (this.#isBlockDevice) return [{ length, hole: false, zero: false }];
    const end = offset + length;
    const found: Extent[] = [];
    try {
      for (let at = offset; at < end && found.length < extentsMax; ) {
        const data = nextData(this.#file.fd, at);
        if (data === "unsupported") {
          found.push({ length: end - at, hole: false, zero: false });
          break;
        }
        const dataStart = data === "none" ? end : Math.min(data, end);
        if (dataStart > at) found.push({ length: dataStart - at, hole: true, zero: true });
        if (dataStart >= end) break;
        const hole = nextHole(this.#file.fd, dataStart);
        // A hole punched between the two questions: the rest is told as data, which is always true.
        const dataEnd = typeof hole === "number" && hole > dataStart ? Math.min(hole, end) : end;
        found.push({ length: dataEnd - dataStart, hole: false, zero: false });
        at = dataEnd;
      }
    } catch (cause) {
      throw blockError(`extents of ${this.path}`, cause);
    }
    return found;
  }

  async cache(offset: number, length: number): Promise<void> {
    this.#admit(false);
    const scratch = Buffer.allocUnsafe(Math.min(length, cacheStepBytes));
    for (let done = 0; done < length; done += scratch.byteLength) {
      await this.#readInto(scratch.subarray(0, Math.min(scratch.byteLength, length - done)), offset + done);
    }
  }

  /** Closes the file without a flush, after the requests under way; later ones fail with ESHUTDOWN. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await Promise.allSettled(this.#underWay);
    await this.#file.close();
  }
}
