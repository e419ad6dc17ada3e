/**
 * Devices whose bytes stand in an open file that another thread of the process may read by its number. Types and the
 * question whether a device is one; a device that is none is read through `read`.
 */
import type { BlockDevice } from "./device.ts";

export interface DescriptorLender {
  /**
   * Runs `work` with the number of the open file, which means this file until `work` settles. For reading only: bytes from 0
   * on are the device's. Rejects as `read` does where the device may not be read any more.
   */
  lendDescriptor<T>(work: (fd: number) => Promise<T>): Promise<T>;
}

export function lendsDescriptor(device: BlockDevice): device is BlockDevice & DescriptorLender {
  return "lendDescriptor" in device && typeof device.lendDescriptor === "function";
}
