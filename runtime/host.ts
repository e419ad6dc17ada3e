/** Facts about the host this process runs on. */
import { readFileSync } from "node:fs";

/**
 * Identity of this boot of the host. Data a killed process wrote but never synced is still there within one boot;
 * across boots only what was synced may be counted on.
 */
export function bootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
}

/** Descriptors this process may have open; Infinity where that is not limited. */
export function descriptorsMax(): number {
  const found = /^Max open files\s+(\S+)/m.exec(readFileSync("/proc/self/limits", "latin1"))?.[1];
  return found === undefined || found === "unlimited" ? Number.POSITIVE_INFINITY : Number(found);
}
