/**
 * A tap between an NBD client and a server: passes every byte on and keeps in a file what the client writes, so that a
 * real trace can be compressed in other ways afterwards, when that costs the database nothing. Understands just enough
 * of the client's side to find requests; changes nothing.
 */
import { once } from "node:events";
import { closeSync, openSync, writeSync } from "node:fs";
import { open } from "node:fs/promises";
import type { Server, Socket } from "node:net";
import { connect, createServer } from "node:net";
import { brotliCompressSync, constants } from "node:zlib";
import { lz4Compress } from "../protocol/lz4.ts";

export interface TraceCounters {
  writes: number;
  writtenBytes: number;
  flushes: number;
}

/** The same writes, compressed in other ways than on the line. */
export interface TracePacked {
  /** Sum over all writes of the smaller of the write and its LZ4 form. */
  readonly lz4PerWriteBytes: number;
  /** Packed a MiB at a time: what a codec can do at most with batches of that length. */
  readonly lz4PerMebibyteBytes: number;
  readonly brotliPerMebibyteBytes: number;
}

const mebibyte = 1024 * 1024;
/** As on the line (protocol/batch.ts). */
const brotliParams = { [constants.BROTLI_PARAM_QUALITY]: 2, [constants.BROTLI_PARAM_LGWIN]: 22 };
const optionGo = 7;
const requestMagic = 0x25609513;
const command = { write: 1, flush: 3 };

export class TraceTap {
  readonly path: string;
  readonly counters: TraceCounters = { writes: 0, writtenBytes: 0, flushes: 0 };
  readonly #tracePath: string;
  readonly #trace: number;
  readonly #lengthField = Buffer.alloc(4);
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  /** Set when the stream could not be followed: the counters are worthless then. */
  lost = false;

  private constructor(path: string, target: { readonly path: string }) {
    this.path = path;
    this.#tracePath = `${path}.trace`;
    this.#trace = openSync(this.#tracePath, "w");
    this.#server = createServer((client) => {
      const server = connect(target);
      const reader = new RequestReader(this);
      for (const socket of [client, server]) {
        this.#sockets.add(socket);
        socket.on("error", () => socket.destroy());
      }
      client.on("data", (chunk: Buffer) => reader.take(chunk));
      client.pipe(server);
      server.pipe(client);
    });
  }

  static async listen(path: string, target: { readonly path: string }): Promise<TraceTap> {
    const tap = new TraceTap(path, target);
    tap.#server.listen(path);
    await once(tap.#server, "listening");
    return tap;
  }

  /** Takes one write's data; a view that is written out before this returns. */
  wrote(data: Buffer): void {
    this.counters.writes += 1;
    this.counters.writtenBytes += data.length;
    this.#lengthField.writeUInt32LE(data.length);
    writeSync(this.#trace, this.#lengthField);
    writeSync(this.#trace, data);
  }

  /** Compresses the writes from number `from` (0 is the first) to `to` (not included). */
  async pack(from: number, to: number): Promise<TracePacked> {
    const sums = { lz4PerWriteBytes: 0, lz4PerMebibyteBytes: 0, brotliPerMebibyteBytes: 0 };
    let collected: Buffer[] = [];
    let collectedBytes = 0;
    const packCollected = (): void => {
      const packed = Buffer.concat(collected);
      collected = [];
      collectedBytes = 0;
      sums.lz4PerMebibyteBytes += lz4Compress(packed).byteLength;
      sums.brotliPerMebibyteBytes += brotliCompressSync(packed, { params: brotliParams }).byteLength;
    };
    const file = await open(this.#tracePath, "r");
    try {
      let at = 0;
      for (let write = 0; write < to; write += 1) {
        await file.read(this.#lengthField, 0, 4, at);
        const length = this.#lengthField.readUInt32LE();
        at += 4 + length;
        if (write < from) continue;
        const data = Buffer.alloc(length);
        await file.read(data, 0, length, at - length);
        sums.lz4PerWriteBytes += Math.min(length, lz4Compress(data).byteLength);
        collected.push(data);
        collectedBytes += length;
        if (collectedBytes >= mebibyte) packCollected();
      }
      if (collectedBytes > 0) packCollected();
    } finally {
      await file.close();
    }
    return sums;
  }

  async close(): Promise<void> {
    const closed = once(this.#server, "close");
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
    await closed;
    closeSync(this.#trace);
  }
}

/** The client's byte stream of one connection. */
class RequestReader {
  readonly #tap: TraceTap;
  #bytes: Buffer = Buffer.alloc(0);
  #stage: "flags" | "option" | "request" = "flags";

  constructor(tap: TraceTap) {
    this.#tap = tap;
  }

  take(chunk: Buffer): void {
    if (this.#tap.lost) return;
    this.#bytes = this.#bytes.length === 0 ? chunk : Buffer.concat([this.#bytes, chunk]);
    let used = 0;
    for (;;) {
      const length = this.#message(this.#bytes.subarray(used));
      if (length === 0) break;
      used += length;
    }
    this.#bytes = this.#bytes.subarray(used);
  }

  /** Length of the whole message that `bytes` begins with, 0 when it is not all there. */
  #message(bytes: Buffer): number {
    if (this.#stage === "flags") {
      if (bytes.length < 4) return 0;
      this.#stage = "option";
      return 4;
    }
    if (this.#stage === "option") {
      if (bytes.length < 16) return 0;
      const length = 16 + bytes.readUInt32BE(12);
      if (bytes.length < length) return 0;
      if (bytes.readUInt32BE(8) === optionGo) this.#stage = "request";
      return length;
    }
    if (bytes.length < 28) return 0;
    if (bytes.readUInt32BE(0) !== requestMagic) {
      this.#tap.lost = true;
      return 0;
    }
    const type = bytes.readUInt16BE(6);
    const { counters } = this.#tap;
    if (type === command.flush) counters.flushes += 1;
    if (type !== command.write) return 28;
    const length = bytes.readUInt32BE(24);
    if (bytes.length < 28 + length) return 0;
    this.#tap.wrote(bytes.subarray(28, 28 + length));
    return 28 + length;
  }
}
