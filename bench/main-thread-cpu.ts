/** What the main thread of this process has computed so far, for benchmarks of what it is spared. */
import { readFileSync } from "node:fs";

/** CPU milliseconds. */
export function mainThreadCpuMs(): number {
  const nanoseconds = readFileSync(`/proc/self/task/${process.pid}/schedstat`, "utf8").split(" ")[0];
  return Number(nanoseconds) / 1e6;
}
