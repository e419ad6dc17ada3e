/**
 * A client that writes 4 to 64 KiB at random places, one write at a time, and remembers all of it, so that a disk can be
 * held against what it was after any number of them. Every write must be answered.
 */
import assert from "node:assert/strict";
import { randomFillSync } from "node:crypto";
import type { NbdClient } from "./nbd-client.ts";
import type { SeededRandom } from "./seeded.ts";

/** Writes one after another, so that the n-th write is the n-th record; remembers all of it. */
export class NotedWriter {
  readonly #random: SeededRandom;
  readonly #client: NbdClient;
  readonly #sizeBytes: number;
  readonly writes: { readonly offset: number; readonly data: Buffer }[] = [];
  bytes = 0;
  longestMs = 0;

  constructor(random: SeededRandom, client: NbdClient, sizeBytes: number) {
    this.#random = random;
    this.#client = client;
    this.#sizeBytes = sizeBytes;
  }

  /** Every one of them must be answered. */
  async write(bytes: number): Promise<void> {
    for (const end = this.bytes + bytes; this.bytes < end; ) {
      const data = Buffer.alloc((1 + this.#random.below(16)) * 4096);
      randomFillSync(data);
      const offset = this.#random.below((this.#sizeBytes - data.length) / 4096) * 4096;
      const fromMs = performance.now();
      const reply = await this.#client.write(offset, data);
      this.longestMs = Math.max(this.longestMs, performance.now() - fromMs);
      assert.equal(reply.outcome, "answered", JSON.stringify(reply));
      this.writes.push({ offset, data });
      this.bytes += data.length;
    }
  }

  /** Data in the first `count` writes. */
  contentBytes(count: number): number {
    return this.writes.slice(0, count).reduce((sum, { data }) => sum + data.length, 0);
  }

  /** The volume after the first `count` writes. */
  contentAfter(count: number): Buffer {
    const content = Buffer.alloc(this.#sizeBytes);
    for (const { offset, data } of this.writes.slice(0, count)) data.copy(content, offset);
    return content;
  }
}
