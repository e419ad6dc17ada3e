/**
 * An ordered store that forgets like LevelDB at a crash: of what was not settled any part is there afterwards, in
 * order of keys or not; what was settled is there whole.
 */
import type { StoreEntry } from "../../runtime/ordered-store.ts";
import { MemoryOrderedStore } from "./memory-ordered-store.ts";

type Change = { readonly key: string; readonly value: Uint8Array | undefined } | "clear";

export class ForgetfulStore extends MemoryOrderedStore {
  #settled = new Map<string, Uint8Array>();
  #since: Change[] = [];

  override async write(puts: readonly StoreEntry[], deletes: readonly Uint8Array[]): Promise<void> {
    for (const { key, value } of puts) this.#since.push({ key: hex(key), value: new Uint8Array(value) });
    for (const key of deletes) this.#since.push({ key: hex(key), value: undefined });
    await super.write(puts, deletes);
  }

  override async clear(): Promise<void> {
    this.#since.push("clear");
    await super.clear();
  }

  override async settle(entry: StoreEntry): Promise<void> {
    await super.write([entry], []);
    this.#settled = new Map(this.content);
    this.#since = [];
  }

  /** The store after a crash: `survives` decides for each change that was not settled. */
  crashed(survives: () => boolean): ForgetfulStore {
    const left = new Map(this.#settled);
    for (const change of this.#since) {
      if (!survives()) continue;
      if (change === "clear") left.clear();
      else if (change.value === undefined) left.delete(change.key);
      else left.set(change.key, change.value);
    }
    const store = new ForgetfulStore();
    store.content = left;
    store.#settled = new Map(left);
    return store;
  }
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}
