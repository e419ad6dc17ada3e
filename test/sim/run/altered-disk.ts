/** A disk some of whose files are others: to overhear them, or to let them lie. The disk itself is left as it is. */
import type { Disk, DiskFile } from "../../../runtime/disk.ts";

export function withFile(disk: Disk, change: (file: DiskFile, path: string) => DiskFile): Disk {
  return new Proxy(disk, {
    get(target, name) {
      if (name === "open")
        return async (path: string, mode: "read" | "update" | "replace") =>
          change(await target.open(path, mode), path);
      const value: unknown = Reflect.get(target, name);
      return typeof value === "function" ? (value as (...all: unknown[]) => unknown).bind(target) : value;
    },
  });
}

/** The file with some of its calls replaced. */
export function altered(file: DiskFile, changes: Partial<DiskFile>): DiskFile {
  return {
    read: (position, length) => file.read(position, length),
    size: () => file.size(),
    truncate: (length) => file.truncate(length),
    write: (position, bytes) => file.write(position, bytes),
    writeNow: (position, bytes) => file.writeNow(position, bytes),
    sizeNow: () => file.sizeNow(),
    syncData: () => file.syncData(),
    sync: () => file.sync(),
    close: () => file.close(),
    ...changes,
  };
}
