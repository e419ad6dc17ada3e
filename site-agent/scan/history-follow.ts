/**
 * Follows the reading of the standby's before-images that belongs to a verify, until it has ended: the owner asks, and the
 * asking begins it. One at a time. Decides nothing about the verify; keeps nothing durably.
 */
import type { HistoryCheckAnswer } from "../../protocol/history-check.ts";
import { describeHistoryCheck } from "../../protocol/history-check.ts";
import type { Sequence, VolumeEntry } from "../../protocol/ids.ts";
import type { HistoryFollowStatus, Reason, VerifyResult } from "../../protocol/status.ts";
import type { Clock, Timer } from "../../runtime/clock.ts";
import { rfc3339 } from "../../runtime/clock.ts";
import { errorCode, errorText } from "../../runtime/errors.ts";
import type { Log } from "../../runtime/log.ts";

/** Asked this often, ms. It goes on for as long as the standby answers, or may come back. */
const askMs = 1_000;
/** Readings that failed until it is given up: each begins anew, and reads everything again. */
const failuresMax = 3;

export interface HistoryFollowWorld {
  readonly volumes: readonly VolumeEntry[];
  readonly clock: Clock;
  readonly log: Log;
  /** Null: nobody can be asked now. `absent`: the other site does not know how. */
  readonly ask: (verify: Sequence) => Promise<HistoryCheckAnswer | "absent" | null>;
  /** Called once, after which this does nothing more. */
  readonly ended: (verify: Sequence, history: VerifyResult["history"]) => void;
}

export class HistoryFollow {
  readonly verify: Sequence;
  readonly #world: HistoryFollowWorld;
  #timer: Timer | undefined;
  #asking: Promise<void> | undefined;
  #stopped = false;
  #failures = 0;
  #status: HistoryFollowStatus = { doneBytes: 0, totalBytes: 0, reason: null };

  constructor(verify: Sequence, world: HistoryFollowWorld) {
    this.verify = verify;
    this.#world = world;
    this.#askNow();
  }

  get status(): HistoryFollowStatus {
    return this.#status;
  }

  /** Settles when nothing of it runs any more. The standby reads on: whoever asks next learns of it. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#timer?.cancel();
    await this.#asking;
  }

  #askNow(): void {
    this.#asking = this.#ask().finally(() => {
      if (!this.#stopped) this.#timer = this.#world.clock.after(askMs, () => this.#askNow());
    });
  }

  async #ask(): Promise<void> {
    try {
      const answer = await this.#world.ask(this.verify);
      if (!this.#stopped) this.#heard(answer);
    } catch (error) {
      this.#waits({ code: errorCode(error), message: errorText(error) });
    }
  }

  #heard(answer: HistoryCheckAnswer | "absent" | null): void {
    const { volumes } = this.#world;
    if (answer === "absent") this.#end({ state: "unknown", check: null });
    else if (answer === null) this.#waits({ code: "LINK_DOWN", message: "the standby does not answer" });
    else if (answer.kind === "none") this.#end({ state: "none", check: null });
    else if (answer.kind === "done")
      this.#end({ state: "done", check: describeHistoryCheck(answer.record, volumes, rfc3339) });
    else if (answer.kind === "running")
      this.#status = { doneBytes: answer.doneBytes, totalBytes: answer.totalBytes, reason: null };
    else if (answer.kind === "failed") this.#failed(answer.reason);
    // Heeded by whoever owns the group, and this ends with it.
    else if (answer.kind !== "superseded") this.#waits(refusalOf(answer));
  }

  #failed(reason: Reason): void {
    this.#failures += 1;
    this.#waits(reason);
    if (this.#failures < failuresMax) return;
    this.#world.log.warn(
      "HISTORY_NOT_CHECKED",
      `the standby could not read its before-images: ${reason.message}`,
      { reason: reason.code },
    );
    this.#end({ state: "unknown", check: null });
  }

  #waits(reason: Reason): void {
    this.#status = { ...this.#status, reason };
  }

  #end(history: VerifyResult["history"]): void {
    this.#stopped = true;
    this.#world.ended(this.verify, history);
  }
}

function refusalOf(
  answer: Extract<HistoryCheckAnswer, { readonly kind: "refused" | "unknown" | "conflict" }>,
): Reason {
  switch (answer.kind) {
    case "refused":
      return { code: answer.code, message: answer.message };
    case "unknown":
      return { code: "STANDBY_UNKNOWN", message: "the other site does not know this group" };
    case "conflict":
      return { code: "EPOCH_CONFLICT", message: `site ${answer.token.owner} claims this epoch too` };
  }
}
