/**
 * Carries out the faults of a run: crashes roles and machines at the moments that are worst, lets disks and line fail,
 * lets stored bytes decay, and orders failovers. All it decides follows from the draws in the faults.
 */
import type { InjectedFault, StrikeOrder } from "../world/operations.ts";
import type { Scheduler } from "../world/scheduler.ts";
import type { PowerCut } from "../world/tree.ts";
import type { DiskTarget } from "./disk-targets.ts";
import { decayTargets, diskTargets, isHalf, isLog, readTarget, workplace } from "./disk-targets.ts";
import type { Fault, FaultName } from "./faults.ts";
import { again, describeFault, familyOf, pickBy, powerModels } from "./faults.ts";
import type { Operator } from "./operator.ts";
import type { LongCut } from "./overflow-plan.ts";
import type { RoleName, SiteName, Sites } from "./sites.ts";
import { otherSite, siteNames } from "./sites.ts";
import { Struck } from "./struck.ts";
import type { Truth } from "./truth.ts";
import type { Workload } from "./workload.ts";

/** When a crash is worst: right after a promise of that kind. */
type Moment = "now" | "answer" | "durable answer" | "acknowledgement";

const isDocument = (path: string): boolean => path.includes("/state.json");

/** Clients that rush all through a long cut would leave nothing to do for later. */
const rushMsMax = 250;

function worstMoment(draw: number, among: number): Moment {
  if (draw < 0.3) return "now";
  return among < 0.6 ? "durable answer" : "acknowledgement";
}

/** A byte that says something: of a slot, not of the room behind it. */
function placeOf(name: string, length: number, x: number, y: number): number {
  const at = again(y, 2);
  if (name !== "watermark" && name !== "marker") return Math.floor(at * length);
  const slots = name === "watermark" ? 4 : 2;
  return Math.floor(again(x, 1) * slots) * (length / slots) + Math.floor(at * 90);
}

export class FaultRunner {
  /** Fired, by kind; disk faults count when an operation failed. */
  readonly fired = new Map<FaultName, number>();
  /** The same, by what their groups were in the middle of. */
  readonly struck: Struck;
  /** Groups of which something stored was changed or lost: they may end stopped, with a code. */
  readonly decayed = new Set<string>();
  crashes = 0;
  powerCuts = 0;
  readonly #scheduler: Scheduler;
  readonly #sites: Sites;
  readonly #operator: Operator;
  readonly #workload: Workload;
  readonly #truth: Truth;
  readonly #injected: InjectedFault[] = [];
  readonly #strikes: (() => void)[] = [];
  #awaited: { readonly site: SiteName; readonly then: () => void }[] = [];
  #healed = false;

  constructor(scheduler: Scheduler, sites: Sites, operator: Operator, workload: Workload, truth: Truth) {
    this.#scheduler = scheduler;
    this.#truth = truth;
    this.struck = new Struck(scheduler, truth);
    this.#sites = sites;
    this.#operator = operator;
    this.#workload = workload;
  }

  schedule(faults: readonly Fault[]): void {
    for (const fault of faults) {
      this.#scheduler.at(fault.atMs, "", () => {
        if (this.#healed) return;
        this.#scheduler.trace.add(
          `${Math.round(this.#scheduler.nowMs * 1_000)} == fault ${describeFault(fault)}`,
        );
        this.#fire(fault);
      });
    }
  }

  /** Long ones, while clients rush. */
  scheduleCuts(cuts: readonly LongCut[]): void {
    for (const { atMs, forMs, silent } of cuts)
      this.#scheduler.at(atMs, "", () => {
        if (this.#healed) return;
        this.#scheduler.trace.add(
          `${Math.round(this.#scheduler.nowMs * 1_000)} == the line is cut for ${Math.round(forMs)} ms`,
        );
        this.struck.note("line");
        for (const each of siteNames) this.#sites.wan.pass(each, silent ? "swallow" : "refuse");
        this.#workload.rush(Math.min(forMs, rushMsMax));
        this.#reconnectAfter(forMs);
      });
  }

  get diskFaultsFired(): number {
    return this.#injected.reduce((sum, each) => sum + each.fired, 0);
  }

  /** Called before it strikes: what its groups are in the middle of is of interest. */
  #count(kind: FaultName): void {
    this.fired.set(kind, (this.fired.get(kind) ?? 0) + 1);
    this.struck.note(familyOf[kind]);
  }

  #restart(site: SiteName, role: RoleName, afterMs: number): void {
    this.#scheduler.at(afterMs, "", () => this.#sites.start(site, role));
  }

  #kill(site: SiteName, role: RoleName, restartMs: number): boolean {
    if (this.#sites.site(site)[role] === undefined) return false;
    this.crashes += 1;
    this.#sites.kill(site, role);
    this.#restart(site, role, restartMs);
    return true;
  }

  #killCounted(kind: FaultName, site: SiteName, role: RoleName, restartMs: number): boolean {
    if (this.#sites.site(site)[role] !== undefined) this.#count(kind);
    return this.#kill(site, role, restartMs);
  }

  #powerCut(site: SiteName, model: PowerCut, restartMs: number, gapMs: number): void {
    this.crashes += 1;
    this.powerCuts += 1;
    this.#sites.powerCut(site, model);
    this.#restart(site, gapMs < 0.5 ? "agent" : "gateway", restartMs);
    this.#restart(site, gapMs < 0.5 ? "gateway" : "agent", restartMs + gapMs * 300);
  }

  #fire(fault: Fault): void {
    const { kind, site, forMs, x, y } = fault;
    const sites = this.#sites;
    switch (kind) {
      case "kill-agent":
        this.#atWorst(site, y < 0.4 ? "answer" : "now", () => {
          this.#killCounted(kind, site, "agent", forMs * 0.3);
        });
        return;
      case "kill-gateway":
        this.#killCounted(kind, site, "gateway", forMs * 0.3);
        return;
      case "kill-again": {
        // Up to five times more while it recovers.
        const role = x < 0.5 ? "agent" : "gateway";
        if (!this.#killCounted(kind, site, role, 5)) return;
        const times = 1 + Math.floor(y * 5);
        for (let index = 1; index <= times; index += 1)
          this.#scheduler.at(5 + index * (2 + (forMs % 37)), "", () => void this.#kill(site, role, 5));
        return;
      }
      case "power-cut":
        this.#atWorst(site, worstMoment(again(x, 1), again(y, 1)), () => {
          this.#count(kind);
          this.#powerCut(site, powerModels[Math.floor(x * 4)]!, forMs * 0.5, y);
          if (again(x, 2) < 0.3) this.#cutRecovery(site, fault);
        });
        return;
      case "power-both":
        this.#count(kind);
        this.#powerCut(site, powerModels[Math.floor(x * 4)]!, forMs * 0.5, y);
        this.#powerCut(otherSite(site), powerModels[Math.floor(x * 16) % 4]!, forMs * y, x);
        return;
      case "stop-agent":
        if (sites.site(site).agent === undefined || sites.plan.oneProcess) return;
        this.#count(kind);
        sites.stopAgent(site, () => this.#restart(site, "agent", forMs * 0.2));
        return;
      case "pause":
        this.#count(kind);
        sites.pause(site, x < 0.5 ? "agent" : "gateway", forMs);
        return;
      case "cut-at-step":
        this.#cutAtStep(fault);
        return;
      case "disk-error":
        this.#diskError(fault);
        return;
      case "disk-full": {
        const { disk } = sites.site(site);
        disk.capacityBytes = disk.usedBytes + Math.floor(x * 200_000);
        sites.site(site).diskTroubled = true;
        if (y < 0.5) this.#workload.rush(forMs);
        this.#scheduler.at(forMs, "", () => {
          disk.capacityBytes = 2 ** 40;
        });
        this.#count(kind);
        return;
      }
      case "disk-slow": {
        const { disk } = sites.site(site);
        disk.latencyFactor = 10 + x * 1_000;
        sites.site(site).diskTroubled = true;
        this.#scheduler.at(forMs, "", () => {
          disk.latencyFactor = 1;
        });
        this.#count(kind);
        return;
      }
      case "cut-off":
        for (const each of siteNames) sites.wan.pass(each, x < 0.5 ? "refuse" : "swallow");
        this.#reconnectAfter(forMs * 2);
        this.#count(kind);
        return;
      case "half-open":
        sites.wan.pass(site, "swallow");
        this.#reconnectAfter(forMs * 2);
        this.#count(kind);
        return;
      case "lossy": {
        const { conditions } = sites.wan;
        const before = { ...conditions };
        conditions.lossRate = x * 0.3;
        conditions.duplicateRate = y * 0.3;
        conditions.damageRate = x * y * 0.2;
        conditions.jitterMs = y * 200;
        this.#scheduler.at(forMs * 2, "", () => Object.assign(conditions, before));
        this.#count(kind);
        return;
      }
      case "thin-line": {
        const { conditions } = sites.wan;
        const { bytesPerSecond } = conditions;
        conditions.bytesPerSecond = 20_000 + x * 100_000;
        this.#scheduler.at(forMs, "", () => {
          conditions.bytesPerSecond = bytesPerSecond;
        });
        this.#count(kind);
        return;
      }
      case "clock-jump":
        sites.site(site).wall.offsetMs = (x - 0.5) * 2 * (y < 0.5 ? 3_600_000 : 20 * 365 * 86_400_000);
        this.#count(kind);
        return;
      case "replay":
        if (sites.wan.stored.length === 0) return;
        sites.wan.replayStored(1 + Math.floor(x * 12));
        this.#count(kind);
        return;
      case "failover":
        this.#count(kind);
        this.#failover(fault);
        return;
      case "decay":
        this.#decay(fault);
        return;
      case "cut-at-change":
        this.#cutAtChange(fault);
        return;
    }
  }

  /** Now, or right after the next promise of the site, a second later at most. */
  #atWorst(site: SiteName, moment: Moment, strike: () => void): void {
    if (moment === "now") {
      strike();
      return;
    }
    let done = false;
    const once = (): void => {
      if (done || this.#healed) return;
      done = true;
      disarm();
      strike();
    };
    const disarm =
      moment === "acknowledgement"
        ? this.#onAcknowledged(site, once)
        : this.#workload.arm(site, moment === "durable answer", once);
    this.#scheduler.at(1_000, "", once);
  }

  /** Right after a gateway decided to acknowledge: nothing that it promised can have become safe by chance. */
  #onAcknowledged(site: SiteName, then: () => void): () => void {
    const order = { site, then };
    this.#awaited.push(order);
    this.#truth.acknowledgedBy = (by) => {
      const due = this.#awaited.filter((each) => each.site === by);
      this.#awaited = this.#awaited.filter((each) => each.site !== by);
      for (const each of due) this.#scheduler.at(0, "", each.then);
    };
    return () => {
      this.#awaited = this.#awaited.filter((each) => each !== order);
    };
  }

  #targetOf(fault: Fault): { target: DiskTarget; site: SiteName } {
    const target = pickBy(diskTargets, fault.x);
    // Mostly where that role has work; now and then wherever the fault was drawn for.
    const site = again(fault.x, 3) < 0.8 ? workplace(target.role, "a") : fault.site;
    return { target, site };
  }

  /** Power is lost, or the process dies, right before or right after a step of one kind. */
  #cutAtStep(fault: Fault): void {
    const { target, site } = this.#targetOf(fault);
    this.#cutAt(
      site,
      fault,
      Math.floor(again(fault.x, 4) ** 2 * 12),
      (path, operation) => target.match(path) && target.operations.includes(operation),
    );
  }

  #cutAt(site: SiteName, fault: Fault, after: number, match: StrikeOrder["match"]): void {
    const { y, forMs } = fault;
    this.#strikes.push(
      this.#sites.site(site).disk.strikeAt({
        match,
        after,
        when: again(y, 1) < 0.5 ? "before" : "after",
        act: () => {
          if (this.#healed) return;
          this.#count("cut-at-step");
          this.#powerCut(site, powerModels[Math.floor(y * 4)]!, Math.min(500, forMs * 0.3), again(y, 2));
          if (again(y, 3) < 0.3) this.#cutRecovery(site, fault);
        },
      }),
    );
  }

  /** A role crashes, or its site loses power, at one of the next steps that write what its volumes are. */
  #cutAtChange({ kind, site, x, y, forMs }: Fault): void {
    const role = x < 0.5 ? "agent" : "gateway";
    // A change writes its document twice, six steps each, at the owner; once at the standby, behind its image.
    const withImages = again(x, 2) < 0.3;
    const isTable = (path: string): boolean =>
      path.includes(`/${role}/`) && (isDocument(path) || (withImages && path.includes("/images/")));
    this.#strikes.push(
      this.#sites.site(site).disk.strikeAt({
        match: isTable,
        after: Math.floor(again(x, 1) * (withImages ? 30 : 14)),
        when: again(y, 1) < 0.5 ? "before" : "after",
        act: () => {
          if (this.#healed) return;
          this.#count(kind);
          if (again(y, 4) < 0.4) this.#kill(site, role, forMs * 0.3);
          else this.#powerCut(site, pickBy(powerModels, again(y, 5)), forMs * 0.3, again(y, 2));
        },
      }),
    );
  }

  /** The site crashes once more, at some step of its recovery. */
  #cutRecovery(site: SiteName, { x, y }: Fault): void {
    this.#strikes.push(
      this.#sites.site(site).disk.strikeAt({
        match: () => true,
        after: Math.floor(again(x, 5) * 60),
        when: again(y, 4) < 0.5 ? "before" : "after",
        act: () => {
          if (!this.#healed) this.#powerCut(site, pickBy(powerModels, again(y, 5)), 5, again(x, 6));
        },
      }),
    );
  }

  #diskError(fault: Fault): void {
    const { x, y, forMs } = fault;
    const found = this.#targetOf(fault);
    const { site } = found;
    const target = again(x, 7) < 0.1 ? readTarget(found.target.role) : found.target;
    const reads = target.operations.includes("read");
    const draw = again(x, 8);
    const cutAfterwards = !reads && again(y, 6) < 0.6;
    let fired = false;
    this.#sites.site(site).diskTroubled = true;
    this.#injected.push(
      this.#sites.site(site).disk.inject({
        match: (path, operation) => target.match(path) && target.operations.includes(operation),
        fault: reads || draw < 0.7 ? "EIO" : draw < 0.9 ? "ENOSPC" : "short",
        times: 1 + Math.floor(again(y, 7) ** 3 * 12),
        after: Math.floor(forMs % 7),
        fired: () => {
          if (target.operations.some((each) => each === "sync" || each === "syncData"))
            this.#sites.site(site).syncFailed = true;
          if (fired) return;
          fired = true;
          this.#count("disk-error");
          if (!cutAfterwards) return;
          // Whoever believes what failed promises something now that is not there.
          this.#atWorst(site, target.role === "agent" ? "durable answer" : "acknowledgement", () =>
            this.#powerCut(site, again(y, 8) < 0.5 ? "nothing" : "subset", forMs * 0.2, y),
          );
        },
      }),
    );
    if (again(y, 9) < 0.6) this.#workload.rush(500);
  }

  /** What is stored changes by itself, and its role is started on it, or finds it while it runs. */
  #decay(fault: Fault): void {
    const { x, y } = fault;
    const target = pickBy(decayTargets, x);
    const [name, group] = [...this.#truth.groups][0]!;
    const { sealed, durableMax } = group.standby;
    const ownerSite = sealed === undefined ? group.home : group.standbySite;
    const site = target.role === "agent" ? ownerSite : group.standbySite;
    const { disk } = this.#sites.site(site);
    const folder = `/${site}/${target.role}/${name}`;
    // Without a standby that knows the group, a lost folder is a group that never was.
    const lost = target.how === "lose";
    if (lost && (durableMax === 0 || sealed !== undefined || this.#operator.orders.has(name))) return;
    const paths = disk.paths().filter((path) => path.startsWith(`${folder}/`) && target.match(path));
    if (paths.length === 0) return;
    // Mostly the newest: what is in the others has done its work.
    const path = lost ? folder : again(y, 5) < 0.7 ? paths.at(-1)! : pickBy(paths, y);
    const length = disk.contentOf(path, "cached")?.byteLength ?? 0;
    if (!lost && length === 0) return;
    this.#count("decay");
    const running = target.how === "flip" && again(y, 1) < 0.3;
    if (!running) this.#sites.kill(site, target.role);
    // Also where a process runs: it may not have opened its journal yet.
    if (target.role === "agent" && (isLog(path) || isHalf(path))) group.books.get(site)?.logDecayed();
    if (target.how === "flip")
      disk.flipBit(path, placeOf(target.name, length, x, y), Math.floor(again(y, 3) * 8));
    else if (target.how === "shorten") disk.shorten(path, Math.floor(length * again(y, 2)));
    else {
      disk.lose(path);
      if (target.role === "gateway") this.#truth.standbyForgot(name);
    }
    this.#scheduler.trace.add(`decay of ${path}: ${target.how}`);
    this.decayed.add(name);
    this.#scheduler.at(running ? 500 + again(y, 4) * 1_000 : 0, "", () => {
      if (running) this.#sites.kill(site, target.role);
      this.#restart(site, target.role, 50);
    });
  }

  #reconnectAfter(forMs: number): void {
    this.#scheduler.at(forMs, "", () => {
      for (const each of siteNames) this.#sites.wan.pass(each, "open");
    });
  }

  /** Every group of whose standby the site has: with its owner dead, cut off, just back, or alive and well. */
  #failover(fault: Fault): void {
    const { site, forMs, x, y } = fault;
    const old = otherSite(site);
    const order = (): void => {
      for (const group of this.#sites.plan.groups)
        if (group.standby === site) this.#operator.failOver(group.name);
    };
    const cutOff = (): void => {
      for (const each of siteNames) this.#sites.wan.pass(each, y < 0.5 ? "refuse" : "swallow");
    };
    this.#hinderFailover(fault);
    if (x < 0.3) {
      this.#powerCut(old, powerModels[Math.floor(y * 4)]!, 2_000 + forMs * 2, y);
    } else if (x < 0.5) {
      cutOff();
      this.#reconnectAfter(2_000 + forMs * 2);
    } else if (x < 0.65) {
      // Ordered while the backlog of an outage is on its way.
      cutOff();
      this.#reconnectAfter(forMs);
      this.#workload.rush(forMs + 1_000);
      this.#scheduler.at(forMs + again(x, 1) * 300, "", () => {
        // The end of a run looks at what stays as it is.
        if (!this.#healed) order();
      });
      return;
    } else {
      this.#workload.rush(2_000);
      if (again(x, 2) < 0.4) this.#returnUnheard(old, forMs);
    }
    order();
  }

  /** The standby crashes or gets slow while it takes over. */
  #hinderFailover(fault: Fault): void {
    const { site, x, y } = fault;
    const draw = again(y, 1);
    const { disk } = this.#sites.site(site);
    if (again(x, 3) < 0.35) {
      // Long steps: what the old owner still sends meets each of them.
      disk.latencyFactor = 10 + again(x, 4) * 90;
      this.#sites.site(site).diskTroubled = true;
      this.#scheduler.at(3_000, "", () => {
        disk.latencyFactor = 1;
      });
    }
    if (draw < 0.25)
      this.#cutAt(site, fault, Math.floor(again(y, 2) * 60), (path) => path.includes("/gateway/"));
    else if (draw < 0.5)
      this.#cutAt(site, fault, Math.floor(again(y, 2) * 12), (path) => /state|handover|evidence/.test(path));
    else if (draw < 0.7)
      this.#scheduler.at(again(y, 2) ** 2 * 1_500, "", () => {
        if (!this.#healed) this.#powerCut(site, pickBy(powerModels, again(y, 3)), 20, x);
      });
  }

  /** The old owner is told, and later starts anew while nobody can tell it again: it must remember. */
  #returnUnheard(old: SiteName, forMs: number): void {
    this.#scheduler.at(8_000, "", () => {
      if (this.#healed) return;
      for (const each of siteNames) this.#sites.wan.pass(each, "refuse");
      this.#kill(old, "agent", 10);
      this.#reconnectAfter(3_000 + forMs);
    });
  }

  /** Nothing fails any more; what is down comes back. */
  heal(): void {
    this.#healed = true;
    for (const fault of this.#injected) fault.cancel();
    for (const cancel of this.#strikes) cancel();
    for (const name of siteNames) {
      const { disk } = this.#sites.site(name);
      disk.capacityBytes = 2 ** 40;
      disk.latencyFactor = 1;
      this.#sites.wan.pass(name, "open");
    }
    Object.assign(this.#sites.wan.conditions, { lossRate: 0, duplicateRate: 0, damageRate: 0, jitterMs: 5 });
    this.#sites.wan.conditions.bytesPerSecond = Math.max(
      this.#sites.wan.conditions.bytesPerSecond,
      1_000_000,
    );
  }
}
