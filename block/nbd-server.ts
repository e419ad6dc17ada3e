/**
 * The NBD server: accepts connections on one address, bounds how many may negotiate, flushes their replies once per
 * turn of the event loop, watches for stalled clients, and stops in order. What it serves is the catalog's business,
 * what is legal is the session's. It keeps running whatever a client does.
 */
import assert from "node:assert/strict";
import { createServer, type Server, type Socket } from "node:net";
import type { Clock, Timer } from "../runtime/clock.ts";
import type { Log } from "../runtime/log.ts";
import type { Address } from "../runtime/settings/types.ts";
import type { ExportCatalog } from "./export-catalog.ts";
import { NbdConnection, type NbdConnectionHost } from "./nbd-connection.ts";
import { emptyNbdCounters, type NbdCounters } from "./nbd-dispatch.ts";
import { type NbdServerLimits, nbdRequestMemoryBytesMax, nbdServerLimits } from "./nbd-limits.ts";
import { listenOn } from "./nbd-listen.ts";
import { NbdArenaPool, type NbdReplyQueue } from "./nbd-reply-queue.ts";
import { NbdRequestMemory } from "./nbd-request-memory.ts";
import { NbdTlsGate, type NbdTlsMaterial } from "./nbd-tls.ts";

export interface NbdServerOptions {
  readonly listen: Address;
  /** Null: plain text. Otherwise every TCP client must start TLS and show a certificate. Not for Unix sockets. */
  readonly tls: NbdTlsMaterial | null;
  readonly catalog: ExportCatalog;
  readonly clock: Clock;
  readonly log: Log;
  readonly limits?: Partial<NbdServerLimits>;
  /** Shared by all servers of the process; a server alone makes its own. */
  readonly memory?: NbdRequestMemory;
}

export interface NbdServerStats extends Readonly<NbdCounters> {
  readonly connections: number;
  readonly negotiating: number;
  readonly inFlight: number;
  /** Payload memory in use by all servers that share it, bytes. */
  readonly requestMemoryBytes: number;
  /** Connections turned away at the door since the start. */
  readonly refusedConnections: number;
}

/** Sweeps per stall time: a stalled client is cut after at most 7/6 of it. */
const sweepsPerStall = 6;

export class NbdServer {
  readonly #listenAddress: Address;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #limits: NbdServerLimits;
  readonly #tls: NbdTlsGate | null;
  readonly #server: Server;
  readonly #host: NbdConnectionHost;
  readonly #memory: NbdRequestMemory;
  readonly #counters: NbdCounters = emptyNbdCounters();
  readonly #connections = new Set<NbdConnection>();
  readonly #negotiatingBySource = new Map<string, number>();
  #negotiating = 0;
  #refusedConnections = 0;
  #flushList: NbdReplyQueue[] = [];
  #sweepTimer: Timer | null = null;
  #sweptAtMs = 0;
  #closing: Promise<void> | null = null;
  #allClosed: (() => void) | null = null;

  constructor(options: NbdServerOptions) {
    assert(options.tls === null || options.listen.kind === "tcp", "TLS is for TCP only");
    this.#listenAddress = options.listen;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#limits = { ...nbdServerLimits, ...options.limits };
    this.#memory = options.memory ?? new NbdRequestMemory(nbdRequestMemoryBytesMax);
    this.#tls =
      options.tls === null
        ? null
        : new NbdTlsGate(options.tls, this.#limits.handshakeMs, (error) =>
            this.#log.warn("NBD_TLS_REFUSED", "a TLS handshake failed", { reason: error.message }),
          );
    this.#host = {
      catalog: options.catalog,
      clock: options.clock,
      log: options.log,
      limits: this.#limits,
      memory: this.#memory,
      arenas: new NbdArenaPool(),
      counters: this.#counters,
      tls: this.#tls,
      schedule: (queue) => this.#schedule(queue),
      negotiated: (connection) => this.#leftNegotiation(connection),
      closed: (connection) => this.#connectionClosed(connection),
    };
    this.#server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => this.#accept(socket));
  }

  /** Settles with the address bound. Rejects with OperationalError NBD_ADDRESS_IN_USE or NBD_LISTEN_FAILED. */
  async listen(): Promise<Address> {
    const bound = await listenOn(this.#server, this.#listenAddress);
    this.#server.on("error", (error) => this.#log.error("NBD_ACCEPT_FAILED", "accepting failed", error));
    this.#sweptAtMs = this.#clock.monotonicMs();
    this.#armSweep();
    return bound;
  }

  get stats(): NbdServerStats {
    let inFlight = 0;
    for (const connection of this.#connections) inFlight += connection.inFlight;
    return {
      ...this.#counters,
      connections: this.#connections.size,
      negotiating: this.#negotiating,
      inFlight,
      requestMemoryBytes: this.#memory.usedBytes,
      refusedConnections: this.#refusedConnections,
    };
  }

  /** Replaces certificate, key and authority for handshakes from now on. Only for a server made with TLS. */
  setTls(material: NbdTlsMaterial): void {
    assert(this.#tls !== null, "the server was made without TLS");
    this.#tls.rotate(material);
  }

  /**
   * Cuts the connections whose export `matches`; requests in flight end unanswered, so that a client which reconnects
   * repeats them. Returns how many were cut. For an export that moves away in a planned way.
   */
  disconnect(matches: (exportName: string) => boolean): number {
    let count = 0;
    for (const connection of this.#connections) {
      if (connection.exportName === null || !matches(connection.exportName)) continue;
      connection.destroy();
      count += 1;
    }
    return count;
  }

  /**
   * Stops accepting, lets requests in flight answer for at most `graceMs`, then cuts what is left. Settles when every
   * connection is gone and its device closed, or when the grace is over: a device that never answers holds nobody up.
   * With 0 everything is cut at once.
   */
  close(graceMs: number): Promise<void> {
    this.#closing ??= this.#close(graceMs);
    return this.#closing;
  }

  async #close(graceMs: number): Promise<void> {
    this.#sweepTimer?.cancel();
    // The callback only says that the last connection is gone, which is awaited below; not listening is no fault.
    this.#server.close(() => undefined);
    for (const connection of this.#connections) connection.shutdown();
    if (this.#connections.size === 0) return;
    if (graceMs > 0) {
      const { promise: settled, resolve: settle } = pending();
      this.#allClosed = settle;
      const timer = this.#clock.after(graceMs, settle);
      await settled;
      timer.cancel();
    }
    for (const connection of this.#connections) connection.destroy();
  }

  #accept(socket: Socket): void {
    const unix = this.#listenAddress.kind === "unix";
    const source = unix ? null : (socket.remoteAddress ?? "unknown");
    const fromSource = source === null ? 0 : (this.#negotiatingBySource.get(source) ?? 0);
    const reason =
      this.#closing !== null
        ? "CLOSING"
        : this.#connections.size >= this.#limits.connectionsMax
          ? "TOO_MANY_CONNECTIONS"
          : this.#negotiating >= this.#limits.negotiatingMax ||
              fromSource >= this.#limits.negotiatingPerSourceMax
            ? "TOO_MANY_NEGOTIATING"
            : null;
    if (reason !== null) {
      this.#refusedConnections += 1;
      this.#log.warn("NBD_CLIENT_REFUSED", "turned away a connection", {
        reason,
        address: source ?? "unix",
      });
      socket.on("error", () => undefined);
      socket.destroy();
      return;
    }
    this.#negotiating += 1;
    if (source !== null) this.#negotiatingBySource.set(source, fromSource + 1);
    this.#connections.add(new NbdConnection(this.#host, socket, unix ? "unix" : "tcp"));
  }

  #leftNegotiation(connection: NbdConnection): void {
    this.#negotiating -= 1;
    const source = connection.address;
    const left = (this.#negotiatingBySource.get(source) ?? 0) - 1;
    if (left > 0) this.#negotiatingBySource.set(source, left);
    else this.#negotiatingBySource.delete(source);
  }

  #connectionClosed(connection: NbdConnection): void {
    this.#connections.delete(connection);
    if (this.#connections.size === 0) this.#allClosed?.();
  }

  /** Replies of one turn of the event loop leave together, after the turn's input has been worked through. */
  #schedule(queue: NbdReplyQueue): void {
    if (this.#flushList.length === 0) setImmediate(this.#flushAll);
    this.#flushList.push(queue);
  }

  readonly #flushAll = (): void => {
    const queues = this.#flushList;
    this.#flushList = [];
    for (const queue of queues) queue.flush();
  };

  #armSweep(): void {
    this.#sweepTimer = this.#clock.after(this.#limits.stallMs / sweepsPerStall, () => {
      const nowMs = this.#clock.monotonicMs();
      const sinceMs = nowMs - this.#sweptAtMs;
      this.#sweptAtMs = nowMs;
      for (const connection of this.#connections) connection.sweep(sinceMs);
      this.#armSweep();
    });
  }
}

/** A promise and what settles it. */
function pending(): { promise: Promise<void>; resolve: () => void } {
  let resolve: () => void = () => undefined;
  const promise = new Promise<void>((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}
