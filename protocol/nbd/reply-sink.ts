/** Where a session puts the bytes it wants sent. The shell's sink batches them for a socket, a test's collects them. */

export interface ReplySink {
  /** Buffer the last `claim` points into; may be another one after the next claim. */
  readonly bytes: Uint8Array;
  /** Makes room for `length` (at most 64 KiB) further bytes to send; returns their index in `bytes`. Fill them at once. */
  claim(length: number): number;
  /** Sends `data` next. The sink may keep the reference until it is sent; nobody may change `data` from here on. */
  payload(data: Uint8Array): void;
}

export function putUint16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value;
}

/** Low 32 bits of `value`, signed or not. */
export function putUint32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}

/** A non-negative safe integer. */
export function putUint64(bytes: Uint8Array, at: number, value: number): void {
  putUint32(bytes, at, Math.floor(value / 0x1_0000_0000));
  putUint32(bytes, at + 4, value % 0x1_0000_0000);
}
