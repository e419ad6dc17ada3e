/**
 * Carries out an operator's order to end a standby's life (docs/group-life.md): what the checks in `retire.ts` allow, in the
 * order in which it survives a crash. Must never let a failover begin between its last look and the document.
 */

import { standingOrder } from "../protocol/group-life.ts";
import { bytesFromHex } from "../protocol/ids.ts";
import type { RetiredStatus, RetirePlan, RetireRequest } from "../protocol/retirement.ts";
import type { Clock } from "../runtime/clock.ts";
import { errorText } from "../runtime/errors.ts";
import type { Log } from "../runtime/log.ts";
import type { GatewayGroupPaths } from "../runtime/paths.ts";
import { requireRetirable } from "../runtime/require-retirable.ts";
import type { KeptDocument } from "./kept-document.ts";
import type { Opening } from "./opening.ts";
import { retireAdvice, retiredRefusal, retiredStatus } from "./retire.ts";
import { notConsistent, sealedEnd } from "./seal.ts";

export interface RetirementWorld {
  readonly paths: GatewayGroupPaths;
  readonly clock: Clock;
  readonly log: Log;
  readonly kept: KeptDocument;
  readonly opening: Opening;
  /** As it is now. */
  readonly plan: () => RetirePlan;
}

export class Retirement {
  readonly #world: RetirementWorld;
  #isSealing = false;

  constructor(world: RetirementWorld) {
    this.#world = world;
  }

  /** It was retired, or an order to retire it is between its checks and the document. */
  get hasBegun(): boolean {
    return this.#isSealing || this.#world.kept.now?.retired != null;
  }

  /** Null: its life goes on. */
  get status(): RetiredStatus | null {
    return retiredStatus(this.#world.kept.now, this.#world.paths);
  }

  /**
   * Settles when the images are where they end; what is retired already is brought there. OperationalErrors (`refuse`) of the
   * checks; those of the intake and of apply.
   */
  async retire(order: RetireRequest): Promise<RetiredStatus> {
    const { kept, opening } = this.#world;
    if (kept.now?.retired == null) await opening.exclusive(() => this.#sealForEver(order));
    const { seal } = kept.now?.retired ?? {};
    const chain = seal === undefined ? undefined : bytesFromHex(seal.chain);
    const { status } = this;
    if (seal === undefined || chain === undefined || status === null)
      throw new TypeError("retired at a seal");
    const { sequence } = seal;
    await (await opening.required()).applier.bringTo({ sequence, chain });
    return status;
  }

  async #sealForEver({ by, reason, force }: RetireRequest): Promise<void> {
    const { kept, opening, clock, log, plan } = this.#world;
    const open = opening.now;
    requireRetirable(plan(), force, retireAdvice);
    if (open === undefined) throw new TypeError("checked as open");
    // Between this look and the document no failover begins.
    this.#isSealing = true;
    try {
      const { code, message } = retiredRefusal;
      open.receiver.halt({ code, message, passing: true });
      await open.receiver.appendEnded();
      await open.intake.sync();
      // The last batch may have brought the begin of a scan, or a gap.
      requireRetirable(plan(), force, retireAdvice);
      const { seal } = await sealedEnd(open);
      if (seal === null) throw notConsistent(opening.incompleteAtEnd);
      const { loss } = plan();
      // Survives a crash from here on: nothing is taken from anybody, and the images end exactly there.
      await kept.change((now) => {
        const order = standingOrder({ by, reason }, clock.wallMs());
        return { ...now, retired: { ...order, seal, loss } };
      });
      log.warn("STANDBY_RETIRED", "the standby takes nothing any more; nothing is deleted", { by, reason });
    } catch (error) {
      // What was halted takes no batch any more: opened anew, the standby goes on as if nothing had been ordered.
      await opening.close("abandon", { code: "RETIRE_FAILED", message: errorText(error) });
      await opening.open();
      throw error;
    } finally {
      this.#isSealing = false;
    }
  }
}
