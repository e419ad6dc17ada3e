/** A device whose content nobody changes through this layer, whatever the device under it can do. */
import type { BlockCapabilities, BlockDevice } from "../device.ts";
import { BlockErrno, BlockError } from "../device.ts";
import { PassthroughDevice } from "./passthrough.ts";

export class ReadOnlyDevice extends PassthroughDevice {
  readonly #can: BlockCapabilities;

  constructor(inner: BlockDevice) {
    super(inner);
    this.#can = { ...inner.can, write: false, fua: false, trim: false, zero: false, fastZero: false };
  }

  override get can(): BlockCapabilities {
    return this.#can;
  }

  override write(): Promise<void> {
    return refuse();
  }

  override trim(): Promise<void> {
    return refuse();
  }

  override zero(): Promise<void> {
    return refuse();
  }

  /** Nothing was written through here, so there is nothing to make durable. */
  override flush(): Promise<void> {
    return Promise.resolve();
  }
}

function refuse(): Promise<never> {
  return Promise.reject(new BlockError(BlockErrno.EPERM, "the device is read-only"));
}
