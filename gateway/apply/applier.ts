/**
 * The apply loop of one group: durable frames of the intake, in steps, into the images; then the marker; then the
 * intake is trimmed. It owns the open images. It never applies a frame that is not synced, never reports a position
 * that is not durable in the images, and never goes on with images whose write or sync failed: it closes them, opens
 * them again from disk and applies again from the marker.
 */
import type { GroupImage } from "../../image/group-image.ts";
import type { AppliedPosition } from "../../image/marker.ts";
import { Past } from "../../image/past.ts";
import type { FrameLog } from "../../journal/frame-log.ts";
import type { Frame } from "../../protocol/frame.ts";
import type { Sequence } from "../../protocol/ids.ts";
import type { Reason } from "../../protocol/status.ts";
import type { Clock, Timer } from "../../runtime/clock.ts";
import { errorCode, errorText, OperationalError } from "../../runtime/errors.ts";
import type { Log } from "../../runtime/log.ts";
import type { HistorySettings } from "../../runtime/settings/types.ts";
import { ScanComparer } from "../scan/compare.ts";
import { Findings } from "../scan/findings.ts";
import { verifyAgainstIntake } from "./open-image.ts";

/** Raw bytes of one step: some 0.2 s of folding and writing, so points stay dense and a restart repeats little. */
const stepBytesMax = 16 * 1024 * 1024;
/** With less than this waiting, data bytes, a step is put off until the pace allows it. */
const stepBytesTarget = 4 * 1024 * 1024;
/**
 * Small steps follow each other at least this far apart, ms: a step costs five syncs whatever it holds, and folding
 * saves most in longer ones. Nobody waits for it: a failover that asks for a position is served at once.
 */
const stepPaceMs = 200;
/** Pause before images are opened again after a failure, ms; doubled up to the maximum, for as long as it takes. */
const reopenMsMin = 1_000;
const reopenMsMax = 30_000;
/** Opening again cannot help: the group stays stopped until an operator has acted and the gateway is restarted. */
const finalCodes: ReadonlySet<string> = new Set([
  "IMAGE_TORN",
  "IMAGE_BEHIND_INTAKE",
  "IMAGE_AHEAD_OF_INTAKE",
  "IMAGE_DIVERGED",
  "IMAGE_RECORD_RANGE",
  "IMAGE_SIZE",
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
  readonly clock: Clock;
  readonly log: Log;
  /** Makes durable what the marks of a scan in a step say of the images, which are at `applied` and not touched yet. */
  readonly beforeStep: (frames: readonly Frame[], applied: Sequence) => Promise<void>;
  readonly onApplied: (sequence: Sequence) => void;
  /** The intake log failed while it was read or trimmed. */
  readonly onIntakeBroken: (error: unknown) => void;
}

interface Waiter {
  readonly sequence: Sequence;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** Failure of the intake side, to be told apart from one of the images. */
class IntakeFailure extends Error {}

export class Applier {
  readonly #options: ApplierOptions;
  #applied: AppliedPosition | undefined;
  #past: Past | undefined;
  #findings: Findings | undefined;
  #trouble: Reason | null = null;
  #final = false;
  #stopping = false;
  /** Ends the sleep under way: `#wake` when there is work, `#interrupt` when the applier stops. */
  #wake: (() => void) | undefined;
  #interrupt: (() => void) | undefined;
  #waiters: Waiter[] = [];
  #run: Promise<void> | undefined;
  #pause: Timer | undefined;

  constructor(options: ApplierOptions) {
    this.#options = options;
  }

  /** Durable in the images; undefined until they could be opened once. */
  get applied(): AppliedPosition | undefined {
    return this.#applied;
  }

  /** Never above the truth: the intake is trimmed only behind what is applied. */
  get appliedSequence(): Sequence {
    return this.#applied?.sequence ?? this.#options.intake.head.sequence;
  }

  /** What the open images can go back to; undefined while they are closed. */
  get past(): Past | undefined {
    return this.#past;
  }

  /** What a scan's digests have shown since the images were opened; undefined while they are not. */
  get findings(): Findings | undefined {
    return this.#findings;
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

  /** Settles when everything up to `sequence` is applied; rejects when apply is stopped or stuck. */
  appliedThrough(sequence: Sequence): Promise<void> {
    if (this.appliedSequence >= sequence) return Promise.resolve();
    if (this.#trouble !== null || this.#stopping) return Promise.reject(this.#stuck());
    return new Promise((resolve, reject) => {
      this.#waiters.push({ sequence, resolve, reject });
      // Somebody waits now: a rest between small steps is over. A pause after a failure is not.
      if (this.#trouble === null) this.#interrupt?.();
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
        const { intake, history, clock, log } = this.#options;
        // What the intake lost of a step is taken out of the images again, where their history can.
        await image.undoBehind({ first: intake.head.sequence + 1, last: intake.tail.sequence });
        await verifyAgainstIntake(image, intake);
        const past = new Past(image, history, clock, log);
        this.#past = past;
        // Before the first step: on a disk that is full, old points make room for it.
        await past.stepped();
        this.#advance(image.applied);
        this.#trouble = null;
        opened();
        const before = this.appliedSequence;
        await this.#applyUntilStopped(image, past);
        if (this.appliedSequence > before) pauseMs = reopenMsMin;
      } catch (error) {
        this.#stumble(error);
      }
      await this.#close(image);
      opened();
      if (this.#stopping || this.#final) return;
      await this.#sleep(pauseMs);
      pauseMs = Math.min(pauseMs * 2, reopenMsMax);
    }
  }

  /** Digests up to where a step was cut short are not compared: the images may hold what came after them. */
  #comparer(image: GroupImage): ScanComparer {
    const findings = new Findings(Math.max(image.applied.sequence, image.digestsToldBehind));
    this.#findings = findings;
    return new ScanComparer({
      read: (volume, offset, length) => image.read(volume, offset, length),
      findings,
      // A failover, or the end of the gateway, never waits for a scan.
      hasTime: () => !this.#stopping && this.#waiters.length === 0,
    });
  }

  async #applyUntilStopped(image: GroupImage, past: Past): Promise<void> {
    const { intake, clock } = this.#options;
    const { compare } = this.#comparer(image);
    let steppedAtMs = Number.NEGATIVE_INFINITY;
    while (!this.#stopping) {
      // Read before the check, so that a wake between check and sleep is not lost: both happen in one turn.
      const durable = intake.durable.sequence;
      const applied = image.applied.sequence;
      if (applied >= durable) {
        await this.#sleep(undefined);
        continue;
      }
      const restMs = steppedAtMs + stepPaceMs - clock.monotonicMs();
      const waiting = intake.durable.dataBytesTotal - image.applied.dataBytesTotal;
      if (restMs > 0 && waiting < stepBytesTarget && this.#waiters.length === 0) {
        await this.#sleep(restMs);
        continue;
      }
      const frames = (await fromIntake(intake.frames(applied + 1, stepBytesMax))).filter(
        (frame) => frame.last <= durable,
      );
      const last = frames.at(-1)?.last;
      if (last === undefined) throw new IntakeFailure("intake holds no frame where one is durable");
      await this.#options.beforeStep(frames, applied);
      // Survives a crash in the middle of the next line: restart knows how far the images may be ahead.
      await image.begin(last);
      // What the blocks held is kept, and survives power loss, before the first of them changes.
      await image.apply(frames, compare);
      // Survives power loss before the marker says so.
      const position = await image.sync();
      // Survives power loss before the intake gives these records up.
      await image.commit(position);
      steppedAtMs = clock.monotonicMs();
      this.#advance(image.applied);
      await fromIntake(intake.trim(image.applied.sequence));
      await past.stepped();
    }
  }

  #advance(applied: AppliedPosition): void {
    this.#applied = applied;
    this.#options.onApplied(applied.sequence);
    const done = this.#waiters.filter((waiter) => waiter.sequence <= applied.sequence);
    this.#waiters = this.#waiters.filter((waiter) => waiter.sequence > applied.sequence);
    for (const waiter of done) waiter.resolve();
  }

  #stumble(error: unknown): void {
    if (error instanceof IntakeFailure) {
      this.#trouble = { code: "INTAKE_FAILED", message: errorText(error) };
      this.#final = true;
      this.#options.onIntakeBroken(error.cause ?? error);
    } else {
      const code = errorCode(error);
      this.#final = finalCodes.has(code);
      this.#trouble = { code: code === "UNEXPECTED" ? "APPLY_FAILED" : code, message: errorText(error) };
      this.#options.log.error("APPLY_FAILED", "apply stopped", error, { sequence: this.#applied?.sequence });
    }
    this.#rejectWaiters();
  }

  #rejectWaiters(): void {
    for (const waiter of this.#waiters.splice(0)) waiter.reject(this.#stuck());
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

async function fromIntake<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    throw new IntakeFailure(errorText(cause), { cause });
  }
}
