/**
 * What a simulated machine has stored: its tree of names, its files, its room, and which write was the newest. The
 * state that `SimDisk` changes, copies and takes the power from; it has no time and no incarnations.
 */
import type { SeededRandom } from "../../support/seeded.ts";
import { SimFile, sectorBytes } from "./sim-file.ts";
import type { PowerCut, SimNode } from "./tree.ts";
import { SimTree } from "./tree.ts";

/** Room of a disk nobody gave a capacity. */
export const endlessBytes = 2 ** 40;

interface LastWrite {
  readonly file: SimFile;
  readonly start: number;
  readonly end: number;
  readonly lengthBefore: number;
}

export class Storage {
  readonly tree: SimTree;
  capacityBytes: number;
  bootNumber = 1;
  #last: LastWrite | undefined;

  constructor(capacityBytes: number, tree = new SimTree()) {
    this.capacityBytes = capacityBytes;
    this.tree = tree;
  }

  get usedBytes(): number {
    return this.tree.allocatedBytes;
  }

  /** Of `length` bytes from `position` as many as there is room for. */
  fitting(file: SimFile, position: number, length: number): number {
    if (this.capacityBytes >= endlessBytes) return length;
    const free = Math.max(0, this.capacityBytes - this.usedBytes);
    if (file.newSectors(position, length) * sectorBytes <= free) return length;
    let fits = 0;
    for (let at = position; at < position + length; ) {
      const next = Math.min((Math.floor(at / sectorBytes) + 1) * sectorBytes, position + length);
      if (file.newSectors(position, next - position) * sectorBytes > free) break;
      fits = next - position;
      at = next;
    }
    return fits;
  }

  write(file: SimFile, position: number, bytes: Uint8Array): void {
    if (bytes.byteLength === 0) return;
    this.#last = { file, start: position, end: position + bytes.byteLength, lengthBefore: file.length };
    file.write(position, bytes);
  }

  zero(file: SimFile, position: number, length: number, free: boolean): void {
    this.#last = { file, start: position, end: position + length, lengthBefore: file.length };
    file.zero(position, length, free);
  }

  losePower(model: PowerCut, random: SeededRandom): void {
    const last = this.#last;
    for (const file of this.tree.losePower(model, random)) {
      if (model !== "torn") file.losePower(model, random);
      else file.losePower("everything", random, last?.file === file ? last : undefined);
    }
    this.#last = undefined;
    this.bootNumber += 1;
  }

  copy(): Storage {
    const known = new Map<SimNode, SimNode>();
    const copy = new Storage(this.capacityBytes, this.tree.copy(known));
    copy.bootNumber = this.bootNumber;
    const file = this.#last && known.get(this.#last.file);
    if (this.#last !== undefined && file instanceof SimFile) copy.#last = { ...this.#last, file };
    return copy;
  }
}
