/**
 * A device in memory that forgets like a disk at power loss: what was not flushed is there or not, sector by
 * sector. It knows nothing of bulk writes, so it also stands for every device that takes changes one by one.
 */
import type { BlockDevice, Extent } from "../../block/device.ts";

export class CrashDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly blockSize = { minimum: 512, preferred: 4096, maximum: 32 * 1024 * 1024 };
  readonly can = {
    write: true,
    flush: true,
    fua: true,
    trim: true,
    zero: true,
    fastZero: true,
    cache: false,
    extents: false,
    multiConn: true,
  };
  content: Uint8Array;
  durable: Uint8Array;
  flushes = 0;

  constructor(content: Uint8Array) {
    this.sizeBytes = content.byteLength;
    this.content = content;
    this.durable = content.slice();
  }

  /** The device after power loss: `survives` decides for each sector that was changed since the last flush. */
  crashed(survives: () => boolean): CrashDevice {
    const left = this.durable.slice();
    for (let at = 0; at < left.byteLength; at += 512) {
      if (survives()) left.set(this.content.subarray(at, at + 512), at);
    }
    return new CrashDevice(left);
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    return this.content.slice(offset, offset + length);
  }

  async write(offset: number, data: Uint8Array): Promise<void> {
    this.content.set(data, offset);
  }

  async flush(): Promise<void> {
    this.flushes += 1;
    this.durable = this.content.slice();
  }

  async trim(offset: number, length: number): Promise<void> {
    this.content.fill(0, offset, offset + length);
  }

  zero(offset: number, length: number): Promise<void> {
    return this.trim(offset, length);
  }

  async extents(_offset: number, length: number): Promise<Extent[]> {
    return [{ length, hole: false, zero: false }];
  }

  async cache(): Promise<void> {}

  async close(): Promise<void> {}
}
