/**
 * Which chunks of which volumes a dropped record touched: what a standby that was told of a gap may lack. Pure. A bit a
 * chunk, in pages that are stored whole. It only ever gains bits, until all of them are cleared together.
 */
import type { VolumeNumber } from "../../protocol/ids.ts";
import { hasBit, scanChunkBytes, setBit } from "../../protocol/scan-digest.ts";

/** 4 KiB of bits: 32,768 chunks, 32 GiB of a volume. */
export const pageBytes = 4096;
export const pageChunks = pageBytes * 8;

export interface DirtyPage {
  readonly volume: VolumeNumber;
  /** Its first chunk is `page * pageChunks`. */
  readonly page: number;
  /** Lowest bit of the first byte first. */
  readonly bits: Uint8Array;
}

export class DirtyMap {
  readonly #pages = new Map<string, DirtyPage>();
  readonly #changed = new Set<DirtyPage>();
  #count = 0;

  /** Chunks that have a bit. */
  get count(): number {
    return this.#count;
  }

  /** By volume and page. */
  get pages(): DirtyPage[] {
    return [...this.#pages.values()].sort((a, b) => a.volume - b.volume || a.page - b.page);
  }

  /** Adds a stored page's bits; it is not changed by that. */
  add({ volume, page, bits }: DirtyPage): void {
    const mine = this.#page(volume, page);
    for (let index = 0; index < pageChunks; index += 1) {
      if (hasBit(bits, index)) this.#set(mine, index);
    }
  }

  /** A record changed the bytes from `start` to before `end`. */
  touch(volume: VolumeNumber, start: number, end: number): void {
    if (end <= start) return;
    const last = Math.floor((end - 1) / scanChunkBytes);
    for (let chunk = Math.floor(start / scanChunkBytes); chunk <= last; chunk += 1) {
      const page = this.#page(volume, Math.floor(chunk / pageChunks));
      if (this.#set(page, chunk % pageChunks)) this.#changed.add(page);
    }
  }

  has(volume: VolumeNumber, chunk: number): boolean {
    const page = this.#pages.get(keyOf(volume, Math.floor(chunk / pageChunks)));
    return page !== undefined && hasBit(page.bits, chunk % pageChunks);
  }

  /** Chunks of a volume that have a bit, rising. */
  chunks(volume: VolumeNumber): Uint32Array {
    const found: number[] = [];
    for (const page of this.pages) {
      if (page.volume !== volume) continue;
      for (let byte = 0; byte < pageBytes; byte += 1) {
        if (page.bits[byte] === 0) continue;
        for (let bit = 0; bit < 8; bit += 1) {
          if (hasBit(page.bits, byte * 8 + bit)) found.push(page.page * pageChunks + byte * 8 + bit);
        }
      }
    }
    return Uint32Array.from(found);
  }

  /** Pages that gained a bit since this was last asked. */
  takeChanged(): DirtyPage[] {
    const changed = [...this.#changed];
    this.#changed.clear();
    return changed;
  }

  clear(): void {
    this.#pages.clear();
    this.#changed.clear();
    this.#count = 0;
  }

  #page(volume: VolumeNumber, page: number): DirtyPage {
    const key = keyOf(volume, page);
    let found = this.#pages.get(key);
    if (found === undefined) {
      found = { volume, page, bits: new Uint8Array(pageBytes) };
      this.#pages.set(key, found);
    }
    return found;
  }

  /** False when it was set already. */
  #set({ bits }: DirtyPage, index: number): boolean {
    if (hasBit(bits, index)) return false;
    setBit(bits, index);
    this.#count += 1;
    return true;
  }
}

function keyOf(volume: VolumeNumber, page: number): string {
  return `${volume} ${page}`;
}
