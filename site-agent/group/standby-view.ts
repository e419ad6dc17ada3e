/**
 * What an owner knows of its standby, across engines: how far that holds the order, what would be lost without this site now,
 * and for how long nothing has moved. Decides nothing. It never says that the standby has what it may lack: what was dropped
 * before it had it counts as missing until a resync has mended that, and everything does once its site has nothing of it.
 */
import type { Frame } from "../../protocol/frame.ts";
import type { Sequence } from "../../protocol/ids.ts";
import type { OwnerStatus } from "../../protocol/status.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { OverflowNote } from "../overflow/notes.ts";
import type { Overflow } from "../overflow/overflow.ts";
import { clientsPart, type Lag, type LagTrail, Stall } from "../write-path/lag.ts";
import { AcknowledgedWait } from "./acknowledged-wait.ts";
import type { Holding } from "./standby-holding.ts";
import { heldAt, holdingAfter, nothingHeard, safeAt } from "./standby-holding.ts";

export class StandbyView {
  readonly #clock: Clock;
  readonly #wait: AcknowledgedWait;
  readonly #stall = new Stall();
  #holding: Holding = nothingHeard;
  /** Of the journal that is open, or was. */
  #overflow: Pick<Overflow, "note" | "map"> | null = null;
  #trail: LagTrail | null = null;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#wait = new AcknowledgedWait(clock);
  }

  /** It was durable there up to here: what the journal is trimmed by, and nothing to tell anybody. */
  get acknowledged(): Sequence {
    return this.#holding.acknowledged;
  }

  /** It is durable there up to here, as far as this site knows: 0 from when it was told that nothing is. */
  get held(): Sequence {
    return heldAt(this.#holding);
  }

  get applied(): Sequence {
    return this.#holding.applied;
  }

  /** What was dropped before it had it; null: nothing that a resync has not mended. */
  get note(): OverflowNote | null {
    return this.#overflow?.note ?? null;
  }

  /** What would be left now. */
  get safe(): Sequence {
    return safeAt(this.#holding, this.note?.since.sequence ?? null);
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
    const told = declared && this.acknowledged >= through;
    return {
      state: told ? "resync" : "dropping",
      since: since.sequence,
      through,
      dirtyChunks: overflow.map.count,
    };
  }

  /** A journal begins behind `floor`: what is before that was acknowledged in an earlier life. */
  journalBegins(floor: Sequence): void {
    this.#holding = holdingAfter(this.#holding, { kind: "journalBegan", floor });
  }

  /** A journal is open. `trail`: what of it the standby lacks. */
  opened(overflow: Pick<Overflow, "note" | "map">, trail: LagTrail): void {
    this.#overflow = overflow;
    if (this.#holding.isLost) trail.nothingHeld();
    trail.acknowledged(this.safe);
    this.#trail = trail;
    this.#moved();
  }

  /** Its site knows nothing of the standby: what it ever acknowledged is not there. */
  lost(): void {
    this.#holding = holdingAfter(this.#holding, { kind: "lost" });
    this.#trail?.nothingHeld();
  }

  /** The standby was met, and holds the order up to `held`: from now on it is waited for. */
  met(held: Sequence): void {
    this.#holding = holdingAfter(this.#holding, { kind: "attached", held });
    this.#moved();
  }

  /** A frame's writes were answered. */
  answered(frame: Frame): void {
    const part = clientsPart(frame);
    if (part !== undefined) this.#trail?.answered(part);
    this.#stall.answered(frame.first, this.held, this.#clock.monotonicMs());
  }

  /** True where the standby has become durable further than it was. */
  advanced(durable: Sequence): boolean {
    const before = this.held;
    this.#holding = holdingAfter(this.#holding, { kind: "acknowledged", durable });
    if (this.held <= before) return false;
    this.#moved();
    this.#trail?.acknowledged(this.safe);
    return true;
  }

  /** How far it has applied, after `advanced`: whoever waits looks again. */
  appliedThrough(applied: Sequence): void {
    this.#holding = holdingAfter(this.#holding, { kind: "applied", applied });
    this.#wait.moved();
  }

  /** Settles true as soon as `isThere`, looked at whenever the standby moves, and false when it is not within `patienceMs`. */
  until(isThere: () => boolean, patienceMs: number): Promise<boolean> {
    return this.#wait.until(isThere, patienceMs);
  }

  #moved(): void {
    this.#stall.moved(this.#clock.monotonicMs());
  }
}
