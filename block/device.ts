/**
 * The block device interface: everything that serves or stores blocks is one of these or a layer over one.
 * Operations carry the NBD specification's names and meanings; capability questions say what a device can do.
 */

/** Errno values that may travel to an NBD client (proto.md, "Error values"). */
export const BlockErrno = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;
export type BlockErrno = (typeof BlockErrno)[keyof typeof BlockErrno];

/** Failure of one request on a device; `errno` is what the client is told. */
export class BlockError extends Error {
  readonly errno: BlockErrno;

  constructor(errno: BlockErrno, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = "BlockError";
    this.errno = errno;
  }
}

export interface BlockCapabilities {
  readonly write: boolean;
  readonly flush: boolean;
  readonly fua: boolean;
  readonly trim: boolean;
  readonly zero: boolean;
  /** `zero` with `fast` may be answered ENOTSUP when it would not be faster than writing. */
  readonly fastZero: boolean;
  readonly cache: boolean;
  readonly extents: boolean;
  /** A FLUSH on one connection covers writes answered on every connection (truthful MULTI_CONN). */
  readonly multiConn: boolean;
}

/** Run of bytes with one allocation state. `hole`: not allocated; `zero`: reads as zeroes. */
export interface Extent {
  readonly length: number;
  readonly hole: boolean;
  readonly zero: boolean;
}

export interface WriteOptions {
  /** Durable before the promise settles. */
  readonly fua: boolean;
}

export interface ZeroOptions extends WriteOptions {
  /** False when the client set NO_HOLE: the range must stay allocated. */
  readonly mayTrim: boolean;
  /** Fail with ENOTSUP rather than be slow. */
  readonly fast: boolean;
}

/**
 * Offsets and lengths are bytes, already checked against `sizeBytes` and `blockSize.minimum` by the caller;
 * lengths are > 0. A rejected promise carries a BlockError.
 */
export interface BlockDevice {
  readonly sizeBytes: number;
  /** Powers of two, bytes; `maximum` bounds READ and WRITE only. */
  readonly blockSize: { readonly minimum: number; readonly preferred: number; readonly maximum: number };
  readonly can: BlockCapabilities;
  /**
   * The returned buffer belongs to the caller, who must not change it. `into`, `length` bytes: where a device may put
   * what it reads, and return that; it belongs to the device until the promise settles.
   */
  read(offset: number, length: number, into?: Uint8Array): Promise<Uint8Array>;
  /** The device may read `data` until the promise settles; afterwards the buffer is the caller's again. */
  write(offset: number, data: Uint8Array, options: WriteOptions): Promise<void>;
  /** Every write answered before this call is durable when it settles. */
  flush(): Promise<void>;
  trim(offset: number, length: number, options: WriteOptions): Promise<void>;
  zero(offset: number, length: number, options: ZeroOptions): Promise<void>;
  /** Extents from `offset`, contiguous, at least one, together at most `length` bytes (may be less). */
  extents(offset: number, length: number): Promise<Extent[]>;
  cache(offset: number, length: number): Promise<void>;
  close(): Promise<void>;
}
