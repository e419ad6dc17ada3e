/**
 * Latency of a write and its FLUSH as one: what a database waits for at a commit. fio reports the two apart, and their
 * percentiles cannot be added. Depth 1, one connection.
 */
import { randomFillSync, randomInt } from "node:crypto";
import type { NbdAddress } from "../test/support/nbd-client.ts";
import { NbdClient } from "../test/support/nbd-client.ts";
import { percentile } from "./section.ts";

export interface PairedJob {
  readonly address: NbdAddress;
  readonly exportName: string;
  readonly blockBytes: number;
  readonly seconds: number;
  readonly sizeBytes: number;
}

/** Microseconds. */
export async function pairedLatency(job: PairedJob): Promise<{ p50Us: number; p99Us: number }> {
  const client = await NbdClient.connect(job.address, job.exportName);
  try {
    const data = Buffer.alloc(job.blockBytes);
    const seenUs: number[] = [];
    const endMs = performance.now() + job.seconds * 1000;
    while (performance.now() < endMs) {
      // Half of it new each time, as fio's buffers are.
      randomFillSync(data, 0, job.blockBytes / 2);
      const at = randomInt(job.sizeBytes / job.blockBytes) * job.blockBytes;
      const startedMs = performance.now();
      for (const reply of [await client.write(at, data), await client.flush()]) {
        if (reply.outcome !== "answered") throw new Error(`a request was not answered: ${reply.outcome}`);
      }
      seenUs.push((performance.now() - startedMs) * 1000);
    }
    return { p50Us: percentile(seenUs, 0.5), p99Us: percentile(seenUs, 0.99) };
  } finally {
    await client.close();
  }
}
