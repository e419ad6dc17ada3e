/**
 * The standby of a group as it is opened, closed and opened again: the intake with its images, or the trouble that keeps
 * them closed. Greetings, reopening, orders and closing take turns here. It never opens an image after the hand-over record
 * exists, and never goes on with an intake that failed: that is closed, and opened from disk.
 */
import type { Reason } from "../protocol/status.ts";
import type { Clock, Timer } from "../runtime/clock.ts";
import { errorCode, errorText, OperationalError } from "../runtime/errors.ts";
import type { Log } from "../runtime/log.ts";
import { Turns } from "../runtime/turns.ts";
import type { KeptDocument } from "./kept-document.ts";
import type { OpenStandbyInput } from "./open-standby.ts";
import { OpenStandby } from "./open-standby.ts";
import type { Incomplete } from "./scan/completeness.ts";

/** Pause before the intake is opened again after it failed, ms; doubled up to the maximum. */
const reopenMsMin = 1_000;
const reopenMsMax = 30_000;
/** What opening again cannot mend: the log is not what was promised. */
const finalIntakeCodes: ReadonlySet<string> = new Set([
  "JOURNAL_DAMAGED",
  "JOURNAL_MISSING",
  "WATERMARK_MISSING",
  "WATERMARK_DAMAGED",
]);

/** What is opened, apart from what the document says of it. */
export type OpeningInput = Omit<OpenStandbyInput, "document" | "incomplete" | "volumes" | "onBroken">;

export class Opening {
  readonly #kept: KeptDocument;
  readonly #input: OpeningInput;
  readonly #clock: Clock;
  readonly #log: Log;
  #open: OpenStandby | undefined;
  /** Stopped as a whole: damaged document, broken intake. */
  #trouble: Reason | null = null;
  #reopenMs = reopenMsMin;
  #timer: Timer | undefined;
  #ending = false;
  readonly #turns = new Turns();

  constructor(kept: KeptDocument, input: OpeningInput) {
    this.#kept = kept;
    this.#input = input;
    this.#clock = input.clock;
    this.#log = input.log;
  }

  /** Undefined while it is closed, and for ever once its images are handed over. */
  get now(): OpenStandby | undefined {
    return this.#open;
  }

  /** Why the group as a whole is stopped. */
  get trouble(): Reason | null {
    return this.#trouble;
  }

  /** The same, or why nothing is applied. */
  get anyTrouble(): Reason | null {
    return this.#trouble ?? this.#open?.applier.trouble ?? null;
  }

  /** Once everything that was received is applied; what the document says where that is not known. */
  get incompleteAtEnd(): Incomplete | null {
    return this.#open === undefined ? (this.#kept.now?.incomplete ?? null) : this.#open.incompleteAtEnd;
  }

  /** Takes its turn; its error is the caller's. */
  exclusive<T>(work: () => Promise<T>): Promise<T> {
    return this.#turns.take(work);
  }

  /** Trouble is kept and shown. */
  stopWith(error: unknown): void {
    this.#trouble = { code: errorCode(error), message: errorText(error) };
    this.#log.error("STANDBY_STOPPED", "the standby is stopped", error);
  }

  /** In its turn. Opens what is closed and may be open; what keeps it from that is trouble, and tried again where it may pass. */
  async open(): Promise<void> {
    const document = this.#kept.now;
    if (document === undefined || this.#open !== undefined || this.#ending) return;
    try {
      // Whoever asks, and however late: images that were handed over are the agent's alone.
      if (document.failover?.seal != null && (await this.#kept.handover()) !== undefined) return;
      this.#open = await OpenStandby.open({
        ...this.#input,
        document,
        incomplete: () => this.#kept.now?.incomplete ?? null,
        volumes: () => this.#kept.required.volumes,
        onBroken: (error) => this.#break(error),
      });
      this.#trouble = null;
      this.#reopenMs = reopenMsMin;
    } catch (error) {
      this.stopWith(error);
      if (!finalIntakeCodes.has(errorCode(error))) this.#openLater();
    }
  }

  /** The open standby; opens it when an earlier attempt left it closed. OperationalError (`refuse`) of the trouble. */
  async required(): Promise<OpenStandby> {
    await this.exclusive(() => this.open());
    if (this.#open !== undefined) return this.#open;
    const why = this.#trouble ?? { code: "STANDBY_STOPPED", message: "the standby is closed" };
    throw new OperationalError({ code: why.code, message: why.message, reaction: "refuse" });
  }

  /** In its turn. What waits is answered with `why`. */
  async close(how: "clean" | "abandon", why: Reason): Promise<void> {
    const open = this.#open;
    this.#open = undefined;
    await open?.close(how, why);
  }

  /** Closes for good: nothing opens it any more. */
  async end(): Promise<void> {
    this.#ending = true;
    this.#timer?.cancel();
    const why = { code: "GATEWAY_CLOSING", message: "the gateway is stopping" };
    await this.exclusive(() => this.close(this.#trouble === null ? "clean" : "abandon", why));
  }

  /** The intake failed: nothing it says is believed until it was closed, opened and verified again. */
  #break(error: unknown): void {
    this.stopWith(error);
    const why = { code: "INTAKE_REOPENING", message: "the intake log failed and is opened again" };
    // At once, so that no further answer rests on it.
    this.#open?.receiver.halt({ ...why, passing: true });
    this.exclusive(async () => {
      await this.close("abandon", why);
      this.#openLater();
    }).catch((cause: unknown) =>
      this.#log.error("STANDBY_CLOSE_FAILED", "closing the broken intake failed", cause),
    );
  }

  #openLater(): void {
    if (this.#ending) return;
    // Ends when it succeeds, finds the log damaged, or the gateway closes.
    this.#timer = this.#clock.after(this.#reopenMs, () => {
      this.exclusive(() => this.open()).catch((error: unknown) => this.stopWith(error));
    });
    this.#reopenMs = Math.min(this.#reopenMs * 2, reopenMsMax);
  }
}
