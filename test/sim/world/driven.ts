/** Drives a scheduler from tests: awaiting a promise of the simulated world needs its events to happen. */
import assert from "node:assert/strict";
import type { StoreEngine } from "../../../journal/store.ts";
import { SeededRandom } from "../../support/seeded.ts";
import type { SimDiskOptions } from "./disk.ts";
import { SimDisk } from "./disk.ts";
import { Life } from "./life.ts";
import { openSimOrderedStore } from "./ordered-store.ts";
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

  /** What a group of either role keeps its state on, as `life` sees it. */
  storage(life: Life) {
    const disk = this.disk.view(life);
    const stores: StoreEngine = {
      open: this.disk.store(life),
      guard: (_directory, _watermark, _bytes, open) => open(),
    };
    const { bootId } = this.disk;
    return { disk, images: this.disk.images(life), stores, openIndex: openSimOrderedStore(disk), bootId };
  }

  drive<T>(promise: Promise<T>): Promise<T> {
    return driven(this.scheduler, promise);
  }
}
