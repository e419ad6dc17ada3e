/**
 * Bytes received and not yet parsed: a queue of chunks with a cursor in the first. It never copies or joins chunks by
 * itself; a parser either takes a view of the current chunk or gathers bytes into a buffer it sized before. Chunks
 * belong to the queue from `push` on. How much is queued is bounded by whoever pushes.
 */

const nothing = new Uint8Array(0);

export class ByteInput {
  /** Current chunk; bytes before `at` are used up. Public because the request parser reads it in place. */
  chunk: Uint8Array = nothing;
  at = 0;
  #later: Uint8Array[] = [];
  #laterIndex = 0;
  #laterBytes = 0;

  push(chunk: Uint8Array): void {
    if (chunk.length === 0) return;
    if (this.at === this.chunk.length) {
      this.chunk = chunk;
      this.at = 0;
    } else {
      this.#later.push(chunk);
      this.#laterBytes += chunk.length;
    }
  }

  /** Bytes that can be viewed at once. Zero exactly when nothing is queued. */
  get contiguous(): number {
    return this.chunk.length - this.at;
  }

  get buffered(): number {
    return this.chunk.length - this.at + this.#laterBytes;
  }

  /** Uses up `length` bytes of the current chunk; at most `contiguous`. */
  advance(length: number): void {
    this.at += length;
    if (this.at === this.chunk.length) this.#nextChunk();
  }

  #nextChunk(): void {
    const next = this.#later[this.#laterIndex];
    if (next === undefined) {
      // Let go of the chunk: views of it may be gone, and an idle connection must not pin 64 KiB.
      this.chunk = nothing;
      this.at = 0;
      return;
    }
    this.#laterIndex += 1;
    this.#laterBytes -= next.length;
    if (this.#laterIndex === this.#later.length) {
      this.#later = [];
      this.#laterIndex = 0;
    }
    this.chunk = next;
    this.at = 0;
  }

  /** Moves bytes into `target` from index `filled` on until it is full or nothing is left. Returns the new fill. */
  gather(target: Uint8Array, filled: number): number {
    let fill = filled;
    while (fill < target.length && this.contiguous > 0) {
      const take = Math.min(target.length - fill, this.contiguous);
      target.set(this.chunk.subarray(this.at, this.at + take), fill);
      fill += take;
      this.advance(take);
    }
    return fill;
  }

  /** Drops up to `length` bytes; returns how many. */
  skip(length: number): number {
    let skipped = 0;
    while (skipped < length && this.contiguous > 0) {
      const take = Math.min(length - skipped, this.contiguous);
      skipped += take;
      this.advance(take);
    }
    return skipped;
  }

  /** Forgets everything queued. */
  clear(): void {
    this.chunk = nothing;
    this.at = 0;
    this.#later = [];
    this.#laterIndex = 0;
    this.#laterBytes = 0;
  }
}
