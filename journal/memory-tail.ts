/**
 * The newest frames, decoded, for readers that keep up: they need not read again what has just been written.
 * Bounded by bytes; holds a run without holes that ends at the journal's tail. Never a source of truth after a
 * restart.
 */
import type { Frame } from "../protocol/frame.ts";
import type { Sequence } from "../protocol/ids.ts";

/** What a record's object costs besides its bytes, about: counted, so that small records cannot outgrow the bound. */
const recordObjectBytes = 128;

export class MemoryTail {
  readonly #bytesMax: number;
  /** Slots before `start` are dropped and empty, so that they hold no memory; cut off when they are half of all. */
  #frames: (Frame | undefined)[] = [];
  #start = 0;
  #bytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** First sequence held; Infinity when nothing is. */
  get first(): Sequence {
    return this.#frames[this.#start]?.first ?? Number.POSITIVE_INFINITY;
  }

  push(frame: Frame): void {
    this.#frames.push(frame);
    this.#bytes += cost(frame);
    while (this.#bytes > this.#bytesMax && this.#start < this.#frames.length) this.#drop();
  }

  /** Drops frames that end at or before `through`. */
  trim(through: Sequence): void {
    while (this.#start < this.#frames.length && this.#frames[this.#start]!.last <= through) this.#drop();
  }

  /** Frames from the one that holds `from`, which is at or after `first`, up to about `bytesMax` body bytes. */
  from(from: Sequence, bytesMax: number): Frame[] {
    let low = this.#start;
    let high = this.#frames.length - 1;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#frames[middle]!.last < from) low = middle + 1;
      else high = middle;
    }
    const found: Frame[] = [];
    let bytes = 0;
    for (let at = low; at < this.#frames.length; at += 1) {
      const frame = this.#frames[at]!;
      if (found.length > 0 && bytes + frame.body.byteLength > bytesMax) break;
      found.push(frame);
      bytes += frame.body.byteLength;
    }
    return found;
  }

  #drop(): void {
    this.#bytes -= cost(this.#frames[this.#start]!);
    this.#frames[this.#start] = undefined;
    this.#start += 1;
    if (this.#start >= 64 && this.#start * 2 > this.#frames.length) {
      this.#frames = this.#frames.slice(this.#start);
      this.#start = 0;
    } else if (this.#start === this.#frames.length) {
      this.#frames = [];
      this.#start = 0;
    }
  }
}

function cost(frame: Frame): number {
  return frame.body.byteLength + frame.count * recordObjectBytes;
}
