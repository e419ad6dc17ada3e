/**
 * Orders a group's consistency check at the times of its cron expression, in UTC. A time that passed while nobody could
 * check (the agent was down, the group not served here, the standby away) is caught up once, some minutes later. It
 * decides only when; what a check is and whether one may begin is the group's business, and it never orders two at once.
 */
import type { Clock, Timer } from "../../runtime/clock.ts";
import type { Cron, CronTask } from "../../runtime/cron.ts";
import { errorCode, errorText } from "../../runtime/errors.ts";
import type { Log } from "../../runtime/log.ts";
import type { Random } from "../../runtime/random.ts";

/** A check that was missed waits between half of this and all of it, ms: agents that start together do not check together. */
const catchUpMsMax = 10 * 60_000;
/** Whether a missed one can be caught up is looked at this often, ms. */
const lookMs = 60_000;

export interface VerifyTarget {
  readonly group: string;
  /** When the last check that came to its end was begun, wall clock ms; null: never, as far as is known. */
  readonly lastBegunMs: () => number | null;
  /** True while a check could be ordered now: the group is served here, attached, and no scan runs. */
  readonly canVerify: () => boolean;
  /** Begins a check; its end is not waited for. OperationalErrors when it cannot. */
  readonly verify: () => Promise<void>;
}

export interface VerifyScheduleWorld {
  readonly cron: Cron;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

/**
 * The missed time of an expression whose newest time is `newest`; undefined when none is to be caught up. `knownMs`:
 * since when times count: those before the schedule first ran are nobody's fault. Pure.
 */
export function missedSince(
  newest: Date | undefined,
  lastBegunMs: number | null,
  knownMs: number,
): Date | undefined {
  if (newest === undefined || newest.getTime() <= (lastBegunMs ?? knownMs)) return undefined;
  return newest;
}

export class VerifySchedule {
  readonly #expression: string;
  readonly #target: VerifyTarget;
  readonly #world: VerifyScheduleWorld;
  readonly #startedMs: number;
  #task: CronTask | undefined;
  #look: Timer | undefined;
  #catchUpAtMs: number | undefined;
  #stopped = false;

  constructor(expression: string, target: VerifyTarget, world: VerifyScheduleWorld) {
    this.#expression = expression;
    this.#target = target;
    this.#world = world;
    this.#startedMs = world.clock.wallMs();
  }

  start(): void {
    const { cron } = this.#world;
    this.#task = cron.schedule(this.#expression, { timezone: "UTC" }, () => this.#run("scheduled"));
    this.#lookAgain();
  }

  stop(): void {
    this.#stopped = true;
    this.#task?.stop();
    this.#look?.cancel();
  }

  #lookAgain(): void {
    if (this.#stopped) return;
    this.#look = this.#world.clock.after(lookMs, () => {
      void this.#catchUp().finally(() => this.#lookAgain());
    });
  }

  async #catchUp(): Promise<void> {
    const { clock, cron, random, log } = this.#world;
    const newest = cron.mostRecent(this.#expression, new Date(clock.wallMs()));
    const missed = missedSince(newest, this.#target.lastBegunMs(), this.#startedMs);
    if (missed === undefined || !this.#target.canVerify()) {
      this.#catchUpAtMs = undefined;
      return;
    }
    const nowMs = clock.monotonicMs();
    if (this.#catchUpAtMs === undefined) {
      this.#catchUpAtMs = nowMs + catchUpMsMax * (0.5 + random.fraction() / 2);
      log.info("VERIFY_MISSED", "a consistency check was missed and will be caught up", {
        group: this.#target.group,
        was: missed.toISOString(),
      });
    }
    if (nowMs < this.#catchUpAtMs) return;
    this.#catchUpAtMs = undefined;
    await this.#run("caught up");
  }

  async #run(why: string): Promise<void> {
    const { log } = this.#world;
    const { group } = this.#target;
    if (!this.#target.canVerify()) {
      log.info("VERIFY_LEFT_OUT", "a consistency check is due, but none can begin now", { group });
      return;
    }
    try {
      await this.#target.verify();
      log.info("VERIFY_ORDERED", "a consistency check was ordered by its schedule", { group, why });
    } catch (error) {
      log.warn("VERIFY_NOT_BEGUN", `a scheduled check did not begin: ${errorText(error)}`, {
        group,
        reason: errorCode(error),
      });
    }
  }
}
