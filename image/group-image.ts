/**
 * The images of a group's volumes, written in the group's record order: the one way in which both roles change an
 * image. Keeps the marker that says what the images hold. Never moves the marker beyond what is synced, and never
 * believes a sync that failed. Order of steps and what a crash between them leaves: docs/image.md.
 */
import assert from "node:assert/strict";
import type { BlockChange, OnWritten } from "../block/bulk-write.ts";
import { isBulkWritable } from "../block/bulk-write.ts";
import type { BlockDevice, Extent } from "../block/device.ts";
import { BlockErrno, BlockError } from "../block/device.ts";
import { lendsDescriptor } from "../block/lend-descriptor.ts";
import type { Frame } from "../protocol/frame.ts";
import { gapOf } from "../protocol/frame.ts";
import type { LineageBytes, Sequence, VolumeEntry, VolumeNumber } from "../protocol/ids.ts";
import { bytesEqual, isSamePosition } from "../protocol/ids.ts";
import type { ScanDigestRecord } from "../protocol/record.ts";
import type { Disk } from "../runtime/disk.ts";
import { errorText, OperationalError } from "../runtime/errors.ts";
import type { Log } from "../runtime/log.ts";
import type { FoldedChanges, ImageRecord } from "./fold.ts";
import { dataOf, foldRecords, isImageRecord } from "./fold.ts";
import type { ImageReads } from "./history/before-images.ts";
import type { History } from "./history/history.ts";
import type { LogRange } from "./history/history-errors.ts";
import type { ImageWrites } from "./history/take-back.ts";
import type { TouchedRun } from "./history/touched.ts";
import { touchedBlocks } from "./history/touched.ts";
import type { AppliedPosition } from "./marker.ts";
import { Marker } from "./marker.ts";
import { WrittenSoFar } from "./written-so-far.ts";

export interface GroupVolume {
  readonly entry: VolumeEntry;
  readonly device: BlockDevice;
}

export interface GroupImageOptions {
  /** Where the marker lies. */
  readonly disk: Disk;
  readonly volumes: readonly GroupVolume[];
  readonly markerPath: string;
  readonly lineage: LineageBytes;
  /** `create`: the marker is made at `origin`, which the images must hold already. `open`: it must exist. */
  readonly mode: "create" | "open";
  readonly origin: AppliedPosition;
  readonly log: Log;
  /**
   * Scan content in the records: `apply` it like a write, or it is `held`, since it was read from these very images.
   * Default `apply`.
   */
  readonly scanned?: "apply" | "held";
  /** Opens what the images held before, from what the marker says; `close` closes it. Without it none is kept. */
  readonly openHistory?: (applied: AppliedPosition, applyingLast: Sequence) => Promise<History>;
}

/** Told of a scan's digests when the images hold exactly the records before them. */
export type CompareScanned = (record: ScanDigestRecord, sequence: Sequence) => Promise<void>;

/**
 * Asked when the images begin to change: the frames of the next step, as far as they are known by now. Undefined, or a rejection:
 * they are not.
 */
export type NextFrames = () => Promise<readonly Frame[] | undefined>;

/** Records folded at once: 1.5-3.5 ms (bench/image-apply.ts), so that the main thread is never kept longer. */
const foldRecordsMax = 4_096;

export class GroupImage {
  readonly #volumes: ReadonlyMap<VolumeNumber, GroupVolume>;
  readonly #marker: Marker;
  readonly #history: History | undefined;
  readonly #scanned: "apply" | "held";
  /** A step that a crash cut short may have left records up to here in the images. */
  readonly #leftThrough: Sequence;
  readonly #log: Log;
  #held: AppliedPosition;
  #synced: AppliedPosition;
  #touched = new Set<VolumeNumber>();
  #applying = false;
  /** Rises with whatever makes a look ahead come too late. */
  #steps = 0;
  /** What the step that is kept ahead changes. */
  #ahead: { readonly end: AppliedPosition; readonly portions: readonly Portion[] } | undefined;
  #syncing = false;
  #failed: OperationalError | undefined;

  private constructor(options: GroupImageOptions, marker: Marker, history: History | undefined) {
    this.#history = history;
    this.#volumes = new Map(options.volumes.map((volume) => [volume.entry.number, volume]));
    this.#marker = marker;
    this.#scanned = options.scanned ?? "apply";
    this.#leftThrough = marker.state.applyingLast;
    this.#log = options.log;
    this.#held = marker.state.applied;
    this.#synced = marker.state.applied;
  }

  /**
   * Opens the images; takes over the devices, which `close` closes. Frames after `applied` must be applied again,
   * at least up to `applyingLast`, before anyone may call the images consistent. OperationalErrors of `Marker` and
   * `IMAGE_SIZE`, with reaction `stop`, and those of `openHistory` and `History.finishRollBack`; the devices are left
   * open.
   */
  static async open(options: GroupImageOptions): Promise<GroupImage> {
    for (const { entry, device } of options.volumes) {
      if (device.sizeBytes === entry.sizeBytes) continue;
      throw new OperationalError({
        code: "IMAGE_SIZE",
        message: `the image of volume ${entry.name} has ${device.sizeBytes} bytes, the volume ${entry.sizeBytes}`,
        reaction: "stop",
      });
    }
    const { disk, markerPath, lineage, origin } = options;
    const marker =
      options.mode === "create"
        ? await Marker.create(disk, markerPath, { lineage, applied: origin, applyingLast: origin.sequence })
        : await Marker.open(disk, markerPath, lineage);
    let history: History | undefined;
    try {
      history = await options.openHistory?.(marker.state.applied, marker.state.applyingLast);
    } catch (error) {
      await marker.close();
      throw error;
    }
    const image = new GroupImage(options, marker, history);
    try {
      // A crash while they were taken back: the marker says what they hold only when that is finished.
      if ((await history?.finishRollBack(image.applied, image.#writes())) === true) image.#restart();
    } catch (error) {
      await history?.close();
      await marker.close();
      throw error;
    }
    if (image.applyingLast > image.applied.sequence) {
      options.log.info("IMAGE_PARTLY_APPLIED", "an apply step was under way when the image was last used", {
        sequence: image.applied.sequence,
        applyingLast: image.applyingLast,
      });
    }
    return image;
  }

  get volumes(): readonly VolumeEntry[] {
    return [...this.#volumes.values()].map(({ entry }) => entry);
  }

  /** Durable: every record up to here is in the images after any crash. */
  get applied(): AppliedPosition {
    return this.#marker.state.applied;
  }

  /** Records after `applied` and up to here may be partly in the images. */
  get applyingLast(): Sequence {
    return this.#marker.state.applyingLast;
  }

  /** Digests at or before this are never told to `compare`: what a step cut short left of later records is not known. */
  get digestsToldBehind(): Sequence {
    return this.#leftThrough;
  }

  /** What a reader of the images finds now: the last frame applied by this process; not durable yet. */
  get held(): AppliedPosition {
    return this.#held;
  }

  /** Durable intention, before the images are touched with records up to `last`. */
  async begin(last: Sequence): Promise<void> {
    this.#admit();
    assert(last >= this.#held.sequence, "an intention never ends before what is held");
    // From here on a restart that finds its log shorter than `last` knows that the images may hold more than it.
    await this.#marker.write(this.applied, Math.max(last, this.applyingLast));
  }

  /**
   * Writes frames that continue `held` into the images; one call at a time. The frames' bodies must not change
   * until it settles. OperationalError `IMAGE_FULL` (reaction `retry`: the same frames may be applied again, once
   * there is space), `IMAGE_WRITE_FAILED` and `IMAGE_RECORD_RANGE` (reaction `stop`). After an error `held` is
   * unchanged and the images may hold any part of the frames. `compare` is told of the digests among the records, each
   * when the images hold what was before it and nothing that comes after; its error is the step's. Digests that a step
   * before a crash may have passed are not told: the images could hold more. Where a history is kept, what the frames of `next`
   * change is kept already beside the writes; it counts for an `apply` of exactly these frames, and for nothing else.
   */
  async apply(frames: readonly Frame[], compare?: CompareScanned, next?: NextFrames): Promise<void> {
    this.#admit();
    assert(!this.#applying, "apply steps do not overlap");
    const end = this.#endOf(this.#held, frames);
    this.#applying = true;
    this.#steps += 1;
    const ahead = this.#ahead;
    this.#ahead = undefined;
    const written = new WrittenSoFar();
    try {
      const history = this.#history;
      const covered = history?.captured ?? 0;
      // The images may hold these in part; what they held before is in the sets and nowhere else.
      if (covered > 0)
        for (const portion of this.#portions(frames, 0, covered)) await this.#perform(portion, compare);
      let portions: Iterable<Portion> = this.#portions(frames, covered);
      if (history !== undefined) {
        const folded = ahead !== undefined && isSamePosition(ahead.end, end) ? ahead.portions : [...portions];
        await history.beforeStep(this.#held, end, () => touchedBy(folded), this.#reads());
        portions = folded;
        if (history.captured === end.sequence) void this.#lookAhead(history, end, next, written);
      }
      for (const portion of portions) await this.#perform(portion, compare, written);
      written.end();
      this.#held = end;
    } catch (error) {
      // What was looked at meanwhile is not what the next step will find, nor is anything of it again.
      written.fail();
      this.#forgetAhead();
      throw error;
    } finally {
      this.#applying = false;
    }
  }

  /**
   * Begins to keep what the step behind `end` changes, beside the writes of the one that leads there. Fails nothing: what fails
   * of it is met again by that step.
   */
  async #lookAhead(
    history: History,
    end: AppliedPosition,
    next: NextFrames | undefined,
    written: WrittenSoFar,
  ): Promise<void> {
    const step = this.#steps;
    const frames = await next?.().catch(() => undefined);
    // Too late: another step has begun, or the images are taken back.
    if (frames === undefined || step !== this.#steps || this.#failed !== undefined) return;
    try {
      const nextEnd = this.#endOf(end, frames);
      const portions = [...this.#portions(frames, end.sequence)];
      const images = this.#reads((volume, offset) => written.ready(volume, offset));
      if (history.captureAhead(nextEnd, touchedBy(portions), images))
        this.#ahead = { end: nextEnd, portions };
    } catch (error) {
      // A record beyond its volume. Anything else is our own mistake.
      if (!(error instanceof OperationalError)) throw error;
    }
  }

  /** What was kept ahead, or is about to be, is not for the step that comes next. */
  #forgetAhead(): void {
    this.#steps += 1;
    this.#ahead = undefined;
    this.#history?.giveUpAhead();
  }

  /** The images, for who keeps what they hold. */
  #reads(ready?: ImageReads["ready"]): ImageReads {
    return {
      ...(ready === undefined ? {} : { ready }),
      sizeBytes: (volume) => this.#volume(volume).device.sizeBytes,
      read: (volume, offset, length, into) => this.read(volume, offset, length, into),
      extents: (volume, offset, length) => this.extents(volume, offset, length),
      lendDescriptor: (volume, work) => {
        const { device } = this.#volume(volume);
        return lendsDescriptor(device) ? device.lendDescriptor(work) : undefined;
      },
    };
  }

  async #perform(
    { changes, digest, isLast }: Portion,
    compare: CompareScanned | undefined,
    written?: WrittenSoFar,
  ): Promise<void> {
    if (isLast) written?.begin(changes.keys());
    const onWritten = isLast ? written : undefined;
    if (changes.size > 0) await this.#write(changes, onWritten);
    if (digest !== undefined && digest.sequence > this.#leftThrough)
      await compare?.(digest.record, digest.sequence);
  }

  /** The frames' records behind `after` and up to `through`, in order, folded in portions that end with a digest. */
  *#portions(
    frames: readonly Frame[],
    after: Sequence,
    through: Sequence = Number.MAX_SAFE_INTEGER,
  ): Generator<Portion> {
    let records: ImageRecord[] = [];
    const portion = (digest?: Portion["digest"]): Portion => {
      const made = { records, changes: this.#fold(records), digest, isLast: false };
      records = [];
      return made;
    };
    for (const frame of frames) {
      // It changes nothing, and has one record for all of its sequences.
      if (gapOf(frame) !== undefined) continue;
      const end = Math.min(frame.last, through);
      for (let sequence = Math.max(frame.first, after + 1); sequence <= end; sequence += 1) {
        const record = frame.records[sequence - frame.first]!;
        if (record.kind === "scanDigest") {
          this.#checkRange(record.volume, [{ offset: record.offset, length: record.length, data: null }]);
          yield portion({ record, sequence });
        } else if (isImageRecord(record, this.#scanned)) records.push(record);
        if (records.length === foldRecordsMax) yield portion();
      }
    }
    if (records.length > 0) yield { ...portion(), isLast: true };
  }

  #endOf(held: AppliedPosition, frames: readonly Frame[]): AppliedPosition {
    let end = held;
    for (const frame of frames) {
      assert.equal(frame.first, end.sequence + 1, "frames continue what is held");
      assert(bytesEqual(frame.chainBefore, end.chain), "frames continue the history that is held");
      assert(bytesEqual(frame.lineage, this.#marker.state.lineage), "frames are of the images' lineage");
      end = {
        sequence: frame.last,
        chain: frame.chainAfter,
        dataBytesTotal: frame.dataBytesTotal,
        timeMs: frame.closedAtMs,
      };
    }
    return end;
  }

  #fold(records: readonly ImageRecord[]): FoldedChanges {
    const folded = foldRecords(records);
    for (const [volume, changes] of folded) this.#checkRange(volume, changes);
    return folded;
  }

  async #write(folded: FoldedChanges, written?: WrittenSoFar): Promise<void> {
    const outcomes = await Promise.allSettled(
      [...folded].map(([volume, changes]) => {
        this.#touched.add(volume);
        return writeTo(this.#volume(volume).device, changes, (offset) => written?.advance(volume, offset));
      }),
    );
    const refused = outcomes.find((outcome) => outcome.status === "rejected");
    if (refused !== undefined) throw writeError(refused.reason);
  }

  /** Frames come verified, but a record beyond its volume would grow the image file or hit another partition. */
  #checkRange(volume: VolumeNumber, changes: readonly BlockChange[]): void {
    const sizeBytes = this.#volumes.get(volume)?.entry.sizeBytes ?? 0;
    const last = changes.at(-1);
    if (last === undefined || last.offset + last.length <= sizeBytes) return;
    throw new OperationalError({
      code: "IMAGE_RECORD_RANGE",
      message: `a record reaches ${last.offset + last.length} on volume ${volume} of ${sizeBytes} bytes`,
      reaction: "stop",
    });
  }

  /**
   * Makes what is held durable in the images and returns that position. May run beside an `apply`, whose records it
   * then does not cover. OperationalError `IMAGE_SYNC_FAILED`, reaction `stop`; from then on every step fails with
   * it until the group is opened again.
   */
  async sync(): Promise<AppliedPosition> {
    this.#admit();
    assert(!this.#syncing, "syncs do not overlap");
    this.#syncing = true;
    try {
      return await this.#syncTouched();
    } finally {
      this.#syncing = false;
    }
  }

  async #syncTouched(): Promise<AppliedPosition> {
    const covered = this.#held;
    const touched = this.#touched;
    // An apply beside this call adds to the new set, before it writes: what it writes is synced next time.
    this.#touched = this.#applying ? new Set(touched) : new Set();
    const outcomes = await Promise.allSettled(
      [...touched].map((volume) => this.#volume(volume).device.flush()),
    );
    const refused = outcomes.find((outcome) => outcome.status === "rejected");
    if (refused !== undefined) {
      this.#failed ??= new OperationalError({
        code: "IMAGE_SYNC_FAILED",
        message: `the images could not be synced: ${errorText(refused.reason)}`,
        reaction: "stop",
        hint: "Look at the disk of the images; after a restart they are written again from the last applied position.",
        cause: refused.reason,
      });
      this.#log.error("IMAGE_SYNC_FAILED", "sync of the images failed", refused.reason, {
        sequence: covered.sequence,
      });
      throw this.#failed;
    }
    if (covered.sequence > this.#synced.sequence) this.#synced = covered;
    return covered;
  }

  /** Moves the marker to a position that `sync` returned. Only afterwards may the log give up those records. */
  async commit(position: AppliedPosition): Promise<void> {
    this.#admit();
    assert(position.sequence <= this.#synced.sequence, "the marker never moves beyond what is synced");
    assert(position.sequence >= this.applied.sequence, "the marker never moves back");
    await this.#marker.write(position, Math.max(position.sequence, this.applyingLast));
  }

  /**
   * Takes the images back to a point of their history, and gives it: afterwards they hold that, `applied` says it, and
   * frames that continue it may be applied. No other step at the same time. OperationalErrors of `sync` and
   * `History.rollBack`; after `ROLL_BACK_FAILED` every step fails with it until the group is opened again, which
   * finishes it.
   */
  async rollBack(sequence: Sequence): Promise<AppliedPosition> {
    this.#admit();
    const history = this.#history;
    if (history === undefined || sequence > this.#held.sequence) {
      throw new OperationalError({
        code: "POINT_UNKNOWN",
        message: `${sequence} is not a point that the images can be taken back to`,
        reaction: "refuse",
      });
    }
    // The marker is to say that they hold the point, durably.
    if (sequence > this.applied.sequence) await this.commit(await this.sync());
    await this.#takenBack(history, () => history.rollBack(sequence, this.#writes()));
    return this.applied;
  }

  /**
   * To be called with what the images' log can give, before the first `apply`, when a history is kept: undoes what the
   * log cannot finish any more, so that `applyingLast` is not behind the log. False when there was nothing to undo.
   * OperationalErrors of `History.undoBehind`.
   */
  async undoBehind(log: LogRange): Promise<boolean> {
    this.#admit();
    const history = this.#history;
    if (history === undefined) return false;
    assert.equal(this.#held.sequence, this.applied.sequence, "nothing was applied yet");
    let undone = false;
    await this.#takenBack(history, async () => {
      undone = await history.undoBehind(log, this.applied, this.#writes());
    });
    if (undone) {
      this.#log.warn("IMAGE_UNDONE", "the log has lost its end: what the images held of it was undone", {
        sequence: this.applied.sequence,
        applyingLast: this.applyingLast,
        logLast: log.last,
      });
    }
    return undone;
  }

  async #takenBack(history: History, run: () => Promise<void>): Promise<void> {
    assert(!this.#applying && !this.#syncing, "nothing else happens while images are taken back");
    this.#forgetAhead();
    this.#applying = true;
    this.#syncing = true;
    try {
      await run();
    } catch (error) {
      // The images are between two points, and only the next open may touch them.
      if (history.rollingBack && error instanceof OperationalError) this.#failed ??= error;
      throw error;
    } finally {
      this.#applying = false;
      this.#syncing = false;
    }
    this.#restart();
  }

  /** What the marker says is what is held. */
  #restart(): void {
    this.#held = this.applied;
    this.#synced = this.applied;
  }

  #writes(): ImageWrites {
    return {
      applyingLast: this.applyingLast,
      sizeBytes: (volume) => this.#volumes.get(volume)?.device.sizeBytes,
      mark: (position, last) =>
        this.#marker.write(this.applied.sequence > position.sequence ? position : this.applied, last),
      write: (changes) => this.#write(changes),
      sync: async () => {
        // Also what a life before this one has written and nobody has synced.
        this.#touched = new Set(this.#volumes.keys());
        await this.#syncTouched();
      },
    };
  }

  /** BlockError as the device says; the images hold records up to `held`, or part of an apply under way. */
  read(volume: VolumeNumber, offset: number, length: number, into?: Uint8Array): Promise<Uint8Array> {
    return this.#volume(volume).device.read(offset, length, into);
  }

  extents(volume: VolumeNumber, offset: number, length: number): Promise<Extent[]> {
    return this.#volume(volume).device.extents(offset, length);
  }

  /** The volume's device, for reading; writing goes through `apply` alone. */
  device(volume: VolumeNumber): BlockDevice {
    return this.#volume(volume).device;
  }

  #volume(number: VolumeNumber): GroupVolume {
    const volume = this.#volumes.get(number);
    assert(volume !== undefined, `volume ${number} is in the group's table`);
    return volume;
  }

  #admit(): void {
    if (this.#failed !== undefined) throw this.#failed;
  }

  /** What the images held before; undefined when none is kept. */
  get history(): History | undefined {
    return this.#history;
  }

  /** Closes history, marker and devices. Steps under way must have settled. Syncs nothing. */
  async close(): Promise<void> {
    this.#forgetAhead();
    await this.#history?.close();
    await this.#marker.close();
    for (const { device } of this.#volumes.values()) await device.close();
  }
}

/** Records on their way into the images, as one change of them; behind it the images hold what `digest` was made of. */
interface Portion {
  readonly records: readonly ImageRecord[];
  readonly changes: FoldedChanges;
  readonly digest: { readonly record: ScanDigestRecord; readonly sequence: Sequence } | undefined;
  /** Nothing of its step comes behind it; one that ends with a digest may be the last as well. */
  readonly isLast: boolean;
}

/** The blocks that a step changes. */
function touchedBy(portions: readonly Portion[]): ReadonlyMap<VolumeNumber, readonly TouchedRun[]> {
  // After a crash the step may be applied again in parts, and between them the images hold what folding took out
  // here: a block that is written and then zeroed is not one that is only zeroed.
  return touchedBlocks(portions.flatMap(({ changes, records }) => [changes, ...dataFolded(records)]));
}

/** What the records with data say by themselves; nothing when a portion has no others. */
function dataFolded(records: readonly ImageRecord[]): FoldedChanges[] {
  const withData = records.filter((record) => dataOf(record) !== null);
  return withData.length === records.length ? [] : [foldRecords(withData)];
}

async function writeTo(
  device: BlockDevice,
  changes: readonly BlockChange[],
  onWritten: OnWritten,
): Promise<void> {
  if (isBulkWritable(device)) return device.writeChanges(changes, onWritten);
  for (const { offset, length, data } of changes) {
    onWritten(offset);
    if (data === null) await device.zero(offset, length, { fua: false, mayTrim: true, fast: false });
    else await device.write(offset, data, { fua: false });
  }
}

function writeError(cause: unknown): OperationalError {
  const full = cause instanceof BlockError && cause.errno === BlockErrno.ENOSPC;
  return new OperationalError({
    code: full ? "IMAGE_FULL" : "IMAGE_WRITE_FAILED",
    message: `the images could not be written: ${errorText(cause)}`,
    reaction: full ? "retry" : "stop",
    hint: full
      ? "Free space on the file system of the images; applying goes on by itself."
      : "Look at the disk of the images, then restart; they are written again from the last applied position.",
    cause,
  });
}
