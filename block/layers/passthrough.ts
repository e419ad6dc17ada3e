/** A device that hands every request to another one: what the layers of this folder change a part of. */
import type { BlockCapabilities, BlockDevice, Extent, WriteOptions, ZeroOptions } from "../device.ts";

export class PassthroughDevice implements BlockDevice {
  protected readonly inner: BlockDevice;

  /** Takes over `inner`: closing the layer closes it. */
  constructor(inner: BlockDevice) {
    this.inner = inner;
  }

  get sizeBytes(): number {
    return this.inner.sizeBytes;
  }

  get blockSize(): BlockDevice["blockSize"] {
    return this.inner.blockSize;
  }

  get can(): BlockCapabilities {
    return this.inner.can;
  }

  read(offset: number, length: number): Promise<Uint8Array> {
    return this.inner.read(offset, length);
  }

  write(offset: number, data: Uint8Array, options: WriteOptions): Promise<void> {
    return this.inner.write(offset, data, options);
  }

  flush(): Promise<void> {
    return this.inner.flush();
  }

  trim(offset: number, length: number, options: WriteOptions): Promise<void> {
    return this.inner.trim(offset, length, options);
  }

  zero(offset: number, length: number, options: ZeroOptions): Promise<void> {
    return this.inner.zero(offset, length, options);
  }

  extents(offset: number, length: number): Promise<Extent[]> {
    return this.inner.extents(offset, length);
  }

  cache(offset: number, length: number): Promise<void> {
    return this.inner.cache(offset, length);
  }

  close(): Promise<void> {
    return this.inner.close();
  }
}
