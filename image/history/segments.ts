/**
 * The segment files of a group's before-images: chunks appended set by set, synced, read back, walked, cut and
 * removed. Owns their names, descriptors and the order of disk operations. Never judges whether sets lead to what the
 * images hold, never changes a chunk that is synced, and never believes a file again whose sync has failed.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { LineageBytes, Sequence } from "../../protocol/ids.ts";
import { bytesEqual } from "../../protocol/ids.ts";
import { RemoteProtocolError } from "../../protocol/remote-error.ts";
import type { Disk, DiskFile } from "../../runtime/disk.ts";
import { syncDirectory } from "../../runtime/disk.ts";
import { errorCode, errorText, OperationalError } from "../../runtime/errors.ts";
import type { ChunkHead } from "./chunk.ts";
import {
  chunkBytes,
  chunkHeadBytes,
  chunkHeadLength,
  decodeChunkBlocks,
  decodeChunkHead,
  runBytes,
} from "./chunk.ts";

/** A segment this long is not appended to any more: what is given back at once, and rewritten at most by a cut. */
export const segmentBytesDefault = 64 * 1024 * 1024;
/** Read first of a chunk: head and 248 runs, so that most chunks need one read more, for their payload. */
const headReadBytes = 4096;
/**
 * Chunks being written at once, 2 MiB: all that are made while the main thread decodes a frame are handed over in one turn, not
 * three in each.
 */
const writesMax = 8;
/**
 * A set is synced whenever this part of a segment more is written of it, 4 MiB, while more of it is made: its end waits for the
 * rest alone. One that is begun while the images change has the disk almost to itself then.
 */
const syncPartOfSegment = 1 / 16;
/** Copied at once by a cut. */
const copyBytes = 1024 * 1024;
const namePattern = /^\d{8}$/;

export interface ChunkPlace {
  /** Number of the segment. */
  readonly segment: number;
  /** Bytes from its start. */
  readonly offset: number;
}

/** What the index has to know of a chunk. */
export interface IndexedChunk {
  readonly place: ChunkPlace;
  readonly head: Pick<ChunkHead, "first" | "position" | "isLast" | "runs">;
}

export interface WalkedChunk extends IndexedChunk {
  readonly head: ChunkHead;
  readonly bytes: number;
}

export interface Segment {
  readonly number: number;
  readonly bytes: number;
  /** First sequence of the first set that begins in it; behind the set that reaches into it from before. */
  readonly from: Sequence;
  /** Wall-clock label of the first set in it, ms. */
  readonly timeMs: number;
}

export interface SegmentsOptions {
  readonly disk: Disk;
  /** Exists, and its name is durable. */
  readonly directory: string;
  readonly lineage: LineageBytes;
  readonly segmentBytes?: number;
}

export class Segments {
  readonly #disk: Disk;
  readonly #directory: string;
  readonly #lineage: LineageBytes;
  readonly #segmentBytes: number;
  #segments: Segment[];
  /** The newest segment, once it has been appended to. */
  #file: DiskFile | undefined;
  #inSet = false;
  /** Where the set under way, or its part in the newest segment, began there. */
  #setStartsAt = 0;
  /** What there was before the set under way. */
  #before = { segments: 0, bytes: 0 };
  /** The set under way begins a new segment with its first chunk. */
  #rotates = false;
  /** Writes under way, in the order of their places. */
  #writing: Promise<void>[] = [];
  /** The sync under way of what is written of the set; settles without rejecting, and is no promise to anybody. */
  #syncing: Promise<void> | undefined;
  #unsyncedBytes = 0;
  #failed: OperationalError | undefined;

  private constructor(options: SegmentsOptions, segments: Segment[]) {
    this.#disk = options.disk;
    this.#directory = options.directory;
    this.#lineage = options.lineage;
    this.#segmentBytes = options.segmentBytes ?? segmentBytesDefault;
    this.#segments = segments;
  }

  /**
   * Looks at the first chunk of every segment. One at the end that does not begin with a chunk was being made when
   * power was lost, and is removed. OperationalError `HISTORY_DAMAGED` (a segment before the newest is missing or does
   * not begin with a chunk), `HISTORY_FAILED`; both `reopen`: the caller may give the segments up with `removeAll`.
   */
  static async open(options: SegmentsOptions): Promise<Segments> {
    const segments = new Segments(options, []);
    await segments.#guard("open", () => segments.#load());
    return segments;
  }

  /** Removes every segment of a folder, the newest first; for a history that is given up. */
  static async removeAll(disk: Disk, directory: string): Promise<void> {
    const names = await disk.list(directory);
    // A crash in between leaves the older ones, which still join.
    for (const name of names.sort((a, b) => (a < b ? 1 : -1))) await disk.remove(join(directory, name));
    await syncDirectory(disk, directory);
  }

  get list(): readonly Segment[] {
    return this.#segments;
  }

  /** The same without the set under way, which counts nowhere. */
  get ended(): readonly Segment[] {
    if (!this.#inSet) return this.#segments;
    return this.#segments
      .slice(0, this.#before.segments)
      .map((segment, at) =>
        at === this.#before.segments - 1 ? { ...segment, bytes: this.#before.bytes } : segment,
      );
  }

  get bytes(): number {
    return this.#segments.reduce((sum, segment) => sum + segment.bytes, 0);
  }

  async #load(): Promise<void> {
    const names = await this.#disk.list(this.#directory);
    for (const name of names.filter((each) => each.endsWith(".new"))) {
      await this.#disk.remove(join(this.#directory, name));
    }
    const numbers = names.filter((name) => namePattern.test(name)).map(Number);
    numbers.sort((a, b) => a - b);
    for (const [index, number] of numbers.entries()) {
      const chunk = await this.#headAt({ segment: number, offset: 0 });
      const isNewest = index === numbers.length - 1;
      if (chunk === undefined && isNewest) {
        await this.#removeNumber(number);
        continue;
      }
      if (chunk === undefined || number !== numbers[0]! + index) {
        throw damaged(`segment ${number} does not continue the one before it`);
      }
      const { head } = chunk;
      const before = this.#segments.at(-1);
      if (before !== undefined && fromOf(head) < before.from) {
        throw damaged(`segment ${number} has older sets than the one before it`);
      }
      const bytes = await this.#reading(number, (file) => file.size());
      this.#segments.push(segmentOf(number, bytes, head));
    }
  }

  /** Begins a set: in a new segment when the newest is long enough. */
  async beginSet(): Promise<void> {
    this.#admit();
    assert(!this.#inSet, "sets do not overlap");
    this.#inSet = true;
    const newest = this.#segments.at(-1);
    this.#rotates = newest === undefined || newest.bytes >= this.#segmentBytes;
    this.#setStartsAt = newest?.bytes ?? 0;
    this.#before = { segments: this.#segments.length, bytes: this.#setStartsAt };
  }

  /**
   * Appends a chunk of the set that was begun; may settle before it is written. `bytes` must not change before
   * `onWritten`, which is not called when the write fails. OperationalError `HISTORY_FULL` (reaction `retry`): nothing
   * of the set is left, and it may be begun again; `HISTORY_FAILED`, as every later call.
   */
  async append(head: ChunkIdentity, bytes: Uint8Array, onWritten?: () => void): Promise<ChunkPlace> {
    this.#admit();
    assert(this.#inSet, "chunks belong to a set that was begun");
    return this.#whileThereIsSpace(async () => {
      // A few chunks are being written while the next is made: that bounds the memory.
      if (this.#writing.length >= writesMax) await this.#writing.shift();
      const newest = this.#segments.at(-1);
      // A set stays in one segment, unless its part there is by itself as long as one.
      if (this.#rotates || newest!.bytes - this.#setStartsAt >= this.#segmentBytes) {
        await this.#beginSegment((newest?.number ?? 0) + 1, head);
      }
      const segment = this.#segments.at(-1)!;
      this.#file ??= await this.#disk.open(this.#path(segment.number), "update");
      const offset = segment.bytes;
      this.#segments[this.#segments.length - 1] = { ...segment, bytes: offset + bytes.byteLength };
      const writing = this.#file.write(offset, bytes).then(onWritten);
      // Met by a later append or by the sync; until then it must not count as unhandled.
      writing.catch(() => undefined);
      this.#writing.push(writing);
      this.#unsyncedBytes += bytes.byteLength;
      const isMuch = this.#unsyncedBytes >= syncPartOfSegment * this.#segmentBytes;
      if (isMuch && this.#syncing === undefined) this.#syncEarly(this.#file, [...this.#writing]);
      return { segment: segment.number, offset };
    });
  }

  /** Survives no crash by itself. What fails of it has lost pages that no later sync would miss: every later step fails with it. */
  #syncEarly(file: DiskFile, writing: readonly Promise<void>[]): void {
    this.#unsyncedBytes = 0;
    this.#syncing = Promise.allSettled(writing)
      .then(() => this.#guard("sync", () => file.syncData()))
      .catch(() => undefined)
      .finally(() => {
        this.#syncing = undefined;
      });
  }

  async #written(): Promise<void> {
    // All of them settle first: the file is closed after a failure, and its number may then mean another one.
    await Promise.allSettled(this.#writing);
    await Promise.all(this.#writing);
    this.#writing = [];
    await this.#syncing;
    this.#admit();
  }

  async #beginSegment(number: number, head: ChunkIdentity): Promise<void> {
    await this.#written();
    if (this.#file !== undefined) {
      const file = this.#file;
      // Survives power loss before anything stands in the next one: only the newest segment can be torn.
      await this.#guard("sync", () => file.syncData());
      await file.close();
      this.#file = undefined;
    }
    const file = await this.#disk.open(this.#path(number), "replace");
    this.#file = file;
    this.#rotates = false;
    this.#setStartsAt = 0;
    this.#segments.push(segmentOf(number, 0, head));
    await this.#guard("sync", async () => {
      await file.sync();
      // The name survives power loss before the content is counted on.
      await syncDirectory(this.#disk, this.#directory);
    });
  }

  /**
   * What was appended of the set under way survives power loss when this settles: its end has less to wait for. Errors as of
   * `append`.
   */
  async syncBegun(): Promise<void> {
    this.#admit();
    await this.#whileThereIsSpace(() => this.#written());
    this.#unsyncedBytes = 0;
    // A failure here is final: the kernel may call the lost pages clean and let the next sync succeed.
    await this.#guard("sync", () => this.#file!.syncData());
  }

  /** Ends the set. When it settles, the set survives power loss: blocks may change now. Errors as of `append`. */
  async endSet(): Promise<void> {
    await this.syncBegun();
    this.#inSet = false;
  }

  /** A write that finds no space loses nothing: no part of its set counts, synced or not, and all of it is dropped. */
  async #whileThereIsSpace<T>(run: () => Promise<T>): Promise<T> {
    try {
      return await run();
    } catch (cause) {
      if (this.#failed === undefined && isFull(cause)) {
        await this.#guard("drop", () => this.#dropSet());
        throw full(cause);
      }
      this.#failed ??= failure("write", cause);
      throw this.#failed;
    }
  }

  /** Takes the set under way back, if there is one: nothing of it is left, and the next one may begin. `HISTORY_FAILED`. */
  async dropSet(): Promise<void> {
    this.#admit();
    if (this.#inSet) await this.#guard("drop", () => this.#dropSet());
  }

  /** A crash in between leaves a set without its end, which the next open cuts. */
  async #dropSet(): Promise<void> {
    await Promise.allSettled(this.#writing);
    this.#writing = [];
    await this.#syncing;
    this.#unsyncedBytes = 0;
    while (this.#segments.length > this.#before.segments) {
      await this.#file?.close();
      this.#file = undefined;
      await this.#removeNewest();
    }
    const newest = this.#segments.at(-1);
    if (newest !== undefined) {
      this.#file ??= await this.#disk.open(this.#path(newest.number), "update");
      await this.#file.truncate(this.#before.bytes);
      // Its end must not come back behind a set that is written there next.
      await this.#file.sync();
      this.#segments[this.#segments.length - 1] = { ...newest, bytes: this.#before.bytes };
    }
    this.#inSet = false;
  }

  /** The chunk at a place, digest checked. OperationalError `HISTORY_DAMAGED`, or `HISTORY_FAILED` of the disk. */
  async read(place: ChunkPlace): Promise<{ head: ChunkHead; blocks: Uint8Array }> {
    try {
      return await this.#reading(place.segment, async (file) => {
        const head = await this.#readHead(file, place.offset);
        const payloadAt = place.offset + chunkHeadBytes + head.runs.length * runBytes;
        const stored = await file.read(payloadAt, head.storedBytes);
        return { head, blocks: decodeChunkBlocks(head, stored) };
      });
    } catch (cause) {
      if (cause instanceof RemoteProtocolError) {
        throw damaged(`segment ${place.segment} at ${place.offset}: ${cause.code}`, cause);
      }
      throw failure("read", cause);
    }
  }

  /** Whether nothing but zero bytes stands between a chunk and the next one. OperationalError `HISTORY_FAILED` of the disk. */
  async isPaddingZero({ place, head, bytes }: WalkedChunk): Promise<boolean> {
    const used = chunkHeadBytes + head.runs.length * runBytes + head.storedBytes;
    try {
      const padding = await this.#reading(place.segment, (file) =>
        file.read(place.offset + used, bytes - used),
      );
      return padding.every((byte) => byte === 0);
    } catch (cause) {
      throw failure("read", cause);
    }
  }

  async #readHead(file: DiskFile, offset: number): Promise<ChunkHead> {
    let bytes = await file.read(offset, headReadBytes);
    const length = chunkHeadLength(bytes);
    if (length > bytes.byteLength) bytes = await file.read(offset, length);
    const head = decodeChunkHead(bytes);
    if (!bytesEqual(head.lineage, this.#lineage)) {
      throw new RemoteProtocolError("CHUNK_LINEAGE", "a chunk of another history");
    }
    return head;
  }

  /** Undefined where no valid head of this history stands. OperationalError `HISTORY_FAILED` of the disk. */
  async chunkAt(place: ChunkPlace): Promise<WalkedChunk | undefined> {
    try {
      return await this.#headAt(place);
    } catch (cause) {
      throw failure("read", cause);
    }
  }

  async #headAt(place: ChunkPlace): Promise<WalkedChunk | undefined> {
    try {
      const head = await this.#reading(place.segment, (file) => this.#readHead(file, place.offset));
      return { place, head, bytes: chunkBytes(head.runs.length, head.storedBytes) };
    } catch (error) {
      if (error instanceof RemoteProtocolError) return undefined;
      throw error;
    }
  }

  /** Chunks of one segment in order, up to the first place where no valid head stands. Payloads are not looked at. */
  async *walk(number: number, from = 0): AsyncGenerator<WalkedChunk> {
    for (let offset = from; ; ) {
      const chunk = await this.#guard("read", () => this.#headAt({ segment: number, offset }));
      if (chunk === undefined) return;
      yield chunk;
      offset += chunk.bytes;
    }
  }

  /**
   * Makes `end` the end of everything: removes later segments and writes this one anew up to there, so that what is
   * left is known to be on the disk even where an earlier sync of it failed. An end of 0 removes the segment.
   */
  async cut(end: ChunkPlace): Promise<void> {
    this.#admit();
    assert(!this.#inSet, "nothing is cut below a set under way");
    await this.#guard("cut", async () => {
      await this.#file?.close();
      this.#file = undefined;
      // Newest first: a crash in between leaves what still joins, with an end that is cut again.
      while ((this.#segments.at(-1)?.number ?? 0) > end.segment) await this.#removeNewest();
      const newest = this.#segments.at(-1);
      if (newest === undefined || newest.number !== end.segment) return;
      if (end.offset === 0) return this.#removeNewest();
      await this.#rewrite(end.segment, 0, end.offset);
      this.#segments[this.#segments.length - 1] = { ...newest, bytes: end.offset };
    });
  }

  /**
   * Makes `start`, a place in the newest segment, the beginning of everything, and writes that segment anew from there. Without a
   * valid head there nothing is left. For a segment that is alone.
   */
  async cutBefore({ segment, offset }: ChunkPlace): Promise<void> {
    this.#admit();
    const [only] = this.#segments;
    assert(
      !this.#inSet && this.#segments.length === 1 && only?.number === segment,
      "a segment that is alone",
    );
    await this.#guard("cut", async () => {
      await this.#file?.close();
      this.#file = undefined;
      const first = await this.#headAt({ segment, offset });
      if (first === undefined) return this.#removeNewest();
      await this.#rewrite(segment, offset, only.bytes);
      this.#segments[0] = segmentOf(segment, only.bytes - offset, first.head);
    });
  }

  /** What stands from `from` up to `to` becomes all of the segment. */
  async #rewrite(segment: number, from: number, to: number): Promise<void> {
    const temporary = `${this.#path(segment)}.new`;
    const target = await this.#disk.open(temporary, "replace");
    try {
      await this.#reading(segment, async (file) => {
        for (let at = from; at < to; at += copyBytes) {
          const part = await file.read(at, Math.min(copyBytes, to - at));
          await target.write(at - from, part);
        }
      });
      // Power loss before the rename leaves the longer segment; after the folder's sync, the one that was cut.
      await target.sync();
    } finally {
      await target.close();
    }
    await this.#disk.rename(temporary, this.#path(segment));
    await syncDirectory(this.#disk, this.#directory);
  }

  async #removeNewest(): Promise<void> {
    const newest = this.#segments.at(-1)!;
    await this.#removeNumber(newest.number);
    this.#segments.pop();
  }

  /** Gives the oldest segment back. Its sets are gone when this settles, and by then nothing may need them. */
  async removeOldest(): Promise<void> {
    this.#admit();
    assert(this.#segments.length > 1, "the newest segment stays");
    const oldest = this.#segments[0]!;
    await this.#guard("remove", () => this.#removeNumber(oldest.number));
    this.#segments.shift();
    this.#before = { ...this.#before, segments: this.#before.segments - 1 };
  }

  async #removeNumber(number: number): Promise<void> {
    await this.#disk.remove(this.#path(number));
    // Before the next name goes: power loss leaves segments that follow each other, never a hole.
    await syncDirectory(this.#disk, this.#directory);
  }

  async #reading<T>(number: number, use: (file: DiskFile) => Promise<T>): Promise<T> {
    const file = await this.#disk.open(this.#path(number), "read");
    try {
      return await use(file);
    } finally {
      await file.close();
    }
  }

  #path(number: number): string {
    return join(this.#directory, String(number).padStart(8, "0"));
  }

  #admit(): void {
    if (this.#failed !== undefined) throw this.#failed;
  }

  /** From the first failure on every step fails with it: the segments must be opened from disk again. */
  async #guard<T>(what: string, run: () => Promise<T>): Promise<T> {
    try {
      return await run();
    } catch (cause) {
      this.#failed ??= cause instanceof OperationalError ? cause : failure(what, cause);
      throw this.#failed;
    }
  }

  /** Closes the newest segment; syncs nothing. */
  async close(): Promise<void> {
    // Only the descriptor is waited for: a failed write was told, or its set never ended.
    await Promise.allSettled(this.#writing);
    await this.#syncing;
    await this.#file?.close();
    this.#file = undefined;
  }
}

/** What a segment has to know of a chunk that is appended. */
export type ChunkIdentity = Pick<ChunkHead, "first" | "position" | "number">;

/** The first set that begins at or behind this chunk: the next one when it continues a set from another segment. */
function fromOf(head: ChunkIdentity): Sequence {
  return head.number === 0 ? head.first : head.position.sequence + 1;
}

/** A segment whose first chunk that is. */
function segmentOf(number: number, bytes: number, first: ChunkIdentity): Segment {
  return { number, bytes, from: fromOf(first), timeMs: first.position.timeMs };
}

function damaged(message: string, cause?: unknown): OperationalError {
  return new OperationalError({
    code: "HISTORY_DAMAGED",
    message: `before-images: ${message}`,
    reaction: "reopen",
    hint: "Points that need it cannot be opened any more; images and newest point are not touched.",
    cause,
  });
}

/** What a full disk or quota says. */
export function isFull(cause: unknown): boolean {
  return errorCode(cause) === "ENOSPC" || errorCode(cause) === "EDQUOT";
}

/** Before-images find no space; the images are as they were. */
export function full(cause: unknown): OperationalError {
  return new OperationalError({
    code: "HISTORY_FULL",
    message: `before-images: cannot write: ${errorText(cause)}`,
    reaction: "retry",
    hint: "Free space on the file system of the history; applying goes on by itself.",
    cause,
  });
}

function failure(what: string, cause: unknown): OperationalError {
  const noSpace = isFull(cause);
  return new OperationalError({
    code: noSpace ? "HISTORY_FULL" : "HISTORY_FAILED",
    message: `before-images: cannot ${what}: ${errorText(cause)}`,
    reaction: "reopen",
    hint: noSpace
      ? "Free space on the file system of the history; applying goes on by itself."
      : "Look at the disk that holds the history; what stands there is verified when it is opened again.",
    cause,
  });
}
