/**
 * The product's `Disk` on a simulated machine, as one incarnation sees it. Translates calls into operations on the
 * storage and the system's errors; decides nothing about durability.
 */
import type { Disk, DiskFile, OpenMode } from "../../../runtime/disk.ts";
import type { SeededRandom } from "../../support/seeded.ts";
import type { Life } from "./life.ts";
import type { FaultKind, Operations } from "./operations.ts";
import { failedPart, failOn } from "./operations.ts";
import { SimFile } from "./sim-file.ts";
import type { Storage } from "./storage.ts";
import type { SimFolder } from "./tree.ts";
import { systemError } from "./tree.ts";

export class DiskView implements Disk {
  readonly #operations: Operations;
  readonly #storage: Storage;
  readonly #life: Life;

  constructor(operations: Operations, storage: Storage, life: Life) {
    this.#operations = operations;
    this.#storage = storage;
    this.#life = life;
  }

  open(path: string, mode: OpenMode): Promise<DiskFile> {
    return this.#operations.run(this.#life, path, mode === "replace" ? "create" : "open", "", {
      act: (fault) => {
        failOn(fault, path);
        const { tree } = this.#storage;
        let node = tree.find(path);
        if (mode === "replace") {
          node ??= tree.makeFile(path);
          if (node instanceof SimFile) node.cut();
        }
        if (node === undefined) throw systemError("ENOENT", path);
        if (node instanceof SimFile)
          return new OpenFile(this.#operations, this.#storage, this.#life, path, node);
        if (mode !== "read") throw systemError("EISDIR", path);
        return new OpenFolder(this.#operations, this.#life, path, node);
      },
    });
  }

  readFile(path: string): Promise<Uint8Array> {
    return this.#operations.run(this.#life, path, "read", "", {
      act: (fault) => {
        failOn(fault, path);
        const node = this.#storage.tree.find(path);
        if (node === undefined) throw systemError("ENOENT", path);
        if (!(node instanceof SimFile)) throw systemError("EISDIR", path);
        return node.read(0, node.length);
      },
    });
  }

  exists(path: string): boolean {
    return this.#storage.tree.find(path) !== undefined;
  }

  list(directory: string): Promise<string[]> {
    return this.#operations.run(this.#life, directory, "list", "", {
      act: (fault) => this.#list(directory, fault),
    });
  }

  listNow(directory: string): string[] {
    // Whoever is dead gets nothing, and nothing it does with it counts.
    return (
      this.#operations.now(this.#life, directory, "list", (fault) => this.#list(directory, fault))?.value ??
      []
    );
  }

  #list(directory: string, fault: FaultKind | undefined): string[] {
    failOn(fault, directory);
    const node = this.#storage.tree.find(directory);
    if (node === undefined) throw systemError("ENOENT", directory);
    if (node instanceof SimFile) throw systemError("ENOTDIR", directory);
    return this.#operations.scheduler.random.shuffle([...node.names.keys()]);
  }

  async makeDirectory(path: string): Promise<void> {
    const node = this.#storage.tree.find(path);
    if (node !== undefined) {
      if (node instanceof SimFile) throw systemError("EEXIST", path);
      return;
    }
    const above = path.slice(0, Math.max(0, path.replace(/\/+$/, "").lastIndexOf("/")));
    if (above !== "") await this.makeDirectory(above);
    await this.#operations.run(this.#life, path, "makeDirectory", "", {
      act: (fault) => {
        failOn(fault, path);
        if (this.#storage.tree.find(path) === undefined) this.#storage.tree.makeFolder(path);
      },
    });
  }

  touch(path: string): Promise<void> {
    return this.#operations.run(this.#life, path, "create", "", {
      act: (fault) => {
        failOn(fault, path);
        const node = this.#storage.tree.find(path);
        if (node === undefined) this.#storage.tree.makeFile(path);
        else if (!(node instanceof SimFile)) throw systemError("EISDIR", path);
      },
    });
  }

  rename(from: string, to: string): Promise<void> {
    return this.#operations.run(this.#life, from, "rename", ` to ${to}`, {
      act: (fault) => {
        failOn(fault, from);
        this.#storage.tree.rename(from, to);
      },
    });
  }

  /** One name after the other, so that it can be cut short. */
  async remove(path: string): Promise<void> {
    const node = this.#storage.tree.find(path);
    if (node === undefined) return;
    if (!(node instanceof SimFile)) {
      for (const name of [...node.names.keys()]) await this.remove(`${path}/${name}`);
    }
    await this.#operations.run(this.#life, path, "remove", "", {
      act: (fault) => {
        failOn(fault, path);
        if (this.#storage.tree.find(path) !== undefined) this.#storage.tree.unlink(path);
      },
    });
  }

  freeBytes(directory: string): number {
    const { tree, capacityBytes, usedBytes } = this.#storage;
    if (tree.find(directory) === undefined) throw systemError("ENOENT", directory);
    return Math.max(0, capacityBytes - usedBytes);
  }
}

class OpenFile implements DiskFile {
  readonly #operations: Operations;
  readonly #storage: Storage;
  readonly #life: Life;
  readonly #path: string;
  readonly #file: SimFile;
  #closed = false;

  constructor(operations: Operations, storage: Storage, life: Life, path: string, file: SimFile) {
    this.#operations = operations;
    this.#storage = storage;
    this.#life = life;
    this.#path = path;
    this.#file = file;
  }

  read(position: number, length: number): Promise<Uint8Array> {
    if (this.#closed) return this.#refuse();
    return this.#operations.run(this.#life, this.#path, "read", ` ${length} at ${position}`, {
      act: (fault) => {
        failOn(fault, this.#path);
        return this.#file.read(position, length);
      },
    });
  }

  size(): Promise<number> {
    if (this.#closed) return this.#refuse();
    return this.#operations.run(this.#life, this.#path, "read", " size", {
      act: (fault) => {
        failOn(fault, this.#path);
        return this.#file.length;
      },
    });
  }

  sizeNow(): number {
    if (this.#closed) throw systemError("EBADF", this.#path);
    return this.#file.length;
  }

  /** On the disk at once: where power loss brings the end back, it is as if the crash had come before. */
  truncate(length: number): Promise<void> {
    if (this.#closed) return this.#refuse();
    return this.#operations.run(this.#life, this.#path, "truncate", ` to ${length}`, {
      act: (fault) => {
        failOn(fault, this.#path);
        this.#file.shorten(length);
      },
    });
  }

  write(position: number, bytes: Uint8Array): Promise<void> {
    if (this.#closed) return this.#refuse();
    return this.#operations.run(this.#life, this.#path, "write", ` ${bytes.byteLength} at ${position}`, {
      act: (fault) => this.#write(position, bytes, fault),
      part: () => {
        const { random } = this.#operations.scheduler;
        this.#storage.write(this.#file, position, firstSectors(position, bytes, random));
      },
    });
  }

  writeNow(position: number, bytes: Uint8Array): void {
    if (this.#closed) throw systemError("EBADF", this.#path);
    this.#operations.now(this.#life, this.#path, "write", (fault) => {
      const { scheduler } = this.#operations;
      scheduler.trace.add(`${this.#life.name} write now ${this.#path} ${bytes.byteLength} at ${position}`);
      this.#write(position, bytes, fault);
    });
  }

  #write(position: number, bytes: Uint8Array, fault: FaultKind | undefined): void {
    const fits = this.#storage.fitting(this.#file, position, bytes.byteLength);
    if (fault === "lost" || fault === "misdirected") return;
    if (fault === undefined && fits === bytes.byteLength) {
      this.#storage.write(this.#file, position, bytes);
      return;
    }
    const { random } = this.#operations.scheduler;
    const failed = fault === undefined ? fits : Math.min(fits, failedPart(fault, bytes.byteLength, random));
    // A few bytes inside one sector of a page are copied or not: no file system does half of that.
    const inOneSector = Math.floor(position / 512) === Math.floor((position + bytes.byteLength - 1) / 512);
    const part = inOneSector && failed < bytes.byteLength ? 0 : failed;
    this.#storage.write(this.#file, position, bytes.subarray(0, part));
    if (fault === "short")
      throw new Error(`short write to ${this.#path}: ${part} of ${bytes.byteLength} bytes`);
    throw systemError(fault ?? "ENOSPC", this.#path);
  }

  syncData(): Promise<void> {
    return this.#sync("syncData");
  }

  sync(): Promise<void> {
    return this.#sync("sync");
  }

  #sync(operation: "sync" | "syncData"): Promise<void> {
    if (this.#closed) return this.#refuse();
    const job = this.#file.beginSync();
    return this.#operations.run(this.#life, this.#path, operation, "", {
      act: (fault) => {
        if (fault === undefined) return this.#file.endSync(job);
        this.#file.failSync(job);
        throw systemError(fault === "ENOSPC" ? "ENOSPC" : "EIO", this.#path);
      },
    });
  }

  close(): Promise<void> {
    this.#closed = true;
    return closed(this.#life);
  }

  #refuse(): Promise<never> {
    return Promise.reject(systemError("EBADF", this.#path));
  }
}

class OpenFolder implements DiskFile {
  readonly #operations: Operations;
  readonly #life: Life;
  readonly #path: string;
  readonly #folder: SimFolder;

  constructor(operations: Operations, life: Life, path: string, folder: SimFolder) {
    this.#operations = operations;
    this.#life = life;
    this.#path = path;
    this.#folder = folder;
  }

  read(): Promise<Uint8Array> {
    return Promise.reject(systemError("EISDIR", this.#path));
  }

  size(): Promise<number> {
    return Promise.reject(systemError("EISDIR", this.#path));
  }

  sizeNow(): number {
    throw systemError("EISDIR", this.#path);
  }

  truncate(): Promise<void> {
    return Promise.reject(systemError("EBADF", this.#path));
  }

  write(): Promise<void> {
    return Promise.reject(systemError("EBADF", this.#path));
  }

  writeNow(): void {
    throw systemError("EBADF", this.#path);
  }

  syncData(): Promise<void> {
    return this.sync();
  }

  sync(): Promise<void> {
    const changes = this.#folder.beginSync();
    return this.#operations.run(this.#life, this.#path, "sync", "", {
      act: (fault) => {
        failOn(fault, this.#path);
        this.#folder.endSync(changes);
      },
    });
  }

  close(): Promise<void> {
    return closed(this.#life);
  }
}

function closed(life: Life): Promise<void> {
  return life.alive ? Promise.resolve() : new Promise(() => undefined);
}

/** The first so many bytes that a write cut off in the middle leaves, ending at a sector of the disk. */
export function firstSectors(position: number, bytes: Uint8Array, random: SeededRandom): Uint8Array {
  const sectors = Math.ceil((position + bytes.byteLength) / 512) - Math.floor(position / 512);
  const end = (Math.floor(position / 512) + random.below(sectors)) * 512;
  return bytes.subarray(0, Math.max(0, end - position));
}
