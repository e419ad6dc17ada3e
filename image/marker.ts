/**
 * The marker: how far a group's images have got, as a small file outside them. Two slots, written in turn, each
 * under its own checksum, so that a write torn by power loss leaves the other; the newer valid one counts. Owns
 * its file format (docs/formats/marker.md) and its descriptor. A failed write or sync is never tried again.
 *
 *   offset  size  field
 *   0       4     magic          "SSMK"
 *   4       1     version        1
 *   5       3     flags          0
 *   8       16    lineage        images of another history are refused, whatever their names
 *   24      8     generation     rises with every write: tells the newer slot
 *   32      8     sequence       every record up to here is durably in the images
 *   40      32    chain          chain value at `sequence`: which history that is
 *   72      8     dataBytesTotal data bytes of the history up to `sequence`
 *   80      8     timeMs         wall-clock label of that position
 *   88      8     applyingLast   records up to here may be partly in the images; equal to `sequence` when none may
 *   96      4     crc            CRC-32 of the 96 bytes before
 *   100           zero bytes up to 4096: one slot never shares a block with the other
 */
import assert from "node:assert/strict";
import { dirname } from "node:path";
import { crc32 } from "node:zlib";
import { ByteReader, ByteWriter } from "../protocol/bytes.ts";
import type { ChainPosition, LineageBytes, Sequence } from "../protocol/ids.ts";
import { bytesEqual, isSamePosition, lineageToText } from "../protocol/ids.ts";
import { RemoteProtocolError } from "../protocol/remote-error.ts";
import type { Disk, DiskFile } from "../runtime/disk.ts";
import { syncDirectory } from "../runtime/disk.ts";
import { errorCode, errorText, OperationalError } from "../runtime/errors.ts";

const markerMagic = 0x53534d4b;
const markerVersion = 1;
const fieldBytes = 96;
export const markerSlotBytes = 4096;

/** A position that images hold. */
export interface AppliedPosition extends ChainPosition {
  readonly dataBytesTotal: number;
  /** Wall-clock label of the position, ms. */
  readonly timeMs: number;
}

export interface MarkerState {
  readonly lineage: LineageBytes;
  readonly applied: AppliedPosition;
  /** `>= applied.sequence`. */
  readonly applyingLast: Sequence;
}

/** Encodes one slot of `markerSlotBytes`. */
export function encodeMarkerSlot(state: MarkerState, generation: number): Uint8Array {
  const writer = new ByteWriter(markerSlotBytes)
    .u32(markerMagic)
    .u8(markerVersion)
    .u8(0)
    .u16(0)
    .put(state.lineage)
    .u64(generation)
    .u64(state.applied.sequence)
    .put(state.applied.chain)
    .u64(state.applied.dataBytesTotal)
    .u64(state.applied.timeMs)
    .u64(state.applyingLast);
  return writer.u32(crc32(writer.bytes.subarray(0, fieldBytes))).bytes;
}

export interface MarkerSlot {
  readonly state: MarkerState;
  readonly generation: number;
}

/** Undefined for a slot that is blank, torn, damaged or of another version: the other slot may still be good. */
export function decodeMarkerSlot(bytes: Uint8Array): MarkerSlot | undefined {
  try {
    return decodeSlot(bytes);
  } catch (error) {
    // A number no position can have, under a right checksum: written by nothing of ours.
    if (error instanceof RemoteProtocolError) return undefined;
    throw error;
  }
}

function decodeSlot(bytes: Uint8Array): MarkerSlot | undefined {
  if (bytes.byteLength < fieldBytes + 4) return undefined;
  const sum = new ByteReader(bytes.subarray(fieldBytes)).u32();
  const head = new ByteReader(bytes.subarray(0, fieldBytes));
  if (
    head.u32() !== markerMagic ||
    head.u8() !== markerVersion ||
    crc32(bytes.subarray(0, fieldBytes)) !== sum
  ) {
    return undefined;
  }
  if (head.bytes(3).some((flag) => flag !== 0)) return undefined;
  const lineage = head.bytes(16).slice();
  const generation = head.u64();
  const sequence = head.u64();
  const chain = head.bytes(32).slice();
  const applied = { sequence, chain, dataBytesTotal: head.u64(), timeMs: head.u64() };
  const applyingLast = head.u64();
  if (applyingLast < sequence) return undefined;
  return { generation, state: { lineage, applied, applyingLast } };
}

export class Marker {
  readonly #file: DiskFile;
  readonly #path: string;
  #state: MarkerState;
  #generation: number;
  #busy = false;
  #failed: OperationalError | undefined;

  private constructor(file: DiskFile, path: string, slot: MarkerSlot) {
    this.#file = file;
    this.#path = path;
    this.#state = slot.state;
    this.#generation = slot.generation;
  }

  /** The last state that is durable. */
  get state(): MarkerState {
    return this.#state;
  }

  /**
   * Makes the marker; taken as done when one is there that says exactly this. OperationalError `MARKER_EXISTS`
   * when it says anything else: the images hold a history that nobody meant to start over.
   */
  static async create(disk: Disk, path: string, state: MarkerState): Promise<Marker> {
    const found = await Marker.#openFile(disk, path);
    if (found !== undefined) {
      await found.close();
      const marker = await Marker.open(disk, path, state.lineage);
      const { applied, applyingLast } = marker.state;
      if (isSamePosition(applied, state.applied) && applyingLast === state.applyingLast) return marker;
      await marker.close();
      throw new OperationalError({
        code: "MARKER_EXISTS",
        message: `${path} already says ${applied.sequence}`,
        reaction: "stop",
        hint: "These images belong to a history that has begun; open it instead of creating it.",
      });
    }
    const temporary = `${path}.new`;
    const file = await disk.open(temporary, "replace");
    try {
      const slots = new Uint8Array(markerSlotBytes * 2);
      slots.set(encodeMarkerSlot(state, 1), slotOffset(1));
      await file.write(0, slots);
      // Power loss before the rename leaves no marker; after the directory's sync, a whole one.
      await file.sync();
      await disk.rename(temporary, path);
      await syncDirectory(disk, dirname(path));
    } catch (cause) {
      await file.close();
      throw new OperationalError({
        code: "IMAGE_MARKER_FAILED",
        message: `cannot make ${path}: ${errorText(cause)}`,
        reaction: "stop",
        cause,
      });
    }
    return new Marker(file, path, { state, generation: 1 });
  }

  /**
   * Opens the marker of `lineage`. OperationalError, reaction `stop`: `MARKER_MISSING`, `MARKER_DAMAGED` (no valid
   * slot), `MARKER_LINEAGE` (images of another history).
   */
  static async open(disk: Disk, path: string, lineage: LineageBytes): Promise<Marker> {
    const file = await Marker.#openFile(disk, path);
    if (file === undefined) {
      throw new OperationalError({
        code: "MARKER_MISSING",
        message: `there is no marker at ${path}`,
        reaction: "stop",
        hint: "Without it nobody can tell what the images hold; restore it with its images, or start over from the other site.",
      });
    }
    try {
      const bytes = await file.read(0, markerSlotBytes * 2);
      const slots = [bytes.subarray(0, markerSlotBytes), bytes.subarray(markerSlotBytes)].map(
        decodeMarkerSlot,
      );
      const newest = slots.reduce((a, b) =>
        a === undefined || (b !== undefined && b.generation > a.generation) ? b : a,
      );
      if (newest === undefined) {
        throw new OperationalError({
          code: "MARKER_DAMAGED",
          message: `${path} has no valid slot`,
          reaction: "stop",
        });
      }
      if (!bytesEqual(newest.state.lineage, lineage)) {
        throw new OperationalError({
          code: "MARKER_LINEAGE",
          message: `${path} belongs to the history ${lineageToText(newest.state.lineage)}, not ${lineageToText(lineage)}`,
          reaction: "stop",
          hint: "The images of another group, or of this group's earlier life, stand in this place.",
        });
      }
      await settle(file, path, newest);
      return new Marker(file, path, newest);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  static async #openFile(disk: Disk, path: string): Promise<DiskFile | undefined> {
    try {
      return await disk.open(path, "update");
    } catch (cause) {
      if (errorCode(cause) === "ENOENT") return undefined;
      throw new OperationalError({
        code: "MARKER_UNREADABLE",
        message: `cannot open ${path}: ${errorText(cause)}`,
        reaction: "stop",
        cause,
      });
    }
  }

  /**
   * Makes `state` durable. One at a time. OperationalError `IMAGE_MARKER_FAILED`, reaction `stop`, from the first
   * failure on.
   */
  async write(applied: AppliedPosition, applyingLast: Sequence): Promise<void> {
    if (this.#failed !== undefined) throw this.#failed;
    assert(!this.#busy, "marker writes do not overlap");
    assert(applyingLast >= applied.sequence, "an intention never ends before the applied position");
    this.#busy = true;
    const state = { lineage: this.#state.lineage, applied, applyingLast };
    const generation = this.#generation + 1;
    try {
      await this.#file.write(slotOffset(generation), encodeMarkerSlot(state, generation));
      // Power loss before this leaves the other slot, one state older, which is true as well: an intention not yet
      // recorded has not touched the images, and an applied position not yet recorded is applied again.
      await this.#file.syncData();
      this.#state = state;
      this.#generation = generation;
    } catch (cause) {
      this.#failed = new OperationalError({
        code: "IMAGE_MARKER_FAILED",
        message: `cannot write ${this.#path}: ${errorText(cause)}`,
        reaction: "stop",
        hint: "Look at the disk that holds the data folder, then restart; the images are brought up to date from the log.",
        cause,
      });
      throw this.#failed;
    } finally {
      this.#busy = false;
    }
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

/**
 * Makes the newest slot durable where it stands: what was read may be in the page cache alone, written by somebody who
 * was killed before the sync, or whose sync failed. Logs are trimmed behind it, and power loss would take it back.
 */
async function settle(file: DiskFile, path: string, { state, generation }: MarkerSlot): Promise<void> {
  try {
    await file.write(slotOffset(generation), encodeMarkerSlot(state, generation));
    await file.syncData();
  } catch (cause) {
    throw new OperationalError({
      code: "IMAGE_MARKER_FAILED",
      message: `cannot write ${path}: ${errorText(cause)}`,
      reaction: "stop",
      hint: "Look at the disk that holds the data folder, then restart.",
      cause,
    });
  }
}

/** Generations alternate between the slots, so the newest valid one is never the one being written. */
function slotOffset(generation: number): number {
  return (generation % 2) * markerSlotBytes;
}
