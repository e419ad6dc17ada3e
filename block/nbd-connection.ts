/**
 * One NBD connection: moves bytes between a socket and a pure session, asks the catalog, feeds the dispatcher, and
 * keeps every bound of the connection. It may stop reading at any point and go on later; it never drops a request that
 * the device already has, and closes the device only after the last of them. It decides nothing about the protocol.
 *
 *   negotiating ──► (upgrading ──► negotiating inside TLS) ──► transmitting ──► finishing ──► closed
 *   Any state ──► closed when the socket goes; requests in flight then end unheard.
 */
import type { Socket } from "node:net";
import type { NbdEvent, NbdExportRequested, NbdRequest } from "../protocol/nbd/events.ts";
import type { NbdExportParams } from "../protocol/nbd/export-params.ts";
import type { NbdExportAnswer, NbdTlsMode } from "../protocol/nbd/handshake.ts";
import { NbdSession } from "../protocol/nbd/session.ts";
import type { Clock, Timer } from "../runtime/clock.ts";
import type { Log } from "../runtime/log.ts";
import type { BlockDevice } from "./device.ts";
import type { ClientIdentity, ExportCatalog, ExportRefusal, ExportShape } from "./export-catalog.ts";
import { type NbdCounters, NbdDispatcher, requestCost } from "./nbd-dispatch.ts";
import type { NbdServerLimits } from "./nbd-limits.ts";
import { type NbdArenaPool, NbdReplyQueue } from "./nbd-reply-queue.ts";
import type { NbdRequestMemory } from "./nbd-request-memory.ts";
import { certificateNames, type NbdTlsGate } from "./nbd-tls.ts";

/** What all connections of a server share. */
export interface NbdConnectionHost {
  readonly catalog: ExportCatalog;
  readonly clock: Clock;
  readonly log: Log;
  readonly limits: NbdServerLimits;
  readonly memory: NbdRequestMemory;
  readonly arenas: NbdArenaPool;
  readonly counters: NbdCounters;
  /** Null: connections stay in plain text. */
  readonly tls: NbdTlsGate | null;
  /** Flushes the queue at the end of this turn of the event loop. */
  readonly schedule: (queue: NbdReplyQueue) => void;
  /** The connection needs no place among the negotiating any more. Called once. */
  readonly negotiated: (connection: NbdConnection) => void;
  /** Socket gone, requests over, device closed. Called once. */
  readonly closed: (connection: NbdConnection) => void;
}

export class NbdConnection {
  readonly #host: NbdConnectionHost;
  readonly #raw: Socket;
  #socket: Socket;
  #identity: ClientIdentity;
  #session: NbdSession;
  #queue: NbdReplyQueue;
  #dispatcher: NbdDispatcher | null = null;
  #device: BlockDevice | null = null;
  #exportName: string | null = null;
  readonly #deadline: Timer;
  #linger: Timer | null = null;
  // Conditions.
  #negotiating = true;
  /** The catalog's answer is awaited. */
  #lookingUp = false;
  /** The ACK of STARTTLS is on its way, or the TLS handshake is. */
  #upgrading = false;
  /** A bound is reached; input rests. */
  #blocked = false;
  #inputEnded = false;
  #finishing = false;
  #socketClosed = false;
  #over = false;
  #reading = true;
  // Requests.
  #inFlight = 0;
  #bytesInFlight = 0;
  /** Parsed, but waiting for memory. */
  #held: NbdRequest | null = null;
  /** An announced payload waits for memory. */
  #heldPayloadBytes = 0;
  /** Memory taken for the request that comes next out of the session. */
  #payloadTaken = 0;
  #leaveLine: (() => void) | null = null;
  #grantedBytes = 0;
  /** Memory of READs whose data is still in the reply queue. */
  #replyBytesTaken = 0;
  // Stall detection.
  #bytesReceived = 0;
  #bytesSent = 0;
  #sweptReceived = 0;
  #sweptSent = 0;
  #inputStalledMs = 0;
  #outputStalledMs = 0;

  constructor(host: NbdConnectionHost, socket: Socket, transport: "tcp" | "unix") {
    this.#host = host;
    this.#raw = socket;
    this.#socket = socket;
    const address = transport === "unix" ? "unix" : (socket.remoteAddress ?? "unknown");
    this.#identity = { transport, tls: false, certificateNames: [], address };
    this.#queue = this.#newQueue(socket);
    this.#session = this.#newSession(host.tls === null ? "off" : "required");
    this.#deadline = host.clock.after(host.limits.handshakeMs, () => this.#refuse("HANDSHAKE_TIMEOUT"));
    socket.on("close", this.#onClose);
    this.#listen(socket);
  }

  get address(): string {
    return this.#identity.address;
  }

  get exportName(): string | null {
    return this.#exportName;
  }

  get negotiating(): boolean {
    return this.#negotiating;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  #newQueue(socket: Socket): NbdReplyQueue {
    return new NbdReplyQueue(socket, {
      arenas: this.#host.arenas,
      schedule: this.#host.schedule,
      progressed: (bytes) => this.#onSent(bytes),
    });
  }

  #newSession(tls: NbdTlsMode, padded?: boolean): NbdSession {
    return new NbdSession({
      sink: this.#queue,
      tls,
      limits: this.#host.limits.session,
      ...(padded === undefined ? {} : { padded }),
    });
  }

  #listen(socket: Socket): void {
    socket.on("data", this.#onData);
    socket.on("end", this.#onEnd);
    socket.on("error", this.#onError);
  }

  readonly #onData = (chunk: Buffer): void => {
    this.#bytesReceived += chunk.length;
    if (this.#finishing) return;
    this.#session.receive(chunk);
    this.#pump();
  };

  readonly #onEnd = (): void => {
    this.#inputEnded = true;
    if (!this.#finishing) this.#pump();
  };

  /** Resets and broken pipes are a client's right; `close` follows and cleans up. */
  readonly #onError = (): void => {
    this.#socket.destroy();
  };

  /** The catalog's answer or the upgrade to TLS is awaited; input rests. */
  get #awaiting(): boolean {
    return this.#lookingUp || this.#upgrading;
  }

  readonly #onClose = (): void => {
    this.#closed();
  };

  /** Takes events from the session until it has none or a bound says to rest. */
  #pump(): void {
    const session = this.#session;
    const limits = this.#host.limits;
    this.#blocked = false;
    while (!this.#finishing && !this.#awaiting) {
      if (
        this.#inFlight >= limits.requestsInFlightMax ||
        this.#queue.unsentBytes >= limits.unsentBytesMax ||
        this.#leaveLine !== null
      ) {
        this.#blocked = true;
        break;
      }
      if (this.#held !== null || this.#heldPayloadBytes > 0) {
        if (!this.#admitHeld()) {
          this.#blocked = true;
          break;
        }
        continue;
      }
      const event = session.next();
      if (event === null) {
        if (this.#inputEnded && !this.#awaiting) this.#finish();
        break;
      }
      this.#take(event);
    }
    this.#updateReading();
  }

  #take(event: NbdEvent): void {
    switch (event.kind) {
      case "request": {
        const cost = requestCost(event);
        if (this.#payloadTaken > 0) this.#payloadTaken = 0;
        else if (!this.#admit(cost)) {
          this.#held = event;
          return;
        }
        this.#start(event);
        return;
      }
      case "rejected":
        this.#host.counters.errors += 1;
        this.#session.replies.error(event, event.errno, event.message);
        return;
      case "payloadAnnounced":
        if (this.#admit(event.bytes)) this.#acceptPayload(event.bytes);
        else this.#heldPayloadBytes = event.bytes;
        return;
      case "listRequested":
        this.#list();
        return;
      case "exportRequested":
        this.#lookingUp = true;
        void this.#lookUp(event);
        return;
      case "tlsRequested":
        this.#upgrading = true;
        this.#queue.flush();
        return;
      case "ended":
        if (event.clean) this.#finish();
        else this.#refuse(event.code);
        return;
    }
  }

  // Requests and their memory.

  #start(request: NbdRequest): void {
    this.#inFlight += 1;
    const dispatcher = this.#dispatcher;
    if (dispatcher === null) throw new Error("a request before transmission");
    dispatcher.run(request);
  }

  #acceptPayload(bytes: number): void {
    this.#payloadTaken = bytes;
    this.#session.acceptPayload();
  }

  /** Takes memory for one request; false when it has to wait. */
  #admit(bytes: number): boolean {
    if (bytes === 0) return true;
    if (this.#bytesInFlight > 0 && this.#bytesInFlight + bytes > this.#host.limits.bytesInFlightMax)
      return false;
    if (this.#grantedBytes > 0) {
      // The line was left with exactly this request's bytes.
      this.#grantedBytes = 0;
    } else if (!this.#host.memory.tryTake(bytes)) {
      return false;
    }
    this.#bytesInFlight += bytes;
    return true;
  }

  /** Starts what was held, or stands in line for it. */
  #admitHeld(): boolean {
    const held = this.#held;
    const bytes = held === null ? this.#heldPayloadBytes : requestCost(held);
    if (this.#admit(bytes)) {
      if (held === null) {
        this.#heldPayloadBytes = 0;
        this.#acceptPayload(bytes);
      } else {
        this.#held = null;
        this.#start(held);
      }
      return true;
    }
    const ownBound =
      this.#bytesInFlight > 0 && this.#bytesInFlight + bytes > this.#host.limits.bytesInFlightMax;
    if (!ownBound && this.#grantedBytes === 0) {
      this.#leaveLine = this.#host.memory.wait(bytes, () => {
        this.#leaveLine = null;
        this.#grantedBytes = bytes;
        this.#pump();
      });
    }
    return false;
  }

  readonly #settled = (request: NbdRequest, replyBytes: number): void => {
    const cost = requestCost(request);
    this.#inFlight -= 1;
    this.#bytesInFlight -= cost;
    if (replyBytes > 0 && !this.#socketClosed) {
      // Data of a READ takes memory until the socket has it.
      this.#replyBytesTaken += replyBytes;
      if (cost > replyBytes) this.#host.memory.release(cost - replyBytes);
    } else if (cost > 0) {
      this.#host.memory.release(cost);
    }
    if (this.#socketClosed) this.#endWhenIdle();
    else if (this.#finishing) this.#endStreamWhenSent();
    else if (this.#blocked) this.#pump();
  };

  #onSent(bytes: number): void {
    this.#bytesSent += bytes;
    if (this.#replyBytesTaken > 0) {
      const unsent = this.#queue.unsentBytes;
      const done = unsent === 0 ? this.#replyBytesTaken : Math.min(bytes, this.#replyBytesTaken);
      this.#replyBytesTaken -= done;
      this.#host.memory.release(done);
    }
    if (this.#finishing) this.#endStreamWhenSent();
    else if (this.#upgrading && this.#queue.unsentBytes === 0) this.#upgrade();
    else if (this.#blocked) this.#pump();
  }

  #updateReading(): void {
    const wanted = !this.#blocked && !this.#awaiting && !this.#finishing;
    if (wanted === this.#reading) return;
    this.#reading = wanted;
    if (wanted) this.#socket.resume();
    else this.#socket.pause();
  }

  // Negotiation.

  #list(): void {
    let names: readonly string[];
    try {
      names = this.#host.catalog.list(this.#identity).map((entry) => entry.name);
    } catch (error) {
      this.#host.log.error("NBD_CATALOG_FAILED", "cannot list exports", error);
      this.#refuse("CATALOG_FAILED");
      return;
    }
    this.#session.answerList(names);
  }

  async #lookUp(event: NbdExportRequested): Promise<void> {
    const session = this.#session;
    let answer: NbdExportAnswer;
    let device: BlockDevice | null = null;
    try {
      if (event.use === "describe") {
        const outcome = await this.#host.catalog.describe(event.name, this.#identity);
        answer = outcome.kind === "described" ? this.#accepted(outcome.shape) : refusal(outcome);
      } else {
        const outcome = await this.#host.catalog.open(event.name, this.#identity);
        if (outcome.kind === "opened") {
          device = outcome.device;
          answer = this.#accepted({ ...shapeOf(device), readOnly: outcome.readOnly });
        } else {
          answer = refusal(outcome);
        }
      }
    } catch (error) {
      this.#host.log.error("NBD_CATALOG_FAILED", "cannot look up an export", error);
      answer = { kind: "refused", reason: "policy", message: "the export cannot be opened" };
    }
    this.#lookingUp = false;
    if (this.#socketClosed || this.#finishing) {
      // Gone or stopping meanwhile: whatever was opened is given back unused.
      this.#device = device;
      if (this.#socketClosed) this.#endWhenIdle();
      return;
    }
    this.#device = device;
    session.answerExport(answer);
    if (device !== null && session.transmitting) this.#transmit(event.name, device);
    this.#pump();
  }

  #accepted(shape: ExportShape): NbdExportAnswer {
    return { kind: "export", params: exportParams(shape, this.#host.limits.session.payloadBytesMax) };
  }

  #transmit(name: string, device: BlockDevice): void {
    this.#exportName = name;
    this.#dispatcher = new NbdDispatcher({
      device,
      replies: this.#session.replies,
      counters: this.#host.counters,
      log: this.#host.log,
      settled: this.#settled,
    });
    this.#leaveNegotiation();
  }

  #leaveNegotiation(): void {
    if (!this.#negotiating) return;
    this.#negotiating = false;
    this.#deadline.cancel();
    this.#host.negotiated(this);
  }

  /** The ACK has left: the TLS engine takes over the socket, and a fresh session the haggling. */
  #upgrade(): void {
    const gate = this.#host.tls;
    if (gate === null) throw new Error("STARTTLS without TLS");
    const raw = this.#raw;
    if (this.#inputEnded || this.#session.bufferedBytes > 0 || raw.readableLength > 0) {
      this.#refuse("BYTES_AFTER_STARTTLS");
      return;
    }
    // Half a TLS stream is of no use, and a client that leaves during the handshake is noticed at once this way.
    raw.allowHalfOpen = false;
    raw.off("data", this.#onData);
    raw.off("end", this.#onEnd);
    gate.upgrade(raw, (socket) => {
      if (this.#socketClosed || this.#finishing) {
        socket.destroy();
        return;
      }
      const names = certificateNames(socket);
      this.#identity = { ...this.#identity, tls: true, certificateNames: names };
      this.#socket = socket;
      this.#queue.close();
      this.#queue = this.#newQueue(socket);
      this.#session = this.#newSession("established", this.#session.padded);
      socket.on("close", this.#onClose);
      this.#listen(socket);
      this.#upgrading = false;
      this.#reading = true;
      // Listening for data made the stream flow.
      this.#updateReading();
    });
  }

  // Endings.

  /** Ends a client that broke the rules or a bound, with one line in the log. */
  #refuse(code: string): void {
    if (this.#socketClosed || this.#finishing) return;
    this.#host.log.warn("NBD_CLIENT_REFUSED", "closed a client's connection", {
      reason: code,
      address: this.#identity.address,
      ...(this.#exportName === null ? {} : { export: this.#exportName }),
    });
    if (this.#awaiting || code === "HANDSHAKE_TIMEOUT") this.destroy();
    else this.#finish();
  }

  /** Takes no further request, lets those in flight answer, then ends the stream. */
  #finish(): void {
    if (this.#finishing) return;
    this.#finishing = true;
    this.#deadline.cancel();
    this.#dropWaiting();
    this.#updateReading();
    this.#endStreamWhenSent();
  }

  #endStreamWhenSent(): void {
    if (this.#inFlight > 0 || this.#linger !== null || this.#socketClosed) return;
    if (this.#queue.unsentBytes > 0) {
      this.#queue.flush();
      return;
    }
    this.#linger = this.#host.clock.after(this.#host.limits.lingerMs, () => this.destroy());
    // Reading on, and dropping it, until the client's end of stream: closing with unread input would reset the
    // connection and could take the last replies with it.
    this.#socket.end();
    this.#socket.resume();
  }

  /** Gives up what waits for memory. */
  #dropWaiting(): void {
    this.#leaveLine?.();
    this.#leaveLine = null;
    const taken = this.#grantedBytes + this.#payloadTaken;
    this.#bytesInFlight -= this.#payloadTaken;
    this.#grantedBytes = 0;
    this.#payloadTaken = 0;
    this.#held = null;
    this.#heldPayloadBytes = 0;
    if (taken > 0) this.#host.memory.release(taken);
  }

  /** Orderly end from our side: what is in flight still answers. A client in negotiation is let go at once. */
  shutdown(): void {
    if (this.#negotiating) this.destroy();
    else this.#finish();
  }

  /** Cuts the connection; requests in flight end unheard. */
  destroy(): void {
    this.#socket.destroy();
    this.#raw.destroy();
  }

  #closed(): void {
    if (this.#socketClosed) return;
    this.#socketClosed = true;
    this.#socket.destroy();
    this.#raw.destroy();
    this.#deadline.cancel();
    this.#linger?.cancel();
    this.#dispatcher?.mute();
    this.#dropWaiting();
    this.#queue.close();
    if (this.#replyBytesTaken > 0) this.#host.memory.release(this.#replyBytesTaken);
    this.#replyBytesTaken = 0;
    this.#leaveNegotiation();
    this.#endWhenIdle();
  }

  #endWhenIdle(): void {
    if (this.#over || this.#inFlight > 0) return;
    // A look-up still under way comes back here with the device it may have opened.
    if (this.#lookingUp) return;
    this.#over = true;
    const device = this.#device;
    this.#device = null;
    if (device === null) {
      this.#host.closed(this);
      return;
    }
    device.close().then(
      () => this.#host.closed(this),
      (error: unknown) => {
        this.#host.log.error("NBD_DEVICE_CLOSE_FAILED", "closing an export's device failed", error);
        this.#host.closed(this);
      },
    );
  }

  /** Called every `sinceMs`: cuts the connection when the client stopped in the middle of something. */
  sweep(sinceMs: number): void {
    if (this.#socketClosed) return;
    const stallMs = this.#host.limits.stallMs;
    const outputStuck = this.#queue.unsentBytes > 0 && this.#bytesSent === this.#sweptSent;
    this.#outputStalledMs = outputStuck ? this.#outputStalledMs + sinceMs : 0;
    const inputStuck =
      this.#reading && this.#session.insideRequest && this.#bytesReceived === this.#sweptReceived;
    this.#inputStalledMs = inputStuck ? this.#inputStalledMs + sinceMs : 0;
    this.#sweptSent = this.#bytesSent;
    this.#sweptReceived = this.#bytesReceived;
    if (this.#outputStalledMs < stallMs && this.#inputStalledMs < stallMs) return;
    this.#host.log.warn(
      "NBD_CLIENT_STALLED",
      "cut a client that stopped in the middle of a request or reply",
      {
        address: this.#identity.address,
        unsentBytes: this.#queue.unsentBytes,
      },
    );
    this.destroy();
  }
}

function refusal(outcome: ExportRefusal): NbdExportAnswer {
  return outcome.kind === "unknown"
    ? { kind: "unknown" }
    : { kind: "refused", reason: outcome.reason, message: outcome.message };
}

function shapeOf(device: BlockDevice): Omit<ExportShape, "readOnly"> {
  return { sizeBytes: device.sizeBytes, blockSize: device.blockSize, can: device.can };
}

/** What the session needs of an export; one derivation for INFO and GO, so that they cannot differ. */
export function exportParams(shape: ExportShape, payloadBytesMax: number): NbdExportParams {
  const { can, blockSize } = shape;
  return {
    sizeBytes: shape.sizeBytes,
    blockBytesMin: blockSize.minimum,
    blockBytesPreferred: Math.max(blockSize.preferred, blockSize.minimum, 512),
    payloadBytesMax: Math.min(blockSize.maximum, payloadBytesMax),
    readOnly: shape.readOnly || !can.write,
    flush: can.flush,
    fua: can.fua,
    trim: can.trim,
    zero: can.zero,
    fastZero: can.zero && can.fastZero,
    cache: can.cache,
    extents: can.extents,
    multiConn: can.multiConn,
  };
}
