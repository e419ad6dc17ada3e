/**
 * One NBD connection as a value: received bytes go in, events come out, bytes to send go into a sink. It owns the order
 * handshake, then transmission, and holds no socket, timer or device. After STARTTLS a new session takes over and
 * nothing negotiated in plain text survives (S06). A session never throws on account of the peer's bytes.
 */
import { ByteInput } from "./byte-input.ts";
import type { NbdEvent } from "./events.ts";
import { type NbdExportAnswer, NbdHandshake, type NbdTlsMode } from "./handshake.ts";
import { type NbdSessionLimits, nbdSessionLimits } from "./limits.ts";
import { NbdReplyEncoder } from "./reply-encoder.ts";
import type { ReplySink } from "./reply-sink.ts";
import { NbdRequestParser } from "./request-parser.ts";

export interface NbdSessionOptions {
  readonly sink: ReplySink;
  readonly tls: NbdTlsMode;
  readonly limits?: NbdSessionLimits;
  /** Only with `tls: "established"`: `padded` of the session before. */
  readonly padded?: boolean;
}

export class NbdSession {
  readonly #input = new ByteInput();
  readonly #sink: ReplySink;
  readonly #limits: NbdSessionLimits;
  readonly #handshake: NbdHandshake;
  #parser: NbdRequestParser | null = null;
  #encoder: NbdReplyEncoder | null = null;
  #ended: NbdEvent | null = null;

  /** Puts the greeting into the sink, unless inside TLS. */
  constructor(options: NbdSessionOptions) {
    this.#sink = options.sink;
    this.#limits = options.limits ?? nbdSessionLimits;
    this.#handshake = new NbdHandshake(this.#input, options.sink, options.tls, this.#limits);
    if (options.padded !== undefined) this.#handshake.inheritPadding(options.padded);
  }

  /** Takes a received chunk, which must not change afterwards: a WRITE's payload may be a view of it. */
  receive(chunk: Uint8Array): void {
    this.#input.push(chunk);
  }

  /**
   * Next event, or null when more bytes, an answer or an acceptance are needed. Call it until null, or stop early to
   * leave the rest for later: nothing is parsed ahead. After `ended` it stays null.
   */
  next(): NbdEvent | null {
    const parser = this.#parser;
    if (parser !== null) return parser.next();
    const pending = this.#ended;
    if (pending !== null) {
      this.#ended = null;
      return pending;
    }
    return this.#handshake.next();
  }

  /** Names for `listRequested`, each at most 4,096 bytes. */
  answerList(names: readonly string[]): void {
    this.#handshake.answerList(names);
  }

  /** Answers `exportRequested`. With parameters for `use: "open"` the session is in transmission afterwards. */
  answerExport(answer: NbdExportAnswer): void {
    this.#ended = this.#handshake.answerExport(answer);
    const negotiated = this.#handshake.negotiated;
    if (negotiated === null) return;
    this.#parser = new NbdRequestParser(this.#input, negotiated, this.#limits);
    this.#encoder = new NbdReplyEncoder(this.#sink, negotiated.structured);
  }

  /** Agrees to the memory of `payloadAnnounced`. */
  acceptPayload(): void {
    this.#transmission().acceptPayload();
  }

  get transmitting(): boolean {
    return this.#parser !== null;
  }

  /** Replies to requests; only while transmitting. */
  get replies(): NbdReplyEncoder {
    const encoder = this.#encoder;
    if (encoder === null) throw new Error("not in transmission");
    return encoder;
  }

  /** True when the client owes the rest of a request. */
  get insideRequest(): boolean {
    return this.#parser?.insideRequest ?? false;
  }

  /** Received bytes not parsed yet. */
  get bufferedBytes(): number {
    return this.#input.buffered;
  }

  /** Whether EXPORT_NAME is answered with its 124 zeroes; to be handed to the session inside TLS. */
  get padded(): boolean {
    return this.#handshake.padded;
  }

  #transmission(): NbdRequestParser {
    if (this.#parser === null) throw new Error("not in transmission");
    return this.#parser;
  }
}
