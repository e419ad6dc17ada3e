/**
 * A file system of its own for one folder of the product, that a test can fill, make read-only, and free again: a
 * tmpfs of a given size, so that "no space left" is the kernel's own word. Needs root. Unmounts whatever happens.
 */
import { spawnSync } from "node:child_process";
import { closeSync, mkdirSync, openSync, rmSync, statfsSync, writeSync } from "node:fs";
import { join } from "node:path";
import { mustRun, runTool } from "./child.ts";
import { requireRoot, requireTools } from "./tools.ts";

/** For a test's `skip` option. */
export function smallDisksImpossible(): string | false {
  return requireRoot() || requireTools("mount", "umount");
}

const mounted = new Set<string>();
const unmountAll = (): void => {
  for (const folder of mounted) spawnSync("umount", ["-l", folder]);
  mounted.clear();
};
process.on("exit", unmountAll);
// A signal ends the process without that event.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, unmountAll);

export class SmallDisk {
  readonly folder: string;
  readonly #filler: string;

  private constructor(folder: string) {
    this.folder = folder;
    this.#filler = join(folder, "filler");
  }

  /** Mounted over `folder`, which is made if it is not there. */
  static async mount(folder: string, sizeBytes: number): Promise<SmallDisk> {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    await mustRun("mount", ["-t", "tmpfs", "-o", `size=${sizeBytes},mode=700`, "tmpfs", folder]);
    mounted.add(folder);
    return new SmallDisk(folder);
  }

  get freeBytes(): number {
    const { bavail, bsize } = statfsSync(this.folder);
    return bavail * bsize;
  }

  /** Takes all space but `leaveBytes`, at once and for real. */
  fill(leaveBytes = 0): void {
    const fd = openSync(this.#filler, "a");
    try {
      for (let left = this.freeBytes - leaveBytes; left > 0; left = this.freeBytes - leaveBytes)
        writeSync(fd, Buffer.alloc(Math.min(left, 1 << 20), 0xf1));
    } catch (error) {
      // A writer of the product was quicker: full is full.
      if (!(error instanceof Error && "code" in error && error.code === "ENOSPC")) throw error;
    } finally {
      closeSync(fd);
    }
  }

  /** Gives all space back. */
  free(): void {
    rmSync(this.#filler, { force: true });
  }

  /** False while a file is open for writing: the kernel then refuses. */
  async readOnly(yes: boolean): Promise<boolean> {
    return (await runTool("mount", ["-o", `remount,${yes ? "ro" : "rw"}`, this.folder])).code === 0;
  }

  async unmount(): Promise<void> {
    mounted.delete(this.folder);
    await runTool("umount", ["-l", this.folder]);
  }
}
