/**
 * The write path of one group while its journal is open: committer, syncer and applier around one journal, one
 * overlay and one set of images. An engine is opened from disk, runs until something fails or it is closed, and is
 * never repaired in place: after any failed put or sync it is closed and a new one is opened and verified, so that
 * recovery is the path that start-up tests every day.
 */
import type { Extent } from "../../block/device.ts";
import type { GroupImage } from "../../image/group-image.ts";
import type { ReadPiece } from "../../image/overlay.ts";
import { mergeExtents, Overlay } from "../../image/overlay.ts";
import type { Past } from "../../image/past.ts";
import type { FrameLog, LogPosition } from "../../journal/frame-log.ts";
import type { Frame } from "../../protocol/frame.ts";
import type { LineageBytes, Sequence, VolumeNumber } from "../../protocol/ids.ts";
import { bytesEqual } from "../../protocol/ids.ts";
import type { Clock, Timer } from "../../runtime/clock.ts";
import type { DropBehind } from "./applier.ts";
import { Applier } from "./applier.ts";
import type { HoldCode, InFlight } from "./committer.ts";
import { Committer, notePlaced } from "./committer.ts";
import type { DurableGate } from "./durable-gate.ts";
import type { PendingWrites, WriteRequest } from "./pending-writes.ts";
import { Syncer } from "./syncer.ts";

export interface EngineListener {
  /** Frames up to here may be shipped. */
  readonly durable: (position: LogPosition) => void;
  readonly answered: (frame: Frame) => void;
  readonly held: (code: HoldCode | null) => void;
  /** The journal has more room. */
  readonly trimmed: () => void;
  /** The engine has stopped itself; close it and open another, or stop the group. */
  readonly failed: (error: unknown) => void;
}

export interface EngineWorld {
  /** Open, verified, everything in it durable. */
  readonly log: FrameLog;
  /** Open; applied up to the journal's tail. */
  readonly image: GroupImage;
  /** Of the image; undefined when it keeps no history. The engine closes both. */
  readonly past: Past | undefined;
  readonly lineage: LineageBytes;
  readonly pending: PendingWrites;
  readonly gate: DurableGate;
  readonly clock: Clock;
  readonly durability: "flush" | "write";
  readonly unappliedBytesMax: number;
  readonly releasedByStandby: () => Sequence;
  /** See ApplierWorld; null: a full journal holds writes. */
  readonly dropBehind: DropBehind | null;
  readonly listener: EngineListener;
}

/** Ranges of zeroes waiting for the image: each read looks through them, so they are few. */
const unappliedRangesMax = 1_024;
/** Writes that wait longer than this for frames to be dropped are called held, ms. */
const shortMsMax = 2_000;

export class Engine {
  readonly log: FrameLog;
  readonly image: GroupImage;
  readonly past: Past | undefined;
  readonly #world: EngineWorld;
  readonly #overlay = new Overlay();
  readonly #committer: Committer;
  readonly #syncer: Syncer;
  readonly #applier: Applier;
  /** The frame whose put failed; none of its writes has been answered. */
  #unsettled: InFlight | null = null;
  #failed = false;
  #shortTimer: Timer | null = null;
  #signalFailed: () => void = () => {};
  readonly #whenFailed = new Promise<void>((resolve) => {
    this.#signalFailed = resolve;
  });
  #closed: Promise<void> | null = null;

  constructor(world: EngineWorld) {
    this.#world = world;
    this.log = world.log;
    this.image = world.image;
    this.past = world.past;
    const failed = (error: unknown) => this.#fail(error);
    // Also what fails while nobody writes: frames on their way into the store.
    void world.log.whenPoisoned.then(failed);
    this.#applier = new Applier({
      log: world.log,
      image: world.image,
      past: world.past,
      clock: world.clock,
      unappliedBytesMax: world.unappliedBytesMax,
      releasedByStandby: world.releasedByStandby,
      applied: (sequence) => {
        this.#overlay.evictThrough(sequence);
        this.#committer.kick();
      },
      dropBehind: world.dropBehind,
      trimmed: () => {
        this.#committer.kick();
        world.listener.trimmed();
      },
      failed,
    });
    this.#syncer = new Syncer({
      log: world.log,
      gate: world.gate,
      clock: world.clock,
      durable: (position) => {
        this.#applier.durableAdvanced(position.sequence);
        world.listener.durable(position);
      },
      failed,
    });
    this.#committer = new Committer({
      log: world.log,
      lineage: world.lineage,
      pending: world.pending,
      gate: world.gate,
      clock: world.clock,
      durability: world.durability,
      hasRoomInMemory: () => this.#applier.hasRoom && this.#overlay.rangeCount < unappliedRangesMax,
      appended: (frame, awaited) => {
        this.#overlay.insert(frame);
        this.#applier.appended(frame);
        world.listener.answered(frame);
        this.#syncer.appended(awaited);
      },
      held: (code) => this.#held(code),
      failed: (error, unsettled) => {
        this.#unsettled = unsettled;
        this.#fail(error);
      },
    });
  }

  #held(code: HoldCode | null): void {
    const { dropBehind, clock, listener } = this.#world;
    this.#shortTimer?.cancel();
    this.#shortTimer = null;
    if (code === "JOURNAL_FULL" && dropBehind !== null) {
      this.#applier.dropSoon();
      // Only what is durable can be applied, and only what is applied can go.
      this.#syncer.hurry();
      // Room is a matter of milliseconds, unless a disk hangs: then it is said that writes wait.
      this.#shortTimer = clock.after(shortMsMax, () => listener.held(code));
      return;
    }
    // The quickest way to room in the journal: move the checkpoint and trim what the standby has.
    if (code !== null) this.#applier.checkpointSoon();
    listener.held(code);
  }

  /** Writes are waiting in `pending`. */
  kick(): void {
    this.#committer.kick();
  }

  /** Answers `request` once everything answered before this call is durable. */
  flush(request: Pick<WriteRequest, "resolve" | "reject">): void {
    const target = this.log.tail.sequence;
    if (target > this.log.durable.sequence) this.#world.gate.add(target, request);
    else request.resolve();
    this.#syncer.flushed();
  }

  /**
   * The standby released frames: trim when it is worth it. Later at the latest, so that after a restart the head tells where
   * the standby was: an overflow marks the positions behind it.
   */
  standbyAdvanced(): void {
    if (!this.#applier.hasRoom || this.log.roomFor(0) !== "ok") this.#applier.checkpointSoon();
    else this.#applier.trimLater();
    this.#committer.kick();
  }

  /** Gives up what the standby has and the images hold durably, now and not only when somebody waits for it. */
  makeRoom(): void {
    this.#applier.checkpointSoon();
  }

  /** Content as of now, including answered writes that have not reached the image. Must not be changed. */
  read(volume: VolumeNumber, offset: number, length: number): Promise<Uint8Array> {
    const found = this.#overlay.read(volume, offset, length);
    if (found === undefined) return this.image.read(volume, offset, length);
    return found instanceof Uint8Array
      ? Promise.resolve(found)
      : this.#assemble(volume, offset, length, found);
  }

  async #assemble(
    volume: VolumeNumber,
    offset: number,
    length: number,
    pieces: readonly ReadPiece[],
  ): Promise<Uint8Array> {
    const out = Buffer.allocUnsafe(length);
    const fromImage: Promise<void>[] = [];
    for (const piece of pieces) {
      const at = piece.offset - offset;
      if (piece.source === "image") {
        const read = this.image.read(volume, piece.offset, piece.length);
        fromImage.push(read.then((bytes) => out.set(bytes, at)));
      } else if (piece.source === "zero") {
        out.fill(0, at, at + piece.length);
      } else {
        out.set(piece.source, at);
      }
    }
    if (fromImage.length > 0) await Promise.all(fromImage);
    return out;
  }

  async extents(volume: VolumeNumber, offset: number, length: number): Promise<Extent[]> {
    // The overlay is asked first: what leaves it meanwhile is in the image by then.
    const newest = this.#overlay.extents(volume, offset, length);
    return mergeExtents(newest, await this.image.extents(volume, offset, length));
  }

  /** Applies and checkpoints everything journalled, so that the next start has nothing to replay; false if it failed. */
  async drain(): Promise<boolean> {
    await this.#committer.stop();
    const flushed = new Promise<void>((resolve, reject) => this.flush({ resolve, reject }));
    await Promise.race([flushed, this.#whenFailed]);
    if (!this.#failed) await this.#applier.drain();
    return !this.#failed;
  }

  /**
   * Stops all loops after their step under way and closes journal and images. `clean` only after `drain`. Requests
   * that were never answered stay in `pending` and `gate`, for the next engine.
   */
  close(how: "clean" | "abandon"): Promise<void> {
    this.#closed ??= this.#close(how);
    return this.#closed;
  }

  async #close(how: "clean" | "abandon"): Promise<void> {
    this.#shortTimer?.cancel();
    await Promise.all([this.#committer.stop(), this.#syncer.stop(), this.#applier.stop()]);
    try {
      await this.log.close(how);
    } finally {
      await this.past?.close();
      await this.image.close();
    }
  }

  /**
   * Settles what a predecessor left behind, against what this journal (verified, all durable) really holds. A frame
   * whose put failed may exist: then its writes are done; else they were never in any history and queue again.
   */
  inherit(unsettled: InFlight | null): void {
    if (unsettled !== null) {
      const { frame, items } = unsettled;
      const { tail } = this.log;
      if (tail.sequence === frame.last && bytesEqual(tail.chain, frame.chainAfter)) {
        notePlaced(frame, items);
        this.#world.pending.settled(items.length);
        for (const item of items) item.request?.resolve();
      } else {
        this.#world.pending.putBack(items);
      }
    }
    this.#world.gate.release(this.log.durable.sequence);
    this.kick();
  }

  get unsettled(): InFlight | null {
    return this.#unsettled;
  }

  /** No engine follows: the writes of a put that failed get no other answer than this. */
  refuseUnsettled(error: Error): void {
    const items = this.#unsettled?.items ?? [];
    this.#unsettled = null;
    for (const item of items) item.request?.reject(error);
    this.#world.pending.settled(items.length);
  }

  #fail(error: unknown): void {
    if (this.#failed) return;
    this.#failed = true;
    this.#signalFailed();
    this.#world.listener.failed(error);
  }
}
