/**
 * A real NBD server on loopback with a catalog of memory devices, and raw clients that send any bytes: what the shell
 * tests share. Nothing waits for time to pass: clients wait for bytes or for the end of the connection, and limits in
 * time run on a clock the test moves.
 */
import { once } from "node:events";
import { connect as connectTcp, type Socket } from "node:net";
import { connect as connectTls, type TLSSocket } from "node:tls";
import type { BlockDevice } from "../../block/device.ts";
import type {
  ClientIdentity,
  DescribeOutcome,
  ExportCatalog,
  ExportSummary,
  OpenOutcome,
} from "../../block/export-catalog.ts";
import { MemoryDevice } from "../../block/memory-device.ts";
import { NbdServer, type NbdServerOptions } from "../../block/nbd-server.ts";
import type { Clock, Timer } from "../../runtime/clock.ts";
import { systemClock } from "../../runtime/clock.ts";
import type { Log } from "../../runtime/log.ts";
import { silentLog } from "../../runtime/log.ts";
import type { Address } from "../../runtime/settings/types.ts";
import * as wire from "../protocol/nbd/wire.ts";
import { OPT, REP, ServerStream } from "../protocol/nbd/wire.ts";
import type { TestIdentity } from "../support/certificates.ts";

/** A clock that stands until it is moved. */
export class HandClock implements Clock {
  #nowMs = 0;
  #timers = new Set<{ atMs: number; run: () => void }>();

  monotonicMs(): number {
    return this.#nowMs;
  }

  wallMs(): number {
    return this.#nowMs;
  }

  after(delayMs: number, run: () => void): Timer {
    const entry = { atMs: this.#nowMs + delayMs, run };
    this.#timers.add(entry);
    return { cancel: () => this.#timers.delete(entry) };
  }

  get pending(): number {
    return this.#timers.size;
  }

  /** Moves on and fires what is due, in order. */
  advance(byMs: number): void {
    const endMs = this.#nowMs + byMs;
    for (;;) {
      const due = [...this.#timers]
        .filter((timer) => timer.atMs <= endMs)
        .toSorted((a, b) => a.atMs - b.atMs)[0];
      if (due === undefined) break;
      this.#timers.delete(due);
      this.#nowMs = due.atMs;
      due.run();
    }
    this.#nowMs = endMs;
  }
}

/** Counts log lines by code. */
export class CountingLog implements Log {
  readonly lines: { code: string; fields: Readonly<Record<string, unknown>> }[] = [];
  child(): Log {
    return this;
  }
  debug(): void {}
  info(code: string, _message: string, fields = {}): void {
    this.lines.push({ code, fields });
  }
  warn(code: string, _message: string, fields = {}): void {
    this.lines.push({ code, fields });
  }
  error(code: string, _message: string, _error?: unknown, fields = {}): void {
    this.lines.push({ code, fields });
  }
  count(code: string): number {
    return this.lines.filter((line) => line.code === code).length;
  }
}

/** A device in front of another: every operation can be replaced; close is counted, and does not close the inner one. */
export type Hooks = Partial<
  Pick<BlockDevice, "read" | "write" | "flush" | "trim" | "zero" | "extents" | "cache">
>;

export function hookedDevice(inner: BlockDevice, hooks: Hooks, closed: () => void): BlockDevice {
  return {
    sizeBytes: inner.sizeBytes,
    blockSize: inner.blockSize,
    can: inner.can,
    read: hooks.read ?? ((offset, length) => inner.read(offset, length)),
    write: hooks.write ?? ((offset, data, options) => inner.write(offset, data, options)),
    flush: hooks.flush ?? (() => inner.flush()),
    trim: hooks.trim ?? ((offset, length, options) => inner.trim(offset, length, options)),
    zero: hooks.zero ?? ((offset, length, options) => inner.zero(offset, length, options)),
    extents: hooks.extents ?? ((offset, length) => inner.extents(offset, length)),
    cache: hooks.cache ?? ((offset, length) => inner.cache(offset, length)),
    close: () => {
      closed();
      return Promise.resolve();
    },
  };
}

export interface TestExport {
  readonly device: BlockDevice;
  readonly hooks?: Hooks;
  readonly readOnly?: boolean;
  /** Certificate names that may see it; everybody when absent. */
  readonly allowed?: readonly string[];
}

/** Exports by name over shared devices; counts handles. */
export class TestCatalog implements ExportCatalog {
  readonly exports: Map<string, TestExport>;
  opened = 0;
  closed = 0;
  described = 0;
  clients: ClientIdentity[] = [];
  /** Awaited before any answer. */
  gate: Promise<void> = Promise.resolve();

  constructor(exports: Readonly<Record<string, TestExport>>) {
    this.exports = new Map(Object.entries(exports));
  }

  #find(name: string, client: ClientIdentity): TestExport | undefined {
    this.clients.push(client);
    const found = this.exports.get(name);
    if (found?.allowed === undefined) return found;
    return found.allowed.some((allowed) => client.certificateNames.includes(allowed)) ? found : undefined;
  }

  list(client: ClientIdentity): readonly ExportSummary[] {
    return [...this.exports.keys()]
      .filter((name) => this.#find(name, client) !== undefined)
      .map((name) => ({ name, sizeBytes: 0 }));
  }

  async describe(name: string, client: ClientIdentity): Promise<DescribeOutcome> {
    this.described += 1;
    await this.gate;
    const found = this.#find(name, client);
    if (found === undefined) return { kind: "unknown" };
    const { sizeBytes, blockSize, can } = found.device;
    return { kind: "described", shape: { sizeBytes, blockSize, can, readOnly: found.readOnly ?? false } };
  }

  async open(name: string, client: ClientIdentity): Promise<OpenOutcome> {
    await this.gate;
    const found = this.#find(name, client);
    if (found === undefined) return { kind: "unknown" };
    this.opened += 1;
    const device = hookedDevice(found.device, found.hooks ?? {}, () => {
      this.closed += 1;
    });
    return { kind: "opened", device, readOnly: found.readOnly ?? false };
  }
}

export interface Rig {
  readonly server: NbdServer;
  readonly catalog: TestCatalog;
  readonly log: CountingLog;
  readonly address: Address;
  connect(): Promise<RawClient>;
  /** Settles when the server holds no connection any more. */
  drained(): Promise<void>;
}

export async function startRig(
  exports: Readonly<Record<string, TestExport>>,
  options: Partial<NbdServerOptions> = {},
): Promise<Rig> {
  const catalog = new TestCatalog(exports);
  const log = new CountingLog();
  const server = new NbdServer({
    listen: { kind: "tcp", host: "127.0.0.1", port: 0 },
    tls: null,
    catalog,
    clock: systemClock,
    log,
    ...options,
  });
  const address = await server.listen();
  return {
    server,
    catalog,
    log,
    address,
    connect: () => RawClient.connect(address),
    async drained() {
      while (server.stats.connections > 0) await new Promise((resolve) => setImmediate(resolve));
    },
  };
}

export const mebibyte = 1024 * 1024;

export function memoryExport(sizeBytes = 4 * mebibyte): TestExport & { readonly device: MemoryDevice } {
  return { device: new MemoryDevice({ sizeBytes }) };
}

export { silentLog };

/** A client that sends what it is told and collects what comes. */
export class RawClient {
  socket: Socket;
  readonly stream = new ServerStream();
  ended = false;
  #wake: (() => void) | null = null;

  constructor(socket: Socket) {
    this.socket = socket;
    this.#attach(socket);
  }

  /** `from`: another loopback address to come from, since limits count by source. */
  static async connect(address: Address, from?: string): Promise<RawClient> {
    const socket =
      address.kind === "tcp"
        ? connectTcp({
            host: address.host,
            port: address.port,
            noDelay: true,
            ...(from === undefined ? {} : { localAddress: from }),
          })
        : connectTcp(address.path);
    const client = new RawClient(socket);
    await once(socket, "connect");
    return client;
  }

  #attach(socket: Socket): void {
    socket.on("data", this.#onData);
    socket.on("error", () => undefined);
    socket.on("close", this.#onClose);
    socket.on("end", this.#onClose);
  }

  readonly #onData = (chunk: Buffer): void => {
    this.stream.push(chunk);
    this.#wake?.();
  };

  readonly #onClose = (): void => {
    this.ended = true;
    this.#wake?.();
  };

  send(...parts: readonly Uint8Array[]): void {
    this.socket.write(Buffer.concat(parts));
  }

  /** Waits until `parse` gives something; undefined when the connection ended before. */
  async until<T>(parse: () => T | undefined): Promise<T | undefined> {
    for (;;) {
      const value = parse();
      if (value !== undefined || this.ended) return value;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  async end(): Promise<void> {
    while (!this.ended) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  greeting(): Promise<{ flags: number } | undefined> {
    return this.until(() => this.stream.greeting());
  }

  optionReply(): Promise<wire.OptionReply | undefined> {
    return this.until(() => this.stream.optionReply());
  }

  reply(readLength = 0): Promise<wire.Reply | undefined> {
    return this.until(() => this.stream.reply(() => readLength));
  }

  /** Greeting and client flags. */
  async greet(): Promise<void> {
    await this.greeting();
    this.send(wire.clientFlags());
  }

  /** Sends an option and returns the replies up to the final one. */
  async option(bytes: Uint8Array): Promise<wire.OptionReply[]> {
    this.send(bytes);
    const replies: wire.OptionReply[] = [];
    for (;;) {
      const reply = await this.optionReply();
      if (reply === undefined) return replies;
      replies.push(reply);
      if (reply.type === REP.ACK || reply.type >= 0x80000000) return replies;
    }
  }

  /** Up to transmission; returns the type of the last reply. */
  async go(
    name: string,
    how: { structured?: boolean; meta?: boolean; greeted?: boolean } = {},
  ): Promise<number | undefined> {
    if (how.greeted !== true) await this.greet();
    if (how.structured === true || how.meta === true) await this.option(wire.option(OPT.STRUCTURED));
    if (how.meta === true)
      await this.option(wire.option(OPT.SET_META, wire.metaData(name, ["base:allocation"])));
    return (await this.option(wire.go(name, [3]))).at(-1)?.type;
  }

  async request(fields: wire.RequestFields, readLength = 0): Promise<wire.Reply | undefined> {
    this.send(wire.request(fields));
    return this.reply(readLength);
  }

  /** Starts TLS after the ACK of STARTTLS; false when the handshake failed or the server closed right after it. */
  async secure(
    identity: Partial<TestIdentity>,
    tls: { maxVersion?: "TLSv1.1" | "TLSv1.2" } = {},
  ): Promise<boolean> {
    const raw = this.socket;
    raw.off("data", this.#onData);
    raw.off("end", this.#onClose);
    raw.off("close", this.#onClose);
    let socket: TLSSocket;
    try {
      socket = connectTls({
        socket: raw,
        ...(identity.ca === undefined ? {} : { ca: identity.ca }),
        ...(identity.cert === undefined ? {} : { cert: identity.cert }),
        ...(identity.key === undefined ? {} : { key: identity.key }),
        ...(tls.maxVersion === "TLSv1.1" ? { minVersion: "TLSv1", ciphers: "DEFAULT@SECLEVEL=0" } : {}),
        ...tls,
        checkServerIdentity: () => undefined,
      });
    } catch {
      return false;
    }
    this.socket = socket;
    this.#attach(socket);
    const secured = await new Promise<boolean>((resolve) => {
      socket.once("secureConnect", () => resolve(true));
      socket.once("close", () => resolve(false));
    });
    return secured;
  }

  /** STARTTLS and the TLS handshake, from the greeting on. */
  async startTls(
    identity: Partial<TestIdentity>,
    tls: { maxVersion?: "TLSv1.1" | "TLSv1.2" } = {},
  ): Promise<boolean> {
    await this.greet();
    const replies = await this.option(wire.option(OPT.STARTTLS));
    if (replies.at(-1)?.type !== REP.ACK) return false;
    return this.secure(identity, tls);
  }

  destroy(): void {
    this.socket.destroy();
  }
}
