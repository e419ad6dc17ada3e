/**
 * Records what real NBD clients say to our server and keeps it as seeds: `node dist/test/fuzz/capture.js`. A recording
 * relay stands between each client and a server with a memory device. Each connection gives one whole conversation and the
 * requests in it, cut to a few kilobytes. Run by hand when a client or the server changes; a missing client is named.
 */
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { NbdSession } from "../../protocol/nbd/session.ts";
import { memoryExport, startRig } from "../block/nbd-rig.ts";
import { runTool } from "../support/child.ts";
import { findTool } from "../support/tools.ts";
import { keepInput } from "./corpus.ts";
import { FuzzSink, fuzzExportNames, fuzzExports } from "./targets/nbd-shell.ts";

/** Kept of one connection, bytes: the handshake, some requests, the head of a payload. */
const keptBytesMax = 4 * 1024;
/** Connections kept of one run of a client: further ones of the same run say the same. */
const keptConnectionsMax = 2;

interface Recorder {
  readonly port: number;
  /** What each connection's client has said, oldest first. */
  take(): Buffer[];
  close(): void;
}

async function startRecorder(target: { readonly host: string; readonly port: number }): Promise<Recorder> {
  let said: Buffer[][] = [];
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const parts: Buffer[] = [];
    said.push(parts);
    const upstream = connect(target);
    client.on("data", (part) => parts.push(part as Buffer));
    client.pipe(upstream);
    upstream.pipe(client);
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on("error", () => {
        client.destroy();
        upstream.destroy();
      });
      socket.on("close", () => sockets.delete(socket));
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    port: (server.address() as AddressInfo).port,
    take() {
      const taken = said.map((parts) => Buffer.concat(parts));
      said = [];
      return taken;
    },
    close() {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

/** Where the transmission phase begins in what a client said; undefined when it never does. */
function transmissionAt(conversation: Buffer): number | undefined {
  const session = new NbdSession({ sink: new FuzzSink(), tls: "off" });
  for (let at = 0; at < conversation.length; at += 1) {
    session.receive(conversation.subarray(at, at + 1));
    for (let event = session.next(); event !== null; event = session.next()) {
      if (event.kind === "listRequested") session.answerList(fuzzExportNames);
      if (event.kind === "exportRequested") session.answerExport({ kind: "export", params: fuzzExports[0]! });
    }
    if (session.transmitting) return at + 1;
  }
  return undefined;
}

const folder = await mkdtemp(join(tmpdir(), "splitsite-capture-"));
const rig = await startRig({ "erp/data": memoryExport(256 * 1024) });
const recorder = await startRecorder(rig.address as { host: string; port: number });
const uri = `nbd://127.0.0.1:${recorder.port}/erp/data`;
const image = join(folder, "small.img");
await writeFile(image, Buffer.concat([Buffer.alloc(1024, 0x5a), Buffer.alloc(255 * 1024)]));

const qemuIo = (...commands: string[]): string[] => [
  "-f",
  "raw",
  "-d",
  "unmap",
  ...commands.flatMap((command) => ["-c", command]),
  uri,
];
const shell = (script: string): string[] => ["-u", uri, "-c", script];
const runs: readonly (readonly [string, string, readonly string[]])[] = [
  ["nbdinfo", "nbdinfo", ["--json", uri]],
  ["nbdinfo-list", "nbdinfo", ["--list", "--json", uri]],
  ["nbdinfo-map", "nbdinfo", ["--map", uri]],
  ["nbdinfo-unknown", "nbdinfo", [`nbd://127.0.0.1:${recorder.port}/nobody`]],
  [
    "qemu-io",
    "qemu-io",
    qemuIo("write -P 1 512 512", "read 0 4k", "write -z 8k 4k", "discard 16k 4k", "flush"),
  ],
  [
    "qemu-io-fua",
    "qemu-io",
    qemuIo("write -f -P 2 0 512", "write -z -u 4k 4k", "aio_write -P 3 1k 512", "aio_flush"),
  ],
  ["qemu-img-info", "qemu-img", ["info", uri]],
  ["qemu-img-map", "qemu-img", ["map", "--output=json", uri]],
  ["qemu-img-in", "qemu-img", ["convert", "-n", "-f", "raw", "-O", "raw", image, uri]],
  ["qemu-img-compare", "qemu-img", ["compare", "-f", "raw", "-F", "raw", image, uri]],
  ["nbdcopy-in", "nbdcopy", ["--connections=2", "--flush", image, uri]],
  ["nbdcopy-out", "nbdcopy", ["--connections=2", uri, join(folder, "out.img")]],
  [
    "fio",
    "fio",
    [
      "--name=a",
      "--ioengine=nbd",
      `--uri=${uri}`,
      "--rw=randrw",
      "--bs=512",
      "--iodepth=8",
      "--size=256k",
      "--io_size=8k",
    ],
  ],
  [
    "fio-trim",
    "fio",
    ["--name=a", "--ioengine=nbd", `--uri=${uri}`, "--rw=randtrim", "--bs=4k", "--size=64k"],
  ],
  [
    "nbdsh",
    "nbdsh",
    shell("h.pwrite(b'a' * 512, 512); h.pread(512, 0); h.zero(4096, 0); h.trim(4096, 0); h.flush()"),
  ],
  ["nbdsh-flags", "nbdsh", shell("h.pwrite(b'b' * 512, 0, nbd.CMD_FLAG_FUA); h.cache(4096, 0)")],
];

try {
  for (const [name, tool, args] of runs) {
    if (findTool(tool) === undefined) {
      console.log(`${name}: ${tool} is not installed`);
      continue;
    }
    const { code } = await runTool(tool, [...args]);
    const conversations = recorder.take().filter((bytes) => bytes.length > 0);
    for (const conversation of conversations.slice(0, keptConnectionsMax)) {
      keepInput("nbd-session", name, conversation.subarray(0, keptBytesMax));
      const at = transmissionAt(conversation);
      if (at !== undefined && conversation.length > at)
        keepInput("nbd-requests", name, conversation.subarray(at, at + keptBytesMax));
    }
    const sizes = conversations.map((bytes) => bytes.length).join(" ");
    console.log(`${name}: exit ${code}, connections of ${sizes} bytes`);
  }
} finally {
  recorder.close();
  await rig.server.close(0);
  await rm(folder, { recursive: true, force: true });
}
