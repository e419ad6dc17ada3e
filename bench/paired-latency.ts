/**
 * Latency of a write and its FLUSH as one: what a database waits for at a commit. fio reports the two apart, and their
 * percentiles cannot be added. Depth 1, one connection, by libnbd's own shell: a client in Node was seen to wait half as long
 * again for the same answers, and collects its heap in between.
 */
import { mustRun } from "../test/support/child.ts";
import { percentile } from "./section.ts";

export interface PairedJob {
  readonly uri: string;
  readonly blockBytes: number;
  readonly seconds: number;
  readonly sizeBytes: number;
}

/** Half of a block is new each time, as fio's buffers are. Prints nanoseconds, one a line. */
const script = `
import os, random, sys, time
block, size, seconds = [int(word) for word in os.environ["PAIRED_JOB"].split()]
rest = bytes(block // 2)
seen = []
end = time.monotonic() + seconds
while time.monotonic() < end:
    data = os.urandom(block - len(rest)) + rest
    at = random.randrange(size // block) * block
    started = time.perf_counter_ns()
    h.pwrite(data, at)
    h.flush()
    seen.append(time.perf_counter_ns() - started)
print("\\n".join(map(str, seen)))
`;

/** Microseconds. */
export async function pairedLatency(job: PairedJob): Promise<{ p50Us: number; p99Us: number }> {
  const words = [job.blockBytes, job.sizeBytes, job.seconds].join(" ");
  // The system's own Python has the module, whatever other one stands before it.
  const environment = [`PAIRED_JOB=${words}`, "PATH=/usr/bin:/bin"];
  const text = await mustRun("env", [...environment, "nbdsh", "--uri", job.uri, "--command", script]);
  const seenUs = text
    .trim()
    .split("\n")
    .map((line) => Number(line) / 1000);
  return { p50Us: percentile(seenUs, 0.5), p99Us: percentile(seenUs, 0.99) };
}
