/**
 * A disk whose power can be cut. Stack: ext4 on a loop device on nbdfuse on nbdkit with a write-back cache over a
 * file; only a flush takes writes from the cache to the file. Killing nbdkit with -9 loses what was never flushed,
 * as power loss does. It can also be made to fail writes, or to hang. Needs root. Leaves no mount, loop device or process behind, whatever way the test ends.
 */
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Child, mustRun, runTool } from "./child.ts";
import { requireRoot, requireTools } from "./tools.ts";
import { until } from "./wait.ts";

/** For a test's `skip` option: false when power can be cut here, else the reason. */
export function powerCutsImpossible(): string | false {
  const missing =
    requireRoot() ||
    requireTools("nbdkit", "nbdfuse", "losetup", "mkfs.ext4", "mount", "umount", "fusermount3");
  if (missing !== false) return missing;
  return existsSync("/dev/fuse") && existsSync("/dev/loop-control")
    ? false
    : "needs /dev/fuse and loop devices";
}

interface Powered {
  readonly server: Child;
  readonly bridge: Child;
  loop: string | undefined;
  mounted: boolean;
}

const disks = new Set<PowerCutDisk>();
const tearDownAll = (): void => {
  for (const disk of disks) disk.tearDownNow();
};
process.on("exit", tearDownAll);
// A signal ends the process without that event; the children are killed by their own keeper in the same turn.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, tearDownAll);

export class PowerCutDisk {
  readonly #folder: string;
  #powered: Powered | undefined;
  /** Answers of nbdkit's pause filter come one byte each. */
  #paused = false;

  private constructor(folder: string) {
    this.#folder = folder;
    disks.add(this);
  }

  /** A new disk with an empty ext4, off. */
  static async make(sizeBytes = 256 * 1024 * 1024): Promise<PowerCutDisk> {
    const disk = new PowerCutDisk(mkdtempSync(join(tmpdir(), "splitsite-power-")));
    mkdirSync(disk.mountPoint);
    mkdirSync(disk.#bridgePoint);
    await mustRun("truncate", ["-s", String(sizeBytes), disk.#image]);
    await mustRun("mkfs.ext4", ["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", disk.#image]);
    return disk;
  }

  /** Where the file system is while the power is on. */
  get mountPoint(): string {
    return join(this.#folder, "mnt");
  }

  get #bridgePoint(): string {
    return join(this.#folder, "bridge");
  }

  get #image(): string {
    return join(this.#folder, "disk.img");
  }

  get #errorFile(): string {
    return join(this.#folder, "writes-fail");
  }

  get #pauseSocket(): string {
    return join(this.#folder, "pause.sock");
  }

  /** From now on every write to the medium fails with EIO, or no longer does. The file system draws its own conclusions. */
  failWrites(yes: boolean): void {
    if (yes) writeFileSync(this.#errorFile, "");
    else rmSync(this.#errorFile, { force: true });
  }

  /** The disk answers nothing until it is asked to go on, and forgets nothing. */
  async hang(yes: boolean): Promise<void> {
    if (this.#paused === yes) return;
    const socket = connect({ path: this.#pauseSocket });
    await once(socket, "connect");
    socket.write(yes ? "p" : "r");
    const [answer] = (await once(socket, "data")) as [Buffer];
    socket.destroy();
    const expected = yes ? "P" : "R";
    if (answer.toString("latin1", 0, 1) !== expected)
      throw new Error(`nbdkit did not ${yes ? "pause" : "resume"}`);
    this.#paused = yes;
  }

  /** The file system meets an error of its own and turns read-only, whoever has files open. */
  async abort(): Promise<void> {
    await runTool("mount", ["-o", "remount,abort", this.mountPoint]);
  }

  async powerOn(): Promise<void> {
    const socket = join(this.#folder, "nbd.sock");
    const ready = join(this.#folder, "nbdkit.pid");
    rmSync(socket, { force: true });
    rmSync(ready, { force: true });
    rmSync(this.#pauseSocket, { force: true });
    rmSync(this.#errorFile, { force: true });
    this.#paused = false;
    // nbdkit keeps its cache in TMPDIR, in a file that has no name: it is gone with the process.
    const server = new Child(
      "nbdkit",
      "nbdkit",
      [
        ...["-f", "-P", ready, "-U", socket],
        ...["--filter=pause", "--filter=error", "--filter=cache", "file", this.#image],
        ...["cache=writeback", `pause-control=${this.#pauseSocket}`],
        // Nothing fails but what is written while the trigger file is there.
        ...["error=EIO", "error-rate=0%", "error-pwrite-rate=100%", `error-pwrite-file=${this.#errorFile}`],
        ...["error-zero-rate=100%", `error-zero-file=${this.#errorFile}`],
        ...["error-trim-rate=100%", `error-trim-file=${this.#errorFile}`],
      ],
      { env: { ...process.env, TMPDIR: this.#folder } },
    );
    // The socket is there a moment before anybody listens; this file is written behind that.
    await until("nbdkit to listen", () => existsSync(ready) || undefined);
    const bridge = new Child("nbdfuse", "nbdfuse", [this.#bridgePoint, `nbd+unix:///?socket=${socket}`]);
    this.#powered = { server, bridge, loop: undefined, mounted: false };
    const device = join(this.#bridgePoint, "nbd");
    await until("nbdfuse's file", () => {
      if (!bridge.running || !server.running)
        throw new Error(`nbdfuse or nbdkit ended:\n${bridge.output}\n${server.output}`);
      return (existsSync(device) && statSync(device).size > 0) || undefined;
    });
    this.#powered.loop = (await mustRun("losetup", ["-f", "--show", device])).trim();
    await mustRun("mount", ["-t", "ext4", this.#powered.loop, this.mountPoint]);
    this.#powered.mounted = true;
  }

  /**
   * Cuts the power: nothing written after this reaches the disk, and what was never flushed is gone. End the
   * processes that use the file system before or right after; then this takes the ruins away.
   */
  async cutPower(): Promise<void> {
    await this.#powered?.server.kill();
  }

  /** Takes mount, loop device and bridge away after a cut, or orderly while the power is on. */
  async takeDown(): Promise<void> {
    const powered = this.#powered;
    if (powered === undefined) return;
    if (powered.mounted) {
      // After a cut the file system cannot be written back; lazily means that a failed flush does not keep the mount.
      const orderly = powered.server.running && (await runTool("umount", [this.mountPoint])).code === 0;
      if (!orderly) await mustRun("umount", ["-l", this.mountPoint]);
      powered.mounted = false;
    }
    if (powered.loop !== undefined) {
      const { loop } = powered;
      await mustRun("losetup", ["-d", loop]);
      // The kernel lets go of the device when the last user is gone; until then the bridge cannot end.
      await until(`${loop} to be free`, async () => {
        const { stdout } = await runTool("losetup", ["-n", "-O", "BACK-FILE", loop]);
        return stdout.includes(this.#folder) ? undefined : true;
      });
      powered.loop = undefined;
    }
    await runTool("fusermount3", ["-u", "-z", this.#bridgePoint]);
    await powered.bridge.kill();
    await powered.server.kill();
    this.#powered = undefined;
  }

  async destroy(): Promise<void> {
    try {
      await this.takeDown();
    } finally {
      this.tearDownNow();
    }
  }

  /** Last resort, synchronous: also when the test process ends in the middle. */
  tearDownNow(): void {
    if (!disks.delete(this)) return;
    const powered = this.#powered;
    if (powered !== undefined) {
      powered.server.signal("SIGKILL");
      spawnSync("umount", ["-l", this.mountPoint]);
      if (powered.loop !== undefined) spawnSync("losetup", ["-d", powered.loop]);
      spawnSync("fusermount3", ["-u", "-z", this.#bridgePoint]);
      powered.bridge.signal("SIGKILL");
    }
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
