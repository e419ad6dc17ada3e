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
import type { ChunkPlace, IndexedChunk } from "./segments.ts";

const blockRow = 0x62;
const markRow = 0x6d;
const setRow = 0x73;
/** Blocks in a cell, as a power of two: a long run costs a row per 64 KiB, and a look-up two seeks. */
const cellLevel = 4;
const cellBlocks = 2 ** cellLevel;
/** Rows written at once: two milliseconds of the main thread, 60 KiB. */
const batchRows = 2048;
/** Rows looked at together when the index is walked: some 100 KiB. */
const walkedRows = 2048;
const sequenceMax = Number.MAX_SAFE_INTEGER;

/** Blocks of one volume. */
export interface BlockRange {
  readonly volume: VolumeNumber;
  readonly first: number;
  readonly blocks: number;
}

export interface RowsOfChunk {
  readonly place: ChunkPlace;
  /** Last sequence of the chunk's set. */
  readonly last: Sequence;
  /** As the rows come: by volume, level and number. */
  readonly ranges: BlockRange[];
}

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

  /** Adds the rows of chunks whose sets are synced; again is harmless. With a set's last chunk, its point. */
  async add(chunks: readonly IndexedChunk[]): Promise<void> {
    let rows = new Rows();
    // One batch is being written while the next is made.
    let writing: Promise<void> = Promise.resolve();
    const write = async (): Promise<void> => {
      await writing;
      writing = this.#store.write(rows.entries, []);
      // Met by whoever waits for it next.
      writing.catch(() => undefined);
    };
    for (const { head, place } of chunks) {
      for (const [level, number, volume] of rowsOf(head.runs)) {
        rows.add(volume, level, number, head.position.sequence, place);
        if (rows.entries.length < batchRows) continue;
        await write();
        rows = new Rows();
      }
      if (head.isLast) rows.entries.push(setEntry(head.first, head.position));
    }
    if (rows.entries.length > 0) await write();
    await writing;
  }

  /** Removes the rows of a chunk. */
  async remove({ head }: IndexedChunk): Promise<void> {
    let keys: Uint8Array[] = head.isLast ? [setKey(head.position.sequence)] : [];
    for (const [level, number, volume] of rowsOf(head.runs)) {
      keys.push(blockKey(volume, level, number, head.position.sequence));
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

  /** First sequence of the oldest set that ends behind `sequence`. */
  async beginOfSetBehind(sequence: Sequence): Promise<Sequence | undefined> {
    const [entry] = await this.#store.scan(setKey(sequence + 1), Uint8Array.of(setRow + 1), 1);
    return entry === undefined ? undefined : checked(entry).u64();
  }

  /**
   * What rows say of the chunks at places for which `isMeant`, in the order of their places: for those whose own heads cannot
   * be read. Walks every row, so it is for damage only. A row that is damaged itself says nothing here.
   */
  async chunksAt(isMeant: (place: ChunkPlace) => boolean): Promise<RowsOfChunk[]> {
    const found = new Map<string, RowsOfChunk>();
    const end = Uint8Array.of(blockRow + 1);
    for (let from = Uint8Array.of(blockRow); ; ) {
      const entries = await this.#store.scan(from, end, walkedRows);
      for (const entry of entries) {
        const value = readable(entry);
        if (value === undefined) continue;
        const place = { segment: value.u32(), offset: value.u32() * chunkAlignBytes };
        if (!isMeant(place)) continue;
        const key = new ByteReader(entry.key.subarray(1));
        const [volume, level, high, low] = [key.u16(), key.u8(), key.u16(), key.u32()];
        const name = `${place.segment}:${place.offset}`;
        const chunk = found.get(name) ?? { place, last: key.u64(), ranges: [] };
        found.set(name, chunk);
        const blocks = 2 ** level;
        chunk.ranges.push({ volume, first: (high * 2 ** 32 + low) * blocks, blocks });
      }
      const last = entries.at(-1);
      if (last === undefined || entries.length < walkedRows) break;
      from = Uint8Array.of(...last.key, 0);
    }
    return [...found.values()].sort(
      (a, b) => a.place.segment - b.place.segment || a.place.offset - b.place.offset,
    );
  }

  clear(): Promise<void> {
    return this.#store.clear();
  }

  close(): Promise<void> {
    return this.#store.close();
  }
}

const keyBytes = 18;
const rowBytes = keyBytes + 12;

function blockKey(volume: VolumeNumber, level: number, number: number, last: Sequence): Uint8Array {
  const key = new Uint8Array(keyBytes);
  putBlockKey(new DataView(key.buffer), 0, volume, level, number, last);
  return key;
}

function putBlockKey(
  view: DataView,
  at: number,
  volume: VolumeNumber,
  level: number,
  number: number,
  last: Sequence,
): void {
  view.setUint8(at, blockRow);
  view.setUint16(at + 1, volume);
  view.setUint8(at + 3, level);
  view.setUint16(at + 4, Math.floor(number / 2 ** 32));
  view.setUint32(at + 6, number % 2 ** 32);
  view.setUint32(at + 10, Math.floor(last / 2 ** 32));
  view.setUint32(at + 14, last % 2 ** 32);
}

/** Rows of one batch in one piece of memory: thousands a step, and each is a view. */
class Rows {
  readonly entries: StoreEntry[] = [];
  readonly #bytes = Buffer.allocUnsafeSlow(batchRows * rowBytes);
  readonly #view = new DataView(this.#bytes.buffer);
  #at = 0;

  add(volume: VolumeNumber, level: number, number: number, last: Sequence, place: ChunkPlace): void {
    const at = this.#at;
    const valueAt = at + keyBytes;
    putBlockKey(this.#view, at, volume, level, number, last);
    this.#view.setUint32(valueAt, place.segment);
    this.#view.setUint32(valueAt + 4, place.offset / chunkAlignBytes);
    // Key and value lie side by side: one checksum over both.
    this.#view.setUint32(valueAt + 8, crc32(this.#bytes.subarray(at, valueAt + 8)));
    this.#at = at + rowBytes;
    const key = this.#bytes.subarray(at, valueAt);
    this.entries.push({ key, value: this.#bytes.subarray(valueAt, this.#at) });
  }
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

/** Level, number and volume of a chunk's rows: a cell that a run covers whole has one, every other block its own. */
function* rowsOf(runs: readonly BlockRun[]): Generator<[number, number, VolumeNumber]> {
  for (const { volume, first, blocks } of runs) {
    const end = first + blocks;
    for (let block = first; block < end; ) {
      if (block % cellBlocks === 0 && block + cellBlocks <= end) {
        yield [cellLevel, block / cellBlocks, volume];
        block += cellBlocks;
      } else {
        yield [0, block, volume];
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

/** The value of an entry whose checksum is right; else undefined. */
function readable({ key, value }: StoreEntry): ByteReader | undefined {
  const end = value.byteLength - 4;
  if (end < 0 || crc32(value.subarray(0, end), crc32(key)) !== new ByteReader(value.subarray(end)).u32())
    return undefined;
  return new ByteReader(value.subarray(0, end));
}

function checked(entry: StoreEntry): ByteReader {
  const value = readable(entry);
  if (value !== undefined) return value;
  throw new OperationalError({
    code: "HISTORY_INDEX_DAMAGED",
    message: "a row of the index of before-images is damaged",
    reaction: "reopen",
    hint: "The index is made anew from the before-images when the history is opened again.",
  });
}
