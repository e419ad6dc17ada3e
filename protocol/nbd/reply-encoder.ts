/**
 * Encodes the server's side of the transmission phase into a sink: simple replies and structured chunks. It keeps the
 * rule that a session with structured replies never gets a simple reply to a READ or with a payload, not even for an
 * error (proto.md, "Structured reply chunk message"); other successes stay simple, which is four bytes shorter.
 * Data must be at hand before a header is written: no reply ever has to be broken off in the middle (T19).
 */
import {
  NbdChunk,
  NbdCommand,
  NbdMagic,
  NbdState,
  nbdBaseAllocationId,
  nbdChunkHeaderBytes,
  nbdReplyFlagDone,
  nbdSimpleReplyBytes,
  nbdStringBytesMax,
} from "./constants.ts";
import { putUint16, putUint32, putUint64, type ReplySink } from "./reply-sink.ts";

/** The part of a request its reply depends on. */
export interface NbdReplyTo {
  readonly command: number;
  readonly cookieHigh: number;
  readonly cookieLow: number;
}

/** Part of a READ's range, in order: bytes, or a run that reads as zeroes. */
export type NbdReadPiece =
  | { readonly kind: "data"; readonly data: Uint8Array }
  | { readonly kind: "hole"; readonly length: number };

export interface NbdStatusExtent {
  readonly length: number;
  readonly hole: boolean;
  readonly zero: boolean;
}

/** Descriptors in one BLOCK_STATUS chunk: 4,096 of 8 bytes fit one claim with room; a client asks again for more. */
export const nbdStatusExtentsMax = 4096;

export class NbdReplyEncoder {
  readonly #sink: ReplySink;
  readonly #structured: boolean;

  constructor(sink: ReplySink, structured: boolean) {
    this.#sink = sink;
    this.#structured = structured;
  }

  /** True when READ replies may be cut in pieces. */
  get structured(): boolean {
    return this.#structured;
  }

  /** Success of a request without data in its reply; also of a READ of no bytes. */
  done(to: NbdReplyTo): void {
    if (this.#structured && (to.command === NbdCommand.read || to.command === NbdCommand.blockStatus)) {
      this.#chunk(to, nbdReplyFlagDone, NbdChunk.none, 0, 0);
    } else {
      this.#simple(to, 0);
    }
  }

  /** Success of a READ: `data` is the whole range, not empty. */
  data(to: NbdReplyTo, offset: number, data: Uint8Array): void {
    if (this.#structured) this.#dataChunk(to, nbdReplyFlagDone, offset, data);
    else {
      this.#simple(to, 0);
      this.#sink.payload(data);
    }
  }

  /** Success of a READ in pieces that cover its range in order; structured replies only, at least one piece. */
  pieces(to: NbdReplyTo, offset: number, pieces: readonly NbdReadPiece[]): void {
    let at = offset;
    for (const [index, piece] of pieces.entries()) {
      const flags = index === pieces.length - 1 ? nbdReplyFlagDone : 0;
      if (piece.kind === "data") {
        this.#dataChunk(to, flags, at, piece.data);
        at += piece.data.length;
      } else {
        const body = this.#chunk(to, flags, NbdChunk.offsetHole, 12, 12);
        putUint64(this.#sink.bytes, body, at);
        putUint32(this.#sink.bytes, body + 8, piece.length);
        at += piece.length;
      }
    }
  }

  /** Success of BLOCK_STATUS: extents from the request's offset on, at least one, at most `nbdStatusExtentsMax`. */
  status(to: NbdReplyTo, extents: readonly NbdStatusExtent[]): void {
    const length = 4 + 8 * extents.length;
    let body = this.#chunk(to, nbdReplyFlagDone, NbdChunk.blockStatus, length, length);
    const bytes = this.#sink.bytes;
    putUint32(bytes, body, nbdBaseAllocationId);
    body += 4;
    for (const extent of extents) {
      putUint32(bytes, body, extent.length);
      putUint32(bytes, body + 4, (extent.hole ? NbdState.hole : 0) | (extent.zero ? NbdState.zero : 0));
      body += 8;
    }
  }

  /** Failure. `message` is ASCII of our own; cut to 4,096 bytes; sent only with structured replies. */
  error(to: NbdReplyTo, errno: number, message: string): void {
    if (!this.#structured) {
      this.#simple(to, errno);
      return;
    }
    const text = Buffer.from(message, "latin1").subarray(0, nbdStringBytesMax);
    const body = this.#chunk(to, nbdReplyFlagDone, NbdChunk.error, 6 + text.length, 6 + text.length);
    const bytes = this.#sink.bytes;
    putUint32(bytes, body, errno);
    putUint16(bytes, body + 4, text.length);
    bytes.set(text, body + 6);
  }

  #simple(to: NbdReplyTo, errno: number): void {
    const at = this.#sink.claim(nbdSimpleReplyBytes);
    const bytes = this.#sink.bytes;
    putUint32(bytes, at, NbdMagic.simpleReply);
    putUint32(bytes, at + 4, errno);
    putUint32(bytes, at + 8, to.cookieHigh);
    putUint32(bytes, at + 12, to.cookieLow);
  }

  #dataChunk(to: NbdReplyTo, flags: number, offset: number, data: Uint8Array): void {
    const body = this.#chunk(to, flags, NbdChunk.offsetData, 8 + data.length, 8);
    putUint64(this.#sink.bytes, body, offset);
    this.#sink.payload(data);
  }

  /** Writes a header announcing `length` bytes and claims `inline` of them; returns where those go. */
  #chunk(to: NbdReplyTo, flags: number, type: number, length: number, inline: number): number {
    const at = this.#sink.claim(nbdChunkHeaderBytes + inline);
    const bytes = this.#sink.bytes;
    putUint32(bytes, at, NbdMagic.structuredReply);
    putUint16(bytes, at + 4, flags);
    putUint16(bytes, at + 6, type);
    putUint32(bytes, at + 8, to.cookieHigh);
    putUint32(bytes, at + 12, to.cookieLow);
    putUint32(bytes, at + 16, length);
    return at + nbdChunkHeaderBytes;
  }
}
