/**
 * What an owner knows of its standby, across engines: how far that holds the order, what would be lost without this site now,
 * and for how long nothing has moved. Decides nothing. It never says that the standby has what it may lack: what was dropped
 * before it had it counts as missing until a resync has mended that.
 */
import type { Frame } from "../../protocol/frame.ts";
import type { Sequence } from "../../protocol/ids.ts";
import type { OwnerStatus } from "../../protocol/status.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { OverflowNote } from "../overflow/notes.ts";
import type { Overflow } from "../overflow/overflow.ts";
import { clientsPart, type Lag, type LagTrail, Stall } from "../write-path/lag.ts";
import { AcknowledgedWait } from "./acknowledged-wait.ts";

export class StandbyView {
  readonly #clock: Clock;
  readonly #wait: AcknowledgedWait;
  readonly #stall = new Stall();
  #acknowledged: Sequence = 0;
  #applied: Sequence = 0;
  /** Of the journal that is open, or was. */
  #overflow: Pick<Overflow, "note" | "map"> | null = null;
  #trail: LagTrail | null = null;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#wait = new AcknowledgedWait(clock);
  }

  /** It is durable there up to here. */
  get acknowledged(): Sequence {
    return this.#acknowledged;
  }

  get applied(): Sequence {
    return this.#applied;
  }

  /** What was dropped before it had it; null: nothing that a resync has not mended. */
  get note(): OverflowNote | null {
    return this.#overflow?.note ?? null;
  }

  /** What would be left now: as long as the standby lacks what was dropped, it would open a point from before that. */
  get safe(): Sequence {
    const since = this.note?.since.sequence;
    return since === undefined ? this.#acknowledged : Math.min(since, this.#acknowledged);
  }

  /** Undefined: no journal was opened yet. */
  get lag(): Lag | undefined {
    const { safe } = this;
    this.#trail?.acknowledged(safe);
    return this.#trail?.lag(safe);
  }

  /** The newest position of a client's that is answered, for the other site. */
  get answeredPosition(): LagTrail["newest"] {
    if (this.#trail === null) throw new TypeError("nothing is shipped before a journal is open");
    return this.#trail.newest;
  }

  /** Ms; worth saying only while something waits. */
  get noProgressMs(): number {
    return this.#stall.ms(this.#clock.monotonicMs());
  }

  get overflowStatus(): OwnerStatus["overflow"] {
    const overflow = this.#overflow;
    const note = overflow?.note ?? null;
    if (overflow === null || note === null) return null;
    const { through, declared, since } = note;
    const told = declared && this.#acknowledged >= through;
    return {
      state: told ? "resync" : "dropping",
      since: since.sequence,
      through,
      dirtyChunks: overflow.map.count,
    };
  }

  /** A journal begins behind `floor`: what is before that was acknowledged in an earlier life. */
  journalBegins(floor: Sequence): void {
    this.#acknowledged = Math.max(this.#acknowledged, floor);
  }

  /** A journal is open. `trail`: what of it the standby lacks. */
  opened(overflow: Pick<Overflow, "note" | "map">, trail: LagTrail): void {
    this.#overflow = overflow;
    trail.acknowledged(this.safe);
    this.#trail = trail;
    this.met();
  }

  /** The standby was met: from now on it is waited for. */
  met(): void {
    this.#stall.moved(this.#clock.monotonicMs());
  }

  /** A frame's writes were answered. */
  answered(frame: Frame): void {
    const part = clientsPart(frame);
    if (part !== undefined) this.#trail?.answered(part);
    this.#stall.answered(frame.first, this.#acknowledged, this.#clock.monotonicMs());
  }

  /** True where the standby has become durable further than it was. */
  advanced(durable: Sequence): boolean {
    if (durable <= this.#acknowledged) return false;
    this.#acknowledged = durable;
    this.met();
    this.#trail?.acknowledged(this.safe);
    return true;
  }

  /** How far it has applied, after `advanced`: whoever waits looks again. */
  appliedThrough(applied: Sequence): void {
    this.#applied = applied;
    this.#wait.moved();
  }

  /** Settles true as soon as `isThere`, looked at whenever the standby moves, and false when it is not within `patienceMs`. */
  until(isThere: () => boolean, patienceMs: number): Promise<boolean> {
    return this.#wait.until(isThere, patienceMs);
  }
}
