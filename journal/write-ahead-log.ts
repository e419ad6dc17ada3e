/**
 * The write-ahead log of a journal: two files of fixed length, the halves, of which one is filled while what is in the
 * other moves on into the store. An append is one write() into a file that does not grow, within the call; a sync has no
 * metadata to commit. Owns which half is filled, what of them is not synced, and which may be filled anew. It does not
 * know the store: who does says when a half is free. A failed write or sync is the caller's to never believe again.
 */
import { join } from "node:path";
import type { Sequence } from "../protocol/ids.ts";
import type { Disk, DiskFile } from "../runtime/disk.ts";
import { journalOpenFailed } from "./journal-errors.ts";
import {
  aheadRecordBytes,
  aheadRecordBytesMax,
  aheadValueBytesMax,
  encodeAheadInto,
} from "./write-ahead-frames.ts";

export interface AheadOptions {
  /** Folder of the two halves, outside the store's. */
  readonly directory: string;
  /** Length of each half; what both hold may also wait in memory (carrier.ts). */
  readonly halfBytes: number;
}

export const halfNames = ["half-0", "half-1"] as const;
export type HalfNumber = 0 | 1;

export function halfPath({ directory }: AheadOptions, half: HalfNumber): string {
  return join(directory, halfNames[half]);
}

interface Half {
  readonly file: DiskFile;
  /** Bytes written of this filling. */
  used: number;
  /** Something was written since the last sync began. */
  unsynced: boolean;
}

export class WriteAheadLog {
  readonly #halfBytes: number;
  readonly #halves: readonly [Half, Half];
  readonly #record = Buffer.alloc(aheadRecordBytesMax);
  #current: HalfNumber = 0;
  /** Number of the newest filling of either half. */
  #filling = 1;
  /** The half that is not filled holds nothing that is needed. */
  #otherIsFree = true;

  private constructor(halfBytes: number, halves: readonly [Half, Half]) {
    this.#halfBytes = halfBytes;
    this.#halves = halves;
  }

  /** Both halves are there, hold nothing, and that is durable. JOURNAL_OPEN_FAILED when one cannot be opened. */
  static async open(disk: Disk, options: AheadOptions): Promise<WriteAheadLog> {
    const files: DiskFile[] = [];
    try {
      for (const half of [0, 1] as const) files.push(await disk.open(halfPath(options, half), "update"));
    } catch (cause) {
      for (const file of files) await file.close();
      throw journalOpenFailed(options.directory, cause);
    }
    const [first, second] = files.map((file): Half => ({ file, used: 0, unsynced: false }));
    return new WriteAheadLog(options.halfBytes, [first!, second!]);
  }

  /** The half that was filled and is not free again; undefined when there is none. */
  get full(): HalfNumber | undefined {
    return this.#otherIsFree ? undefined : this.#other;
  }

  get #other(): HalfNumber {
    return this.#current === 0 ? 1 : 0;
  }

  /**
   * Writes a frame behind what is there and says into which half; undefined: it is too long, or there is no room now.
   * Survives a kill of the process when it returns. Throws what the system says; nothing is then known of what was written.
   */
  append(first: Sequence, value: Uint8Array): HalfNumber | undefined {
    const bytes = aheadRecordBytes(value.byteLength);
    if (value.byteLength > aheadValueBytesMax || bytes > this.#halfBytes) return undefined;
    if (this.#halves[this.#current].used + bytes > this.#halfBytes) {
      if (!this.#otherIsFree) return undefined;
      this.#otherIsFree = false;
      this.#current = this.#other;
      this.#filling += 1;
      this.#halves[this.#current].used = 0;
    }
    const half = this.#halves[this.#current];
    half.unsynced = true;
    // Within the call: 10 us for 4 KiB into a resident page, against 25-50 us and more for a turn through the thread pool.
    half.file.writeNow(half.used, encodeAheadInto(this.#record, this.#filling, first, value));
    half.used += bytes;
    return this.#current;
  }

  /** What was appended before this call survives power loss when it settles. Calls may not overlap. */
  async sync(): Promise<void> {
    const syncs = this.#halves
      .filter((half) => half.unsynced)
      .map((half) => {
        half.unsynced = false;
        return half.file.syncData();
      });
    for (const outcome of await Promise.allSettled(syncs)) {
      if (outcome.status === "rejected") throw outcome.reason;
    }
  }

  /** Every frame of the full half is durable elsewhere. */
  free(): void {
    this.#otherIsFree = true;
  }

  /** No sync may be under way. */
  async close(): Promise<void> {
    for (const { file } of this.#halves) await file.close();
  }
}
