/**
 * The file system as the product sees it: every file of its own, images and databases apart, is opened, written and
 * synced through this, so that one process can hold two sites on disks that forget, fill up and fail. Names the few
 * operations whose durability is reasoned about; must never hide an error, retry, or sync on its own account.
 * Errors are the system's, with its `code` (ENOENT, ENOSPC, EIO ...): what they mean is the caller's to say.
 */
import { existsSync, fstatSync, readdirSync, statfsSync, writeSync } from "node:fs";
import { mkdir, open, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname } from "node:path";

/**
 * `read`: must exist. `update`: must exist, read and write. `replace`: made, or emptied, read and write, mode 0600.
 * A folder can be opened with `read`, to sync the names in it.
 */
export type OpenMode = "read" | "update" | "replace";

export interface DiskFile {
  /** Bytes from `position`, fewer at the end of the file. The caller owns them. */
  read(position: number, length: number): Promise<Uint8Array>;
  /** Length of the file, bytes. */
  size(): Promise<number>;
  /** The same within the call. */
  sizeNow(): number;
  /** All of `bytes` at `position`, into the page cache: survives a kill of the process. Bytes may be reused after. */
  write(position: number, bytes: Uint8Array): Promise<void>;
  /** The same within the call, for a few bytes into a file that does not grow. */
  writeNow(position: number, bytes: Uint8Array): void;
  /** Drops everything behind `length`, at most the file's own; power loss may bring it back until `sync`. */
  truncate(length: number): Promise<void>;
  /** fdatasync: content written before the call survives power loss when it settles, whoever wrote it. */
  syncData(): Promise<void>;
  /** fsync: also the file's length and, for a folder, its names. */
  sync(): Promise<void>;
  close(): Promise<void>;
}

export interface Disk {
  open(path: string, mode: OpenMode): Promise<DiskFile>;
  readFile(path: string): Promise<Uint8Array>;
  /** True for a file or folder that can be looked up; a folder above that is missing means false. */
  exists(path: string): boolean;
  /** Names in a folder, in no order. */
  list(directory: string): Promise<string[]>;
  /** The same within the call: 1 us a name, so not where it is asked for every request. */
  listNow(directory: string): string[];
  /** Makes the folder and those above it, mode 0700; nothing happens when it is there. */
  makeDirectory(path: string): Promise<void>;
  /** An empty file, mode 0600, when there is none; never synced. */
  touch(path: string): Promise<void>;
  rename(from: string, to: string): Promise<void>;
  /** A file, or a folder with all that is in it; nothing happens when it is not there. */
  remove(path: string): Promise<void>;
  /** Bytes the file system of `directory` has free for us. */
  freeBytes(directory: string): number;
}

/** Makes names created, renamed or removed in `directory` survive power loss. */
export async function syncDirectory(disk: Disk, directory: string): Promise<void> {
  const file = await disk.open(directory, "read");
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Makes a folder two levels below one that lasts survive power loss, name by name: ROLE/GROUP in a data folder. */
export async function syncNamesOf(disk: Disk, directory: string): Promise<void> {
  await syncDirectory(disk, dirname(directory));
  await syncDirectory(disk, dirname(dirname(directory)));
}

const openFlags: Readonly<Record<OpenMode, string>> = { read: "r", update: "r+", replace: "w+" };

export const systemDisk: Disk = {
  async open(path, mode) {
    const file = await open(path, openFlags[mode], 0o600);
    return {
      async read(position, length) {
        const bytes = Buffer.allocUnsafe(length);
        const { bytesRead } = await file.read(bytes, 0, length, position);
        return bytes.subarray(0, bytesRead);
      },
      size: async () => (await file.stat()).size,
      sizeNow: () => fstatSync(file.fd).size,
      async write(position, bytes) {
        requireWhole(
          path,
          (await file.write(bytes, 0, bytes.byteLength, position)).bytesWritten,
          bytes.byteLength,
        );
      },
      writeNow(position, bytes) {
        requireWhole(path, writeSync(file.fd, bytes, 0, bytes.byteLength, position), bytes.byteLength);
      },
      truncate: (length) => file.truncate(length),
      syncData: () => file.datasync(),
      sync: () => file.sync(),
      close: () => file.close(),
    };
  },
  readFile: (path) => readFile(path),
  exists: existsSync,
  list: (directory) => readdir(directory),
  listNow: (directory) => readdirSync(directory),
  async makeDirectory(path) {
    await mkdir(path, { recursive: true, mode: 0o700 });
  },
  touch: (path) => writeFile(path, "", { flag: "a", mode: 0o600 }),
  rename,
  remove: (path) => rm(path, { recursive: true, force: true }),
  freeBytes(directory) {
    const { bavail, bsize } = statfsSync(directory);
    return bavail * bsize;
  },
};

/** A short write says that the disk is full, sometimes without saying so. */
function requireWhole(path: string, written: number, wanted: number): void {
  if (written === wanted) return;
  const error = new Error(`short write to ${path}: ${written} of ${wanted} bytes`);
  throw Object.assign(error, { code: "ENOSPC" });
}
