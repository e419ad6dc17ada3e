/**
 * The index of before-images: which chunk holds what a block was before the first step behind a sequence. Rows over
 * an `OrderedStore`, made anew from the segments at any time (docs/formats/before-images.md). Holds no content and is
 * never believed: every row has a checksum, and the chunk it names must say the same.
 *
 *   "b" volume(2) level(1) number(6) last(8)   -> segment(4) offset/512(4) crc(4)
 *       level 0: one block; level 4: a cell of 16 blocks that a run covers whole
 *   "s" last(8)                                -> first(8) dataBytesTotal(8) timeMs(8) chain(32) crc(4)
 *   "m"                                        -> sets up to here are in the index: last(8) crc(4)
 */
import { crc32 } from "node:zlib";
import { ByteReader, ByteWriter } from "../../protocol/bytes.ts";
import type { Sequence, VolumeNumber } from "../../protocol/ids.ts";
import { RemoteProtocolError } from "../../protocol/remote-error.ts";
import { OperationalError } from "../../runtime/errors.ts";
import type { OrderedStore, StoreCursor, StoreEntry } from "../../runtime/ordered-store.ts";
import type { AppliedPosition } from "../marker.ts";
import type { BlockRun } from "./chunk.ts";
import { chunkAlignBytes } from "./chunk.ts";
import type { ChunkPlace, WalkedChunk } from "./segments.ts";

const blockRow = 0x62;
const markRow = 0x6d;
const setRow = 0x73;
/** Blocks in a cell, as a power of two: a long run costs a row per 64 KiB, and a look-up two seeks. */
const cellLevel = 4;
const cellBlocks = 2 ** cellLevel;
/** Rows written at once: about a millisecond of the main thread. */
const batchRows = 512;
const sequenceMax = Number.MAX_SAFE_INTEGER;

export interface FoundBefore {
  readonly place: ChunkPlace;
  /** Last sequence of the set. */
  readonly last: Sequence;
}

/** Looks into the index as it was when this was made. */
export class IndexLookup {
  readonly #cursor: StoreCursor;

  constructor(cursor: StoreCursor) {
    this.#cursor = cursor;
  }

  /** The first set that ends behind `sequence` and holds the block; undefined when none does: two seeks. */
  async firstAfter(
    volume: VolumeNumber,
    block: number,
    sequence: Sequence,
  ): Promise<FoundBefore | undefined> {
    const alone = await this.#at(volume, 0, block, sequence);
    const inCell = await this.#at(volume, cellLevel, Math.floor(block / cellBlocks), sequence);
    if (alone === undefined || inCell === undefined) return alone ?? inCell;
    return alone.last < inCell.last ? alone : inCell;
  }

  async #at(
    volume: VolumeNumber,
    level: number,
    number: number,
    sequence: Sequence,
  ): Promise<FoundBefore | undefined> {
    const from = blockKey(volume, level, number, sequence + 1);
    const entry = await this.#cursor.first(from, blockKey(volume, level, number, sequenceMax));
    if (entry === undefined) return undefined;
    const value = checked(entry);
    const place = { segment: value.u32(), offset: value.u32() * chunkAlignBytes };
    return { place, last: new ByteReader(entry.key.subarray(entry.key.byteLength - 8)).u64() };
  }

  close(): Promise<void> {
    return this.#cursor.close();
  }
}

export class BlockIndex {
  readonly #store: OrderedStore;

  constructor(store: OrderedStore) {
    this.#store = store;
  }

  /** Sets up to here are in the index, whatever crash there was; undefined when it has to be made anew. */
  async settledThrough(): Promise<Sequence | undefined> {
    const [entry] = await this.#store.scan(Uint8Array.of(markRow), Uint8Array.of(markRow + 1), 1);
    try {
      return entry === undefined ? undefined : checked(entry).u64();
    } catch (error) {
      if (error instanceof OperationalError || error instanceof RemoteProtocolError) return undefined;
      throw error;
    }
  }

  /** Everything that was added and removed before survives any crash, and `through` says so. */
  settle(through: Sequence): Promise<void> {
    const value = new ByteWriter(12).u64(through);
    return this.#store.settle(rowOf(Uint8Array.of(markRow), value));
  }

  /** Adds the rows of a chunk whose set is synced; again is harmless. With the set's last chunk, its point. */
  async add(chunk: WalkedChunk): Promise<void> {
    const { head, place } = chunk;
    let rows: StoreEntry[] = [];
    for (const key of keysOf(head.runs, head.position.sequence)) {
      const value = new ByteWriter(12).u32(place.segment).u32(place.offset / chunkAlignBytes);
      rows.push(rowOf(key, value));
      if (rows.length < batchRows) continue;
      await this.#store.write(rows, []);
      rows = [];
    }
    if (head.isLast) rows.push(setEntry(head.first, head.position));
    if (rows.length > 0) await this.#store.write(rows, []);
  }

  /** Removes the rows of a chunk. */
  async remove({ head }: WalkedChunk): Promise<void> {
    let keys: Uint8Array[] = head.isLast ? [setKey(head.position.sequence)] : [];
    for (const key of keysOf(head.runs, head.position.sequence)) {
      keys.push(key);
      if (keys.length < batchRows) continue;
      await this.#store.write([], keys);
      keys = [];
    }
    if (keys.length > 0) await this.#store.write([], keys);
  }

  lookup(): IndexLookup {
    return new IndexLookup(this.#store.cursor());
  }

  /** Points behind `after`, oldest first, at most `limit`. */
  async points(after: Sequence, limit: number): Promise<AppliedPosition[]> {
    const entries = await this.#store.scan(setKey(after + 1), Uint8Array.of(setRow + 1), limit);
    return entries.map((entry) => {
      const value = checked(entry);
      value.u64();
      const [dataBytesTotal, timeMs] = [value.u64(), value.u64()];
      const sequence = new ByteReader(entry.key.subarray(1)).u64();
      return { sequence, chain: value.bytes(32).slice(), dataBytesTotal, timeMs };
    });
  }

  clear(): Promise<void> {
    return this.#store.clear();
  }

  close(): Promise<void> {
    return this.#store.close();
  }
}

function blockKey(volume: VolumeNumber, level: number, number: number, last: Sequence): Uint8Array {
  return new ByteWriter(18)
    .u8(blockRow)
    .u16(volume)
    .u8(level)
    .u16(Math.floor(number / 2 ** 32))
    .u32(number % 2 ** 32)
    .u64(last).bytes;
}

function setKey(last: Sequence): Uint8Array {
  return new ByteWriter(9).u8(setRow).u64(last).bytes;
}

function setEntry(first: Sequence, position: AppliedPosition): StoreEntry {
  const value = new ByteWriter(60)
    .u64(first)
    .u64(position.dataBytesTotal)
    .u64(position.timeMs)
    .put(position.chain);
  return rowOf(setKey(position.sequence), value);
}

/** Keys of a chunk's rows: a cell that a run covers whole has one, every other block its own. */
function* keysOf(runs: readonly BlockRun[], last: Sequence): Generator<Uint8Array> {
  for (const { volume, first, blocks } of runs) {
    const end = first + blocks;
    for (let block = first; block < end; ) {
      if (block % cellBlocks === 0 && block + cellBlocks <= end) {
        yield blockKey(volume, cellLevel, block / cellBlocks, last);
        block += cellBlocks;
      } else {
        yield blockKey(volume, 0, block, last);
        block += 1;
      }
    }
  }
}

/** The entry with the checksum over key and value put behind the value, for which there is room. */
function rowOf(key: Uint8Array, value: ByteWriter): StoreEntry {
  const sum = crc32(value.bytes.subarray(0, value.offset), crc32(key));
  return { key, value: value.u32(sum).bytes };
}

function checked({ key, value }: StoreEntry): ByteReader {
  const end = value.byteLength - 4;
  if (end >= 0 && crc32(value.subarray(0, end), crc32(key)) === new ByteReader(value.subarray(end)).u32()) {
    return new ByteReader(value.subarray(0, end));
  }
  throw new OperationalError({
    code: "HISTORY_INDEX_DAMAGED",
    message: "a row of the index of before-images is damaged",
    reaction: "reopen",
    hint: "The index is made anew from the before-images when the history is opened again.",
  });
}
