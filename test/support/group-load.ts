/**
 * The load on one group of two real sites, the client's record of it, and the questions to the oracles about its home
 * and its standby. What faults come between is the caller's business.
 */
import assert from "node:assert/strict";
import { ExpectedRecord } from "./expected.ts";
import { judgeLocal } from "./local-oracle.ts";
import type { NbdClient } from "./nbd-client.ts";
import { exportReader } from "./nbd-client.ts";
import { judgePrefix } from "./prefix-oracle.ts";
import type { TwoSites } from "./sites.ts";
import { imageFile, readGroup } from "./state-reader.ts";
import { until } from "./wait.ts";
import type { WorkloadResult } from "./workload.ts";
import { runWorkload } from "./workload.ts";

export interface GroupLoadOptions {
  readonly sites: TwoSites;
  readonly group: string;
  readonly durability: "flush" | "write";
  readonly seed: number;
  readonly bytesPerSecond: number;
  /** Requests in flight; default 16. */
  readonly depth?: number;
}

interface Running {
  readonly stop: AbortController;
  readonly clients: readonly (readonly NbdClient[])[];
  readonly done: Promise<WorkloadResult>;
}

export class GroupLoad {
  readonly group: string;
  readonly record: ExpectedRecord;
  /** Answered requests of the load that runs, or ran last. */
  answered = 0;
  /** Answered writes that a power loss took, as it was allowed to. */
  taken = 0;
  readonly #options: GroupLoadOptions;
  #running: Running | undefined;

  constructor(options: GroupLoadOptions) {
    this.#options = options;
    this.group = options.group;
    this.record = new ExpectedRecord(
      options.seed,
      options.sites.volumesOf(options.group).map(({ sizeBytes }) => sizeBytes),
    );
  }

  get running(): boolean {
    return this.#running !== undefined;
  }

  async start(): Promise<void> {
    assert.ok(!this.running, `${this.group} is under load already`);
    const { sites, group, depth = 16, bytesPerSecond } = this.#options;
    const clients = await sites.connect("primary", 2, undefined, group);
    const stop = new AbortController();
    this.answered = 0;
    const done = runWorkload({
      record: this.record,
      clients,
      depth,
      bytesPerSecond,
      signal: stop.signal,
      onAnswered: (answered) => {
        this.answered = answered;
      },
    });
    this.#running = { stop, clients, done };
  }

  /** Waits until `count` more requests are answered. */
  async progress(count: number, timeoutMs = 30_000): Promise<void> {
    const target = this.answered + count;
    await until(
      `${count} more answers of ${this.group}`,
      () => this.answered >= target || undefined,
      timeoutMs,
    ).catch(async (error: unknown) => {
      const owner = await this.#options.sites.owner("primary", this.group).catch(String);
      throw new Error(`${String(error)}; the owner: ${JSON.stringify(owner)}`);
    });
  }

  /** Ends the load with every request answered. */
  async end(): Promise<void> {
    const result = await this.stop();
    assert.deepEqual(
      [result.refused, result.unknown, result.problems],
      [0, 0, []],
      `${this.group}: requests failed: ${JSON.stringify(result)}`,
    );
  }

  /** Ends the load and gives what became of its requests. */
  async stop(): Promise<WorkloadResult> {
    const running = this.#running;
    assert.ok(running, `${this.group} is not under load`);
    running.stop.abort();
    const result = await running.done;
    for (const client of running.clients.flat()) await client.close();
    this.#running = undefined;
    return result;
  }

  /** After the death of the owner's process: what was open happened by now or never will. */
  async cutOff(): Promise<WorkloadResult> {
    const running = this.#running;
    assert.ok(running, `${this.group} is not under load`);
    running.stop.abort();
    const result = await running.done;
    for (const client of running.clients.flat()) await client.destroy();
    this.#running = undefined;
    this.record.settle();
    assert.deepEqual(result.problems, []);
    return result;
  }

  /**
   * I1 at the home site, through its exports, with no load: every promise kept, and one prefix of the write order of
   * exactly the length the owner claims. After a power loss only what was promised durable is a promise, and what is
   * found is the new ground for everything after it.
   */
  async checkHome(context: string, fault: "kill" | "power-loss"): Promise<void> {
    const { sites, group, durability } = this.#options;
    const clients = await sites.connect("primary", 1, undefined, group);
    const state = await readGroup(
      clients.map(([client]) => exportReader(client!)),
      this.record.seed,
    );
    for (const [client] of clients) await client!.close();
    const { position } = await sites.owner("primary", group);
    const mayLose = fault === "power-loss" && durability === "flush";
    assert.deepEqual(judgeLocal(this.record, state, mayLose ? "durable" : "answered"), [], context);
    const verdict = judgePrefix({
      record: this.record,
      state,
      required: (mutation) => (mayLose ? this.record.isDurable(mutation) : mutation.outcome === "answered"),
      sequence: position.written,
    });
    assert.ok(verdict.consistent, `${context}, ${group} at home: ${JSON.stringify(verdict)}`);
    if (fault === "kill") return;
    this.taken += verdict.missingMin;
    const seen = new Set<number>();
    for (const { found } of state) for (const number of found) if (number >= 0) seen.add(number);
    this.record.powerLost(({ number }) => seen.has(number));
  }

  /** I2 at the standby: its images are one prefix, the one of `sequence` records. */
  async checkStandby(context: string, sequence: number): Promise<void> {
    const { sites, group } = this.#options;
    const images = [];
    for (const { name, sizeBytes } of sites.volumesOf(group)) {
      images.push(imageFile(await sites.standbyImage("dr", name, group), sizeBytes));
    }
    const state = await readGroup(images, this.record.seed);
    const verdict = judgePrefix({ record: this.record, state, sequence });
    assert.ok(verdict.consistent, `${context}, ${group} at the standby: ${JSON.stringify(verdict)}`);
  }

  /** Waits until the gateway has applied all it holds, with no owner sending; gives that position. */
  standbyAtRest(): Promise<number> {
    const { sites, group } = this.#options;
    return until(`the standby of ${group} to have applied all it holds`, async () => {
      const { position } = await sites.standby("dr", group);
      return position.applied === position.received ? position.applied : undefined;
    });
  }

  /** With no load: waits until the standby has everything, and checks home and standby against it. */
  async checkEqual(context: string): Promise<number> {
    const { sites, group } = this.#options;
    const sequence = await sites.waitIdle("primary", "dr", 60_000, group);
    await this.checkStandby(context, sequence);
    return sequence;
  }
}
