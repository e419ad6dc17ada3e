/** An ordered store in memory, for tests of what is kept in one. */
import type { OrderedStore, StoreCursor, StoreEntry } from "../../runtime/ordered-store.ts";

export class MemoryOrderedStore implements OrderedStore {
  /** By hex of the key. */
  content = new Map<string, Uint8Array>();

  async write(puts: readonly StoreEntry[], deletes: readonly Uint8Array[]): Promise<void> {
    for (const { key, value } of puts) this.content.set(hex(key), new Uint8Array(value));
    for (const key of deletes) this.content.delete(hex(key));
  }

  async scan(from: Uint8Array, end: Uint8Array, limit: number): Promise<StoreEntry[]> {
    return scanIn(this.content, from, end, limit);
  }

  cursor(): StoreCursor {
    const then = new Map(this.content);
    const keys = [...then.keys()].sort((a, b) => (a < b ? -1 : 1));
    return {
      first: async (from, end) => {
        let low = 0;
        for (let high = keys.length; low < high; ) {
          const middle = (low + high) >> 1;
          if (keys[middle]! < hex(from)) low = middle + 1;
          else high = middle;
        }
        const key = keys[low];
        if (key === undefined || key >= hex(end)) return undefined;
        return { key: Buffer.from(key, "hex"), value: then.get(key)! };
      },
      close: async () => undefined,
    };
  }

  async settle(entry: StoreEntry): Promise<void> {
    await this.write([entry], []);
  }

  async clear(): Promise<void> {
    this.content.clear();
  }

  async close(): Promise<void> {}
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

function scanIn(
  content: Map<string, Uint8Array>,
  from: Uint8Array,
  end: Uint8Array,
  limit: number,
): StoreEntry[] {
  const keys = [...content.keys()].filter((key) => key >= hex(from) && key < hex(end));
  keys.sort((a, b) => (a < b ? -1 : 1));
  return keys.slice(0, limit).map((key) => ({ key: Buffer.from(key, "hex"), value: content.get(key)! }));
}
