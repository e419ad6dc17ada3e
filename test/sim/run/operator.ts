/**
 * The people of a run: one who orders a failover and orders it again until it is done, and one who at the end restarts
 * what stopped and accepts a loss that was shown. They know only what the product tells them.
 */
import type { FailoverResult } from "../../../protocol/admin.ts";
import { errorCode } from "../../../runtime/errors.ts";
import { Violation } from "../model/violation.ts";
import type { Scheduler } from "../world/scheduler.ts";
import type { SiteName, Sites } from "./sites.ts";
import type { Truth } from "./truth.ts";

const askAgainMs = 700;
/** Orders refused for a state that nothing in the run mends are given up after so many. */
const refusalsMax = 40;

export class Operator {
  readonly counts = { ordered: 0, done: 0, refused: 0, gaveUp: 0, restarts: 0 };
  /** Groups whose failover was ordered, and what became of it. */
  readonly orders = new Map<string, "under way" | "done" | "given up">();
  readonly #scheduler: Scheduler;
  readonly #sites: Sites;
  readonly #truth: Truth;

  constructor(scheduler: Scheduler, sites: Sites, truth: Truth) {
    this.#scheduler = scheduler;
    this.#sites = sites;
    this.#truth = truth;
  }

  failOver(group: string): void {
    if (this.orders.has(group)) return;
    this.orders.set(group, "under way");
    this.#truth.group(group).failoverOrdered = true;
    this.#order(group, 0);
  }

  #later(group: string, refusals: number): void {
    this.#scheduler.at(askAgainMs, "", () => this.#order(group, refusals));
  }

  #order(group: string, refusals: number): void {
    const { standbySite } = this.#truth.group(group);
    const role = this.#sites.site(standbySite).gateway;
    const standby = role?.groups.get(group);
    if (role === undefined || standby === undefined) {
      this.#later(group, refusals);
      return;
    }
    if (refusals > refusalsMax) {
      this.orders.set(group, "given up");
      this.counts.gaveUp += 1;
      return;
    }
    let lines: ReturnType<typeof standby.runner.run>;
    try {
      lines = standby.runner.run("drill");
    } catch (error) {
      const code = errorCode(error);
      this.counts.refused += 1;
      this.#trace(`failover of ${group} refused: ${code}`);
      if (code === "FAILOVER_DONE") this.#done(group);
      else this.#later(group, code === "FAILOVER_RUNNING" ? refusals : refusals + 1);
      return;
    }
    this.counts.ordered += 1;
    this.#trace(`failover of ${group} ordered`);
    let heard = false;
    const listen = async (): Promise<void> => {
      for await (const line of lines) {
        if (!role.life.alive) return;
        if (line.type === "result") {
          heard = true;
          this.#judge(group, line.result as FailoverResult);
          this.#done(group);
        } else if (line.type === "error") {
          heard = true;
          this.#trace(`failover of ${group} failed: ${line.id}`);
          this.#later(group, refusals + 1);
        }
      }
    };
    listen().catch((error: unknown) => this.#scheduler.fail(error));
    // Whoever loses sight of the gateway looks again.
    const watch = (): void => {
      if (heard) return;
      if (role.life.alive) this.#scheduler.at(askAgainMs, "", watch);
      else this.#order(group, refusals);
    };
    this.#scheduler.at(askAgainMs, "", watch);
  }

  #judge(group: string, result: FailoverResult): void {
    const { standby } = this.#truth.group(group);
    const sealed = result.point.sequence;
    if (standby.sealed !== undefined && standby.sealed !== sealed)
      throw new Violation(
        "I4",
        `the report of ${group} names ${sealed}, the new owner began at ${standby.sealed}`,
      );
    const { wall } = this.#sites.site(this.#truth.group(group).standbySite);
    this.#truth.judgeLoss(group, result.loss, sealed, wall);
    const { books, volumes, standbySite } = this.#truth.group(group);
    const { history } = this.#truth.homeBook(group);
    const served = books
      .get(standbySite)
      ?.history.volumes()
      .map(({ volume }) => volume);
    if (served !== undefined)
      volumes.judgeNamed(`the report of ${group}`, result.leftOut, history.volumes(sealed), served);
  }

  #done(group: string): void {
    this.orders.set(group, "done");
    this.counts.done += 1;
  }

  /** Restarts roles with a group that says it is stopped; true when there was one. */
  restartStopped(): boolean {
    let any = false;
    for (const name of ["a", "b"] as SiteName[]) {
      const site = this.#sites.site(name);
      for (const role of ["agent", "gateway"] as const) {
        const running = site[role];
        if (running === undefined) continue;
        const stopped = [...running.groups.values()].some((group) => {
          const status = group.status();
          return status.state === "stopped" && !harmless.has(status.reason?.code ?? "");
        });
        if (!stopped) continue;
        any = true;
        this.counts.restarts += 1;
        this.#trace(`operator restarts ${running.life.name}`);
        this.#sites.kill(name, role);
        this.#scheduler.at(10, "", () => this.#sites.start(name, role));
      }
    }
    return any;
  }

  acceptLosses(): void {
    for (const name of ["a", "b"] as SiteName[]) {
      for (const [group, owned] of this.#sites.site(name).agent?.groups ?? []) {
        if (!owned.unflushedMayBeLost || owned.servedVolumes.length === 0) continue;
        this.#trace(`operator accepts the loss of ${group} at ${name}`);
        const book = this.#truth.group(group).books.get(name);
        if (book !== undefined) book.lostAnswered = false;
        // His word ends a pause as well.
        this.#truth.group(group).life.ordered();
        owned.resume(true).catch(() => undefined);
      }
    }
  }

  #trace(text: string): void {
    this.#scheduler.trace.add(`${Math.round(this.#scheduler.nowMs * 1_000)} == ${text}`);
  }
}

/** States that are called stopped and pass, or are right. */
const harmless = new Set(["STARTING", "STANDING_BY", "CLOSED", "WAITING_FOR_PEER", "FAILOVER_RUNNING"]);
