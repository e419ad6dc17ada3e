/** A device that takes its time: for trying out what waits for a slow disk. Nothing is reordered on purpose. */
import type { Clock } from "../../runtime/clock.ts";
import type { BlockDevice, WriteOptions, ZeroOptions } from "../device.ts";
import { PassthroughDevice } from "./passthrough.ts";

/** Milliseconds before the request reaches the device; 0: at once. */
export interface Delays {
  readonly readMs: number;
  /** Writes, trims and zeroes. */
  readonly writeMs: number;
  readonly flushMs: number;
}

export class DelayDevice extends PassthroughDevice {
  readonly #clock: Clock;
  readonly #delays: Delays;

  constructor(inner: BlockDevice, clock: Clock, delays: Delays) {
    super(inner);
    this.#clock = clock;
    this.#delays = delays;
  }

  #wait(delayMs: number): Promise<void> {
    if (delayMs === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#clock.after(delayMs, resolve);
    });
  }

  override async read(offset: number, length: number): Promise<Uint8Array> {
    await this.#wait(this.#delays.readMs);
    return this.inner.read(offset, length);
  }

  override async write(offset: number, data: Uint8Array, options: WriteOptions): Promise<void> {
    await this.#wait(this.#delays.writeMs);
    return this.inner.write(offset, data, options);
  }

  override async trim(offset: number, length: number, options: WriteOptions): Promise<void> {
    await this.#wait(this.#delays.writeMs);
    return this.inner.trim(offset, length, options);
  }

  override async zero(offset: number, length: number, options: ZeroOptions): Promise<void> {
    await this.#wait(this.#delays.writeMs);
    return this.inner.zero(offset, length, options);
  }

  override async flush(): Promise<void> {
    await this.#wait(this.#delays.flushMs);
    return this.inner.flush();
  }
}
