/**
 * Bounded reading and writing of fixed-width big-endian numbers. Pure. Every codec of ours goes through this, so
 * a truncated input is a `RemoteProtocolError`, never an out-of-range read.
 */
import { strict as assert } from "node:assert";
import { RemoteProtocolError } from "./remote-error.ts";

/** Reads front to back from a view it does not own; slices are views, not copies. */
export class ByteReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    // Not the Buffer itself: its slice() is a view, and a caller that slices wants a copy.
    this.#bytes = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get offset(): number {
    return this.#at;
  }

  get remaining(): number {
    return this.#bytes.byteLength - this.#at;
  }

  #take(length: number): number {
    if (length > this.remaining) {
      throw new RemoteProtocolError(
        "TRUNCATED",
        `needs ${length} bytes at ${this.#at}, has ${this.remaining}`,
      );
    }
    const at = this.#at;
    this.#at += length;
    return at;
  }

  u8(): number {
    return this.#view.getUint8(this.#take(1));
  }

  u16(): number {
    return this.#view.getUint16(this.#take(2));
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4));
  }

  /** 64-bit value that must be a safe integer: byte offsets, sequences, epochs, milliseconds. */
  u64(): number {
    const at = this.#take(8);
    const value = this.#view.getUint32(at) * 2 ** 32 + this.#view.getUint32(at + 4);
    if (!Number.isSafeInteger(value)) throw new RemoteProtocolError("NUMBER_TOO_LARGE", "beyond 2^53");
    return value;
  }

  /** View of the next `length` bytes; lives as long as the input. */
  bytes(length: number): Uint8Array {
    const at = this.#take(length);
    return this.#bytes.subarray(at, at + length);
  }
}

/** Writes front to back into a buffer of exact size: its own, or one that is given, which stays the caller's. */
export class ByteWriter {
  readonly bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(target: number | Uint8Array) {
    this.bytes = typeof target === "number" ? new Uint8Array(target) : target;
    this.#view = new DataView(this.bytes.buffer, this.bytes.byteOffset, this.bytes.byteLength);
  }

  get offset(): number {
    return this.#at;
  }

  u8(value: number): this {
    this.#view.setUint8(this.#at, value);
    this.#at += 1;
    return this;
  }

  u16(value: number): this {
    this.#view.setUint16(this.#at, value);
    this.#at += 2;
    return this;
  }

  u32(value: number): this {
    this.#view.setUint32(this.#at, value);
    this.#at += 4;
    return this;
  }

  u64(value: number): this {
    assert(Number.isSafeInteger(value) && value >= 0, "a 64-bit field holds a safe integer");
    this.#view.setUint32(this.#at, Math.floor(value / 2 ** 32));
    this.#view.setUint32(this.#at + 4, value % 2 ** 32);
    this.#at += 8;
    return this;
  }

  put(bytes: Uint8Array): this {
    this.bytes.set(bytes, this.#at);
    this.#at += bytes.byteLength;
    return this;
  }
}
