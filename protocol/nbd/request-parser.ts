/**
 * Parses the client's side of the transmission phase: 28-byte headers and WRITE payloads, from chunks cut anywhere.
 * A payload inside one chunk is handed on as a view; one that spans chunks is gathered once into a buffer of its size,
 * after the shell agreed to the memory. A WRITE leaves only whole. Memory held here is one header and one payload.
 *
 *   header ──► payload inside chunk ──► request
 *     │  └───► announced ──accept──► gathering ──► request
 *     ├──────► draining (refused WRITE) ──► rejected
 *     └──────► ended (DISC, wrong magic, absurd length)
 */
import type { ByteInput } from "./byte-input.ts";
import { NbdCommand, NbdMagic, nbdRequestHeaderBytes } from "./constants.ts";
import type { NbdEnded, NbdPayloadAnnounced, NbdRejectedRequest, NbdRequest } from "./events.ts";
import type { NbdSessionLimits } from "./limits.ts";
import { checkRequest, type NbdNegotiated, type NbdRejection } from "./request-check.ts";

export type NbdRequestEvent = NbdRequest | NbdRejectedRequest | NbdPayloadAnnounced | NbdEnded;

type Phase = "header" | "announced" | "gathering" | "draining" | "ended";

const noData = new Uint8Array(0);

export class NbdRequestParser {
  readonly #input: ByteInput;
  readonly #negotiated: NbdNegotiated;
  readonly #limits: NbdSessionLimits;
  #phase: Phase = "header";
  readonly #header = new Uint8Array(nbdRequestHeaderBytes);
  #headerFill = 0;
  // Fields of the request whose payload is under way.
  #command = 0;
  #flags = 0;
  #cookieHigh = 0;
  #cookieLow = 0;
  #offset = 0;
  #length = 0;
  #payload: Uint8Array = noData;
  #payloadFill = 0;
  #drainLeft = 0;
  #rejection: NbdRejection | null = null;

  constructor(input: ByteInput, negotiated: NbdNegotiated, limits: NbdSessionLimits) {
    this.#input = input;
    this.#negotiated = negotiated;
    this.#limits = limits;
  }

  /** True between the first byte of a request and its last: silence there is a stalled client, not an idle one. */
  get insideRequest(): boolean {
    return this.#headerFill > 0 || (this.#phase !== "header" && this.#phase !== "ended");
  }

  /** Agrees to the announced payload; allocates it. */
  acceptPayload(): void {
    if (this.#phase !== "announced") throw new Error("no payload was announced");
    // Unfilled memory is safe: the buffer leaves only when every byte of it was received.
    this.#payload = Buffer.allocUnsafeSlow(this.#length);
    this.#payloadFill = 0;
    this.#phase = "gathering";
  }

  /** Next event, or null when more bytes (or an answer) are needed. */
  next(): NbdRequestEvent | null {
    const input = this.#input;
    switch (this.#phase) {
      case "header":
        break;
      case "gathering": {
        this.#payloadFill = input.gather(this.#payload, this.#payloadFill);
        if (this.#payloadFill < this.#length) return null;
        const data = this.#payload;
        this.#payload = noData;
        this.#phase = "header";
        return this.#request(data);
      }
      case "draining":
        return this.#drain();
      default:
        return null;
    }

    let bytes: Uint8Array;
    let at: number;
    if (this.#headerFill === 0 && input.contiguous >= nbdRequestHeaderBytes) {
      bytes = input.chunk;
      at = input.at;
      input.advance(nbdRequestHeaderBytes);
    } else {
      this.#headerFill = input.gather(this.#header, this.#headerFill);
      if (this.#headerFill < nbdRequestHeaderBytes) return null;
      this.#headerFill = 0;
      bytes = this.#header;
      at = 0;
    }
    // 28 bytes from `at` exist, so no index below is out of range.
    if (int32(bytes, at) !== NbdMagic.request) return this.#end(false, "BAD_REQUEST_MAGIC");
    const flags = (bytes[at + 4]! << 8) | bytes[at + 5]!;
    const command = (bytes[at + 6]! << 8) | bytes[at + 7]!;
    const offsetHigh = int32(bytes, at + 16) >>> 0;
    const offsetLow = int32(bytes, at + 20) >>> 0;
    const length = int32(bytes, at + 24) >>> 0;
    // Beyond 2^53 the sum would round; no export reaches there, so it only has to be seen as outside.
    const offset = offsetHigh > 0x1fffff ? Number.POSITIVE_INFINITY : offsetHigh * 0x1_0000_0000 + offsetLow;
    this.#command = command;
    this.#flags = flags;
    this.#cookieHigh = int32(bytes, at + 8);
    this.#cookieLow = int32(bytes, at + 12);
    this.#offset = offset;
    this.#length = length;

    if (command === NbdCommand.disc) return this.#end(true, "DISCONNECT_REQUESTED");
    const rejection = checkRequest(this.#negotiated, command, flags, offset, length);
    if (command !== NbdCommand.write) {
      return rejection === null ? this.#request(null) : this.#rejected(rejection);
    }
    if (rejection !== null) {
      if (length > this.#limits.payloadDrainBytesMax) return this.#end(false, "PAYLOAD_TOO_LONG");
      this.#rejection = rejection;
      this.#drainLeft = length;
      this.#phase = "draining";
      return this.#drain();
    }
    if (length === 0) return this.#request(noData);
    if (input.contiguous >= length) {
      const data = input.chunk.subarray(input.at, input.at + length);
      input.advance(length);
      return this.#request(data);
    }
    this.#phase = "announced";
    return { kind: "payloadAnnounced", bytes: length };
  }

  #drain(): NbdRejectedRequest | null {
    this.#drainLeft -= this.#input.skip(this.#drainLeft);
    if (this.#drainLeft > 0) return null;
    this.#phase = "header";
    const rejection = this.#rejection;
    if (rejection === null) throw new Error("drained a payload that was not refused");
    return this.#rejected(rejection);
  }

  #request(data: Uint8Array | null): NbdRequest {
    return {
      kind: "request",
      command: this.#command,
      flags: this.#flags,
      cookieHigh: this.#cookieHigh,
      cookieLow: this.#cookieLow,
      offset: this.#offset,
      length: this.#length,
      data,
    };
  }

  #rejected(rejection: NbdRejection): NbdRejectedRequest {
    return {
      kind: "rejected",
      command: this.#command,
      cookieHigh: this.#cookieHigh,
      cookieLow: this.#cookieLow,
      errno: rejection.errno,
      message: rejection.message,
    };
  }

  #end(clean: boolean, code: string): NbdEnded {
    this.#phase = "ended";
    this.#input.clear();
    return { kind: "ended", clean, code };
  }
}

/** Big-endian signed 32 bits; the caller has made sure that four bytes are there. */
function int32(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!;
}
