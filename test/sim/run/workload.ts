/**
 * The clients of a run: a handful of workers a group, each with one request in flight at the site that serves the
 * group. Writes of 512 B to 16 KiB, zeroes, trims, FLUSH, FUA and reads that are verified. A dead site leaves its
 * requests unknown, as a broken connection does; the worker comes back when the group is served again.
 */
import type { Timer } from "../../../runtime/clock.ts";
import { SeededRandom } from "../../support/seeded.ts";
import { stampData } from "../../support/stamp.ts";
import type { OpKind } from "../model/history.ts";
import type { Scheduler } from "../world/scheduler.ts";
import type { SiteName, Sites } from "./sites.ts";
import { otherSite } from "./sites.ts";
import type { Truth } from "./truth.ts";

export interface WorkloadPlan {
  readonly workersPerGroup: number;
  /** Mean pause between two requests of a worker, ms. */
  readonly thinkMs: number;
  /** Share of the disk that half of the requests go to. */
  readonly hotShare: number;
  readonly flushChance: number;
  readonly fuaChance: number;
  readonly readChance: number;
  /** Above 0: the workers begin together this often and rest in between, ms. */
  readonly burstEveryMs?: number;
  /** Requests after which the workload rests until `revive`. */
  readonly requestsMax: number;
}

const lengths = [512, 512, 1024, 2048, 4096, 4096, 4096, 8192, 16384];
/** A worker that finds nobody to serve it asks again after this, ms. */
const askAgainMs = 60;

/** Chance that a worker in a burst follows with another request: five of them on average. */
export const burstGoesOn = 0.8;
/** Chance that a client asks the group's first site before the other one. */
const staleChance = 0.15;
/** Zeroes and trims may be long: one in so many may reach over the whole disk. */
const longOneIn = 6;

interface Worker {
  readonly group: string;
  /** Where its request is; undefined: none in flight. */
  site: SiteName | undefined;
  /** Tells late answers from the one that is awaited. */
  ticket: number;
  /** Its next turn. */
  timer: Timer | undefined;
}

export class Workload {
  readonly counts = { sent: 0, answered: 0, flushes: 0, reads: 0, refused: 0, unknown: 0 };
  readonly #scheduler: Scheduler;
  readonly #random: SeededRandom;
  readonly #seed: number;
  readonly #sites: Sites;
  readonly #truth: Truth;
  readonly #plan: WorkloadPlan;
  readonly #workers: Worker[] = [];
  #requestsLeft: number;
  #rushUntilMs = 0;
  /** What happens the instant after an answer at a site. */
  #armed: { readonly site: SiteName; readonly durable: boolean; readonly then: () => void }[] = [];

  constructor(seed: number, scheduler: Scheduler, sites: Sites, truth: Truth, plan: WorkloadPlan) {
    this.#seed = seed;
    this.#scheduler = scheduler;
    this.#random = new SeededRandom(seed, 1);
    this.#sites = sites;
    this.#truth = truth;
    this.#plan = plan;
    this.#requestsLeft = plan.requestsMax;
    for (const group of truth.groups.keys()) {
      for (let index = 0; index < plan.workersPerGroup; index += 1)
        this.#workers.push({ group, site: undefined, ticket: 0, timer: undefined });
    }
  }

  get inFlight(): number {
    return this.#workers.filter((worker) => worker.site !== undefined).length;
  }

  start(): void {
    for (const worker of this.#workers) this.#again(worker, this.#random.fraction() * 50);
  }

  /** Lets the workers do so many requests more. */
  revive(requests: number): void {
    this.#requestsLeft = requests;
  }

  /**
   * Calls `then` right after the next answer at `site`, of a FLUSH or FUA where `durable`: the worst moment for a crash,
   * since nothing promised can have become safe by chance. Returns what takes the order back.
   */
  arm(site: SiteName, durable: boolean, then: () => void): () => void {
    const order = { site, durable, then };
    this.#armed.push(order);
    return () => {
      this.#armed = this.#armed.filter((each) => each !== order);
    };
  }

  #strike(site: SiteName, durable: boolean): void {
    const due = this.#armed.filter((each) => each.site === site && (durable || !each.durable));
    if (due.length === 0) return;
    this.#armed = this.#armed.filter((each) => !due.includes(each));
    for (const { then } of due) this.#scheduler.at(0, "", then);
  }

  /** Connections to the agent of `site` broke. */
  agentGone(site: SiteName): void {
    for (const worker of this.#workers) {
      if (worker.site !== site) continue;
      this.counts.unknown += 1;
      this.#next(worker);
    }
  }

  /** For so long nobody pauses between requests, and who rests now begins at once. */
  rush(forMs: number): void {
    this.#rushUntilMs = this.#scheduler.nowMs + forMs;
    for (const worker of this.#workers) {
      if (worker.site !== undefined) continue;
      worker.timer?.cancel();
      this.#again(worker, this.#random.fraction());
    }
  }

  #again(worker: Worker, delayMs: number): void {
    worker.timer = this.#scheduler.at(delayMs, "", () => this.#turn(worker));
  }

  #next(worker: Worker): void {
    worker.site = undefined;
    worker.ticket += 1;
    this.#again(worker, this.#pauseMs());
  }

  #pauseMs(): number {
    const { thinkMs, burstEveryMs = 0 } = this.#plan;
    const { nowMs } = this.#scheduler;
    if (nowMs < this.#rushUntilMs) return 0.1;
    if (burstEveryMs > 0) {
      if (this.#random.chance(burstGoesOn)) return 0.1;
      return burstEveryMs - (nowMs % burstEveryMs) + this.#random.fraction();
    }
    return this.#random.chance(0.5) ? 0.1 : this.#random.fraction() * 2 * thinkMs;
  }

  /** The newest owner that serves, else the old one. */
  #choose(group: string): SiteName | undefined {
    const { home } = this.#truth.group(group);
    // Some clients have not heard of a failover and try their old site first.
    const stale = this.#random.chance(staleChance);
    for (const site of stale ? [home, otherSite(home)] : [otherSite(home), home]) {
      if (this.#sites.device(site, group, 0) !== undefined && this.#truth.ready(site, group) !== undefined)
        return site;
    }
    return undefined;
  }

  #turn(worker: Worker): void {
    const site = this.#requestsLeft > 0 ? this.#choose(worker.group) : undefined;
    if (site === undefined) {
      this.#again(worker, askAgainMs);
      return;
    }
    this.#requestsLeft -= 1;
    worker.site = site;
    const life = this.#sites.site(site).agent!.life;
    // The request reaches the agent in a turn of its own: one that is paused or dies meanwhile does not see it.
    this.#scheduler.at(0.02, "", () => this.#send(worker, site), life);
  }

  #send(worker: Worker, site: SiteName): void {
    const random = this.#random;
    const { group, ticket } = worker;
    const served = this.#sites.served(site, group);
    // New ones and what has grown as soon as they are there.
    const entry = served[random.below(Math.max(1, served.length))];
    const device = entry === undefined ? undefined : this.#sites.device(site, group, entry.number);
    const book = this.#truth.ready(site, group);
    if (entry === undefined || device === undefined || book === undefined) {
      this.#next(worker);
      return;
    }
    const life = this.#sites.site(site).agent!.life;
    this.counts.sent += 1;
    const done = (succeeded: (() => void) | undefined): void => {
      if (!life.alive || worker.ticket !== ticket) return;
      if (succeeded !== undefined) {
        try {
          this.#truth.succeeded(site, group, life);
          succeeded();
        } catch (error) {
          this.#scheduler.fail(error);
        }
      }
      this.#next(worker);
    };
    const draw = random.fraction();
    if (draw < this.#plan.flushChance) {
      const target = book.flushTarget();
      device.flush().then(
        () =>
          done(() => {
            this.counts.flushes += 1;
            book.flushAnswered(target);
            this.#strike(site, true);
          }),
        () => done(undefined),
      );
      return;
    }
    const { number: volume, sizeBytes } = entry;
    let { offset, length } = this.#place(sizeBytes);
    if (draw < this.#plan.flushChance + this.#plan.readChance) {
      const first = book.answeredMax;
      device.read(offset, length).then(
        (bytes) =>
          done(() => {
            this.counts.reads += 1;
            this.#truth.readBack(site, group, volume, offset, bytes, first);
          }),
        () => done(undefined),
      );
      return;
    }
    const fua = random.chance(this.#plan.fuaChance);
    const kindDraw = random.fraction();
    const kind: OpKind = kindDraw < 0.84 ? "write" : kindDraw < 0.92 ? "zeroes" : "trim";
    if (kind !== "write" && random.below(longOneIn) === 0) {
      offset = Math.min(offset, random.below(sizeBytes / 512) * 512);
      length = (1 + random.below((sizeBytes - offset) / 512)) * 512;
    }
    const op = this.#truth.submit(site, group, {
      number: this.#truth.nextNumber(),
      volume,
      kind,
      offset,
      length,
      fua,
    });
    this.#scheduler.trace.add(
      `${Math.round(this.#scheduler.nowMs * 1_000)} client ${group}@${site} ${kind} #${op.number} v${volume} ${offset}+${length}${fua ? " fua" : ""}`,
    );
    const answer =
      kind === "write"
        ? device.write(offset, stampData(this.#seed, op.number, volume, offset, length), { fua })
        : kind === "trim"
          ? device.trim(offset, length, { fua })
          : device.zero(offset, length, { fua, mayTrim: op.number % 2 === 0, fast: false });
    answer.then(
      () => {
        done(() => {
          this.counts.answered += 1;
          book.answered(op, this.#scheduler.nowMs);
          this.#strike(site, fua);
        });
      },
      () => {
        if (life.alive && worker.ticket === ticket) {
          this.counts.refused += 1;
          book.refused(op);
          this.#truth.refused(site, group);
        }
        done(undefined);
      },
    );
  }

  #place(volumeBytes: number): { offset: number; length: number } {
    const random = this.#random;
    const length = Math.min(random.pick(lengths), volumeBytes);
    const unit = length >= 4096 && random.chance(0.7) ? 4096 : 512;
    const span = random.chance(0.5)
      ? Math.max(length, Math.floor(volumeBytes * this.#plan.hotShare))
      : volumeBytes;
    return { offset: random.below(Math.floor((span - length) / unit) + 1) * unit, length };
  }
}
