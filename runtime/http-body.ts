/**
 * The body of one request, read in the sizes the route asks for, with a watchdog on its progress. It never holds
 * more than was asked for plus one chunk of the socket, and never believes a declared length.
 */
import type { IncomingMessage } from "node:http";
import { RemoteProtocolError } from "../protocol/remote-error.ts";
import type { Clock } from "./clock.ts";
import { OperationalError } from "./errors.ts";

export class RequestBody {
  readonly contentLength: number | undefined;
  readonly #message: IncomingMessage;
  readonly #clock: Clock;
  readonly #silenceMs: number;
  /** What came with a chunk beyond what was asked for. */
  #rest: Uint8Array | undefined;
  #ended: boolean;

  constructor(message: IncomingMessage, clock: Clock, silenceMs: number) {
    this.#message = message;
    this.#clock = clock;
    this.#silenceMs = silenceMs;
    const declared = message.headers["content-length"];
    const chunked = message.headers["transfer-encoding"] !== undefined;
    this.contentLength = declared === undefined ? (chunked ? undefined : 0) : Number(declared);
    this.#ended = this.contentLength === 0;
    // Errors are seen by whoever reads; this listener only keeps one that comes between reads from ending the process.
    message.on("error", () => {});
  }

  /** Every byte has been read by the route: the connection can carry another request. */
  get finished(): boolean {
    if (this.#rest !== undefined) return false;
    return this.#ended || (this.#message.complete && this.#message.readableLength === 0);
  }

  /** Exactly `length` bytes, or RemoteProtocolError `BODY_TRUNCATED`. */
  async take(length: number): Promise<Uint8Array> {
    const chunks: Uint8Array[] = [];
    let have = 0;
    while (have < length) {
      const chunk = await this.#chunk();
      if (chunk === undefined)
        throw new RemoteProtocolError("BODY_TRUNCATED", `body ended ${length - have} bytes early`);
      const wanted = length - have;
      if (chunk.byteLength > wanted) this.#rest = chunk.subarray(wanted);
      const part = chunk.byteLength > wanted ? chunk.subarray(0, wanted) : chunk;
      chunks.push(part);
      have += part.byteLength;
    }
    return chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, have);
  }

  /** The whole body; RemoteProtocolError `BODY_TOO_LONG` beyond `bytesMax`, before it is read where declared. */
  async all(bytesMax: number): Promise<Uint8Array> {
    const tooLong = (): never => {
      throw new RemoteProtocolError("BODY_TOO_LONG", `body beyond ${bytesMax} bytes`);
    };
    if ((this.contentLength ?? 0) > bytesMax) tooLong();
    const chunks: Uint8Array[] = [];
    let have = 0;
    for (;;) {
      const chunk = await this.#chunk();
      if (chunk === undefined) return chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, have);
      chunks.push(chunk);
      have += chunk.byteLength;
      if (have > bytesMax) tooLong();
    }
  }

  /** Throws away what still comes until the body ends, the peer closes or `lingerMs` are over. */
  discard(lingerMs: number): Promise<void> {
    this.#rest = undefined;
    const message = this.#message;
    if (message.complete || message.destroyed) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = this.#clock.after(lingerMs, () => done());
      const done = (): void => {
        timer.cancel();
        message.off("end", done);
        message.off("close", done);
        resolve();
      };
      message.on("end", done);
      message.on("close", done);
      message.resume();
    });
  }

  async #chunk(): Promise<Uint8Array | undefined> {
    if (this.#rest !== undefined) {
      const rest = this.#rest;
      this.#rest = undefined;
      return rest;
    }
    for (;;) {
      if (this.#ended) return undefined;
      const chunk: Buffer | null = this.#message.read();
      if (chunk !== null) return chunk;
      if (this.#message.readableEnded) this.#ended = true;
      else await this.#readable();
    }
  }

  /** Settles when there is something to read or the end; fails when the peer is gone or silent. */
  #readable(): Promise<void> {
    const message = this.#message;
    return new Promise((resolve, reject) => {
      const settle = (error?: Error): void => {
        timer.cancel();
        message.off("readable", ready);
        message.off("end", ready);
        message.off("close", gone);
        if (error === undefined) resolve();
        else reject(error);
      };
      const ready = (): void => settle();
      const gone = (): void => {
        if (message.complete) settle();
        else settle(new RemoteProtocolError("BODY_TRUNCATED", "the peer went away inside the body"));
      };
      const timer = this.#clock.after(this.#silenceMs, () => {
        message.destroy();
        settle(
          new OperationalError({
            code: "BODY_SILENT",
            message: `no byte of the body for ${this.#silenceMs} ms`,
            reaction: "reconnect",
          }),
        );
      });
      message.on("readable", ready);
      message.on("end", ready);
      message.on("close", gone);
      if (message.destroyed) gone();
    });
  }
}
