/**
 * How anything happens on a simulated machine: it is asked for, takes a drawn time, then happens or fails in one
 * instant, and only then is its caller told. Owns what is under way, injected faults, the count of steps and the
 * hooks around them. Knows nothing of files.
 */
import type { SeededRandom } from "../../support/seeded.ts";
import type { Life } from "./life.ts";
import type { Scheduler } from "./scheduler.ts";
import { systemError } from "./tree.ts";

/**
 * What can happen and fail. Images use `read`, `write`, `zero` and `syncData`; `create` is opening for replacement
 * and touching.
 */
export type Operation =
  | "open"
  | "create"
  | "read"
  | "list"
  | "write"
  | "zero"
  | "truncate"
  | "syncData"
  | "sync"
  | "makeDirectory"
  | "rename"
  | "remove";

/**
 * `EIO`, `ENOSPC`: the operation fails; of a write a drawn part may have happened; what a failed sync was to write
 * back is lost though the cache still shows it. `short`: a write of files stops early without a code, of images with
 * ENOSPC. `lost`, `misdirected`: a write is answered well and went nowhere, or elsewhere in the image.
 */
export type FaultKind = "EIO" | "ENOSPC" | "short" | "lost" | "misdirected";

export interface FaultOrder {
  readonly match: (path: string, operation: Operation) => boolean;
  readonly fault: FaultKind;
  /** How often it fires. */
  readonly times: number;
  /** Matching operations let through first. */
  readonly after?: number;
  /** Called each time it fires, before the operation fails. */
  readonly fired?: () => void;
}

/** Something that happens at a step, told by what the step does instead of by its number. */
export interface StrikeOrder {
  readonly match: (path: string, operation: Operation) => boolean;
  /** Matching steps let through first. */
  readonly after: number;
  readonly when: "before" | "after";
  readonly act: () => void;
}

export interface InjectedFault {
  readonly fault: FaultKind;
  readonly fired: number;
  cancel(): void;
}

export type OperationHook = (
  life: Life,
  path: string,
  operation: Operation,
  when: "before" | "after",
) => void;

/** `act` does it, or throws; `part` does some of it, for who is killed in the middle. */
export interface Work<T> {
  readonly act: (fault: FaultKind | undefined) => T;
  readonly part?: () => void;
}

/** Latency of an operation: at least, and up to so much more, ms. Syncs are the slow ones, as on any disk. */
const latencyMs: Readonly<Record<Operation, readonly [number, number]>> = {
  open: [0.01, 0.05],
  create: [0.02, 0.1],
  read: [0.01, 0.1],
  list: [0.01, 0.05],
  write: [0.01, 0.1],
  zero: [0.01, 0.1],
  truncate: [0.01, 0.1],
  syncData: [0.2, 2],
  sync: [0.2, 2],
  makeDirectory: [0.02, 0.1],
  rename: [0.02, 0.1],
  remove: [0.02, 0.1],
};
/** One sync in so many takes this many times as long. */
const slowSync = { chance: 0.02, factor: 20 } as const;

/** Operations that change something or make something durable. */
const steps: ReadonlySet<Operation> = new Set([
  "create",
  "write",
  "zero",
  "truncate",
  "syncData",
  "sync",
  "makeDirectory",
  "rename",
  "remove",
]);

class Fault implements InjectedFault {
  readonly order: FaultOrder;
  fired = 0;
  left: number;
  #toPass: number;

  constructor(order: FaultOrder) {
    this.order = order;
    this.left = order.times;
    this.#toPass = order.after ?? 0;
  }

  get fault(): FaultKind {
    return this.order.fault;
  }

  cancel(): void {
    this.left = 0;
  }

  /** True when it fires on this operation. */
  meets(path: string, operation: Operation): boolean {
    if (this.left === 0 || !this.order.match(path, operation)) return false;
    if (this.#toPass > 0) {
      this.#toPass -= 1;
      return false;
    }
    this.left -= 1;
    this.fired += 1;
    return true;
  }
}

interface UnderWay {
  readonly life: Life;
  readonly operation: Operation;
  readonly path: string;
  readonly act: (fault: undefined) => unknown;
  readonly part: (() => void) | undefined;
}

interface CrashPoint {
  readonly step: number;
  readonly when: "before" | "after";
  readonly then: () => void;
}

export class Operations {
  readonly scheduler: Scheduler;
  hook: OperationHook | undefined;
  latencyFactor = 1;
  readonly fired = new Map<FaultKind, number>();
  #steps = 0;
  #faults: Fault[] = [];
  #crashPoints: CrashPoint[] = [];
  #strikes: { readonly order: StrikeOrder; left: number }[] = [];
  readonly #underWay = new Set<UnderWay>();

  constructor(scheduler: Scheduler) {
    this.scheduler = scheduler;
  }

  get steps(): number {
    return this.#steps;
  }

  inject(order: FaultOrder): InjectedFault {
    const fault = new Fault(order);
    this.#faults = [...this.#faults.filter(({ left }) => left > 0), fault];
    return fault;
  }

  crashAt(point: CrashPoint): void {
    this.#crashPoints.push(point);
  }

  /** Strikes once; returns what takes the order back. */
  strike(order: StrikeOrder): () => void {
    const strike = { order, left: order.after };
    this.#strikes.push(strike);
    return () => {
      this.#strikes = this.#strikes.filter((each) => each !== strike);
    };
  }

  /** Settles when the operation has happened; never once `life` has ended. */
  run<T>(life: Life, path: string, operation: Operation, detail: string, work: Work<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      if (!life.alive) return;
      const underWay: UnderWay = { life, operation, path, act: work.act, part: work.part };
      this.#underWay.add(underWay);
      const [least, span] = latencyMs[operation];
      const { random } = this.scheduler;
      let delayMs = (least + span * random.fraction()) * this.latencyFactor;
      if (span >= 1 && random.chance(slowSync.chance)) delayMs *= slowSync.factor;
      this.scheduler.at(
        delayMs,
        `${life.name} ${operation} ${path}${detail}`,
        () => {
          this.#underWay.delete(underWay);
          let value: T;
          try {
            const outcome = this.now(life, path, operation, work.act);
            // The hook after it may have ended this incarnation.
            if (outcome === undefined || !life.alive) return;
            value = outcome.value;
          } catch (error) {
            if (life.alive) reject(error);
            return;
          }
          resolve(value);
        },
        life,
      );
    });
  }

  /** The same within the call. Undefined when `life` has ended, before it or by it. */
  now<T>(
    life: Life,
    path: string,
    operation: Operation,
    act: (fault: FaultKind | undefined) => T,
  ): { readonly value: T } | undefined {
    if (!life.alive) return undefined;
    const isStep = steps.has(operation);
    if (isStep) {
      this.#steps += 1;
      this.#around(life, path, operation, "before");
      if (!life.alive) return undefined;
    }
    try {
      return { value: act(this.#faultFor(life, path, operation)) };
    } finally {
      if (isStep) this.#around(life, path, operation, "after");
    }
  }

  #around(life: Life, path: string, operation: Operation, when: "before" | "after"): void {
    this.hook?.(life, path, operation, when);
    for (const strike of this.#strikes) {
      const { order } = strike;
      if (order.when !== when || !order.match(path, operation)) continue;
      strike.left -= 1;
      if (strike.left >= 0) continue;
      this.#strikes = this.#strikes.filter((each) => each !== strike);
      order.act();
      if (!life.alive) return;
    }
    if (this.#crashPoints.length === 0) return;
    const due = this.#crashPoints.filter((point) => point.step === this.#steps && point.when === when);
    if (due.length === 0) return;
    this.#crashPoints = this.#crashPoints.filter((point) => !due.includes(point));
    for (const { then } of due) then();
  }

  #faultFor(life: Life, path: string, operation: Operation): FaultKind | undefined {
    for (const fault of this.#faults) {
      if (!fault.meets(path, operation)) continue;
      this.fired.set(fault.fault, (this.fired.get(fault.fault) ?? 0) + 1);
      this.scheduler.trace.add(`fault ${fault.fault} on ${life.name} ${operation} ${path}`);
      fault.order.fired?.();
      return fault.fault;
    }
    return undefined;
  }

  /**
   * What `dies` leaves under way happened, happened in part, or did not, each drawn. Done before the lives are
   * ended. Of incarnations that ended some other way nothing happens any more.
   */
  abandon(dies: (life: Life) => boolean): void {
    const { random, trace } = this.scheduler;
    for (const underWay of this.#underWay) {
      const { life, operation, path, act, part } = underWay;
      if (life.alive && !dies(life)) continue;
      this.#underWay.delete(underWay);
      if (!life.alive) continue;
      const fate = random.below(4);
      if (fate < 2) continue;
      trace.add(`${life.name} dies during ${operation} ${path}: ${fate === 2 ? "done" : "in part"}`);
      try {
        if (fate === 3 && part !== undefined) part();
        else act(undefined);
      } catch {
        // It failed, and there is nobody left to be told.
      }
    }
  }
}

/**
 * How much of a failing write happened, of 0..`length`: none, some, or with EIO now and then all of it, since what
 * was refused may exist all the same.
 */
export function failedPart(fault: FaultKind, length: number, random: SeededRandom): number {
  const fate = random.below(3);
  if (fate === 0 || length === 0) return 0;
  return fate === 1 && fault === "EIO" ? length : random.below(length);
}

/** Fails as `fault` says, when it says so. */
export function failOn(fault: FaultKind | undefined, what: string): void {
  if (fault === "EIO" || fault === "ENOSPC") throw systemError(fault, what);
}
