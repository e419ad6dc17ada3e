/**
 * A standby that is open: its intake log, the receive lane in front of it and the apply loop behind it, as one life.
 * When the intake fails the whole is closed and another one is opened from disk; nothing of it is mended in place.
 */
import type { AppliedPosition } from "../image/marker.ts";
import type { Past } from "../image/past.ts";
import { historyOpener } from "../image/past.ts";
import type { FrameLog } from "../journal/frame-log.ts";
import { openFrameLog } from "../journal/open.ts";
import { bytesFromHex, bytesToHex, type ChainPosition } from "../protocol/ids.ts";
import { isWholeAt } from "../protocol/table-volume.ts";
import type { Clock } from "../runtime/clock.ts";
import type { Log } from "../runtime/log.ts";
import type { GatewayGroupPaths } from "../runtime/paths.ts";
import type { HistorySettings } from "../runtime/settings/types.ts";
import { Applier, type ApplierOptions } from "./apply/applier.ts";
import { openImage } from "./apply/open-image.ts";
import type { IntakeLimits } from "./intake-options.ts";
import { intakeOptions } from "./intake-options.ts";
import { startIntake, step } from "./receive/machine.ts";
import { Receiver } from "./receive/receiver.ts";
import { keptForEver } from "./retire.ts";
import { type Incomplete, isOpenable } from "./scan/completeness.ts";
import { afterReceived, type IntakeEnd, intakeEndFrom } from "./scan/intake-end.ts";
import type { Seal, StandbyDocument, StandbyVolume } from "./state.ts";
import type { StandbyStorage } from "./storage.ts";
import type { HeldVolume } from "./volumes/table.ts";

export interface OpenStandbyInput {
  readonly storage: StandbyStorage;
  readonly document: StandbyDocument;
  readonly paths: GatewayGroupPaths;
  readonly limits: IntakeLimits;
  readonly history: HistorySettings;
  readonly clock: Clock;
  readonly log: Log;
  /** What the standby's document says now of its completeness. */
  readonly incomplete: () => Incomplete | null;
  /** The table as the document has it now. */
  readonly volumes: () => readonly StandbyVolume[];
  /** Size of a volume in this site's configuration, bytes; undefined: it is not there. */
  readonly configuredBytes: (volume: string) => number | undefined;
  /** As in `ApplierOptions`. */
  readonly beforeStep: ApplierOptions["beforeStep"];
  readonly changeTable: ApplierOptions["changeTable"];
  /** The intake log failed; called at most once. */
  readonly onBroken: (error: unknown) => void;
}

/** Where a failover under way hands the images over, or a standby that was retired ends. */
function sealedOf({ failover, retired }: StandbyDocument): ChainPosition | undefined {
  const seal = retired?.seal ?? failover?.seal;
  const chain = seal == null ? undefined : bytesFromHex(seal.chain);
  return seal == null || chain === undefined ? undefined : { sequence: seal.sequence, chain };
}

export class OpenStandby {
  readonly intake: FrameLog;
  readonly receiver: Receiver;
  readonly applier: Applier;
  #broken = false;
  #end: IntakeEnd;

  private constructor(input: OpenStandbyInput, intake: FrameLog, end: IntakeEnd) {
    const { document, paths, storage, history, clock, log } = input;
    const { lineage, origin } = intakeOptions(paths, document, input.limits, storage.bootId, "open");
    const broken = (error: unknown): void => {
      if (this.#broken) return;
      this.#broken = true;
      input.onBroken(error);
    };
    this.intake = intake;
    this.#end = end;
    this.applier = new Applier({
      intake,
      open: () =>
        openImage({
          storage,
          volumes: input.volumes().map((volume) => ({
            ...volume,
            longer: this.#mayBeLonger(volume, input) ? "opened" : "refused",
          })),
          markerPath: paths.marker,
          lineage,
          mode: "open",
          origin: { sequence: 0, chain: origin.chain, dataBytesTotal: 0, timeMs: 0 },
          log,
          openHistory: historyOpener(
            {
              disk: storage.disk,
              directory: paths.history,
              openIndex: storage.openIndex,
              isWorthKeeping: () => {
                const incomplete = input.incomplete();
                const isOfFirstSync = incomplete !== null && incomplete.since === 0;
                return !isOfFirstSync || isOpenable(incomplete, this.applier.appliedSequence);
              },
              ...(document.retired === null
                ? { settings: history, reserveBytes: input.limits.reserveBytes }
                : keptForEver(history)),
              // What is there when frames are lost must stay openable until a resync has ended.
              mayPin: true,
              log,
              segmentBytes: storage.segmentBytes,
            },
            lineage,
            // An intention is durable before each step, so the marker says how far the images may have got.
            0,
          ),
        }),
      history,
      stepBytesMax: storage.stepBytesMax,
      clock,
      log,
      incomplete: input.incomplete,
      incompleteAtEnd: () => this.incompleteAtEnd,
      beforeStep: input.beforeStep,
      changeTable: input.changeTable,
      isWhole: (number, sequence) => {
        const volume = input.volumes().find((each) => each.number === number);
        return volume !== undefined && isWholeAt(volume, sequence);
      },
      sealed: sealedOf(document),
      onApplied: (sequence) => this.receiver?.appliedThrough(sequence),
      onIntakeBroken: broken,
    });
    const { token } = document;
    const start = startIntake({
      lineage,
      token,
      durable: intake.durable,
      applied: this.applier.appliedSequence,
    });
    this.receiver = new Receiver({
      // A fence that was raised before a restart stands from the first instant.
      initial: document.failover === null ? start : step(start, { kind: "fenced", token }).state,
      intake,
      clock,
      log,
      onAppended: (frame) => {
        this.#end = afterReceived(this.#end, frame);
      },
      onDurable: () => this.applier.wake(),
      onBroken: broken,
      onRoomShort: () => this.applier.makeRoom(),
      stallReason: () => {
        const { trouble } = this.applier;
        return trouble === null ? null : `apply is stopped: ${trouble.code}, ${trouble.message}`;
      },
    });
  }

  /** Opens and verifies the log; the images open behind it, and their trouble is the applier's to report. */
  static async open(input: OpenStandbyInput): Promise<OpenStandby> {
    let end = intakeEndFrom(input.document.incomplete, input.document.volumes);
    const { log: intake } = await openFrameLog(
      intakeOptions(input.paths, input.document, input.limits, input.storage.bootId, "open"),
      input.log,
      {
        ...input.storage,
        clock: input.clock,
        onFrame: (frame) => {
          end = afterReceived(end, frame);
        },
      },
    );
    const open = new OpenStandby(input, intake, end);
    await open.applier.start();
    return open;
  }

  /** A growing that a crash cut short, or a device that its operator has made larger before the volume grows. */
  #mayBeLonger({ number, name, sizeBytes }: StandbyVolume, input: OpenStandbyInput): boolean {
    const received = this.#end.table.find((each) => each.number === number)?.sizeBytes ?? 0;
    return Math.max(received, input.configuredBytes(name) ?? 0) > sizeBytes;
  }

  /** The table once everything that was received is applied. */
  get tableAtEnd(): readonly HeldVolume[] {
    return this.#end.table;
  }

  /** What the standby can go back to; undefined while the images are not open. */
  get past(): Past | undefined {
    return this.applier.past;
  }

  /** The end of what was received: where a seal would be. */
  get end(): Seal {
    const { tail } = this.intake;
    return {
      sequence: tail.sequence,
      chain: bytesToHex(tail.chain),
      dataBytesTotal: tail.dataBytesTotal,
      timeMs: tail.closedAtMs,
    };
  }

  /** Whether the images can be opened once everything that was received is applied. */
  get incompleteAtEnd(): Incomplete | null {
    return this.#end.incomplete;
  }

  /**
   * What a failover opens when the images cannot be opened at the end of what was received: the last position before
   * that, pinned, or not passed yet. Undefined when they can, and when there is no such position.
   */
  get before(): AppliedPosition | undefined {
    const { incomplete, before } = this.#end;
    if (incomplete === null || incomplete.until !== null) return undefined;
    // Nothing was received before it: empty images are no point.
    const sequence = incomplete.since - 1;
    if (sequence <= 0) return undefined;
    const { pinned, applied, mayHold = Number.POSITIVE_INFINITY } = this.applier;
    if (pinned?.sequence === sequence) return pinned;
    if (mayHold > sequence) return undefined;
    if (before?.sequence === sequence) return before;
    return applied?.sequence === sequence ? applied : undefined;
  }

  /** Answers what waits with `busy`, ends the apply step under way, closes images and log. */
  async close(
    how: "clean" | "abandon",
    why: { readonly code: string; readonly message: string },
  ): Promise<void> {
    this.receiver.halt({ ...why, passing: true });
    await this.receiver.appendEnded();
    await this.applier.stop();
    await this.intake.close(how);
  }
}
