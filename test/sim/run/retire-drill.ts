/**
 * The end of a group's life, behind everything else of a run: an operator retires owner and standby, in either order, also where
 * that must be refused, and while a crash strikes; clients write as long as they are served. Afterwards nothing is served, fed or
 * handed over, nothing is deleted, and the disks hold exactly what docs/group-life.md says.
 */
import type { RetireRequest } from "../../../protocol/retirement.ts";
import { errorCode } from "../../../runtime/errors.ts";
import { agentGroupPaths, gatewayGroupPaths } from "../../../runtime/paths.ts";
import { requireExact } from "../model/content.ts";
import { require, Violation } from "../model/violation.ts";
import type { RetireCrash, RetirePlan } from "./life-plan.ts";
import type { RoleName, SiteName } from "./sites.ts";
import { otherSite, siteNames } from "./sites.ts";
import type { Pair } from "./verdict.ts";
import type { Workload } from "./workload.ts";

/** An order has its answer within this, ms: it waits at most 3 s and 10 s for the standby. */
const answerMsMax = 40_000;
/** A site that was struck is back after this, and its group has said what it is within the other, ms. */
const restartMs = 20;
const settledMsMax = 60_000;
const ordersMax = 12;
/** After an order that was refused, ms. */
const orderAgainMs = 700;
const note = { by: "drill", reason: "the machine goes" };

/** Codes with which an order may be refused that has to be given again. */
const passing = new Set([
  "NOT_ACKNOWLEDGED",
  "NOT_SERVING",
  "NOT_APPLIED",
  "NOT_CONSISTENT",
  "STANDBY_UNKNOWN",
]);

export interface RetireGround extends Pair {
  readonly workload: Workload;
}

export class RetireDrill {
  readonly counts = { retired: 0, refused: 0, crashes: 0 };
  readonly #ground: RetireGround;
  readonly #plan: RetirePlan;

  constructor(ground: RetireGround, plan: RetirePlan) {
    this.#ground = ground;
    this.#plan = plan;
  }

  async run(): Promise<void> {
    const { truth, workload } = this.#ground;
    for (const [name, group] of truth.groups) {
      // What decayed may be found at any start to come, and then stops the group with a code.
      if (this.#ground.decayed?.has(name) === true) continue;
      const { home, standbySite, standby } = group;
      const isHandedOver = standby.sealed !== undefined;
      const owner = isHandedOver ? standbySite : home;
      await this.#refuseElsewhere(name, otherSite(owner), isHandedOver);
      if (this.#plan.early && !isHandedOver) await this.#refuseEarly(name, owner);
      const steps = [() => this.#retireOwner(name, owner, isHandedOver)];
      if (!isHandedOver) {
        const end = () => this.#retireStandby(name, standbySite);
        if (this.#plan.first === "owner") steps.push(end);
        else steps.unshift(end);
      }
      for (const step of steps) {
        workload.revive(30);
        await step();
      }
      workload.revive(0);
    }
  }

  /** Who does not own the group retires nothing. */
  async #refuseElsewhere(name: string, site: SiteName, isHandedOver: boolean): Promise<void> {
    const code = await this.#order(site, "agent", name, { ...note, force: true });
    const expected = isHandedOver ? "SUPERSEDED" : "NOT_OWNER";
    require("I6", code === expected, () =>
      `${name} at ${site}, which does not own it, answers an order to retire with ${code}`);
    if (!isHandedOver) return;
    const { truth, sites } = this.#ground;
    const { standbySite } = truth.group(name);
    const standby = await this.#order(standbySite, "gateway", name, { ...note, force: true });
    // One whose disk did not let it read what it is cannot know, and says just that.
    const cannotKnow = sites.site(standbySite).diskTroubled && standby === "DOCUMENT_UNREADABLE";
    require("I6", standby === "HANDED_OVER" || cannotKnow, () =>
      `${name} was handed over, and its standby answers an order to retire with ${standby}`);
  }

  /** Cut off from its standby an owner with something to lose is retired only by force (L3), and serves on. */
  async #refuseEarly(name: string, owner: SiteName): Promise<void> {
    const { sites, scheduler, truth, workload } = this.#ground;
    for (const each of siteNames) sites.wan.pass(each, "refuse");
    const book = truth.homeBook(name);
    const { answeredMax } = book;
    workload.revive(10);
    await scheduler.run({ untilMs: scheduler.nowMs + 2_000, stop: () => book.answeredMax > answeredMax });
    if (book.history.opsBetween(truth.group(name).standby.durableMax, book.answeredMax).length > 0) {
      const code = await this.#order(owner, "agent", name, { ...note, force: false });
      require("I4", code === "NOT_ACKNOWLEDGED" || code === undefined, () =>
        `${name}, whose standby lacks answered writes, answers an order to retire with ${code}`);
      // What was on its way when the line was cut may have been all.
      if (code !== undefined) {
        this.counts.refused += 1;
        require("I8", sites.served(owner, name).length > 0, () =>
          `${name} is not served after an order that was refused`);
      }
    }
    for (const each of siteNames) sites.wan.pass(each, "open");
    await this.#until(
      `${name} to be acknowledged`,
      () => truth.group(name).standby.durableMax >= book.history.newestOp(book.answeredMax),
    );
  }

  async #retireOwner(name: string, site: SiteName, isHandedOver: boolean): Promise<void> {
    const { sites, truth } = this.#ground;
    const group = truth.group(name);
    const book = group.books.get(site)!;
    const kept = this.#imagesOf(site, "agent", name);
    // Without a standby that would take it, an owner goes by force alone where it has something to lose.
    const force = this.#plan.force || group.life.hasEnded(group.standbySite);
    await this.#retire(site, "agent", name, force, this.#plan.owner);
    const written = sites.ownerStatus(site, name)!.position.written;
    if (book.awaitsReturn) book.returned(written);
    group.life.ended(site);
    require("I1", written >= book.answeredMax && written <= book.history.last, () =>
      `${book.name} was retired at ${written}; ${book.answeredMax} were answered, ${book.history.last} journalled`);
    require("I4", force || isHandedOver || group.standby.durableMax >= book.history.newestOp(written), () =>
      `${book.name} was retired at ${written} without force; its standby has ${group.standby.durableMax}`);
    this.#compare(`${book.name}, retired`, name, site, "agent", written, isHandedOver);
    await this.#mustStay(site, "agent", name, kept);
    require("I6", sites.served(site, name).length === 0, () =>
      `${name} is served at ${site}, where it was retired`);
    this.#compare(`${book.name}, retired and started anew`, name, site, "agent", written, isHandedOver);
  }

  async #retireStandby(name: string, site: SiteName): Promise<void> {
    const { sites, truth } = this.#ground;
    const { standby } = truth.group(name);
    const kept = this.#imagesOf(site, "gateway", name);
    await this.#retire(site, "gateway", name, this.#plan.force, this.#plan.standby);
    truth.group(name).life.ended(site);
    const { sequence } = sites.standbyStatus(site, name)!.retired!;
    require("I4", sequence >= standby.durableMax, () =>
      `${standby.name} was retired at ${sequence}; it had called ${standby.durableMax} durable`);
    truth.compareStandby(name, sequence, sites.site(site), false);
    await this.#mustStay(site, "gateway", name, kept);
    let code: string | undefined;
    try {
      sites.site(site).gateway!.groups.get(name)!.runner.run("drill");
    } catch (error) {
      code = errorCode(error);
    }
    require("I6", code === "GROUP_RETIRED", () =>
      `${standby.name} was retired, and answers a failover with ${code}`);
    sites.wan.replayStored(4);
    await this.#ground.scheduler.run({ untilMs: this.#ground.scheduler.nowMs + 1_500 });
    truth.compareStandby(name, sequence, sites.site(site), false);
  }

  /** Gives the order until it is done, with one crash on the way. */
  async #retire(
    site: SiteName,
    role: RoleName,
    name: string,
    force: boolean,
    crash: RetireCrash | undefined,
  ): Promise<void> {
    const { sites } = this.#ground;
    const disarm = crash === undefined ? () => {} : this.#arm(site, role, crash);
    for (let orders = 0; !this.#isRetired(site, role, name); orders += 1) {
      if (orders > ordersMax)
        throw new Violation("I8", `${name} at ${site} is not retired after ${orders} orders`);
      const code = await this.#order(site, role, name, { ...note, force });
      sites.start(site, role);
      if (code !== undefined && code !== "PROCESS_DIED") {
        require("I8", passing.has(code) || orders > 0 || crash !== undefined, () =>
          `${name} at ${site} refuses to be retired: ${code}`);
        this.counts.refused += 1;
        await this.#ground.scheduler.run({ untilMs: this.#ground.scheduler.nowMs + orderAgainMs });
      }
      await this.#settled(site, role, name);
    }
    disarm();
    this.counts.retired += 1;
  }

  #isRetired(site: SiteName, role: RoleName, name: string): boolean {
    const { sites } = this.#ground;
    return role === "agent"
      ? sites.ownerStatus(site, name)?.state === "retired"
      : sites.standbyStatus(site, name)?.state === "retired";
  }

  #arm(site: SiteName, role: RoleName, { after, when, how }: RetireCrash): () => void {
    const { sites, scheduler } = this.#ground;
    return sites.site(site).disk.strikeAt({
      ...{ after, when },
      match: (path) => path.includes(`/${role}/`),
      act: () => {
        this.counts.crashes += 1;
        if (how === "kill") sites.kill(site, role);
        else sites.powerCut(site, how);
        for (const each of ["gateway", "agent"] as const)
          scheduler.at(restartMs, "", () => sites.start(site, each));
      },
    });
  }

  /** One order; undefined: done. `PROCESS_DIED`: nobody knows. */
  async #order(
    site: SiteName,
    role: RoleName,
    name: string,
    order: RetireRequest,
  ): Promise<string | undefined> {
    const { sites, scheduler } = this.#ground;
    const running = sites.site(site)[role];
    const group = running?.groups.get(name);
    if (running === undefined || group === undefined) {
      await scheduler.run({ untilMs: scheduler.nowMs + 500 });
      return "PROCESS_DIED";
    }
    let code: string | undefined | null = null;
    const given = (): void => {
      group.retire(order).then(
        () => {
          code = undefined;
        },
        (error: unknown) => {
          code = errorCode(error);
        },
      );
    };
    scheduler.at(0.1, `retire ${name} at ${site}`, given, running.life);
    await scheduler.run({
      untilMs: scheduler.nowMs + answerMsMax,
      stop: () => code !== null || !running.life.alive,
    });
    if (!running.life.alive) return "PROCESS_DIED";
    if (code === null) throw new Violation("I8", `an order to retire ${name} at ${site} has no answer`);
    return code;
  }

  /** Until the role is up and says what it is: served, or retired. */
  async #settled(site: SiteName, role: RoleName, name: string): Promise<void> {
    const { sites, operator } = this.#ground;
    await this.#until(`${name} at ${site} to be served again, or retired`, () => {
      operator.acceptLosses();
      if (this.#isRetired(site, role, name)) return true;
      if (role === "agent") return sites.ownerStatus(site, name)?.io === "serving";
      const status = sites.standbyStatus(site, name);
      return status !== undefined && status.lineage !== null && status.state !== "stopped";
    });
  }

  async #until(what: string, holds: () => boolean): Promise<void> {
    const { scheduler } = this.#ground;
    const untilMs = scheduler.nowMs + settledMsMax;
    while (!holds()) {
      if (scheduler.nowMs > untilMs) throw new Violation("I8", `waited in vain for ${what}`);
      await scheduler.run({ untilMs: scheduler.nowMs + 250 });
    }
  }

  /** Killed and started anew it is retired still (L4), takes the order as done, and has deleted no image. */
  async #mustStay(site: SiteName, role: RoleName, name: string, kept: readonly string[]): Promise<void> {
    const { sites, scheduler } = this.#ground;
    sites.kill(site, role);
    sites.start(site, role);
    await scheduler.run({ untilMs: scheduler.nowMs + 1_000 });
    await this.#until(`${name} at ${site} to say that it is retired`, () =>
      this.#isRetired(site, role, name),
    );
    const code = await this.#order(site, role, name, { ...note, force: false });
    require("I6", code === undefined, () =>
      `${name} at ${site} was retired, and answers the same order with ${code}`);
    const left = this.#imagesOf(site, role, name);
    require("I4", kept.every((path) => left.includes(path)), () =>
      `${name} at ${site}: of ${kept.join(", ")} only ${left.join(", ")} are left`);
  }

  #imagesOf(site: SiteName, role: RoleName, name: string): string[] {
    const folder = `/${site}/${role}/${name}/images/`;
    return this.#ground.sites
      .site(site)
      .disk.paths()
      .filter((path) => path.startsWith(folder));
  }

  /** The images of who has owned it are complete disks, also after a loss of power (L2). */
  #compare(
    what: string,
    name: string,
    site: SiteName,
    role: RoleName,
    sequence: number,
    isHandedOver: boolean,
  ): void {
    const { sites, truth, seed } = this.#ground;
    const { history } = truth.group(name).books.get(site)!;
    const { disk, dataDir } = sites.site(site);
    // Who has taken over goes on with the images of the standby that it was.
    const paths =
      role === "agent" && !isHandedOver ? agentGroupPaths(dataDir, name) : gatewayGroupPaths(dataDir, name);
    const { rot } = truth.group(name);
    for (const { volume, sizeBytes } of history.volumes(sequence))
      for (const which of ["cached", "stored"] as const) {
        const bytes = disk.contentOf(paths.image(truth.volumes(name).nameOf(volume)), which);
        require("I1", bytes !== undefined && bytes.byteLength >= sizeBytes, () =>
          `${what}: the image of volume ${volume} has ${bytes?.byteLength} bytes ${which}`);
        requireExact({
          ...{ what: `${what}, ${which}`, invariant: "I1", history, volume, seed, sequence },
          bytes: bytes!.subarray(0, sizeBytes),
          rot: isHandedOver ? rot : undefined,
        });
      }
  }
}
