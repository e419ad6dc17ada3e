/**
 * A TCP relay that behaves like a long line: delay, rate, resets, outages, half-open directions. For tests, the demo and
 * the bench. It carries bytes in order without looking at them, holds a bounded amount, pushes back when that is full,
 * and notes when how many bytes came out, so that a throttle can be measured from outside.
 *
 * The rate is one line for all connections of a direction: parts leave first come, first served, as from a router with
 * one big buffer. Delay is added after the rate, so it costs no throughput.
 */
import { once } from "node:events";
import type { Server, Socket } from "node:net";
import { connect, createServer } from "node:net";

// Node 20 may spin for ever in its own clean-up when connections were reset with requests open. Everything is over and
// reported when the process would end by itself, so a process that used a relay ends without that clean-up.
process.once("beforeExit", () => process.on("exit", (code) => process.exit(code)));

/** Largest part that the line takes at once, bytes: one turn of the loop at 1 Gbit/s. */
const partBytesMax = 64 * 1024;
/** Arrivals kept for measuring: 10 minutes at 100 a second. */
const samplesMax = 60_000;

export interface RelayOptions {
  readonly listenHost?: string;
  /** 0: the kernel chooses. */
  readonly listenPort: number;
  readonly target: { readonly host: string; readonly port: number };
  /** One way, ms. */
  readonly delayMs?: number;
  /** Each way, for all connections together; 0 or absent: unlimited. */
  readonly rateBytesPerSecond?: number;
  /** Bytes that one direction holds before it stops reading, besides what the delay needs; 1 MiB by default. */
  readonly bufferBytesMax?: number;
  /** Probability that a connection is reset for each MiB it carries, either way. */
  readonly resetPerMebibyte?: number;
  /** For the resets: equal seeds, equal decisions per MiB carried. */
  readonly seed?: number;
  /** What befalls a connection at an exact byte; asked once for each, counted from 1 in the order they come. */
  readonly fate?: (connection: number) => ConnectionFate | undefined;
}

/** Bytes are counted from 0 in each direction of the connection. */
export interface ConnectionFate {
  /** Both ends are reset when exactly this many bytes of that direction have come out. */
  readonly reset?: { readonly direction: RelayDirection; readonly afterBytes: number };
  /** Told how many bytes have come in that way so far. */
  readonly taken?: (direction: RelayDirection, bytes: number) => void;
  /** One bit of one byte comes out turned. */
  readonly flip?: { readonly direction: RelayDirection; readonly atByte: number; readonly bit: number };
}

/** Bytes that arrived from one side in one part, by `performance.now()`. */
export interface RelaySample {
  readonly atMs: number;
  readonly bytes: number;
}

export interface RelayCounters {
  readonly upBytes: number;
  readonly downBytes: number;
  readonly connections: number;
  readonly resets: number;
  readonly flips: number;
}

export type RelayDirection = "up" | "down";

export interface Relay {
  readonly host: string;
  readonly port: number;
  readonly counters: RelayCounters;
  /** Arrivals from the client, oldest first: TCP payload bytes as the line carries them. */
  readonly upSamples: readonly RelaySample[];
  /** New settings for what is sent from now on. */
  shape(change: { readonly delayMs?: number; readonly rateBytesPerSecond?: number }): void;
  /** Drops everything silently and accepts nothing: peers see no end, only silence. */
  cut(): void;
  /** Carries again; connections go on with the bytes that were held, those that were asked for meanwhile begin. */
  restore(): void;
  /** Silently stops one direction of today's connections until `restore`. */
  halfOpen(silent: RelayDirection): void;
  /** The same for today's and all new connections: TCP connects, but that way nothing ever comes out. */
  oneWay(silent: RelayDirection): void;
  /** Resets every connection now. */
  resetAll(): void;
  close(): Promise<void>;
}

export async function startRelay(options: RelayOptions): Promise<Relay> {
  const relay = new TcpRelay(options);
  await relay.listen();
  return relay;
}

/** mulberry32: small, replayable. */
function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** One direction of the line, shared by all connections: when does a part of this length come out? */
class Line {
  #freeAtMs = 0;
  rateBytesPerSecond: number;

  constructor(rateBytesPerSecond: number) {
    this.rateBytesPerSecond = rateBytesPerSecond;
  }

  takes(bytes: number, nowMs: number): number {
    if (this.rateBytesPerSecond === 0) return nowMs;
    this.#freeAtMs = Math.max(this.#freeAtMs, nowMs) + (bytes * 1000) / this.rateBytesPerSecond;
    return this.#freeAtMs;
  }
}

interface Held {
  /** Or what comes after the last byte. */
  readonly bytes: Buffer | "end" | "reset";
  readonly outAtMs: number;
}

class TcpRelay implements Relay {
  readonly #options: RelayOptions;
  readonly #server: Server;
  readonly #lines: Readonly<Record<RelayDirection, Line>>;
  readonly #pipes = new Set<Pipe>();
  readonly #sockets = new Set<Socket>();
  /** Came while everything was silent. */
  readonly #unheard = new Set<Socket>();
  readonly #fraction: () => number;
  readonly upSamples: RelaySample[] = [];
  delayMs: number;
  silent = false;
  #silentWay: RelayDirection | undefined;
  #flips = 0;
  #up = 0;
  #down = 0;
  #connections = 0;
  #resets = 0;

  constructor(options: RelayOptions) {
    this.#options = options;
    this.#fraction = seeded(options.seed ?? 1);
    this.delayMs = options.delayMs ?? 0;
    const rate = options.rateBytesPerSecond ?? 0;
    this.#lines = { up: new Line(rate), down: new Line(rate) };
    this.#server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => this.#accept(socket));
  }

  async listen(): Promise<void> {
    this.#server.listen({ host: this.host, port: this.#options.listenPort });
    await once(this.#server, "listening");
  }

  get host(): string {
    return this.#options.listenHost ?? "127.0.0.1";
  }

  get port(): number {
    const address = this.#server.address();
    return typeof address === "object" && address !== null ? address.port : 0;
  }

  get counters(): RelayCounters {
    return {
      upBytes: this.#up,
      downBytes: this.#down,
      connections: this.#connections,
      resets: this.#resets,
      flips: this.#flips,
    };
  }

  get bufferBytesMax(): number {
    const rate = this.#lines.up.rateBytesPerSecond;
    const usual = this.#options.bufferBytesMax ?? 1024 * 1024;
    // What is under way during the delay is on the line, not in a buffer.
    return usual + (rate === 0 ? this.delayMs * 1_000_000 : (rate * this.delayMs) / 1000);
  }

  line(direction: RelayDirection): Line {
    return this.#lines[direction];
  }

  note(direction: RelayDirection, bytes: number): void {
    if (direction === "down") {
      this.#down += bytes;
      return;
    }
    this.#up += bytes;
    this.upSamples.push({ atMs: performance.now(), bytes });
    if (this.upSamples.length > samplesMax) this.upSamples.splice(0, samplesMax / 10);
  }

  /** True when the connection that carried `bytes` more shall be reset. */
  resets(bytes: number): boolean {
    const each = this.#options.resetPerMebibyte ?? 0;
    return each > 0 && this.#fraction() < 1 - (1 - each) ** (bytes / (1024 * 1024));
  }

  #accept(client: Socket): void {
    this.#connections += 1;
    this.#track(client);
    if (this.silent) {
      // The kernel has taken the connection already; nothing of it goes further until the line is back.
      client.pause();
      this.#unheard.add(client);
      client.once("close", () => this.#unheard.delete(client));
      return;
    }
    this.#join(client);
  }

  #join(client: Socket): void {
    const server = connect({ ...this.#options.target, noDelay: true, allowHalfOpen: true });
    this.#track(server);
    const reset = () => {
      this.#resets += 1;
      client.resetAndDestroy();
      server.resetAndDestroy();
    };
    const fate = this.#options.fate?.(this.#connections) ?? {};
    const up = new Pipe(this, "up", client, server, reset, fate);
    const down = new Pipe(this, "down", server, client, reset, fate);
    for (const pipe of [up, down]) {
      this.#pipes.add(pipe);
      if (pipe.direction === this.#silentWay) pipe.setSilent(true);
      pipe.source.once("close", () => {
        pipe.stop();
        this.#pipes.delete(pipe);
      });
    }
    client.once("close", (hadError) => endOther(server, hadError));
    server.once("close", (hadError) => endOther(client, hadError));
  }

  #track(socket: Socket): void {
    this.#sockets.add(socket);
    // The end of a connection is told by "close"; without a listener an error would end the process.
    socket.on("error", () => socket.destroy());
    socket.once("close", () => this.#sockets.delete(socket));
  }

  shape(change: { readonly delayMs?: number; readonly rateBytesPerSecond?: number }): void {
    if (change.delayMs !== undefined) this.delayMs = change.delayMs;
    if (change.rateBytesPerSecond === undefined) return;
    this.#lines.up.rateBytesPerSecond = change.rateBytesPerSecond;
    this.#lines.down.rateBytesPerSecond = change.rateBytesPerSecond;
  }

  cut(): void {
    this.silent = true;
    for (const pipe of this.#pipes) pipe.setSilent(true);
  }

  restore(): void {
    this.silent = false;
    this.#silentWay = undefined;
    for (const pipe of this.#pipes) pipe.setSilent(false);
    for (const client of this.#unheard) this.#join(client);
    this.#unheard.clear();
  }

  halfOpen(silent: RelayDirection): void {
    for (const pipe of this.#pipes) if (pipe.direction === silent) pipe.setSilent(true);
  }

  oneWay(silent: RelayDirection): void {
    this.#silentWay = silent;
    this.halfOpen(silent);
  }

  /** A byte was turned. */
  flipped(): void {
    this.#flips += 1;
  }

  resetAll(): void {
    for (const socket of [...this.#sockets]) {
      this.#resets += 1;
      socket.resetAndDestroy();
    }
  }

  async close(): Promise<void> {
    const closed = once(this.#server, "close");
    this.#server.close();
    for (const socket of [...this.#sockets]) socket.destroy();
    await closed;
  }
}

function endOther(socket: Socket, hadError: boolean): void {
  if (socket.destroyed) return;
  if (hadError) socket.resetAndDestroy();
  else socket.destroy();
}

function byteLengthOf(bytes: Held["bytes"]): number {
  return typeof bytes === "string" ? 0 : bytes.byteLength;
}

/** One direction of one connection: reads, holds for rate and delay, writes. */
class Pipe {
  readonly direction: RelayDirection;
  readonly source: Socket;
  readonly #relay: TcpRelay;
  readonly #sink: Socket;
  readonly #reset: () => void;
  readonly #fate: ConnectionFate;
  #held: Held[] = [];
  #heldBytes = 0;
  /** Bytes of this direction taken so far. */
  #takenBytes = 0;
  #timer: NodeJS.Timeout | undefined;
  #silent = false;
  #draining = false;
  #stopped = false;

  constructor(
    relay: TcpRelay,
    direction: RelayDirection,
    source: Socket,
    sink: Socket,
    reset: () => void,
    fate: ConnectionFate,
  ) {
    this.#relay = relay;
    this.direction = direction;
    this.source = source;
    this.#sink = sink;
    this.#reset = reset;
    this.#fate = fate;
    source.on("data", (chunk: Buffer) => this.#take(chunk));
    source.once("end", () => this.#hold("end", performance.now() + relay.delayMs));
    sink.on("drain", () => {
      this.#draining = false;
      this.#pump();
    });
  }

  setSilent(silent: boolean): void {
    this.#silent = silent;
    if (silent) this.source.pause();
    else {
      this.source.resume();
      this.#pump();
    }
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.#held = [];
  }

  #take(chunk: Buffer): void {
    this.#relay.note(this.direction, chunk.byteLength);
    if (this.#relay.resets(chunk.byteLength)) {
      this.#reset();
      return;
    }
    const { bytes, last } = this.#meet(chunk);
    for (let at = 0; at < bytes.byteLength; at += partBytesMax) {
      const part = bytes.subarray(at, at + partBytesMax);
      this.#hold(
        part,
        this.#relay.line(this.direction).takes(part.byteLength, performance.now()) + this.#relay.delayMs,
      );
    }
    if (last) {
      this.source.pause();
      this.#hold("reset", performance.now() + this.#relay.delayMs);
    }
    if (this.#heldBytes >= this.#relay.bufferBytesMax) this.source.pause();
  }

  /** The chunk as its fate leaves it; `last`: nothing comes after it but a reset. */
  #meet(chunk: Buffer): { readonly bytes: Buffer; readonly last: boolean } {
    const start = this.#takenBytes;
    this.#takenBytes += chunk.byteLength;
    const { flip, reset, taken } = this.#fate;
    taken?.(this.direction, this.#takenBytes);
    if (flip?.direction === this.direction && flip.atByte >= start && flip.atByte < this.#takenBytes) {
      const at = flip.atByte - start;
      chunk.writeUInt8(chunk.readUInt8(at) ^ (1 << flip.bit), at);
      this.#relay.flipped();
    }
    if (reset?.direction !== this.direction || this.#takenBytes < reset.afterBytes)
      return { bytes: chunk, last: false };
    return { bytes: chunk.subarray(0, Math.max(0, reset.afterBytes - start)), last: true };
  }

  #hold(bytes: Held["bytes"], outAtMs: number): void {
    this.#held.push({ bytes, outAtMs });
    this.#heldBytes += byteLengthOf(bytes);
    this.#pump();
  }

  #pump(): void {
    if (this.#stopped || this.#silent || this.#draining) return;
    clearTimeout(this.#timer);
    for (;;) {
      const next = this.#held[0];
      if (next === undefined) return;
      const waitMs = next.outAtMs - performance.now();
      if (waitMs > 0) {
        this.#timer = setTimeout(() => this.#pump(), Math.ceil(waitMs));
        return;
      }
      this.#held.shift();
      if (next.bytes === "end") {
        this.#sink.end();
        continue;
      }
      if (next.bytes === "reset") {
        this.#stopped = true;
        this.#reset();
        return;
      }
      const before = this.#heldBytes;
      this.#heldBytes -= next.bytes.byteLength;
      if (
        before >= this.#relay.bufferBytesMax &&
        this.#heldBytes < this.#relay.bufferBytesMax &&
        !this.#silent
      ) {
        this.source.resume();
      }
      if (!this.#sink.write(next.bytes)) {
        this.#draining = true;
        return;
      }
    }
  }
}
