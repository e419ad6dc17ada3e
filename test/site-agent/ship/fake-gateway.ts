/**
 * A gateway in memory behind a real HTTPS server: takes batches in order, verifies them, and keeps what it took, so that
 * a test can compare it with the source. `faults` lets a test lose, delay or replace answers.
 */
import { readFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Server } from "node:https";
import { createServer } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { batchHeaderBytes, decodeBatchHeader, decodeBatchPayload } from "../../../protocol/batch.ts";
import type { BatchAnswer, HeartbeatAnswer, HelloAnswer, ScanAnswer } from "../../../protocol/control.ts";
import { parseHeartbeat, parseHello, parseScanAsk } from "../../../protocol/control.ts";
import type { Frame } from "../../../protocol/frame.ts";
import type { ChainValue, Sequence, Token } from "../../../protocol/ids.ts";
import { bytesEqual, bytesToHex } from "../../../protocol/ids.ts";
import type { StandbyPinAnswer } from "../../../protocol/standby-pin.ts";
import type { TlsFiles } from "../../../runtime/settings/types.ts";
import type { NaiveStandby } from "../scan/naive-standby.ts";

/** What a test may do to one request; `undefined`: nothing. */
export interface Faults {
  hello?: () => HelloAnswer | undefined;
  /** `drop`: cut before anything is done; `dropAnswer`: done, then cut; `hang`: never answered. */
  batch?: (first: Sequence, last: Sequence) => BatchAnswer | "drop" | "dropAnswer" | "hang" | undefined;
  /** Before a repair by policy; default: no history is kept. */
  pin?: () => StandbyPinAnswer | undefined;
  heartbeat?: () => HeartbeatAnswer | "hang" | undefined;
}

export class FakeGateway {
  readonly frames: Frame[] = [];
  readonly faults: Faults = {};
  /** Applies what was taken, and knows what its owner has to scan; undefined: nobody looks at the records. */
  standby: NaiveStandby | undefined;
  known = false;
  token: Token = { epoch: 1, owner: "primary" };
  genesis: ChainValue = new Uint8Array(32);
  /** Highest `answered` heard. */
  heard: Sequence = 0;
  hellos = 0;
  heartbeats = 0;
  batches = 0;
  wireBytes = 0;
  /** Largest batches under way at once. */
  concurrentMax = 0;
  readonly codecs = new Set<string>();
  #concurrent = 0;
  #server: Server | undefined;
  readonly #sockets = new Set<Socket>();
  #moved: (() => void)[] = [];

  get durable(): Sequence {
    return this.frames[this.frames.length - 1]?.last ?? 0;
  }

  get chain(): ChainValue {
    return this.frames[this.frames.length - 1]?.chainAfter ?? this.genesis;
  }

  async listen(tls: TlsFiles): Promise<number> {
    const server = createServer(
      {
        ca: readFileSync(tls.ca),
        cert: readFileSync(tls.cert),
        key: readFileSync(tls.key),
        requestCert: true,
        rejectUnauthorized: true,
        requestTimeout: 0,
      },
      (request, response) => {
        this.#serve(request, response).catch(() => request.socket.destroy());
      },
    );
    server.on("connection", (socket: Socket) => {
      this.#sockets.add(socket);
      socket.on("error", () => socket.destroy());
      socket.once("close", () => this.#sockets.delete(socket));
    });
    this.#server = server;
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return (server.address() as AddressInfo).port;
  }

  /** Cuts every connection, as a crash would. */
  cutAll(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async close(): Promise<void> {
    this.cutAll();
    await new Promise((resolve) => this.#server?.close(resolve) ?? resolve(undefined));
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = request.url ?? "";
    if (path.endsWith("/batches")) {
      this.#concurrent += 1;
      this.concurrentMax = Math.max(this.concurrentMax, this.#concurrent);
      try {
        await this.#batch(request, response);
      } finally {
        this.#concurrent -= 1;
      }
      return;
    }
    const body = await read(request);
    if (path.endsWith("/scan")) return this.#answer(response, this.#scan(body));
    if (path.endsWith("/history-check")) return this.#answer(response, { kind: "none" });
    if (path.endsWith("/pin")) return this.#answer(response, this.faults.pin?.() ?? { kind: "none" });
    if (path.endsWith("/hello")) return this.#answer(response, this.#hello(body));
    if (path.endsWith("/heartbeat")) {
      const answer = this.#heartbeat(body);
      if (answer !== "hang") this.#answer(response, answer);
      return;
    }
    this.#answer(response, { known: this.known, lineage: null, token: this.known ? this.token : null });
  }

  #answer(response: ServerResponse, answer: unknown): void {
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify(answer));
  }

  #hello(body: Buffer): HelloAnswer {
    this.hellos += 1;
    const hello = parseHello(body);
    const fault = this.faults.hello?.();
    if (fault !== undefined) return fault;
    if (!this.known && !hello.create) return { kind: "unknown" };
    if (!this.known) {
      this.known = true;
      this.genesis = new Uint8Array(Buffer.from(hello.genesis, "hex"));
    }
    return {
      kind: "attached",
      durable: { sequence: this.durable, chain: bytesToHex(this.chain) },
      applied: this.applied,
      token: this.token,
      ...(this.standby?.lacks === undefined ? {} : { lacks: this.standby.lacks }),
    };
  }

  #scan(body: Buffer): ScanAnswer {
    return this.standby?.findings(parseScanAsk(body).after) ?? { kind: "unknown" };
  }

  /** Applied at the standby; without one, whatever is durable. */
  get applied(): Sequence {
    return this.standby?.applied ?? this.durable;
  }

  #heartbeat(body: Buffer): HeartbeatAnswer | "hang" {
    this.heartbeats += 1;
    this.heard = Math.max(this.heard, parseHeartbeat(body).answered);
    return (
      this.faults.heartbeat?.() ?? {
        kind: "alive",
        durable: this.durable,
        applied: this.applied,
        stopped: null,
      }
    );
  }

  async #batch(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await read(request);
    this.batches += 1;
    this.wireBytes += body.byteLength;
    const header = decodeBatchHeader(body);
    this.codecs.add(header.codec);
    const fault = this.faults.batch?.(header.first, header.last);
    if (fault === "drop") return void request.socket.destroy();
    if (fault === "hang") return;
    if (typeof fault === "object") return this.#answer(response, fault);
    const frames = decodeBatchPayload(header, body.subarray(batchHeaderBytes));
    const answer = await this.#take(frames);
    if (fault === "dropAnswer") return void request.socket.destroy();
    this.#answer(response, answer);
  }

  /** Holds what comes too early for its predecessor, for two seconds. */
  async #take(frames: Frame[]): Promise<BatchAnswer> {
    const first = frames[0]!.first;
    const last = frames[frames.length - 1]!.last;
    const patience = performance.now() + 2_000;
    while (first > this.durable + 1 && performance.now() < patience) {
      await new Promise<void>((resolve) => {
        this.#moved.push(resolve);
        setTimeout(resolve, 100);
      });
    }
    if (last <= this.durable) return { kind: "acknowledged", durable: this.durable, applied: this.applied };
    if (first !== this.durable + 1)
      return { kind: "wanted", sequence: this.durable + 1, applied: this.applied };
    if (!bytesEqual(frames[0]!.chainBefore, this.chain)) {
      return {
        kind: "diverged",
        lineage: "07070707-0707-0707-0707-070707070707",
        durable: { sequence: this.durable, chain: bytesToHex(this.chain) },
      };
    }
    this.frames.push(...frames);
    this.standby?.apply(frames);
    for (const resolve of this.#moved.splice(0)) resolve();
    return { kind: "acknowledged", durable: this.durable, applied: this.applied };
  }
}

async function read(request: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part as Buffer);
  return Buffer.concat(parts);
}
