/**
 * A minimal asynchronous NBD client for tests: fixed newstyle, GO, simple replies, many requests in flight. It shares
 * no code with the product and tells three outcomes of a request apart: answered, refused, and unknown because the
 * connection died first. It never retries and never reconnects.
 */
import { once } from "node:events";
import type { Socket } from "node:net";
import { connect } from "node:net";

export type NbdAddress = { readonly host: string; readonly port: number } | { readonly path: string };

export type NbdReply =
  | { readonly outcome: "answered"; readonly data: Buffer }
  | { readonly outcome: "refused"; readonly errno: number }
  | { readonly outcome: "unknown" };

/** The server refused the export: `code` is the option reply type (proto.md, NBD_REP_ERR_*). */
export class NbdRefused extends Error {
  readonly code: number;

  constructor(code: number, text: string) {
    super(`export refused with ${code.toString(16)}: ${text}`);
    this.code = code;
  }
}

const magicGreeting = 0x4e42444d41474943n; // "NBDMAGIC"
const magicOption = 0x49484156454f5054n; // "IHAVEOPT"
const magicOptionReply = 0x3e889045565a9n;
const magicRequest = 0x25609513;
const magicReply = 0x67446698;
const option = { go: 7 };
const optionReply = { ack: 1, info: 3 };
const infoExport = 0;
const command = { read: 0, write: 1, disconnect: 2, flush: 3, trim: 4, zeroes: 6 };
const commandFlag = { fua: 1, noHole: 2 };

/** Bytes in order from a socket; a reader waits for exactly what it asks for. */
class ByteStream {
  readonly #chunks: Buffer[] = [];
  #length = 0;
  #wanted = 0;
  #wake: ((ended: boolean) => void) | undefined;
  #ended = false;

  constructor(socket: Socket) {
    socket.on("data", (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#length += chunk.length;
      if (this.#length >= this.#wanted) this.#wake?.(false);
    });
    socket.on("close", () => {
      this.#ended = true;
      this.#wake?.(true);
    });
  }

  /** Undefined when the connection ended before `length` bytes came. */
  async take(length: number): Promise<Buffer | undefined> {
    if (this.#length < length) {
      if (this.#ended) return undefined;
      this.#wanted = length;
      await new Promise<boolean>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
      if (this.#length < length) return undefined;
    }
    const first = this.#chunks[0] ?? Buffer.alloc(0);
    this.#length -= length;
    if (first.length > length) {
      this.#chunks[0] = first.subarray(length);
      return first.subarray(0, length);
    }
    const whole = Buffer.allocUnsafe(length);
    let filled = 0;
    while (filled < length) {
      const chunk = this.#chunks[0]!;
      const part = Math.min(chunk.length, length - filled);
      chunk.copy(whole, filled, 0, part);
      filled += part;
      if (part === chunk.length) this.#chunks.shift();
      else this.#chunks[0] = chunk.subarray(part);
    }
    return whole;
  }
}

interface Pending {
  readonly readLength: number;
  readonly resolve: (reply: NbdReply) => void;
}

export class NbdClient {
  readonly sizeBytes: number;
  /** Transmission flags as advertised. */
  readonly flags: number;
  /** Settles when the connection is gone, for whatever reason. */
  readonly closed: Promise<void>;
  readonly #socket: Socket;
  readonly #stream: ByteStream;
  readonly #pending = new Map<number, Pending>();
  #cookie = 0;
  #alive = true;

  private constructor(socket: Socket, stream: ByteStream, sizeBytes: number, flags: number) {
    this.#socket = socket;
    this.#stream = stream;
    this.sizeBytes = sizeBytes;
    this.flags = flags;
    this.closed = this.#receive();
  }

  /** Throws NbdRefused when the server does not serve the export, else the socket's error. */
  static async connect(address: NbdAddress, exportName: string): Promise<NbdClient> {
    const socket = connect(address);
    socket.setNoDelay?.(true);
    await once(socket, "connect");
    // From here on a broken connection shows as a short stream; its error has nothing to add.
    socket.on("error", () => {});
    const stream = new ByteStream(socket);
    try {
      const greeting = await need(stream, 18);
      if (greeting.readBigUInt64BE(0) !== magicGreeting || greeting.readBigUInt64BE(8) !== magicOption) {
        throw new Error("no fixed newstyle greeting");
      }
      const name = Buffer.from(exportName);
      const request = Buffer.alloc(4 + 16 + 4 + name.length + 2);
      request.writeUInt32BE(3, 0); // fixed newstyle, no zeroes
      request.writeBigUInt64BE(magicOption, 4);
      request.writeUInt32BE(option.go, 12);
      request.writeUInt32BE(4 + name.length + 2, 16);
      request.writeUInt32BE(name.length, 20);
      name.copy(request, 24);
      socket.write(request);
      let sizeBytes = -1;
      let flags = 0;
      for (;;) {
        const head = await need(stream, 20);
        if (head.readBigUInt64BE(0) !== magicOptionReply) throw new Error("no option reply");
        const type = head.readUInt32BE(12);
        const data = await need(stream, head.readUInt32BE(16));
        if (type === optionReply.ack) break;
        if (type !== optionReply.info) throw new NbdRefused(type, data.toString());
        if (data.readUInt16BE(0) === infoExport) {
          sizeBytes = Number(data.readBigUInt64BE(2));
          flags = data.readUInt16BE(10);
        }
      }
      return new NbdClient(socket, stream, sizeBytes, flags);
    } catch (error) {
      socket.destroy();
      throw error;
    }
  }

  get alive(): boolean {
    return this.#alive;
  }

  read(offset: number, length: number): Promise<NbdReply> {
    return this.#request(command.read, 0, offset, length);
  }

  write(offset: number, data: Buffer, fua = false): Promise<NbdReply> {
    return this.#request(command.write, fua ? commandFlag.fua : 0, offset, data.length, data);
  }

  flush(): Promise<NbdReply> {
    return this.#request(command.flush, 0, 0, 0);
  }

  trim(offset: number, length: number, fua = false): Promise<NbdReply> {
    return this.#request(command.trim, fua ? commandFlag.fua : 0, offset, length);
  }

  zeroes(
    offset: number,
    length: number,
    options: { fua?: boolean; noHole?: boolean } = {},
  ): Promise<NbdReply> {
    const flags =
      (options.fua === true ? commandFlag.fua : 0) | (options.noHole === true ? commandFlag.noHole : 0);
    return this.#request(command.zeroes, flags, offset, length);
  }

  /** Says goodbye and waits for the connection to end; requests still open become unknown. */
  async close(): Promise<void> {
    if (this.#alive) {
      this.#socket.write(header(command.disconnect, 0, 0, 0, 0));
      this.#socket.end();
    }
    await this.closed;
  }

  /** Drops the connection at once. */
  async destroy(): Promise<void> {
    this.#socket.destroy();
    await this.closed;
  }

  #request(type: number, flags: number, offset: number, length: number, data?: Buffer): Promise<NbdReply> {
    if (!this.#alive) return Promise.resolve({ outcome: "unknown" });
    this.#cookie += 1;
    const cookie = this.#cookie;
    return new Promise((resolve) => {
      this.#pending.set(cookie, { readLength: type === command.read ? length : 0, resolve });
      this.#socket.cork();
      this.#socket.write(header(type, flags, cookie, offset, length));
      if (data !== undefined) this.#socket.write(data);
      this.#socket.uncork();
    });
  }

  async #receive(): Promise<void> {
    for (;;) {
      const head = await this.#stream.take(16);
      if (head === undefined) break;
      const cookie = Number(head.readBigUInt64BE(8));
      const pending = this.#pending.get(cookie);
      if (head.readUInt32BE(0) !== magicReply || pending === undefined) break;
      const errno = head.readUInt32BE(4);
      const data =
        errno === 0 && pending.readLength > 0 ? await this.#stream.take(pending.readLength) : Buffer.alloc(0);
      if (data === undefined) break;
      this.#pending.delete(cookie);
      pending.resolve(errno === 0 ? { outcome: "answered", data } : { outcome: "refused", errno });
    }
    this.#alive = false;
    this.#socket.destroy();
    for (const { resolve } of this.#pending.values()) resolve({ outcome: "unknown" });
    this.#pending.clear();
  }
}

function header(type: number, flags: number, cookie: number, offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(28);
  bytes.writeUInt32BE(magicRequest, 0);
  bytes.writeUInt16BE(flags, 4);
  bytes.writeUInt16BE(type, 6);
  bytes.writeBigUInt64BE(BigInt(cookie), 8);
  bytes.writeBigUInt64BE(BigInt(offset), 16);
  bytes.writeUInt32BE(length, 24);
  return bytes;
}

async function need(stream: ByteStream, length: number): Promise<Buffer> {
  const bytes = await stream.take(length);
  if (bytes === undefined) throw new Error("connection ended in the handshake");
  return bytes;
}

/** Reads of a whole export as an oracle wants them: any answer but the data is an error. */
export function exportReader(client: NbdClient): {
  sizeBytes: number;
  read(offset: number, length: number): Promise<Uint8Array>;
} {
  return {
    sizeBytes: client.sizeBytes,
    async read(offset, length) {
      const reply = await client.read(offset, length);
      if (reply.outcome !== "answered")
        throw new Error(`read of ${length} at ${offset}: ${JSON.stringify(reply)}`);
      return reply.data;
    },
  };
}
