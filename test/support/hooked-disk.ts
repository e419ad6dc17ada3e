/** The real file system with a hook before each operation, for tests in which one of them fails. */
import type { Disk, DiskFile } from "../../runtime/disk.ts";
import { systemDisk } from "../../runtime/disk.ts";

export type DiskOperation = keyof Disk | keyof DiskFile;

const withinTheCall: ReadonlySet<string> = new Set(["writeNow", "sizeNow", "listNow", "exists", "freeBytes"]);

/** `before` may throw: the operation is then not carried out, and fails with what was thrown. */
export function hookedDisk(before: (operation: DiskOperation, path: string) => void): Disk {
  const hooked = <T extends object>(target: T, path: string | undefined): T =>
    new Proxy(target, {
      get(from, name) {
        const real: unknown = Reflect.get(from, name, from);
        if (typeof real !== "function" || typeof name !== "string") return real;
        const now = withinTheCall.has(name);
        return (...args: unknown[]) => {
          const where = path ?? String(args[0]);
          const run = (): unknown => {
            before(name as DiskOperation, where);
            return Reflect.apply(real, from, args);
          };
          if (now) return run();
          return Promise.resolve()
            .then(run)
            .then((result) => (name === "open" ? hooked(result as object, where) : result));
        };
      },
    });
  return hooked(systemDisk, undefined);
}

/** What a failing disk says. */
export function diskError(code: "EIO" | "ENOSPC"): Error {
  return Object.assign(new Error(code === "EIO" ? "i/o error" : "no space left on device"), { code });
}
