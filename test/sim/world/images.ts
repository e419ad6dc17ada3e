/**
 * The product's `ImageFiles` on a simulated machine: sparse images as block devices over its files, with the codes
 * of the real ones. A write is atomic per 512-byte sector and durable from a flush asked for after it.
 */

import type { BlockChange, BulkWritable } from "../../../block/bulk-write.ts";
import type {
  BlockCapabilities,
  BlockDevice,
  Extent,
  WriteOptions,
  ZeroOptions,
} from "../../../block/device.ts";
import { BlockErrno, BlockError } from "../../../block/device.ts";
import type { FileDeviceOptions } from "../../../block/file-device.ts";
import type { GrowOptions } from "../../../block/grow-image.ts";
import type { ImageFiles } from "../../../block/image-files.ts";
import type { ImageIdentity } from "../../../block/image-inspection.ts";
import { errorCode, errorText, OperationalError } from "../../../runtime/errors.ts";
import { firstSectors } from "./disk-view.ts";
import type { Life } from "./life.ts";
import type { FaultKind, Operations } from "./operations.ts";
import { failedPart, failOn } from "./operations.ts";
import { SimFile, sectorBytes } from "./sim-file.ts";
import type { Storage } from "./storage.ts";
import { systemError } from "./tree.ts";

/** Farthest a misdirected write lands from where it should, sectors. */
const misdirectionSectorsMax = 64;

export class SimImages implements ImageFiles {
  readonly #operations: Operations;
  readonly #storage: Storage;
  readonly #life: Life;

  constructor(operations: Operations, storage: Storage, life: Life) {
    this.#operations = operations;
    this.#storage = storage;
    this.#life = life;
  }

  async open(options: FileDeviceOptions): Promise<BlockDevice> {
    const { path, sizeBytes } = options;
    const readOnly = options.readOnly === true;
    const mayCreate = options.create === "sparse" && !readOnly;
    const file = await this.#find(path, mayCreate ? "create" : "open");
    let size = file.length;
    if (mayCreate && (size === 0 || size === sizeBytes)) {
      await this.#giveSize(file, path, sizeBytes);
      size = sizeBytes;
    }
    const mayBeLonger = options.longer === "opened" && options.create === "never";
    if (mayBeLonger ? size < sizeBytes : size !== sizeBytes) throw wrongSize(path, size, sizeBytes);
    return new SimImage(this.#operations, this.#storage, this.#life, path, file, readOnly, sizeBytes);
  }

  async identity(path: string): Promise<ImageIdentity> {
    const file = await this.#find(path, "open");
    return { kind: "file", inode: String(file.id), sizeBytes: file.length };
  }

  async holdsData(
    path: string,
    sizeBytes: number,
    onProgress: (doneBytes: number, totalBytes: number) => void = () => undefined,
  ): Promise<boolean> {
    let file: SimFile;
    try {
      file = await this.#find(path, "open");
    } catch (error) {
      if (errorCode(error) === "IMAGE_MISSING") return false;
      throw error;
    }
    if (file.length === 0) return false;
    if (file.length !== sizeBytes) throw wrongSize(path, file.length, sizeBytes);
    const holds = file.holdsData();
    onProgress(sizeBytes, sizeBytes);
    return holds;
  }

  async grow({ path, fromBytes, toBytes }: GrowOptions): Promise<void> {
    const file = await this.#find(path, "open");
    if (file.length < fromBytes) throw wrongSize(path, file.length, toBytes);
    const run = (operation: "zero" | "write" | "sync", act: () => void): Promise<void> =>
      this.#operations.run(this.#life, path, operation, " grow", {
        act: (fault) => {
          failOn(fault, path);
          act();
        },
      });
    try {
      if (file.length > fromBytes)
        await run("zero", () => this.#storage.zero(file, fromBytes, file.length - fromBytes, true));
      if (file.length > toBytes) await run("write", () => file.shorten(toBytes));
      await run("write", () => file.grow(toBytes));
      const job = file.beginSync();
      await run("sync", () => file.endSync(job));
    } catch (cause) {
      const message = `cannot make ${path} ${toBytes} bytes long: ${errorText(cause)}`;
      throw new OperationalError({ code: "IMAGE_GROW_FAILED", message, reaction: "retry", cause });
    }
  }

  /** With "create" the file is made when it is not there. */
  async #find(path: string, operation: "open" | "create"): Promise<SimFile> {
    try {
      return await this.#operations.run(this.#life, path, operation, "", {
        act: (fault) => {
          failOn(fault, path);
          const node = this.#storage.tree.find(path);
          if (node === undefined) {
            if (operation === "create") return this.#storage.tree.makeFile(path);
            throw systemError("ENOENT", path);
          }
          if (!(node instanceof SimFile)) throw imageError("IMAGE_KIND", `${path} is a folder`);
          return node;
        },
      });
    } catch (cause) {
      if (cause instanceof OperationalError) throw cause;
      const missing = errorCode(cause) === "ENOENT";
      throw imageError(
        missing ? "IMAGE_MISSING" : "IMAGE_UNREADABLE",
        `cannot open the image ${path}`,
        cause,
      );
    }
  }

  /** Size, then both syncs, each a step of its own, as the real one does it. */
  async #giveSize(file: SimFile, path: string, sizeBytes: number): Promise<void> {
    const run = (operation: "write" | "sync", at: string, act: () => void): Promise<void> =>
      this.#operations.run(this.#life, at, operation, " size", {
        act: (fault) => {
          failOn(fault, at);
          act();
        },
      });
    try {
      await run("write", path, () => file.grow(sizeBytes));
      const job = file.beginSync();
      await run("sync", path, () => file.endSync(job));
      const above = path.slice(0, path.lastIndexOf("/"));
      const { folder } = this.#storage.tree.place(path);
      const names = folder.beginSync();
      await run("sync", above, () => folder.endSync(names));
    } catch (cause) {
      throw imageError("IMAGE_CREATE_FAILED", `cannot make a sparse image at ${path}`, cause);
    }
  }
}

class SimImage implements BlockDevice, BulkWritable {
  readonly sizeBytes: number;
  readonly blockSize = { minimum: 512, preferred: 4096, maximum: 32 * 1024 * 1024 };
  readonly can: BlockCapabilities;
  readonly path: string;
  readonly #operations: Operations;
  readonly #storage: Storage;
  readonly #life: Life;
  readonly #file: SimFile;
  #lost: BlockError | undefined;
  #closed = false;

  constructor(
    operations: Operations,
    storage: Storage,
    life: Life,
    path: string,
    file: SimFile,
    readOnly: boolean,
    sizeBytes: number,
  ) {
    this.#operations = operations;
    this.#storage = storage;
    this.#life = life;
    this.path = path;
    this.#file = file;
    this.sizeBytes = sizeBytes;
    this.can = {
      write: !readOnly,
      flush: true,
      fua: !readOnly,
      trim: !readOnly,
      zero: !readOnly,
      fastZero: !readOnly,
      cache: true,
      extents: true,
      multiConn: true,
    };
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    this.#admit(false);
    return this.#run("read", offset, length, (fault) => {
      failOn(fault, this.path);
      return this.#file.read(offset, length);
    });
  }

  async write(offset: number, data: Uint8Array, options: WriteOptions): Promise<void> {
    this.#admit(true);
    const act = (fault: FaultKind | undefined): void =>
      this.#change({ offset, length: data.byteLength, data }, fault);
    const part = (): void => this.#changePart({ offset, length: data.byteLength, data });
    await this.#run("write", offset, data.byteLength, act, part);
    if (options.fua) await this.flush();
  }

  async writeChanges(changes: readonly BlockChange[]): Promise<void> {
    this.#admit(true);
    const first = changes[0];
    if (first === undefined) return;
    const { random } = this.#operations.scheduler;
    const act = (fault: FaultKind | undefined): void => {
      const hurt = fault === undefined ? -1 : random.below(changes.length);
      for (const [at, change] of changes.entries()) this.#change(change, at === hurt ? fault : undefined);
    };
    // In any order, so any of them may be missing.
    const part = (): void => {
      const torn = random.below(changes.length);
      for (const [at, change] of changes.entries()) {
        if (at === torn) this.#changePart(change);
        else if (random.chance(0.5)) this.#change(change, undefined);
      }
    };
    const length = changes.reduce((sum, change) => sum + change.length, 0);
    await this.#run("write", first.offset, length, act, part);
  }

  trim(offset: number, length: number, options: WriteOptions): Promise<void> {
    return this.zero(offset, length, { fua: options.fua, mayTrim: true, fast: false });
  }

  async zero(offset: number, length: number, options: ZeroOptions): Promise<void> {
    this.#admit(true);
    await this.#run(
      "zero",
      offset,
      length,
      (fault) => {
        failOn(fault, this.path);
        if (fault !== undefined) return;
        const fits = options.mayTrim || this.#storage.fitting(this.#file, offset, length) === length;
        if (!fits) throw systemError("ENOSPC", this.path);
        this.#storage.zero(this.#file, offset, length, options.mayTrim);
      },
      () => {
        const sectors = this.#operations.scheduler.random.below(Math.ceil(length / sectorBytes));
        this.#storage.zero(this.#file, offset, sectors * sectorBytes, options.mayTrim);
      },
    );
    if (options.fua) await this.flush();
  }

  async flush(): Promise<void> {
    this.#admit(false);
    const job = this.#file.beginSync();
    try {
      await this.#operations.run(this.#life, this.path, "syncData", "", {
        act: (fault) => {
          if (fault === undefined) return this.#file.endSync(job);
          this.#file.failSync(job);
          throw systemError(fault === "ENOSPC" ? "ENOSPC" : "EIO", this.path);
        },
      });
    } catch (cause) {
      this.#lost ??= new BlockError(
        BlockErrno.EIO,
        `flush of ${this.path} failed: ${errorText(cause)}`,
        cause,
      );
      throw this.#lost;
    }
    if (this.#lost !== undefined) throw this.#lost;
  }

  async extents(offset: number, length: number): Promise<Extent[]> {
    this.#admit(false);
    return this.#run("read", offset, length, (fault) => {
      failOn(fault, this.path);
      const runs = this.#file.runs(offset, length);
      return runs.map((run) => ({ length: run.length, hole: run.hole, zero: run.hole }));
    });
  }

  async cache(offset: number, length: number): Promise<void> {
    await this.read(offset, length);
  }

  close(): Promise<void> {
    this.#closed = true;
    return this.#life.alive ? Promise.resolve() : new Promise(() => undefined);
  }

  #admit(changes: boolean): void {
    if (this.#lost !== undefined) throw this.#lost;
    if (this.#closed) throw new BlockError(BlockErrno.ESHUTDOWN, `image ${this.path} is closed`);
    if (changes && !this.can.write) throw new BlockError(BlockErrno.EPERM, `image ${this.path} is read-only`);
  }

  async #run<T>(
    operation: "read" | "write" | "zero",
    offset: number,
    length: number,
    act: (fault: FaultKind | undefined) => T,
    part?: () => void,
  ): Promise<T> {
    const work = part === undefined ? { act } : { act, part };
    try {
      return await this.#operations.run(this.#life, this.path, operation, ` ${length} at ${offset}`, work);
    } catch (cause) {
      const errno = errorCode(cause) === "ENOSPC" ? BlockErrno.ENOSPC : BlockErrno.EIO;
      throw new BlockError(errno, `${operation} ${this.path} at ${offset}: ${errorText(cause)}`, cause);
    }
  }

  #change(change: BlockChange, fault: FaultKind | undefined): void {
    const { offset, length, data } = change;
    if (fault === "lost") return;
    if (fault === "misdirected") {
      this.#write(this.#elsewhere(offset, length), length, data);
      return;
    }
    const fits = data === null ? length : this.#storage.fitting(this.#file, offset, length);
    if (fault === undefined && fits === length) {
      this.#write(offset, length, data);
      return;
    }
    const sectors = Math.floor(length / sectorBytes);
    const { random } = this.#operations.scheduler;
    const part =
      fault === undefined ? fits : Math.min(fits, failedPart(fault, sectors, random) * sectorBytes);
    this.#write(offset, part, data);
    throw systemError(fault === "EIO" ? "EIO" : "ENOSPC", this.path);
  }

  #changePart(change: BlockChange): void {
    const { offset, length, data } = change;
    const { random } = this.#operations.scheduler;
    if (data !== null) this.#storage.write(this.#file, offset, firstSectors(offset, data, random));
    else this.#write(offset, random.below(Math.ceil(length / sectorBytes)) * sectorBytes, null);
  }

  #write(offset: number, length: number, data: Uint8Array | null): void {
    if (length === 0) return;
    if (data === null) this.#storage.zero(this.#file, offset, length, true);
    else
      this.#storage.write(this.#file, offset, length === data.byteLength ? data : data.subarray(0, length));
  }

  /** Another place of the image, whole sectors away; the same place when there is no other. */
  #elsewhere(offset: number, length: number): number {
    const { random } = this.#operations.scheduler;
    const distance = (1 + random.below(misdirectionSectorsMax)) * sectorBytes;
    if (offset + distance + length <= this.sizeBytes) return offset + distance;
    return Math.max(offset % sectorBytes, offset - distance);
  }
}

function imageError(code: string, message: string, cause?: unknown): OperationalError {
  return new OperationalError({ code, message, reaction: "stop", cause });
}

function wrongSize(path: string, found: number, sizeBytes: number): OperationalError {
  return imageError("IMAGE_SIZE", `image ${path} has ${found} bytes, the volume ${sizeBytes}`);
}
