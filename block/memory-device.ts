/**
 * A block device in memory, for tests, demonstrations and measurements: sparse, with every capability. Nothing in it
 * survives the process. Operations take effect at once, in call order, so it is also the plainest model of a device.
 */
import assert from "node:assert/strict";
import type { BlockCapabilities, BlockDevice, Extent, WriteOptions, ZeroOptions } from "./device.ts";

/** Unit of allocation, bytes: the granularity at which extents are reported as holes. */
const pageBytes = 64 * 1024;

export interface MemoryDeviceOptions {
  readonly sizeBytes: number;
  /** Default 512, 4,096 and 32 MiB. */
  readonly blockSize?: BlockDevice["blockSize"];
  /** Capabilities to take away; all are on by default. */
  readonly can?: Partial<BlockCapabilities>;
}

const allCapabilities: BlockCapabilities = {
  write: true,
  flush: true,
  fua: true,
  trim: true,
  zero: true,
  fastZero: true,
  cache: true,
  extents: true,
  multiConn: true,
};

const settled = Promise.resolve();

export class MemoryDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly blockSize: BlockDevice["blockSize"];
  readonly can: BlockCapabilities;
  /** Allocated pages by page number; a missing one reads as zeroes. */
  readonly #pages = new Map<number, Uint8Array>();
  #closed = false;

  constructor(options: MemoryDeviceOptions) {
    this.sizeBytes = options.sizeBytes;
    this.blockSize = options.blockSize ?? { minimum: 512, preferred: 4096, maximum: 32 * 1024 * 1024 };
    this.can = { ...allCapabilities, ...options.can };
  }

  get closed(): boolean {
    return this.#closed;
  }

  get allocatedBytes(): number {
    return this.#pages.size * pageBytes;
  }

  #check(offset: number, length: number): void {
    assert(!this.#closed, "device is closed");
    const mask = this.blockSize.minimum - 1;
    assert(((offset & mask) | (length & mask)) === 0, "range not aligned");
    assert(length > 0 && offset >= 0 && offset + length <= this.sizeBytes, "range outside the device");
  }

  read(offset: number, length: number): Promise<Uint8Array> {
    this.#check(offset, length);
    const data = Buffer.allocUnsafe(length);
    let at = offset;
    const end = offset + length;
    while (at < end) {
      const page = this.#pages.get(Math.floor(at / pageBytes));
      const within = at % pageBytes;
      const take = Math.min(pageBytes - within, end - at);
      if (page === undefined) data.fill(0, at - offset, at - offset + take);
      else data.set(page.subarray(within, within + take), at - offset);
      at += take;
    }
    return Promise.resolve(data);
  }

  write(offset: number, data: Uint8Array, _options: WriteOptions): Promise<void> {
    this.#check(offset, data.length);
    let at = offset;
    const end = offset + data.length;
    while (at < end) {
      const number = Math.floor(at / pageBytes);
      const within = at % pageBytes;
      const take = Math.min(pageBytes - within, end - at);
      this.#page(number).set(data.subarray(at - offset, at - offset + take), within);
      at += take;
    }
    return settled;
  }

  #page(number: number): Uint8Array {
    let page = this.#pages.get(number);
    if (page === undefined) {
      page = new Uint8Array(pageBytes);
      this.#pages.set(number, page);
    }
    return page;
  }

  flush(): Promise<void> {
    return settled;
  }

  trim(offset: number, length: number, options: WriteOptions): Promise<void> {
    return this.zero(offset, length, { ...options, mayTrim: true, fast: false });
  }

  zero(offset: number, length: number, options: ZeroOptions): Promise<void> {
    this.#check(offset, length);
    const end = offset + length;
    let at = offset;
    while (at < end) {
      const number = Math.floor(at / pageBytes);
      const within = at % pageBytes;
      const take = Math.min(pageBytes - within, end - at);
      if (!options.mayTrim) this.#page(number).fill(0, within, within + take);
      else if (take === pageBytes) this.#pages.delete(number);
      else this.#pages.get(number)?.fill(0, within, within + take);
      at += take;
    }
    return settled;
  }

  extents(offset: number, length: number): Promise<Extent[]> {
    this.#check(offset, length);
    const extents: Extent[] = [];
    const end = offset + length;
    let start = offset;
    while (start < end) {
      const hole = !this.#pages.has(Math.floor(start / pageBytes));
      let at = start;
      while (at < end && !this.#pages.has(Math.floor(at / pageBytes)) === hole) {
        at = (Math.floor(at / pageBytes) + 1) * pageBytes;
      }
      const stop = Math.min(at, end);
      extents.push({ length: stop - start, hole, zero: hole });
      start = stop;
    }
    return Promise.resolve(extents);
  }

  cache(offset: number, length: number): Promise<void> {
    this.#check(offset, length);
    return settled;
  }

  close(): Promise<void> {
    assert(!this.#closed, "device is closed twice");
    this.#closed = true;
    return settled;
  }
}
