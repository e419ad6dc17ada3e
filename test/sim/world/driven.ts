/** Drives a scheduler from tests: awaiting a promise of the simulated world needs its events to happen. */
import assert from "node:assert/strict";
import { SeededRandom } from "../../support/seeded.ts";
import type { SimDiskOptions } from "./disk.ts";
import { SimDisk } from "./disk.ts";
import { Life } from "./life.ts";
import { Scheduler } from "./scheduler.ts";
import { Trace } from "./trace.ts";

/** Runs events until `promise` settles, and gives what it settles with. Fails when nothing more can happen. */
export async function driven<T>(scheduler: Scheduler, promise: Promise<T>): Promise<T> {
  let settled = false;
  const settle = (): void => {
    settled = true;
  };
  promise.then(settle, settle);
  const end = await scheduler.run({ stop: () => settled });
  assert.ok(settled || end === "stopped", "nothing is left to happen, and the promise has not settled");
  return promise;
}

/** One machine and its virtual time. */
export class SimWorld {
  readonly scheduler: Scheduler;
  readonly disk: SimDisk;
  #lives = 0;

  constructor(seed: number, options: SimDiskOptions = {}) {
    this.scheduler = new Scheduler(new SeededRandom(seed), new Trace());
    this.disk = new SimDisk(this.scheduler, "site", options);
  }

  life(): Life {
    this.#lives += 1;
    return new Life(`role#${this.#lives}`);
  }

  drive<T>(promise: Promise<T>): Promise<T> {
    return driven(this.scheduler, promise);
  }
}
