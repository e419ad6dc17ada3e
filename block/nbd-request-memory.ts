/**
 * The memory that payloads of NBD requests may take in this process, shared by all connections of all servers. When it
 * is spent, connections wait in line and are served first come, first served; each waits with at most one request, so
 * the line is as long as there are connections and nobody is starved.
 */

interface Waiting {
  readonly bytes: number;
  readonly granted: () => void;
}

export class NbdRequestMemory {
  readonly #bytesMax: number;
  #usedBytes = 0;
  readonly #waiting = new Set<Waiting>();

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  get waiting(): number {
    return this.#waiting.size;
  }

  /** Takes `bytes` now, or returns false: then `wait`. A lone request passes whatever its size. */
  tryTake(bytes: number): boolean {
    if (this.#waiting.size > 0 || !this.#fits(bytes)) return false;
    this.#usedBytes += bytes;
    return true;
  }

  /** Stands in line; `granted` is called once with the bytes taken, unless the returned function is called before. */
  wait(bytes: number, granted: () => void): () => void {
    const entry: Waiting = { bytes, granted };
    this.#waiting.add(entry);
    return () => {
      if (this.#waiting.delete(entry)) this.#serve();
    };
  }

  release(bytes: number): void {
    this.#usedBytes -= bytes;
    if (this.#waiting.size > 0) this.#serve();
  }

  #fits(bytes: number): boolean {
    return this.#usedBytes === 0 || this.#usedBytes + bytes <= this.#bytesMax;
  }

  #serve(): void {
    for (const entry of this.#waiting) {
      if (!this.#fits(entry.bytes)) return;
      this.#waiting.delete(entry);
      this.#usedBytes += entry.bytes;
      entry.granted();
    }
  }
}
