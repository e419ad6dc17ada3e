/**
 * Carries durable frames into the local image, moves the checkpoint, and trims the journal. Only durable frames
 * reach the image, so after power loss the image holds nothing that the journal lacks; only frames behind a synced
 * checkpoint *and* acknowledged by the standby (if one is expected) leave the journal.
 */
import type { GroupImage } from "../../image/group-image.ts";
import type { Past } from "../../image/past.ts";
import type { FrameLog } from "../../journal/frame-log.ts";
import type { Frame } from "../../protocol/frame.ts";
import type { Sequence } from "../../protocol/ids.ts";
import type { Clock, Timer } from "../../runtime/clock.ts";

/**
 * One apply step takes at most this many body bytes: bounds the time a step holds the image, and the memory for what the
 * blocks held before.
 */
const applyBytesMax = 8 * 1024 * 1024;
/** Enough durable bytes to make folding worth a step at once. */
const applyBytesTarget = 4 * 1024 * 1024;
/**
 * Durable frames wait at most this long for more, ms. Who writes one request at a time waits for the step under way: with
 * 100 ms of it in a step that took 2 ms, and a fourth of all slow writes were slow for it. Before-images are synced in each
 * step, so with a history there are fewer.
 */
const applyPaceMs = 25;
const applyPaceWithHistoryMs = 100;
/** The images are synced and the checkpoint moved this often while there is something to do, ms. */
const checkpointIntervalMs = 3_000;

export type DropBehind = (checkpoint: Sequence, freed: () => void) => Promise<boolean>;

export interface ApplierWorld {
  readonly log: FrameLog;
  readonly image: GroupImage;
  readonly past: Past | undefined;
  readonly clock: Clock;
  /** Body bytes of appended frames that may wait for the image. */
  readonly unappliedBytesMax: number;
  /** Last sequence the journal need not keep for the standby; Infinity when none is expected. */
  readonly releasedByStandby: () => Sequence;
  /** Reads may go to the image for everything up to `sequence`. */
  readonly applied: (sequence: Sequence) => void;
  /**
   * Frames behind the checkpoint go although the standby does not have them, `freed` being told; null: they never do. True:
   * there is room enough. Its errors are the journal's.
   */
  readonly dropBehind: DropBehind | null;
  readonly trimmed: () => void;
  readonly failed: (error: unknown) => void;
}

export class Applier {
  readonly #world: ApplierWorld;
  #frames: Frame[] = [];
  #bytes = 0;
  /** Frames at the front of `#frames` that are durable, and their bytes. */
  #durableCount = 0;
  #durableBytes = 0;
  #applying: Promise<void> | null = null;
  #checkpointing: Promise<void> | null = null;
  #applyTimer: Timer | null = null;
  #checkpointTimer: Timer | null = null;
  #stopped = false;
  /** Writes wait for room that only a drop can make. */
  #short = false;
  /** Another checkpoint is wanted once the one under way has ended. */
  #again = false;

  constructor(world: ApplierWorld) {
    this.#world = world;
  }

  get hasRoom(): boolean {
    return this.#bytes < this.#world.unappliedBytesMax;
  }

  appended(frame: Frame): void {
    this.#frames.push(frame);
    this.#bytes += frame.body.byteLength;
  }

  /** Everything up to `durable` may go to the image now. */
  durableAdvanced(durable: Sequence): void {
    for (let frame = this.#frames[this.#durableCount]; frame !== undefined && frame.last <= durable; ) {
      this.#durableBytes += frame.body.byteLength;
      this.#durableCount += 1;
      frame = this.#frames[this.#durableCount];
    }
    this.#plan();
  }

  #plan(): void {
    if (this.#durableBytes >= applyBytesTarget || !this.hasRoom || this.#short) {
      this.#startApply();
    } else if (this.#durableBytes > 0) {
      const paceMs = this.#world.past === undefined ? applyPaceMs : applyPaceWithHistoryMs;
      this.#applyTimer ??= this.#world.clock.after(paceMs, () => this.#startApply());
    }
  }

  /** Moves the checkpoint and trims now: the journal is short of room, or the standby released frames. */
  checkpointSoon(): void {
    this.#startCheckpoint();
  }

  /**
   * The journal is full: frames behind the checkpoint are dropped now. Where there are none, everything durable is applied
   * and the checkpoint moved, again and again while more becomes durable; it ends because writes wait meanwhile.
   */
  dropSoon(): void {
    this.#short = true;
    this.#plan();
    this.#startCheckpoint();
  }

  /** The standby released frames, and nobody waits for the room: with the next checkpoint, which comes by itself. */
  trimLater(): void {
    if (this.#stopped) return;
    this.#checkpointTimer ??= this.#world.clock.after(checkpointIntervalMs, () => this.#startCheckpoint());
  }

  /** Applies everything durable, syncs and commits; the image then equals the journal's durable position. */
  async drain(): Promise<void> {
    while (this.#durableBytes > 0 && !this.#stopped) {
      this.#startApply();
      await this.#applying;
    }
    await this.#checkpointing;
    if (this.#stopped) return;
    this.#startCheckpoint();
    await this.#checkpointing;
  }

  /** Stops after the steps under way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#applyTimer?.cancel();
    this.#checkpointTimer?.cancel();
    await this.#applying;
    await this.#checkpointing;
  }

  #startApply(): void {
    this.#applyTimer?.cancel();
    this.#applyTimer = null;
    if (this.#stopped || this.#applying !== null || this.#durableBytes === 0) return;
    this.#applying = this.#apply().finally(() => {
      this.#applying = null;
      this.#plan();
    });
  }

  async #apply(): Promise<void> {
    let count = 0;
    let bytes = 0;
    while (count < this.#durableCount && bytes < applyBytesMax) {
      bytes += this.#frames[count]!.body.byteLength;
      count += 1;
    }
    const step = this.#frames.slice(0, count);
    try {
      await this.#world.image.apply(step);
    } catch (error) {
      this.#fail(error);
      return;
    }
    this.#frames.splice(0, count);
    this.#bytes -= bytes;
    this.#durableCount -= count;
    this.#durableBytes -= bytes;
    this.#world.past?.addNewest();
    this.#world.applied(step[count - 1]!.last);
    if (this.#short) this.#startCheckpoint();
    else this.trimLater();
  }

  #startCheckpoint(): void {
    this.#checkpointTimer?.cancel();
    this.#checkpointTimer = null;
    if (this.#stopped) return;
    if (this.#checkpointing !== null) {
      // It may be past the place where it would have dropped something.
      this.#again = this.#short;
      return;
    }
    this.#checkpointing = this.#checkpoint().finally(() => {
      this.#checkpointing = null;
      if (!this.#again) return;
      this.#again = false;
      this.#startCheckpoint();
    });
  }

  async #checkpoint(): Promise<void> {
    const { image, log } = this.#world;
    const head = log.head.sequence;
    try {
      if (image.held.sequence > image.applied.sequence) {
        // After the sync the image survives power loss up to what it returns; only then may the marker say so.
        await image.commit(await image.sync());
      }
      const through = Math.min(image.applied.sequence, this.#world.releasedByStandby());
      if (through > log.head.sequence) await log.trim(through);
      if (this.#short && this.#world.dropBehind !== null) {
        const enough = await this.#world.dropBehind(image.applied.sequence, () => {
          this.#short = false;
          this.#world.trimmed();
        });
        if (enough) this.#short = false;
      }
      await this.#world.past?.stepped();
      // Told only when there is news: whoever asks for room again at once would keep this going for ever.
      if (log.head.sequence !== head) this.#world.trimmed();
    } catch (error) {
      this.#fail(error);
    }
  }

  #fail(error: unknown): void {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#world.failed(error);
  }
}
