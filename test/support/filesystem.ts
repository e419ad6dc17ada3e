/**
 * An ext4 file system on an NBD export, as a guest would have it, where the kernel has no NBD client: nbdfuse shows the
 * export as a file, a loop device makes it a disk. Only root can; everything is taken down again whatever happens.
 */
import { access, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { Child, mustRun, runTool } from "./child.ts";
import { findTool, requireRoot, requireTools } from "./tools.ts";
import { until } from "./wait.ts";

/** For a test's `skip` option. */
export function requireFilesystem(): string | false {
  return requireTools("nbdfuse", "fusermount3", "losetup", "mkfs.ext4", "e2fsck", "mount") || requireRoot();
}

function tool(name: string): string {
  const path = findTool(name);
  if (path === undefined) throw new Error(`${name} is missing`);
  return path;
}

export class NbdDisk {
  readonly folder: string;
  readonly device: string;
  /** Where `mount` puts the file system. */
  readonly mountPoint: string;
  readonly #fuse: Child;
  readonly #fuseFolder: string;
  #mounted = false;

  private constructor(folder: string, device: string, fuse: Child, fuseFolder: string) {
    this.folder = folder;
    this.device = device;
    this.#fuse = fuse;
    this.#fuseFolder = fuseFolder;
    this.mountPoint = join(folder, "mnt");
  }

  /** Makes the export at `uri` a loop device. `folder` is new and this disk's own. */
  static async attach(uri: string, folder: string): Promise<NbdDisk> {
    const fuseFolder = join(folder, "fuse");
    await mkdir(fuseFolder, { recursive: true });
    await mkdir(join(folder, "mnt"));
    const fuse = new Child("nbdfuse", tool("nbdfuse"), [fuseFolder, uri]);
    try {
      const file = join(fuseFolder, "nbd");
      await until("nbdfuse to show the export", async () => {
        if (!fuse.running) throw new Error(`nbdfuse ended:\n${fuse.output}`);
        return access(file).then(
          () => true,
          () => undefined,
        );
      });
      const device = (await mustRun(tool("losetup"), ["--find", "--show", file])).trim();
      return new NbdDisk(folder, device, fuse, fuseFolder);
    } catch (error) {
      await runTool(tool("fusermount3"), ["-u", "-z", fuseFolder]);
      await fuse.kill();
      throw error;
    }
  }

  async format(): Promise<void> {
    await mustRun(tool("mkfs.ext4"), ["-q", "-F", "-E", "nodiscard", this.device]);
  }

  async mount(): Promise<void> {
    await mustRun(tool("mount"), ["-t", "ext4", this.device, this.mountPoint]);
    this.#mounted = true;
  }

  async unmount(): Promise<void> {
    await mustRun(tool("umount"), [this.mountPoint]);
    this.#mounted = false;
  }

  /** Read-only check of an unmounted file system; 0 means clean. */
  async check(): Promise<{ readonly code: number | null; readonly output: string }> {
    return runTool(tool("e2fsck"), ["-f", "-n", this.device]);
  }

  /** Takes it all down, also when what is behind it is dead. */
  async detach(): Promise<void> {
    if (this.#mounted) await runTool(tool("umount"), ["-l", this.mountPoint]);
    await runTool(tool("losetup"), ["--detach", this.device]);
    await runTool(tool("fusermount3"), ["-u", "-z", this.#fuseFolder]);
    await this.#fuse.kill();
  }
}
