/**
 * What an owner goes by whose standby has lost everything, as long as it cannot know that: what the standby held until then.
 * It ends when the standby's site has told it that the history is unknown there; and however little it is told, it says
 * *protected* no longer than any state may be wrong, and not at all once it was started anew (I11). Imports nothing of the
 * product.
 */
import type { History } from "./history.ts";
import { honestyMs } from "./honesty.ts";
import type { Received } from "./received.ts";
import { require } from "./violation.ts";

export class Believed {
  readonly #received: Received;
  readonly #durable: number;
  readonly #since: number;
  readonly #lostAtMs: number;
  readonly #wasMet: boolean;

  /**
   * `received`, `durable` and `since` as they were when everything was lost; `since`: see `Received`. `wasMet`: the owner's
   * process has met it.
   */
  constructor(received: Received, durable: number, since: number, lostAtMs: number, wasMet = true) {
    this.#received = received;
    this.#durable = durable;
    this.#since = since;
    this.#lostAtMs = lostAtMs;
    this.#wasMet = wasMet;
  }

  /** An owner's next process knows what its journal says, of a standby that it has not met. */
  afterStart(): Believed {
    return new Believed(this.#received, this.#durable, this.#since, this.#lostAtMs, false);
  }

  /** What a failover would have opened; the newest position called durable while a first sync was not over. */
  openPoint(history: History): number {
    return this.#received.openPoint(history, this.#durable, this.#since) ?? this.#durable;
  }

  /** `shownMs`: how long the owner has said "protected" without a break. */
  judge(name: string, state: string, history: History, nowMs: number, shownMs: number): void {
    if (state !== "protected") return;
    require("I11", this.#wasMet, () => `${name} says protected; it has not met a standby since its start`);
    require("I11", this.#received.isWhole(history, this.#durable, this.#since), () =>
      `${name} says protected; the first sync of the standby that was lost was not over`);
    const lostMs = nowMs - this.#lostAtMs;
    require("I11", Math.min(lostMs, shownMs) <= honestyMs, () =>
      `${name} has said protected for ${Math.round(shownMs)} ms; the standby lost everything ${Math.round(lostMs)} ms ago`);
  }
}
