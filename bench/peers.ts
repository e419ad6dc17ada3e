/**
 * The systems we measure ourselves against, started in the same run on the same disk: a plain qemu-nbd, and a
 * qemu-storage-daemon whose disk is being mirrored to a second qemu-nbd, which is QEMU's own way of keeping a copy
 * elsewhere. Each is stopped by the id of the process started here.
 */
import { once } from "node:events";
import { open } from "node:fs/promises";
import type { Socket } from "node:net";
import { connect } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { Child } from "../test/support/child.ts";
import { waitForSocket } from "../test/support/wait.ts";

export interface Peer {
  /** For libnbd and fio. */
  readonly uri: string;
  stop(): Promise<void>;
}

async function makeImage(path: string, sizeBytes: number): Promise<void> {
  const file = await open(path, "a");
  await file.truncate(sizeBytes);
  await file.close();
}

/** qemu-nbd on a raw file with its defaults: page cache, FLUSH is fdatasync. Makes the file when it is missing. */
export async function startQemuNbd(
  folder: string,
  name: string,
  sizeBytes: number,
): Promise<Peer & { readonly image: string }> {
  const image = join(folder, `${name}.img`);
  await makeImage(image, sizeBytes);
  const path = join(folder, `${name}.sock`);
  const child = new Child(`qemu-nbd ${name}`, "qemu-nbd", [
    "--persistent",
    "--shared=8",
    "--format=raw",
    "--cache=writeback",
    "--discard=unmap",
    "--export-name=disk",
    `--socket=${path}`,
    image,
  ]);
  await waitForSocket({ path }, child.exited);
  return {
    image,
    uri: `nbd+unix:///disk?socket=${path}`,
    stop: async () => {
      await child.stop();
    },
  };
}

/** Our NBD server on memory, alone or with a LevelDB put before each answer: what no write path of ours can beat. */
export async function startFloor(
  folder: string,
  mode: "memory" | "put" | "synced",
  sizeBytes: number,
): Promise<Peer> {
  const path = join(folder, `floor-${mode}.sock`);
  const script = fileURLToPath(new URL("./floor-server.js", import.meta.url));
  const child = new Child(`floor ${mode}`, process.execPath, [script, mode, path, `${sizeBytes}`, folder]);
  await waitForSocket({ path }, child.exited);
  return {
    uri: `nbd+unix:///disk?socket=${path}`,
    stop: async () => {
      await child.stop();
    },
  };
}

/** qemu-storage-daemon exporting a raw file while a background mirror job copies every write to a qemu-nbd. */
export async function startMirroredDaemon(folder: string, sizeBytes: number): Promise<Peer> {
  const target = await startQemuNbd(folder, "mirror-target", sizeBytes);
  const image = join(folder, "mirror-source.img");
  await makeImage(image, sizeBytes);
  const path = join(folder, "mirror.sock");
  const qmp = join(folder, "mirror-qmp.sock");
  const child = new Child("qemu-storage-daemon", "qemu-storage-daemon", [
    "--blockdev",
    `driver=file,filename=${image},node-name=source-file,discard=unmap`,
    "--blockdev",
    "driver=raw,file=source-file,node-name=source,discard=unmap",
    "--blockdev",
    `driver=nbd,server.type=unix,server.path=${join(folder, "mirror-target.sock")},export=disk,node-name=target`,
    "--nbd-server",
    `addr.type=unix,addr.path=${path},max-connections=8`,
    "--export",
    "type=nbd,id=export,node-name=source,name=disk,writable=on",
    "--chardev",
    `socket,id=qmp,path=${qmp},server=on,wait=off`,
    "--monitor",
    "chardev=qmp",
  ]);
  await waitForSocket({ path }, child.exited);
  const monitor = await Monitor.connect(qmp);
  await monitor.run("blockdev-mirror", {
    "job-id": "mirror",
    device: "source",
    target: "target",
    sync: "full",
  });
  await monitor.event("BLOCK_JOB_READY");
  monitor.close();
  return {
    uri: `nbd+unix:///disk?socket=${path}`,
    stop: async () => {
      await child.kill();
      await target.stop();
    },
  };
}

type Message = Readonly<Record<string, unknown>>;

/** QEMU's monitor protocol, as much as starting a job needs. */
class Monitor {
  readonly #socket: Socket;
  readonly #messages: Message[] = [];
  #wake: (() => void) | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    createInterface({ input: socket }).on("line", (line) => {
      this.#messages.push(JSON.parse(line) as Message);
      this.#wake?.();
    });
  }

  static async connect(path: string): Promise<Monitor> {
    const socket = connect({ path });
    await once(socket, "connect");
    const monitor = new Monitor(socket);
    await monitor.#find((message) => "QMP" in message);
    await monitor.run("qmp_capabilities", {});
    return monitor;
  }

  async run(execute: string, args: Message): Promise<void> {
    this.#socket.write(`${JSON.stringify({ execute, arguments: args })}\n`);
    const answer = await this.#find((message) => "return" in message || "error" in message);
    if ("error" in answer) throw new Error(`${execute}: ${JSON.stringify(answer["error"])}`);
  }

  async event(name: string): Promise<void> {
    await this.#find((message) => message["event"] === name);
  }

  async #find(wanted: (message: Message) => boolean): Promise<Message> {
    for (;;) {
      const at = this.#messages.findIndex(wanted);
      if (at >= 0) return this.#messages.splice(at, 1)[0]!;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  close(): void {
    this.#socket.destroy();
  }
}
