/**
 * The client's half of the NBD wire format, written against the specification alone and sharing no code with the
 * server: a second opinion on every byte. Builders for what a client sends, a decoder for what it gets.
 */

export const OPT = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED: 8,
  LIST_META: 9,
  SET_META: 10,
};
export const REP = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META: 4,
  UNSUP: 0x80000001,
  POLICY: 0x80000002,
  INVALID: 0x80000003,
  TLS_REQD: 0x80000005,
  UNKNOWN: 0x80000006,
  SHUTDOWN: 0x80000007,
  TOO_BIG: 0x80000009,
};
export const CMD = { READ: 0, WRITE: 1, DISC: 2, FLUSH: 3, TRIM: 4, CACHE: 5, ZEROES: 6, STATUS: 7 };
export const FLAG = { FUA: 1, NO_HOLE: 2, DF: 4, REQ_ONE: 8, FAST_ZERO: 16 };
export const ERR = {
  OK: 0,
  EPERM: 1,
  EIO: 5,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;

export function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}

/** Client flags: fixed newstyle and no zeroes by default. */
export function clientFlags(flags = 3): Buffer {
  return u32(flags);
}

export function optionHeader(option: number, length: number): Buffer {
  return Buffer.concat([Buffer.from("IHAVEOPT"), u32(option), u32(length)]);
}

export function option(type: number, data: Uint8Array | string = ""): Buffer {
  const bytes = Buffer.from(data as Uint8Array);
  return Buffer.concat([optionHeader(type, bytes.length), bytes]);
}

export function infoData(name: string | Uint8Array, requests: readonly number[] = []): Buffer {
  const bytes = Buffer.from(name as Uint8Array);
  return Buffer.concat([u32(bytes.length), bytes, u16(requests.length), ...requests.map(u16)]);
}

export function go(name: string | Uint8Array, requests: readonly number[] = []): Buffer {
  return option(OPT.GO, infoData(name, requests));
}

export function info(name: string | Uint8Array, requests: readonly number[] = []): Buffer {
  return option(OPT.INFO, infoData(name, requests));
}

export function metaData(name: string, queries: readonly (string | Uint8Array)[]): Buffer {
  const parts: Buffer[] = [u32(Buffer.byteLength(name)), Buffer.from(name), u32(queries.length)];
  for (const query of queries) {
    const bytes = Buffer.from(query as Uint8Array);
    parts.push(u32(bytes.length), bytes);
  }
  return Buffer.concat(parts);
}

export interface RequestFields {
  readonly command: number;
  readonly flags?: number;
  readonly cookie?: number | bigint;
  readonly offset?: number | bigint;
  readonly length?: number;
  readonly data?: Uint8Array;
  readonly magic?: number;
}

/** A request; `length` defaults to the payload's. */
export function request(fields: RequestFields): Buffer {
  const data = fields.data ?? new Uint8Array(0);
  return Buffer.concat([
    u32(fields.magic ?? 0x25609513),
    u16(fields.flags ?? 0),
    u16(fields.command),
    u64(fields.cookie ?? 1),
    u64(fields.offset ?? 0),
    u32(fields.length ?? data.length),
    data,
  ]);
}

export interface OptionReply {
  readonly option: number;
  readonly type: number;
  readonly data: Buffer;
}

export interface Reply {
  readonly kind: "simple" | "chunk";
  readonly cookie: bigint;
  /** Simple replies: the error. */
  readonly error: number;
  readonly flags: number;
  readonly type: number;
  readonly data: Buffer;
}

/** Reads a server's stream front to back; every method returns undefined when the bytes are not all there yet. */
export class ServerStream {
  bytes: Buffer;

  constructor(bytes: Uint8Array = Buffer.alloc(0)) {
    this.bytes = Buffer.from(bytes);
  }

  push(bytes: Uint8Array): void {
    this.bytes = Buffer.concat([this.bytes, bytes]);
  }

  take(length: number): Buffer | undefined {
    if (this.bytes.length < length) return undefined;
    const taken = this.bytes.subarray(0, length);
    this.bytes = this.bytes.subarray(length);
    return taken;
  }

  greeting(): { flags: number } | undefined {
    const bytes = this.take(18);
    if (bytes === undefined) return undefined;
    if (bytes.toString("latin1", 0, 16) !== "NBDMAGICIHAVEOPT") throw new Error("bad greeting");
    return { flags: bytes.readUInt16BE(16) };
  }

  optionReply(): OptionReply | undefined {
    if (this.bytes.length < 20) return undefined;
    if (this.bytes.readBigUInt64BE(0) !== 0x3e889045565a9n) throw new Error("bad option reply magic");
    const length = this.bytes.readUInt32BE(16);
    const bytes = this.take(20 + length);
    if (bytes === undefined) return undefined;
    return { option: bytes.readUInt32BE(8), type: bytes.readUInt32BE(12), data: bytes.subarray(20) };
  }

  /** `readLength`: payload of a successful simple reply with this cookie, when it answers a READ. */
  reply(readLength: (cookie: bigint) => number = () => 0): Reply | undefined {
    if (this.bytes.length < 16) return undefined;
    const magic = this.bytes.readUInt32BE(0);
    if (magic === 0x67446698) {
      const error = this.bytes.readUInt32BE(4);
      const cookie = this.bytes.readBigUInt64BE(8);
      const bytes = this.take(16 + (error === 0 ? readLength(cookie) : 0));
      if (bytes === undefined) return undefined;
      return { kind: "simple", cookie, error, flags: 1, type: 0, data: bytes.subarray(16) };
    }
    if (magic !== 0x668e33ef) throw new Error(`bad reply magic ${magic.toString(16)}`);
    if (this.bytes.length < 20) return undefined;
    const bytes = this.take(20 + this.bytes.readUInt32BE(16));
    if (bytes === undefined) return undefined;
    const type = bytes.readUInt16BE(6);
    const data = bytes.subarray(20);
    return {
      kind: "chunk",
      cookie: bytes.readBigUInt64BE(8),
      error: (type & 0x8000) === 0 ? 0 : data.readUInt32BE(0),
      flags: bytes.readUInt16BE(4),
      type,
      data,
    };
  }

  /** All option replies at hand. */
  optionReplies(): OptionReply[] {
    const replies: OptionReply[] = [];
    for (let next = this.optionReply(); next !== undefined; next = this.optionReply()) replies.push(next);
    return replies;
  }

  replies(readLength: (cookie: bigint) => number = () => 0): Reply[] {
    const replies: Reply[] = [];
    for (let next = this.reply(readLength); next !== undefined; next = this.reply(readLength))
      replies.push(next);
    return replies;
  }
}
