/**
 * The overlay: the newest content of a group's volumes that is answered but not yet in the images. Pure. Reads are
 * planned against it, so that a client always reads what it last wrote. Whole 4 KiB blocks are views into frame
 * bodies; a write of a part of a block makes a block of its own; zeroes and trims are intervals. Bytes once handed
 * out never change. Bounds are the caller's: it looks at `bytes` and `rangeCount` before it takes in more.
 */
import assert from "node:assert/strict";
import type { Extent } from "../block/device.ts";
import type { Frame } from "../protocol/frame.ts";
import type { Sequence, VolumeNumber } from "../protocol/ids.ts";
import { blockBytes, sectorBytes } from "../protocol/ids.ts";
import type { ClientRecord } from "../protocol/record.ts";
import { isOfClient } from "../protocol/record.ts";
import { RangeMap } from "./range-map.ts";

/** One part of a planned read, in ascending order without gaps. */
export interface ReadPiece {
  readonly offset: number;
  readonly length: number;
  /** The bytes; or "zero"; or "image": to be read from the image. */
  readonly source: Uint8Array | "zero" | "image";
}

/** What the overlay says about a range: `image` asks the image. */
export interface OverlayExtent {
  readonly length: number;
  readonly state: "data" | "zero" | "image";
}

interface Block {
  readonly sequence: Sequence;
  /** Holds the block's bytes from `at` on. */
  readonly bytes: Uint8Array;
  readonly at: number;
  /** Bit per sector that stands in `bytes`; the rest is in the image. */
  readonly mask: number;
  /** `bytes` is a buffer of ours, not a frame's body. */
  readonly own: boolean;
}

interface VolumeOverlay {
  readonly blocks: Map<number, Block>;
  /** Whole blocks that read as zeroes unless a newer block says otherwise. */
  readonly ranges: RangeMap;
}

const sectorsPerBlock = blockBytes / sectorBytes;
const wholeMask = 2 ** sectorsPerBlock - 1;
/** Most bytes one extents answer covers while there is anything in the overlay: 16,384 look-ups, some 0.5 ms. */
const extentsBytesMax = 64 * 1024 * 1024;

export class Overlay {
  readonly #volumes = new Map<VolumeNumber, VolumeOverlay>();
  /** Frames taken in and not yet evicted, oldest first. */
  readonly #frames: Frame[] = [];
  #bytes = 0;
  #ownBlocks = 0;

  /** Memory held: bodies of the frames kept, and blocks of our own. */
  get bytes(): number {
    return this.#bytes + this.#ownBlocks * blockBytes;
  }

  /** Intervals of zeroes held, all volumes. */
  get rangeCount(): number {
    let count = 0;
    for (const volume of this.#volumes.values()) count += volume.ranges.size;
    return count;
  }

  /** Frames kept. */
  get frameCount(): number {
    return this.#frames.length;
  }

  /** Takes in the next frame. Its body is kept as it is and must never change. */
  insert(frame: Frame): void {
    const newest = this.#frames.at(-1);
    assert(newest === undefined || frame.first > newest.last, "frames come in sequence order");
    this.#frames.push(frame);
    this.#bytes += frame.body.byteLength;
    const { records } = frame;
    for (let index = 0; index < records.length; index += 1) {
      const record = records[index]!;
      if (!isOfClient(record)) continue;
      let volume = this.#volumes.get(record.volume);
      if (volume === undefined) {
        volume = { blocks: new Map(), ranges: new RangeMap() };
        this.#volumes.set(record.volume, volume);
      }
      if (record.kind === "write") this.#insertWrite(volume, frame.first + index, record.offset, record.data);
      else this.#insertZeroes(volume, frame.first + index, record.offset, record.length);
    }
  }

  #insertWrite(volume: VolumeOverlay, sequence: Sequence, offset: number, data: Uint8Array): void {
    let at = 0;
    while (at < data.byteLength) {
      const number = Math.floor((offset + at) / blockBytes);
      const within = offset + at - number * blockBytes;
      const length = Math.min(blockBytes - within, data.byteLength - at);
      if (length === blockBytes)
        this.#put(volume, number, { sequence, bytes: data, at, mask: wholeMask, own: false });
      else this.#putPart(volume, number, sequence, within, data.subarray(at, at + length), length);
      at += length;
    }
  }

  #insertZeroes(volume: VolumeOverlay, sequence: Sequence, offset: number, length: number): void {
    const end = offset + length;
    const start = Math.ceil(offset / blockBytes);
    const stop = Math.floor(end / blockBytes);
    if (start > stop) {
      // Inside one block, touching neither of its edges.
      this.#putPart(volume, stop, sequence, offset - stop * blockBytes, null, length);
      return;
    }
    const headBytes = start * blockBytes - offset;
    if (headBytes > 0) this.#putPart(volume, start - 1, sequence, blockBytes - headBytes, null, headBytes);
    if (stop > start) volume.ranges.set(start, stop, sequence);
    const tailBytes = end - stop * blockBytes;
    if (tailBytes > 0) this.#putPart(volume, stop, sequence, 0, null, tailBytes);
  }

  #put(volume: VolumeOverlay, number: number, block: Block): void {
    const before = volume.blocks.get(number);
    if (before?.own === true) this.#ownBlocks -= 1;
    if (block.own) this.#ownBlocks += 1;
    volume.blocks.set(number, block);
  }

  /** Lays a part over what the block held; always in a new buffer, for the old one may be with a reader. */
  #putPart(
    volume: VolumeOverlay,
    number: number,
    sequence: Sequence,
    within: number,
    data: Uint8Array | null,
    length: number,
  ): void {
    const bytes = new Uint8Array(blockBytes);
    let mask = 0;
    const before = newestOf(volume, number);
    if (before === "zero") {
      mask = wholeMask;
    } else if (before !== undefined) {
      bytes.set(before.bytes.subarray(before.at, before.at + blockBytes));
      mask = before.mask;
    }
    if (data === null) bytes.fill(0, within, within + length);
    else bytes.set(data, within);
    mask |= (2 ** (length / sectorBytes) - 1) << (within / sectorBytes);
    this.#put(volume, number, { sequence, bytes, at: 0, mask, own: true });
  }

  /** Forgets whole frames that end at or before `sequence`: the image holds them now. */
  evictThrough(sequence: Sequence): void {
    let count = 0;
    let last = 0;
    for (; count < this.#frames.length; count += 1) {
      const frame = this.#frames[count]!;
      if (frame.last > sequence) break;
      this.#bytes -= frame.body.byteLength;
      last = frame.last;
      for (const record of frame.records) if (isOfClient(record)) this.#evictBlocks(record, last);
    }
    if (count === 0) return;
    this.#frames.splice(0, count);
    for (const volume of this.#volumes.values()) volume.ranges.dropThrough(last);
  }

  #evictBlocks(record: ClientRecord, last: Sequence): void {
    const volume = this.#volumes.get(record.volume)!;
    const { blocks } = volume;
    const start = Math.floor(record.offset / blockBytes);
    const end = Math.ceil((record.offset + record.length) / blockBytes);
    if (record.kind === "write") {
      for (let number = start; number < end; number += 1) this.#evictBlock(blocks, number, last);
      return;
    }
    // Zeroes make blocks at their two edges only.
    this.#evictBlock(blocks, start, last);
    this.#evictBlock(blocks, end - 1, last);
  }

  #evictBlock(blocks: Map<number, Block>, number: number, last: Sequence): void {
    const block = blocks.get(number);
    if (block === undefined || block.sequence > last) return;
    if (block.own) this.#ownBlocks -= 1;
    blocks.delete(number);
  }

  /**
   * What a read of whole sectors finds here: undefined (all in the image), one view of exactly `length` bytes, or
   * pieces that cover the range. Views are valid for ever and must not be changed.
   */
  read(
    volumeNumber: VolumeNumber,
    offset: number,
    length: number,
  ): undefined | Uint8Array | readonly ReadPiece[] {
    const volume = this.#volumes.get(volumeNumber);
    if (volume === undefined || (volume.blocks.size === 0 && volume.ranges.size === 0)) return undefined;
    if (length === blockBytes && offset % blockBytes === 0) {
      const block = newestOf(volume, offset / blockBytes);
      if (block === undefined) return undefined;
      if (block !== "zero" && block.mask === wholeMask)
        return block.bytes.subarray(block.at, block.at + blockBytes);
    }
    const pieces = new PieceList();
    const end = offset + length;
    for (let at = offset; at < end; ) {
      const number = Math.floor(at / blockBytes);
      const stop = Math.min((number + 1) * blockBytes, end);
      const block = newestOf(volume, number);
      if (block === undefined) pieces.image(at, stop);
      else if (block === "zero") pieces.zero(at, stop);
      else readBlock(pieces, block, number * blockBytes, at, stop);
      at = stop;
    }
    return pieces.finish();
  }

  /**
   * Extents of a range of whole sectors from its start, covering it all or its first 64 MiB. A block written in part
   * counts as data.
   */
  extents(volumeNumber: VolumeNumber, offset: number, length: number): readonly OverlayExtent[] {
    const volume = this.#volumes.get(volumeNumber);
    if (volume === undefined || (volume.blocks.size === 0 && volume.ranges.size === 0)) {
      return [{ length, state: "image" }];
    }
    const extents: { length: number; state: OverlayExtent["state"] }[] = [];
    const end = offset + Math.min(length, extentsBytesMax);
    for (let at = offset; at < end; ) {
      const number = Math.floor(at / blockBytes);
      const stop = Math.min((number + 1) * blockBytes, end);
      const block = newestOf(volume, number);
      const state = block === undefined ? "image" : block === "zero" ? "zero" : "data";
      const last = extents.at(-1);
      if (last?.state === state) last.length += stop - at;
      else extents.push({ length: stop - at, state });
      at = stop;
    }
    return extents;
  }
}

/** The newer of block and range; undefined: the image. */
function newestOf(volume: VolumeOverlay, number: number): Block | "zero" | undefined {
  const block = volume.blocks.get(number);
  if (volume.ranges.size === 0) return block;
  const zeroedAt = volume.ranges.sequenceAt(number);
  if (zeroedAt === undefined || (block !== undefined && block.sequence > zeroedAt)) return block;
  return "zero";
}

/** Adds bytes `start..end` of the volume, which lie in the block that begins at `blockStart`. */
function readBlock(pieces: PieceList, block: Block, blockStart: number, start: number, end: number): void {
  if (block.mask === wholeMask) {
    pieces.bytes(start, end, block.bytes, block.at + start - blockStart);
    return;
  }
  for (let at = start; at < end; at += sectorBytes) {
    const held = (block.mask >> ((at - blockStart) / sectorBytes)) & 1;
    if (held === 1) pieces.bytes(at, at + sectorBytes, block.bytes, block.at + at - blockStart);
    else pieces.image(at, at + sectorBytes);
  }
}

/** Joins neighbours of one kind; bytes when they also stand side by side in one buffer. */
class PieceList {
  readonly #pieces: ReadPiece[] = [];
  #start = 0;
  #end = -1;
  #source: Uint8Array | "zero" | "image" = "image";
  #at = 0;

  image(start: number, end: number): void {
    this.#add(start, end, "image", 0);
  }

  zero(start: number, end: number): void {
    this.#add(start, end, "zero", 0);
  }

  bytes(start: number, end: number, source: Uint8Array, at: number): void {
    this.#add(start, end, source, at);
  }

  #add(start: number, end: number, source: Uint8Array | "zero" | "image", at: number): void {
    const follows = typeof source === "string" || at === this.#at + (start - this.#start);
    if (start === this.#end && source === this.#source && follows) {
      this.#end = end;
      return;
    }
    this.#close();
    this.#start = start;
    this.#end = end;
    this.#source = source;
    this.#at = at;
  }

  #close(): void {
    if (this.#end < 0) return;
    const length = this.#end - this.#start;
    const source = this.#source;
    this.#pieces.push({
      offset: this.#start,
      length,
      source: typeof source === "string" ? source : source.subarray(this.#at, this.#at + length),
    });
  }

  finish(): undefined | Uint8Array | readonly ReadPiece[] {
    this.#close();
    const only = this.#pieces.length === 1 ? this.#pieces[0]! : undefined;
    if (only === undefined) return this.#pieces;
    if (only.source === "image") return undefined;
    return only.source === "zero" ? this.#pieces : only.source;
  }
}

/** Lays what the overlay says over the image's extents of the same range; covers what both cover. */
export function mergeExtents(overlay: readonly OverlayExtent[], image: readonly Extent[]): Extent[] {
  const merged: { length: number; hole: boolean; zero: boolean }[] = [];
  let imageIndex = 0;
  let imageLeft = image[0]?.length ?? 0;
  for (const { length, state } of overlay) {
    for (let left = length; left > 0; ) {
      const under = image[imageIndex];
      if (under === undefined) return merged;
      const part = Math.min(left, imageLeft);
      const zero = state === "zero" || (state === "image" && under.zero);
      const hole = state === "image" ? under.hole : state === "zero";
      const last = merged.at(-1);
      if (last?.hole === hole && last.zero === zero) last.length += part;
      else merged.push({ length: part, hole, zero });
      left -= part;
      imageLeft -= part;
      if (imageLeft === 0) {
        imageIndex += 1;
        imageLeft = image[imageIndex]?.length ?? 0;
      }
    }
  }
  return merged;
}
