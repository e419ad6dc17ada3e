/**
 * The watermark: what the journal must contain, kept in a file outside the database. A store that lost its tail
 * looks like a clean, shorter one; only an independent promise can tell. Owns the file, the order of its writes and
 * what they mean; it never looks into the journal.
 *
 * Four slots, each on a 4096-byte page of its own: durable A, durable B, answered A, answered B.
 *
 * - An *answered* slot is written, not synced, after each put and before the append settles. The page cache keeps
 *   it when the process is killed at any instruction, so within one boot the journal must reach it. It is worth
 *   nothing as a demand after power loss, and may then be torn or old; it only tells how much may be missing.
 * - A *durable* slot is written and fdatasynced after the logs are synced and before the sync settles, always over
 *   the older of the two. Power loss while it is written leaves the other one, the promise that stands: the sync
 *   under way was not answered. Answered slots lie on other pages, so no unsynced write can tear a durable value.
 * - Alternating answered slots likewise leave the last settled one when the process dies inside a write.
 */
import { dirname } from "node:path";
import type { LineageBytes } from "../protocol/ids.ts";
import { bytesEqual } from "../protocol/ids.ts";
import { RemoteProtocolError } from "../protocol/remote-error.ts";
import type { Disk, DiskFile } from "../runtime/disk.ts";
import { syncDirectory } from "../runtime/disk.ts";
import { errorCode } from "../runtime/errors.ts";
import type { LogPosition } from "./frame-log.ts";
import { journalDamaged, journalOpenFailed, watermarkDamaged, watermarkMissing } from "./journal-errors.ts";
import {
  bootBytes,
  decodeSlot,
  encodeSlotInto,
  type Slot,
  type SlotKind,
  slotBytes,
} from "./watermark-slot.ts";

/** A page, and at least the physical block of any disk: a torn or rewritten block never holds two slots. */
export const slotSpacingBytes = 4096;
const slotOrder: readonly SlotKind[] = ["durable", "durable", "answered", "answered"];
export const watermarkFileBytes = slotOrder.length * slotSpacingBytes;

/** What a watermark file says when it is opened. */
export interface WatermarkReading {
  /** Newest durable slot: the journal must contain this position, whatever happened. */
  readonly durable: Slot;
  /** Newest answered slot; undefined when power loss spoiled both. */
  readonly answered: Slot | undefined;
  /** The newest answered slot is of this boot of the host, so the journal must reach it. */
  readonly answeredSameBoot: boolean;
  /** The file was last taken over in this boot of the host. */
  readonly sameBoot: boolean;
}

export class Watermark {
  readonly #path: string;
  readonly #file: DiskFile;
  readonly #lineage: LineageBytes;
  readonly #buffer = Buffer.alloc(slotBytes);
  /** Where the next slot of each kind goes, 0 or 1, and its generation. */
  readonly #next: Record<SlotKind, { slot: number; generation: number }>;

  private constructor(
    path: string,
    file: DiskFile,
    lineage: LineageBytes,
    next: Record<SlotKind, { slot: number; generation: number }>,
  ) {
    this.#path = path;
    this.#file = file;
    this.#lineage = lineage;
    this.#next = next;
  }

  get path(): string {
    return this.#path;
  }

  /**
   * Opens the file and says what it holds; changes nothing. WATERMARK_MISSING, WATERMARK_DAMAGED, or
   * JOURNAL_DAMAGED when it belongs to another history.
   */
  static async open(
    disk: Disk,
    path: string,
    lineage: LineageBytes,
    bootId: string,
  ): Promise<{ watermark: Watermark; reading: WatermarkReading }> {
    const bytes = await readWhole(disk, path);
    if (bytes.byteLength !== watermarkFileBytes) throw watermarkDamaged("length", path);
    const slots = slotOrder.map((kind, index) => {
      const slot = slotOrNone(bytes.subarray(index * slotSpacingBytes, index * slotSpacingBytes + slotBytes));
      return slot?.kind === kind ? slot : undefined;
    });
    const durable = newer(slots[0], slots[1]);
    const answered = newer(slots[2], slots[3]);
    if (durable === undefined) throw watermarkDamaged("no-durable-slot", path);
    const boot = bootBytes(bootId);
    const sameBoot = bytesEqual(durable.boot, boot);
    // Within one boot no write can be torn, and a new boot begins with four good slots: a bad one is damage.
    if (sameBoot && slots.includes(undefined)) throw watermarkDamaged("slot", path);
    for (const slot of slots) {
      if (slot !== undefined && !bytesEqual(slot.lineage, lineage))
        throw journalDamaged("watermark-lineage", null, { path });
    }
    const file = await disk.open(path, "update");
    const watermark = new Watermark(path, file, lineage, {
      durable: { slot: durable === slots[0] ? 1 : 0, generation: durable.generation + 1 },
      answered: {
        slot: answered === undefined || answered === slots[3] ? 0 : 1,
        generation: (answered?.generation ?? 0) + 1,
      },
    });
    const answeredSameBoot = answered !== undefined && bytesEqual(answered.boot, boot);
    return { watermark, reading: { durable, answered, answeredSameBoot, sameBoot } };
  }

  /** Writes and syncs a new watermark at `path`, which may not be read until `install` has given it its name. */
  static async prepare(
    disk: Disk,
    path: string,
    lineage: LineageBytes,
    origin: LogPosition,
    bootId: string,
  ): Promise<void> {
    const bytes = Buffer.alloc(watermarkFileBytes);
    const boot = bootBytes(bootId);
    for (const [index, kind] of slotOrder.entries()) {
      const slot: Slot = { kind, clean: false, lineage, generation: (index % 2) + 1, boot, position: origin };
      encodeSlotInto(slot, bytes.subarray(index * slotSpacingBytes, index * slotSpacingBytes + slotBytes));
    }
    const file = await disk.open(path, "replace");
    try {
      await file.write(0, bytes);
      // Power loss after this finds a whole watermark under the preliminary name, or none.
      await file.sync();
    } finally {
      await file.close();
    }
    await syncDirectory(disk, dirname(path));
  }

  /** The last step of creating a journal: from here on it exists. */
  static async install(disk: Disk, preparedPath: string, path: string): Promise<void> {
    await disk.rename(preparedPath, path);
    // Survives power loss before the first append is answered.
    await syncDirectory(disk, dirname(path));
  }

  /** Unsynced: survives a kill of the process. Throws what the system says; the handle is then done for. */
  writeAnswered(position: LogPosition, boot: Uint8Array): void {
    this.#write("answered", position, boot, false);
  }

  /** When it settles, the value survives power loss. Rejects with what the system says; never to be retried. */
  async writeDurable(position: LogPosition, boot: Uint8Array, clean: boolean): Promise<void> {
    this.#write("durable", position, boot, clean);
    await this.#file.syncData();
  }

  #write(kind: SlotKind, position: LogPosition, boot: Uint8Array, clean: boolean): void {
    const next = this.#next[kind];
    const index = (kind === "durable" ? 0 : 2) + next.slot;
    encodeSlotInto(
      { kind, clean, lineage: this.#lineage, generation: next.generation, boot, position },
      this.#buffer,
    );
    // Within the call on purpose: 108 bytes into a resident page of a file that never grows cost 3 us, against 25-50
    // us for a turn through the thread pool on every append. It can wait only for the file system's own journal,
    // which the put before it waited for as well.
    this.#file.writeNow(index * slotSpacingBytes, this.#buffer);
    next.slot = 1 - next.slot;
    next.generation += 1;
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}

async function readWhole(disk: Disk, path: string): Promise<Uint8Array> {
  try {
    return await disk.readFile(path);
  } catch (cause) {
    if (errorCode(cause) === "ENOENT") throw watermarkMissing(path);
    throw journalOpenFailed(path, cause);
  }
}

function slotOrNone(bytes: Uint8Array): Slot | undefined {
  try {
    return decodeSlot(bytes);
  } catch (error) {
    if (error instanceof RemoteProtocolError && error.code !== "SLOT_VERSION") return undefined;
    throw error;
  }
}

function newer(a: Slot | undefined, b: Slot | undefined): Slot | undefined {
  if (a === undefined || b === undefined) return a ?? b;
  return b.generation > a.generation ? b : a;
}
