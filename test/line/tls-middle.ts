/**
 * Something on the line that ends TLS, as a broken middlebox or a thief with a site's key would: it answers as the
 * standby's site and speaks to the gateway as the primary. It sees whole requests in clear and may change, repeat,
 * keep or drop them, so the product's own checks are all that is left. It holds a bounded number of bodies and never
 * decides what is right.
 */
import { readFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Server } from "node:https";
import { Agent, createServer, request } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";

/** Batch bodies kept for later: small batches of a test of seconds. */
const storedBodiesMax = 4_000;

/** What to do with one batch. */
export type BatchTreatment =
  | { readonly kind: "pass" }
  /** The gateway gets it and answers; the sender's connection is dropped instead. */
  | { readonly kind: "loseAnswer" }
  /** The gateway gets it twice, the second time when it has answered the first; the sender hears the second. */
  | { readonly kind: "twice" }
  /** The gateway gets this instead. */
  | { readonly kind: "replace"; readonly body: Buffer };

export interface MiddleReply {
  readonly status: number;
  readonly body: Buffer;
}

export interface StoredBatch {
  readonly path: string;
  readonly body: Buffer;
}

/** PEM files `ca.pem`, `primary.pem`, `primary.key`, `dr.pem`, `dr.key`, by their names without folder. */
export type ReadPem = (name: string) => Buffer;

export function pemsOf(folder: string): ReadPem {
  return (name) => readFileSync(join(folder, name));
}

export class TlsMiddle {
  /** Called for each whole batch; default: everything passes. */
  treat: (batch: StoredBatch, number: number) => BatchTreatment = () => ({ kind: "pass" });
  /** Bodies of batches are taken at one byte a second, as long as this is true; control messages pass. */
  slow = false;
  /** Every batch as its sender made it, oldest first. */
  readonly stored: StoredBatch[] = [];
  /** How often each treatment was carried out to its end. */
  readonly done = { pass: 0, loseAnswer: 0, twice: 0, replace: 0 };
  /** Answers of the gateway to replaced batches. */
  readonly replacedReplies: MiddleReply[] = [];
  /** Batches that came while `slow`. */
  slowed = 0;
  readonly #gatewayPort: number;
  readonly #server: Server;
  readonly #agent: Agent;
  #batches = 0;

  constructor(gatewayPort: number, pem: ReadPem) {
    this.#gatewayPort = gatewayPort;
    this.#agent = new Agent({
      ca: pem("ca.pem"),
      cert: pem("primary.pem"),
      key: pem("primary.key"),
      // The chain is what is checked, not the name: this is not the product.
      checkServerIdentity: () => undefined,
      keepAlive: true,
      maxSockets: 16,
    });
    this.#server = createServer(
      {
        ca: pem("ca.pem"),
        cert: pem("dr.pem"),
        key: pem("dr.key"),
        requestCert: true,
        rejectUnauthorized: true,
        keepAliveTimeout: 65_000,
        requestTimeout: 0,
      },
      (message, response) => {
        this.#serve(message, response).catch(() => message.socket.destroy());
      },
    );
  }

  /** Port to dial instead of the gateway's. */
  async listen(): Promise<number> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once("error", reject).listen(0, "127.0.0.1", resolve);
    });
    return (this.#server.address() as AddressInfo).port;
  }

  /** Sends a request to the gateway as the primary would. */
  post(path: string, body: Buffer, method = "POST"): Promise<MiddleReply> {
    return new Promise((resolve, reject) => {
      const sent = request(
        {
          host: "127.0.0.1",
          port: this.#gatewayPort,
          agent: this.#agent,
          method,
          path,
          headers: { "content-type": "application/octet-stream", "content-length": body.byteLength },
        },
        (response) => {
          readAll(response).then((answer) => {
            // An answer before the body ends the connection; what could not be sent any more is no error.
            sent.destroy();
            resolve({ status: response.statusCode ?? 0, body: answer });
          }, reject);
        },
      );
      sent.on("error", reject);
      sent.end(method === "GET" ? undefined : body);
    });
  }

  /** Ends every connection of the sender. */
  dropAll(): void {
    this.#server.closeAllConnections();
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.#server.closeAllConnections();
    this.#agent.destroy();
    await closed;
  }

  async #serve(message: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = message.url ?? "";
    const isBatch = path.endsWith("/batches");
    if (isBatch && this.slow) {
      this.slowed += 1;
      return this.#takeSlowly(message);
    }
    const body = await readAll(message);
    if (!isBatch) return answer(response, await this.post(path, body, message.method));
    const batch = { path, body };
    this.#batches += 1;
    if (this.stored.length < storedBodiesMax) this.stored.push(batch);
    const treatment = this.treat(batch, this.#batches);
    const reply = await this.post(path, treatment.kind === "replace" ? treatment.body : body);
    if (treatment.kind === "loseAnswer") message.socket.destroy();
    else if (treatment.kind === "twice") answer(response, await this.post(path, body));
    else answer(response, reply);
    if (treatment.kind === "replace") this.replacedReplies.push(reply);
    this.done[treatment.kind] += 1;
  }

  /** The rest of the body stays in the sender's and the kernel's buffers: that is the point. */
  #takeSlowly(message: IncomingMessage): void {
    const timer = setInterval(() => message.read(1), 1_000);
    message.socket.once("close", () => clearInterval(timer));
  }
}

async function readAll(message: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of message) parts.push(part as Buffer);
  return Buffer.concat(parts);
}

function answer(response: ServerResponse, reply: MiddleReply): void {
  response.writeHead(reply.status, {
    "content-type": "application/json",
    "content-length": reply.body.byteLength,
  });
  response.end(reply.body);
}
