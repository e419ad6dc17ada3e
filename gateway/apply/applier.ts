/**
 * The apply loop of one group: durable frames of the intake, in steps, into the images; then the marker; then the
 * intake is trimmed. While much is waiting, a step comes to its end beside the next one (`step-end.ts`). It owns the open
 * images, and pins the point before them when they become incomplete. For a hand-over it brings them to one position,
 * also back to it, and no further. It never applies a frame that is not synced, never reports a position that is not
 * durable in the images, and never goes on with images whose write or sync failed: it closes them, opens them again from
 * disk and applies again from the marker.
 */
import type { GroupImage } from "../../image/group-image.ts";
import type { AppliedPosition } from "../../image/marker.ts";
import { Past } from "../../image/past.ts";
import type { FrameLog } from "../../journal/frame-log.ts";
import type { Frame } from "../../protocol/frame.ts";
import { volumeChangeOf } from "../../protocol/frame.ts";
import type { ChainPosition, Sequence, VolumeNumber } from "../../protocol/ids.ts";
import type { VolumeChangeRecord } from "../../protocol/record.ts";
import type { Reason } from "../../protocol/status.ts";
import type { Clock, Timer } from "../../runtime/clock.ts";
import { errorCode, errorText, OperationalError } from "../../runtime/errors.ts";
import type { Log } from "../../runtime/log.ts";
import type { HistorySettings } from "../../runtime/settings/types.ts";
import { ScanComparer } from "../scan/compare.ts";
import { type Incomplete, isOpenable, wasOpenable } from "../scan/completeness.ts";
import { Findings } from "../scan/findings.ts";
import { IntakeFailure } from "./intake-failure.ts";
import { changesImagesAlone, nextStep } from "./next-step.ts";
import { verifyAgainstIntake } from "./open-image.ts";
import { ResyncPin } from "./resync-pin.ts";
import { StepEnds } from "./step-end.ts";
import { StepReader } from "./step-reader.ts";

/**
 * Raw bytes of one step: some 0.2 s of folding and writing, so points stay dense and a restart repeats little. Memory: two
 * steps, one that is applied and one that is read ahead.
 */
const stepBytesMaxDefault = 16 * 1024 * 1024;
/** With less than this part of a step waiting, it is put off until the pace allows it, and none overlaps the one before. */
const stepPartMin = 1 / 4;
/**
 * Small steps follow each other at least this far apart, ms: a step costs five syncs whatever it holds, and folding
 * saves most in longer ones. Nobody waits for it: a failover that asks for a position is served at once.
 */
const stepPaceMs = 200;
/** Pause before images are opened again after a failure, ms; doubled up to the maximum, for as long as it takes. */
const reopenMsMin = 1_000;
const reopenMsMax = 30_000;
/**
 * Sectors that a comparison cannot read end the step at most this often, ms: opening the images again mends what passes by
 * itself; what is there afterwards is told, so that a verify comes to its end.
 */
const readAgainMs = 10 * 60_000;
/** Opening again cannot help: the group stays stopped until an operator has acted and the gateway is restarted. */
const finalCodes: ReadonlySet<string> = new Set([
  "IMAGE_TORN",
  "IMAGE_BEHIND_INTAKE",
  "IMAGE_AHEAD_OF_INTAKE",
  "IMAGE_DIVERGED",
  "IMAGE_RECORD_RANGE",
  "IMAGE_SIZE",
  "VOLUME_CHANGE_REFUSED",
  "VOLUME_IMAGE_UNSYNCED",
  "HISTORY_UNDO_IMPOSSIBLE",
  "IMAGE_KIND",
  "MARKER_DAMAGED",
  "MARKER_LINEAGE",
]);

export interface ApplierOptions {
  readonly intake: FrameLog;
  /** Opens the images from disk. */
  readonly open: () => Promise<GroupImage>;
  readonly history: HistorySettings;
  /** Longest step, raw bytes, where steps are short, so that several are under way with little; default 16 MiB. */
  readonly stepBytesMax?: number | undefined;
  readonly clock: Clock;
  readonly log: Log;
  /** What the standby's document says now of its completeness, and what it is at the end of what was received. */
  readonly incomplete: () => Incomplete | null;
  readonly incompleteAtEnd: () => Incomplete | null;
  /**
   * Makes durable what gaps and a scan's marks in a step say of the images, which are not touched yet. It calls `pin`,
   * which keeps the point that they hold, before it says that they are incomplete.
   */
  readonly beforeStep: (frames: readonly Frame[], pin: () => Promise<void>) => Promise<void>;
  /**
   * Makes durable what the record at `sequence` makes of the volume table: first the image, then the document. False: the
   * table says it already, nothing was done. True: `open` opens the images on the new table from now on. `requireGoing`
   * throws when somebody waits for the end of it.
   */
  readonly changeTable: (
    record: VolumeChangeRecord,
    sequence: Sequence,
    requireGoing: () => void,
  ) => Promise<boolean>;
  /** Whether a volume is part of a point, as the standby's document says now. */
  readonly isWhole: (volume: VolumeNumber, sequence: Sequence) => boolean;
  /** Where the images are to be handed over, in the end; undefined while nobody has sealed that. */
  readonly sealed: ChainPosition | undefined;
  readonly onApplied: (sequence: Sequence) => void;
  /** The intake log failed while it was read or trimmed. */
  readonly onIntakeBroken: (error: unknown) => void;
}

interface Waiter {
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export class Applier {
  readonly #options: ApplierOptions;
  readonly #stepBytesMax: number;
  #applied: AppliedPosition | undefined;
  #image: GroupImage | undefined;
  #pin: ResyncPin | undefined;
  #past: Past | undefined;
  #findings: Findings | undefined;
  /** When a comparison last found what cannot be read, and the images were opened again for it. */
  #readFailedAtMs = Number.NEGATIVE_INFINITY;
  #trouble: Reason | null = null;
  #final = false;
  #stopping = false;
  /** Set while the images are closed to be opened on a new table: what they may hold in part. */
  #leftAt: Sequence | undefined;
  /** Ends the sleep under way: `#wake` when there is work, `#interrupt` when the applier stops. */
  #wake: (() => void) | undefined;
  #interrupt: (() => void) | undefined;
  /** The intake takes nothing more, and there may be no step behind which old points would go. */
  #isRoomWanted = false;
  /** No step goes beyond this. */
  #limit: Sequence | undefined;
  /** Where the images are brought, back as well. */
  #sealed: ChainPosition | undefined;
  /** For a hand-over: told when the images are at `#sealed`, and when no step beyond the limit is under way. */
  #waiters: Waiter[] = [];
  #holders: Waiter[] = [];
  #run: Promise<void> | undefined;
  #pause: Timer | undefined;

  constructor(options: ApplierOptions) {
    this.#options = options;
    this.#stepBytesMax = options.stepBytesMax ?? stepBytesMaxDefault;
    this.#sealed = options.sealed;
    this.#limit = options.sealed?.sequence;
  }

  /** Durable in the images; undefined until they could be opened once. */
  get applied(): AppliedPosition | undefined {
    return this.#applied;
  }

  /** Never above the truth: the intake is trimmed only behind what is applied, and images taken back are at the limit. */
  get appliedSequence(): Sequence {
    const { head } = this.#options.intake;
    return this.#applied?.sequence ?? Math.min(head.sequence, this.#limit ?? head.sequence);
  }

  /** The images may hold records up to here in part; undefined while they are closed, other than for a new table. */
  get mayHold(): Sequence | undefined {
    return this.#image?.applyingLast ?? this.#leftAt;
  }

  /** The point before the images became incomplete, as long as it can be opened. */
  get pinned(): AppliedPosition | undefined {
    return this.#pin?.point;
  }

  /** Whether the images could be taken back to the pinned point: reads all of what that takes. Errors of `History.rollBack`. */
  async proveTakingBack(): Promise<void> {
    const sequence = this.#pin?.point?.sequence;
    if (sequence !== undefined) await this.#image?.history?.proveRollBack(sequence);
  }

  /** What the open images can go back to; undefined while they are closed. */
  get past(): Past | undefined {
    return this.#past;
  }

  /** What a scan's digests have shown since the images were opened; undefined while they are not. */
  get findings(): Findings | undefined {
    return this.#findings;
  }

  get #isAwaited(): boolean {
    return this.#waiters.length + this.#holders.length > 0;
  }

  /** Why nothing is applied now; null when at work. */
  get trouble(): Reason | null {
    return this.#trouble;
  }

  /** Opens the images and begins. Settles when they are open or it is known why not. */
  start(): Promise<void> {
    return new Promise((resolve) => {
      this.#run = this.#live(resolve);
    });
  }

  /** More frames are durable. */
  wake(): void {
    this.#wake?.();
  }

  /** The intake takes nothing more: old points go, as they do behind a step, though there may be none to come. */
  makeRoom(): void {
    this.#isRoomWanted = true;
    this.#wake?.();
  }

  /** Settles when no step that goes beyond `sequence` is under way, nor will be; rejects as `bringTo`. */
  holdAt(sequence: Sequence): Promise<void> {
    this.#limit = sequence;
    return this.#waitAmong(this.#holders);
  }

  /**
   * Settles when the images hold exactly what is at `sealed`, and keeps them there: what is missing is applied, what is
   * too much is taken back. Only once it is durable that they are handed over there: the intake may begin behind it.
   * Rejects when apply is stopped or stuck.
   */
  bringTo(sealed: ChainPosition): Promise<void> {
    this.#sealed = sealed;
    this.#limit = sealed.sequence;
    return this.#waitAmong(this.#waiters);
  }

  #waitAmong(waiters: Waiter[]): Promise<void> {
    if (this.#trouble !== null || this.#stopping) return Promise.reject(this.#stuck());
    return new Promise((resolve, reject) => {
      waiters.push({ resolve, reject });
      // Somebody waits now: a rest between small steps is over.
      this.#interrupt?.();
    });
  }

  /** Ends after the step under way and closes the images. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#pause?.cancel();
    this.#interrupt?.();
    await this.#run;
    this.#rejectWaiters();
  }

  async #live(opened: () => void): Promise<void> {
    let pauseMs = reopenMsMin;
    while (!this.#stopping) {
      let image: GroupImage | undefined;
      try {
        image = await this.#options.open();
        const { intake, clock, log } = this.#options;
        // What the intake lost of a step is taken out of the images again, where their history can.
        await image.undoBehind({ first: intake.head.sequence + 1, last: intake.tail.sequence });
        await verifyAgainstIntake(image, intake, this.#sealed);
        this.#image = image;
        this.#leftAt = undefined;
        this.#pin = await ResyncPin.open(image, clock, log);
        this.#past = this.#pastOf(image);
        // Before the first step: on a disk that is full, old points make room for it.
        await this.#past.stepped();
        this.#advance(image.applied);
        this.#trouble = null;
        opened();
        const before = this.appliedSequence;
        const why = await this.#applyUntilStopped(image, this.#pin);
        if (this.appliedSequence > before) pauseMs = reopenMsMin;
        if (why === "new table") {
          // What is pinned, and how far the images have got, is as true while they are closed for it.
          const pin: ResyncPin | undefined = this.#pin;
          this.#leftAt = image.applyingLast;
          await this.#close(image);
          this.#pin = pin;
          continue;
        }
      } catch (error) {
        this.#stumble(error);
      }
      this.#leftAt = undefined;
      await this.#close(image);
      opened();
      if (this.#stopping || this.#final) return;
      await this.#sleep(pauseMs);
      pauseMs = Math.min(pauseMs * 2, reopenMsMax);
    }
  }

  /** Ends of steps in the midst of a first sync or resync are no points, though their before-images are kept. */
  #pastOf(image: GroupImage): Past {
    const { history, clock, log, incomplete, isWhole } = this.#options;
    return new Past(image, history, clock, log, (sequence) => wasOpenable(incomplete(), sequence), isWhole);
  }

  /** Digests up to where a step was cut short are not compared: the images may hold what came after them. */
  #comparer(image: GroupImage): ScanComparer {
    const findings = new Findings(Math.max(image.applied.sequence, image.digestsToldBehind));
    this.#findings = findings;
    return new ScanComparer({
      read: (volume, offset, length) => image.read(volume, offset, length),
      findings,
      // A failover, or the end of the gateway, never waits for a scan.
      hasTime: () => !this.#stopping && !this.#isAwaited,
      reopens: () => this.#options.clock.monotonicMs() - this.#readFailedAtMs > readAgainMs,
    });
  }

  /** `new table`: the images have to be opened on it before anything else is applied. */
  async #applyUntilStopped(image: GroupImage, pin: ResyncPin): Promise<"stopped" | "new table"> {
    const { intake } = this.#options;
    const reader = new StepReader(intake, this.#stepBytesMax);
    const ends = new StepEnds({
      ...{ image, intake },
      onCommitted: () => this.#advance(image.applied),
      onEnded: () => this.#past?.stepped(),
    });
    try {
      const why = await this.#applySteps(image, pin, reader, ends);
      await ends.settled();
      return why;
    } catch (error) {
      // Nothing is under way when the images are closed. What failed of an earlier step is what is told.
      await ends.settled();
      throw error;
    } finally {
      await reader.close();
    }
  }

  async #applySteps(
    image: GroupImage,
    pin: ResyncPin,
    reader: StepReader,
    ends: StepEnds,
  ): Promise<"stopped" | "new table"> {
    const { intake, clock } = this.#options;
    const { compare } = this.#comparer(image);
    const pinPoint = () => pin.take(image.applied);
    let steppedAtMs = Number.NEGATIVE_INFINITY;
    while (!this.#stopping) {
      if (this.#mayOverlap(image, pin)) await ends.committed();
      // Asked again, for somebody may wait by now.
      if (!this.#mayOverlap(image, pin)) await ends.settled();
      if (this.#stopping) break;
      for (const holder of this.#holders.splice(0)) holder.resolve();
      if (this.#isBeyondSeal(image)) {
        await this.#takeBack(image, pin, this.#sealed!.sequence);
        continue;
      }
      if (pin.isSet && this.#isPinOver(image)) {
        await pin.giveBack();
        continue;
      }
      if (this.#isRoomWanted) {
        this.#isRoomWanted = false;
        await this.#past?.stepped();
        continue;
      }
      if (this.#sealed?.sequence === image.applied.sequence)
        for (const waiter of this.#waiters.splice(0)) waiter.resolve();
      // Read before the check, so that a wake between check and sleep is not lost: both happen in one turn.
      const durable = Math.min(intake.durable.sequence, this.#limit ?? Number.POSITIVE_INFINITY);
      const held = image.held.sequence;
      if (held >= durable) {
        await this.#sleep(undefined);
        continue;
      }
      const restMs = steppedAtMs + stepPaceMs - clock.monotonicMs();
      if (restMs > 0 && !this.#isMuchWaiting(image) && !this.#isAwaited) {
        await this.#sleep(restMs);
        continue;
      }
      const synced = await reader.take(held + 1);
      const frames = nextStep(synced, held, this.#options.incomplete(), this.#limit);
      const end = frames.at(-1);
      // A limit that came while the intake was read.
      if (end === undefined) continue;
      // What is said of the images before such a step rests on what their marker says.
      if (!changesImagesAlone(frames)) await ends.settled();
      // Survives a crash in every step: until the marker is behind the record it is taken in again, and says the same.
      if (await this.#takesTable(frames[0]!)) return "new table";
      await this.#options.beforeStep(frames, pinPoint);
      // Only a whole step: what there is of a shorter one may be more by the time that it begins.
      if (intake.durable.dataBytesTotal - end.dataBytesTotal >= this.#stepBytesMax)
        reader.readAhead(end.last + 1);
      // Survives a crash in the middle of the step: restart knows how far the images may be ahead. It comes before the sync of
      // the step before, behind whose writes the disk would put it.
      await image.begin(end.last);
      ends.begin();
      // What the blocks held is kept, and survives power loss, before the first of them changes.
      await image.apply(frames, compare, () => this.#following(end, image, pin, reader));
      this.#past?.addNewest();
      steppedAtMs = clock.monotonicMs();
      ends.applied();
    }
    return "stopped";
  }

  #isMuchWaiting(image: GroupImage): boolean {
    const waiting = this.#options.intake.durable.dataBytesTotal - image.held.dataBytesTotal;
    return waiting >= this.#stepBytesMax * stepPartMin;
  }

  /**
   * Whether the next step may begin while the one before comes to its end: where much is waiting, and nothing that is
   * decided between two steps looks at what marker and intake say.
   */
  #mayOverlap(image: GroupImage, pin: ResyncPin): boolean {
    const isDecided = this.#isAwaited || this.#limit !== undefined || pin.isSet;
    if (isDecided || !isOpenable(this.#options.incomplete(), image.applied.sequence)) return false;
    return this.#isMuchWaiting(image);
  }

  /**
   * The step behind the one that ends with `end`, as it would be decided now, where it changes images alone and may overlap: what
   * its blocks hold is kept ahead. It is decided anew when it begins.
   */
  async #following(
    end: Frame,
    image: GroupImage,
    pin: ResyncPin,
    reader: StepReader,
  ): Promise<readonly Frame[] | undefined> {
    const synced = await reader.ahead(end.last + 1);
    if (synced === undefined || this.#stopping || !this.#mayOverlap(image, pin)) return undefined;
    const frames = nextStep(synced, end.last, this.#options.incomplete(), this.#limit);
    return frames.length > 0 && changesImagesAlone(frames) ? frames : undefined;
  }

  /** Whether `frame`, the first of a step, has changed the table that the images are opened on. */
  async #takesTable(frame: Frame): Promise<boolean> {
    const change = volumeChangeOf(frame);
    if (change === undefined) return false;
    return this.#options.changeTable(change, frame.first, () => {
      if (this.#stopping) throw this.#stuck();
    });
  }

  /** The images hold more than is handed over, or a step that a crash cut short may have left some of it. */
  #isBeyondSeal(image: GroupImage): boolean {
    const sealed = this.#sealed?.sequence;
    return sealed !== undefined && image.applied.sequence >= sealed && image.applyingLast > sealed;
  }

  async #takeBack(image: GroupImage, pin: ResyncPin, sequence: Sequence): Promise<void> {
    // Every view lets its point go: none of those that are taken back is one any more.
    await this.#past?.close();
    await pin.giveBackBehind(sequence);
    // Survives a crash in every step: the next open finishes it.
    const position = await image.rollBack(sequence);
    this.#past = this.#pastOf(image);
    this.#advance(position);
    this.#options.log.warn(
      "STANDBY_TAKEN_BACK",
      "the images are what they were before they became incomplete",
      {
        sequence,
      },
    );
  }

  /** What was pinned is not needed any more: the images can be opened where they are, or are handed over there. */
  #isPinOver(image: GroupImage): boolean {
    const { sequence } = image.applied;
    if (this.#sealed !== undefined) return this.#sealed.sequence === sequence;
    // One that a crash left before the document spoke of it is kept while what it was made for waits in the intake.
    const { incomplete, incompleteAtEnd } = this.#options;
    return isOpenable(incomplete(), sequence) && incompleteAtEnd()?.until !== null;
  }

  #advance(applied: AppliedPosition): void {
    this.#applied = applied;
    this.#options.onApplied(applied.sequence);
  }

  #stumble(error: unknown): void {
    if (error instanceof IntakeFailure) {
      this.#trouble = { code: "INTAKE_FAILED", message: errorText(error) };
      this.#final = true;
      this.#options.onIntakeBroken(error.cause ?? error);
    } else {
      const code = errorCode(error);
      if (code === "IMAGE_READ_FAILED") this.#readFailedAtMs = this.#options.clock.monotonicMs();
      this.#final = finalCodes.has(code);
      this.#trouble = { code: code === "UNEXPECTED" ? "APPLY_FAILED" : code, message: errorText(error) };
      this.#options.log.error("APPLY_FAILED", "apply stopped", error, { sequence: this.#applied?.sequence });
    }
    this.#rejectWaiters();
  }

  #rejectWaiters(): void {
    for (const waiter of [...this.#waiters.splice(0), ...this.#holders.splice(0)])
      waiter.reject(this.#stuck());
  }

  #stuck(): OperationalError {
    const why = this.#trouble ?? { code: "STOPPING", message: "the gateway is stopping" };
    return new OperationalError({
      code: why.code,
      message: `cannot apply: ${why.message}`,
      reaction: "refuse",
      hint: "Mend what the message names; applying goes on by itself, then run the failover again.",
    });
  }

  async #close(image: GroupImage | undefined): Promise<void> {
    const past = this.#past;
    this.#past = undefined;
    this.#findings = undefined;
    this.#image = undefined;
    this.#pin = undefined;
    try {
      await past?.close();
      await image?.close();
    } catch (error) {
      // Nothing rests on it: what counts was synced before the marker moved.
      this.#options.log.warn("IMAGE_CLOSE_FAILED", errorText(error));
    }
  }

  /** Until woken, stopped or, where given, `delayMs` have passed. */
  async #sleep(delayMs: number | undefined): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#interrupt = resolve;
      // Frames that arrive during a pause must not turn it into a busy loop.
      if (delayMs === undefined) this.#wake = resolve;
      else this.#pause = this.#options.clock.after(delayMs, resolve);
      if (this.#stopping) resolve();
    });
    this.#pause?.cancel();
    this.#interrupt = undefined;
    this.#wake = undefined;
  }
}
