/**
 * What is known of the owner: when it was last heard, what it had answered by then, and whether the standby keeps up
 * with that. Loss is stated from this, so it never reports more than was really received.
 */
import type { Heartbeat } from "../protocol/control.ts";
import type { StandingOrder } from "../protocol/group-life.ts";
import type { Sequence } from "../protocol/ids.ts";
import type { Clock } from "../runtime/clock.ts";
import type { HeardRecord } from "./state.ts";

/** The owner counts as silent after this, ms: noticed within 10 s (promise 8). */
export const ownerSilentMs = 10_000;
/** What the owner had answered this long ago is still not applied: the standby is catching up, ms. */
const behindMs = 10_000;
/** One a heartbeat, which comes every second: three times as many as fall into the time that counts as behind. */
const marksMax = 32;
/** A heartbeat is written to disk at most this often, ms; after a restart the loss statement says since then. */
export const heardPersistMs = 5_000;

export class Heard {
  readonly #clock: Clock;
  #record: HeardRecord | null;
  /** Monotonic; undefined: not heard by this process. */
  #heardMs: number | undefined;
  /** Answered positions and since when they are known, oldest first; each goes once it is applied. */
  #marks: { answered: Sequence; readonly sinceMs: number }[] = [];
  /**
   * The most that the owner called answered, in this stretch of `behindMs` and the one before: after a loss of power it
   * may have answered less than it once said, and what nobody has any more is not on its way.
   */
  #said = { sinceMs: Number.NEGATIVE_INFINITY, most: 0, mostBefore: 0 };
  #persistedMs = Number.NEGATIVE_INFINITY;
  #paused: StandingOrder | null = null;

  constructor(clock: Clock, persisted: HeardRecord | null) {
    this.#clock = clock;
    this.#record = persisted;
  }

  /** null: never heard. After a restart it is what was persisted, up to `heardPersistMs` older than the truth. */
  get record(): HeardRecord | null {
    return this.#record;
  }

  /** What it last said of an order to ship nothing; null: none stands, or nothing was heard by this process. */
  get paused(): StandingOrder | null {
    return this.#paused;
  }

  /** Takes in a heartbeat; one that was overtaken on the line never takes a position back. */
  take(heartbeat: Heartbeat, applied: Sequence): void {
    const nowMs = this.#clock.monotonicMs();
    this.#heardMs = nowMs;
    this.#record = {
      atMs: this.#clock.wallMs(),
      answered: Math.max(heartbeat.answered, this.#record?.answered ?? 0),
      dataBytesTotal: Math.max(heartbeat.dataBytesTotal, this.#record?.dataBytesTotal ?? 0),
    };
    this.#paused = heartbeat.paused ?? null;
    this.#noteSaid(heartbeat.answered, nowMs);
    this.#marks = this.#marks.filter((mark) => mark.answered > applied);
    const { answered } = heartbeat;
    const newest = this.#marks.at(-1);
    if (answered <= (newest?.answered ?? applied)) return;
    // Without room the newest one stands for more than it was told of: its age is then too high, never too low.
    if (newest !== undefined && this.#marks.length >= marksMax) newest.answered = answered;
    else this.#marks.push({ answered, sinceMs: nowMs });
  }

  #noteSaid(answered: Sequence, nowMs: number): void {
    const { sinceMs, most } = this.#said;
    if (nowMs - sinceMs > behindMs) this.#said = { sinceMs: nowMs, most: answered, mostBefore: most };
    else if (answered > most) this.#said = { ...this.#said, most: answered };
  }

  /** True at most every `heardPersistMs`: the record should be written now. */
  dueToPersist(): boolean {
    const nowMs = this.#clock.monotonicMs();
    if (nowMs - this.#persistedMs < heardPersistMs) return false;
    this.#persistedMs = nowMs;
    return true;
  }

  /** null: not heard since this process started. */
  silenceMs(): number | null {
    return this.#heardMs === undefined ? null : this.#clock.monotonicMs() - this.#heardMs;
  }

  /** The owner had answered something long ago that is not applied yet. */
  isBehind(applied: Sequence): boolean {
    const said = Math.max(this.#said.most, this.#said.mostBefore);
    const oldest = this.#marks.find((mark) => Math.min(mark.answered, said) > applied);
    return oldest !== undefined && this.#clock.monotonicMs() - oldest.sinceMs > behindMs;
  }
}
