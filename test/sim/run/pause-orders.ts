/**
 * The operator of a run who pauses a group's replication and lets it go on: gives an order again until it is taken or refused, as
 * people do whose command broke off. What a pause must mean is `model/life.ts`'s.
 */
import { errorCode } from "../../../runtime/errors.ts";
import type { OwnedGroup } from "../../../site-agent/group/owned-group.ts";
import type { Scheduler } from "../world/scheduler.ts";
import type { PauseOrder } from "./life-plan.ts";
import type { AgentRole, Sites } from "./sites.ts";
import type { Truth } from "./truth.ts";

/** Who gets no answer orders again after this, ms. */
const askAgainMs = 600;
/** An order to pause that nobody takes is given up after so many. */
const asksMax = 10;
const note = { by: "drill", reason: "the line is needed" };

/** The owner at home as it lives now. */
interface Incarnation {
  readonly agent: AgentRole;
  readonly owned: OwnedGroup;
}

export class PauseOrders {
  readonly counts = { pauses: 0, resumed: 0 };
  readonly #scheduler: Scheduler;
  readonly #sites: Sites;
  readonly #truth: Truth;
  readonly #paused = new Set<string>();
  /** The newest order of each group: what an older one comes to is known by then to mean nothing. */
  readonly #newest = new Map<string, number>();
  #healed = false;

  constructor(scheduler: Scheduler, sites: Sites, truth: Truth) {
    this.#scheduler = scheduler;
    this.#sites = sites;
    this.#truth = truth;
  }

  schedule(pauses: readonly PauseOrder[]): void {
    for (const group of this.#truth.groups.keys())
      for (const { atMs, forMs } of pauses) {
        this.#scheduler.at(atMs, "", () => this.#pause(group, 0));
        if (forMs !== undefined) this.#scheduler.at(atMs + forMs, "", () => this.#resume(group));
      }
  }

  /** Nothing stays paused. */
  heal(): void {
    this.#healed = true;
    for (const group of this.#truth.groups.keys()) this.#resume(group);
  }

  #owned(group: string): Incarnation | undefined {
    const { home } = this.#truth.group(group);
    const { agent } = this.#sites.site(home);
    const owned = agent?.groups.get(group);
    return agent === undefined || agent.closing || owned === undefined ? undefined : { agent, owned };
  }

  #pause(group: string, asks: number): void {
    if (this.#healed || asks > asksMax) return;
    const again = (): void => {
      this.#scheduler.at(askAgainMs, "", () => this.#pause(group, asks + 1));
    };
    const found = this.#owned(group);
    if (found === undefined) {
      again();
      return;
    }
    const { life } = this.#truth.group(group);
    const isNew = !life.stands;
    this.#paused.add(group);
    this.#trace(`pause of ${group} ordered`);
    this.#reach(
      found,
      () =>
        this.#give(group, found, life.stands ? undefined : () => life.ordered(), {
          order: () => found.owned.pause(note),
          taken: () => {
            if (isNew) this.counts.pauses += 1;
            life.paused(this.#scheduler.nowMs);
            this.#trace(`${group} is paused`);
          },
          refused: (code) => {
            this.#trace(`pause of ${group} refused: ${code}`);
            if (code === "NOT_SERVING") again();
          },
          silent: again,
        }),
      again,
    );
  }

  #resume(group: string): void {
    if (!this.#paused.has(group)) return;
    const again = (): void => {
      this.#scheduler.at(askAgainMs, "", () => this.#resume(group));
    };
    const found = this.#owned(group);
    if (found === undefined) {
      again();
      return;
    }
    const { life } = this.#truth.group(group);
    this.#trace(`resume of ${group} ordered`);
    this.#reach(
      found,
      () =>
        this.#give(group, found, () => life.ordered(), {
          order: () => found.owned.resume(false),
          taken: () => {
            this.#paused.delete(group);
            life.resumed();
            this.counts.resumed += 1;
            this.#trace(`${group} goes on`);
          },
          refused: (code) => {
            this.#trace(`resume of ${group} refused: ${code}`);
            // Nothing stands, or nobody ships here any more.
            if (["SUPERSEDED", "UNFLUSHED_MAY_BE_LOST", "GROUP_RETIRED"].includes(code)) {
              this.#paused.delete(group);
              life.resumed();
            } else again();
          },
          silent: again,
        }),
      again,
    );
  }

  /** An order reaches its process in a turn of its own, or `lost` is called: it died before. */
  #reach({ agent }: Incarnation, give: () => void, lost: () => void): void {
    let isThere = false;
    const arrive = (): void => {
      isThere = true;
      give();
    };
    this.#scheduler.at(0.1, "", arrive, agent.life);
    const watch = (): void => {
      if (isThere) return;
      if (agent.life.alive) this.#scheduler.at(askAgainMs, "", watch);
      else lost();
    };
    this.#scheduler.at(askAgainMs, "", watch);
  }

  /** One order to one incarnation: whoever dies with it answers nobody. */
  #give(
    group: string,
    { agent }: Incarnation,
    begun: (() => void) | undefined,
    call: {
      readonly order: () => Promise<void>;
      readonly taken: () => void;
      readonly refused: (code: string) => void;
      readonly silent: () => void;
    },
  ): void {
    let heard = false;
    const ticket = (this.#newest.get(group) ?? 0) + 1;
    this.#newest.set(group, ticket);
    begun?.();
    const hear = (what: () => void): void => {
      if (!agent.life.alive) return;
      heard = true;
      if (this.#newest.get(group) !== ticket) return;
      try {
        what();
      } catch (error) {
        this.#scheduler.fail(error);
      }
    };
    call.order().then(
      () => hear(call.taken),
      (error: unknown) => hear(() => call.refused(errorCode(error))),
    );
    const watch = (): void => {
      if (heard) return;
      if (agent.life.alive) this.#scheduler.at(askAgainMs, "", watch);
      else if (this.#newest.get(group) === ticket) call.silent();
    };
    this.#scheduler.at(askAgainMs, "", watch);
  }

  #trace(text: string): void {
    this.#scheduler.trace.add(`${Math.round(this.#scheduler.nowMs * 1_000)} == ${text}`);
  }
}
