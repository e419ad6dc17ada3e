/**
 * Packs batches off the main thread: LZ4 on a thread of its own, brotli on the pool. One thread per process, started at the first
 * use and never kept alive by itself. It gets one batch at a time, so that nothing it was given lies about there; the others wait
 * here, in the order of asking, and are bounded by who asks: a group reads its next batch when the one before is packed. Nothing
 * is copied on this side. Why there is a thread: docs/decisions/lz4.md.
 */
import { strict as assert } from "node:assert";
import { extname } from "node:path";
import type { CompressBatch, PackedPayload } from "../../protocol/batch.ts";
import { compressDirectly } from "../../protocol/batch.ts";
import { ThreadCalls } from "../../runtime/thread-calls.ts";

export type PackCalls = ThreadCalls<Uint8Array, PackedPayload>;

export class PackQueue {
  readonly #startThread: () => PackCalls;
  #thread: PackCalls | undefined;
  /** Settles when everything asked so far is answered; never rejects. */
  #answered: Promise<unknown> = Promise.resolve();

  constructor(startThread: () => PackCalls) {
    this.#startThread = startThread;
  }

  /**
   * `raw` is alone in its ArrayBuffer, and detached once its turn comes. What LZ4 makes of it comes in memory of just that length.
   * Rejects with ThreadFailure where the thread ended before it had answered: `raw` is lost with it, and whoever wants it packed
   * makes it anew. The next one has a new thread.
   */
  pack(raw: Uint8Array): Promise<PackedPayload> {
    const { buffer } = raw;
    assert(buffer instanceof ArrayBuffer && buffer.byteLength === raw.byteLength, "alone in its memory");
    const packed = this.#answered.then(() => {
      if (this.#thread === undefined || this.#thread.ended) this.#thread = this.#startThread();
      return this.#thread.call(raw, [buffer]);
    });
    this.#answered = packed.catch(() => undefined);
    return packed;
  }
}

/** The thread's file: this one's sibling, built or not. */
const threadEntry = new URL(`./compress-thread${extname(import.meta.url)}`, import.meta.url);

/** The process's one queue. */
const queue = new PackQueue(() => new ThreadCalls("splitsite-compress", threadEntry));

export const compressAside: CompressBatch = (codec, raw) =>
  codec === "lz4" ? queue.pack(raw) : compressDirectly(codec, raw);
