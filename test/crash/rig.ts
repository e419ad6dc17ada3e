/**
 * What the kill tests share: two sites under load that can lose either process at any moment, and the checks of what
 * must then hold. It also counts what really happened, because a fault run that did no work proves nothing.
 */
import assert from "node:assert/strict";
import { failpointVariable } from "../../runtime/failpoints.ts";
import { noteEvidence, nothingLost } from "../support/evidence.ts";
import { ExpectedRecord } from "../support/expected.ts";
import { judgeLocal } from "../support/local-oracle.ts";
import type { NbdClient } from "../support/nbd-client.ts";
import { exportReader } from "../support/nbd-client.ts";
import { judgePrefix } from "../support/prefix-oracle.ts";
import type { SeededRandom } from "../support/seeded.ts";
import type { SiteName, TwoSitesOptions } from "../support/sites.ts";
import { TwoSites } from "../support/sites.ts";
import { imageFile, readGroup } from "../support/state-reader.ts";
import { until } from "../support/wait.ts";
import type { WorkloadResult, WorkWanted } from "../support/workload.ts";
import { enoughWork, runWorkload } from "../support/workload.ts";

const mebibyte = 1 << 20;

/** A run below these figures counts as invalid, which fails it. */
const valid: WorkWanted = { writes: 200, flushes: 20 };
const validAdvanceMin = 1;

export interface KillRigOptions {
  readonly seed: number;
  readonly random: SeededRandom;
  readonly sites?: Partial<TwoSitesOptions>;
  readonly bytesPerSecond?: number;
}

interface Load {
  readonly stop: AbortController;
  readonly done: Promise<WorkloadResult>;
  readonly clients: readonly (readonly NbdClient[])[];
  answered: number;
}

export class KillRig {
  readonly sites: TwoSites;
  readonly record: ExpectedRecord;
  readonly random: SeededRandom;
  /** Kills that struck while requests were open. */
  faultsUnderLoad = 0;
  #acknowledged = 0;
  #acknowledgedAtFault = 0;
  readonly #dishonest: string[] = [];
  #load: Load | undefined;
  readonly #bytesPerSecond: number;
  #probing = true;
  readonly #probe: Promise<void>;

  private constructor(sites: TwoSites, options: KillRigOptions) {
    this.sites = sites;
    this.random = options.random;
    this.#bytesPerSecond = options.bytesPerSecond ?? 20e6;
    this.record = new ExpectedRecord(
      options.seed,
      sites.volumes.map(({ sizeBytes }) => sizeBytes),
    );
    this.#probe = this.#probeHonesty();
  }

  /** Both sites serving. */
  static async start(options: KillRigOptions): Promise<KillRig> {
    const sites = await TwoSites.create({
      volumes: { data: 12 * mebibyte, log: 4 * mebibyte },
      ...options.sites,
    });
    const rig = KillRig.over(sites, options);
    try {
      await Promise.all([sites.start("dr"), sites.start("primary")]);
      await sites.waitServing("primary");
    } catch (error) {
      await rig.dispose();
      throw error;
    }
    return rig;
  }

  /** Over sites in whatever state; `dispose` disposes of them, too. */
  static over(sites: TwoSites, options: KillRigOptions): KillRig {
    return new KillRig(sites, options);
  }

  async dispose(): Promise<void> {
    this.#probing = false;
    this.#load?.stop.abort();
    await this.#probe;
    await this.sites.dispose();
  }

  /** Polls the owner's word: it may never claim more than the client has sent, nor go back. */
  async #probeHonesty(): Promise<void> {
    while (this.#probing) {
      const status = await this.sites.owner("primary").catch(() => undefined);
      const sent = this.record.mutations.length;
      if (status !== undefined) {
        const { written, acknowledged } = status.position;
        if (written > sent) this.#dishonest.push(`${written} records written, but only ${sent} sent`);
        if (acknowledged > written)
          this.#dishonest.push(`${acknowledged} acknowledged of ${written} written`);
        this.#acknowledged = Math.max(this.#acknowledged, acknowledged);
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  async startLoad(): Promise<void> {
    const clients = await this.sites.connect("primary", 2);
    const load: Load = {
      stop: new AbortController(),
      clients,
      answered: 0,
      done: Promise.resolve({ sent: 0, answered: 0, refused: 0, unknown: 0, errnos: [], problems: [] }),
    };
    const done = runWorkload({
      record: this.record,
      clients,
      depth: 16,
      bytesPerSecond: this.#bytesPerSecond,
      signal: load.stop.signal,
      onAnswered: (answered) => {
        load.answered = answered;
      },
    });
    this.#load = Object.assign(load, { done });
  }

  /** Ends the load, every request answered, as soon as the whole run has done enough to count. */
  async stopLoad(): Promise<void> {
    const load = this.#load;
    assert.ok(load);
    await enoughWork(this.record, valid);
    this.#load = undefined;
    load.stop.abort();
    const result = await load.done;
    for (const client of load.clients.flat()) await client.close();
    assert.equal(
      result.refused + result.unknown,
      0,
      `writes failed with no fault of the agent: ${JSON.stringify(result)}`,
    );
    assert.deepEqual(result.problems, []);
  }

  /** Lets the load run until `writes` more requests are answered. */
  async progress(writes: number): Promise<void> {
    const load = this.#load;
    assert.ok(load);
    const target = load.answered + writes;
    await until(`${writes} more answers`, () => (load.answered >= target ? true : undefined), 30_000);
  }

  /** A short seeded time in which anything may go on. */
  async anyMoment(msMax: number): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, this.random.below(msMax)));
  }

  /** kill -9 of the owner's site under load; what was open is then settled: it happened or never will. */
  async killOwner(): Promise<void> {
    const load = this.#load;
    assert.ok(load);
    this.#load = undefined;
    await this.sites.kill("primary");
    const { refused, unknown, errnos } = await load.done;
    this.record.settle();
    assert.equal(refused, 0, `refused with ${errnos.join(", ")}`);
    if (unknown > 0) this.faultsUnderLoad += 1;
    this.#acknowledgedAtFault = this.#acknowledged;
  }

  /** The owner has ended by itself under load, or will within `timeoutMs`; false when it has not. */
  async ownerEnds(timeoutMs: number): Promise<boolean> {
    const load = this.#load;
    assert.ok(load);
    const ended = await endsWithin(this.sites, "primary", timeoutMs);
    if (ended) await this.killOwner();
    return ended;
  }

  async killStandby(): Promise<void> {
    assert.ok(this.#load);
    await this.sites.kill("dr");
    this.faultsUnderLoad += 1;
    this.#acknowledgedAtFault = this.#acknowledged;
  }

  async startSite(site: SiteName): Promise<void> {
    await this.sites.start(site);
    if (site === "primary") await this.sites.waitServing("primary");
  }

  /** I1: nothing answered is gone from the restarted owner, sector by sector and as one order. */
  async checkLocal(context: string): Promise<void> {
    const clients = await this.sites.connect("primary");
    const state = await readGroup(
      clients.map(([client]) => exportReader(client!)),
      this.record.seed,
    );
    for (const [client] of clients) await client!.close();
    assert.deepEqual(judgeLocal(this.record, state, "answered"), [], context);
    const verdict = judgePrefix({
      record: this.record,
      state,
      required: ({ outcome }) => outcome === "answered",
    });
    assert.ok(verdict.consistent, `${context}: ${JSON.stringify(verdict)}`);
  }

  /** Waits until the gateway has applied all it holds; no owner may be sending. Gives that position. */
  async standbyAtRest(): Promise<number> {
    return until("the standby to have applied all it holds", async () => {
      const { position, reason } = await this.sites.standby("dr");
      assert.ok(
        position.applied <= position.durable && position.durable <= position.received,
        JSON.stringify({ position, reason }),
      );
      return position.applied === position.received ? position.applied : undefined;
    });
  }

  /** I2 and I4: the standby's images are one prefix, the one it claims, with all that was ever reported acknowledged. */
  async checkStandby(context: string, sequence: number): Promise<void> {
    const images = [];
    for (const { name, sizeBytes } of this.sites.volumes) {
      images.push(imageFile(await this.sites.standbyImage("dr", name), sizeBytes));
    }
    const state = await readGroup(images, this.record.seed);
    const verdict = judgePrefix({ record: this.record, state, sequence });
    assert.ok(verdict.consistent, `${context}: ${JSON.stringify(verdict)}`);
    assert.ok(
      sequence >= this.#acknowledged,
      `${context}: holds ${sequence}, but ${this.#acknowledged} was reported acknowledged`,
    );
  }

  /** I2 and I4 of a standby that has taken over and was not written to since. */
  async checkPromoted(context: string): Promise<void> {
    const { position } = await this.sites.owner("dr");
    const clients = await this.sites.connect("dr");
    const state = await readGroup(
      clients.map(([client]) => exportReader(client!)),
      this.record.seed,
    );
    for (const [client] of clients) await client!.close();
    const verdict = judgePrefix({ record: this.record, state, sequence: position.written });
    assert.ok(verdict.consistent, `${context}: ${JSON.stringify(verdict)}`);
    assert.ok(
      position.written >= this.#acknowledged,
      `${context}: took over at ${position.written}, but ${this.#acknowledged} was reported acknowledged`,
    );
  }

  /** Everything there, both sides equal; then the validity guard. */
  async finish(faults: number): Promise<string> {
    const sequence = await this.sites.waitIdle("primary", "dr");
    await this.checkLocal("at the end");
    await this.checkStandby("at the end", sequence);
    assert.deepEqual(this.#dishonest, []);
    const answered = this.record.count("answered");
    const figures = `${faults} faults, ${this.faultsUnderLoad} under load, ${answered} answered, ${this.record.count("unknown")} unknown, ${this.record.flushes} flushes`;
    assert.ok(
      answered >= valid.writes && this.record.flushes >= valid.flushes,
      `invalid run, too little work: ${figures}`,
    );
    assert.ok(this.faultsUnderLoad >= 1, `invalid run, no fault struck under load: ${figures}`);
    assert.ok(
      sequence >= this.#acknowledgedAtFault + validAdvanceMin,
      `invalid run, no advance after the last fault: ${figures}`,
    );
    noteEvidence("kills", {
      runs: 1,
      faults,
      "faults under load": this.faultsUnderLoad,
      "writes answered": answered,
      "data bytes": dataBytesOf(this.record),
      flushes: this.record.flushes,
      ...nothingLost,
    });
    return figures;
  }
}

/** Enough to be killed in the middle of something; more only makes the record, and its oracle, longer. */
export const killBytesPerSecond = 5e6;

/** What the process of each site is told to die at; empty: nothing. */
export type Orders = Record<SiteName, string>;

/** Lets each start of a site carry the order of that moment. */
export function launchWith(orders: Orders): (site: SiteName) => readonly string[] {
  return (site) => (orders[site] === "" ? [] : ["env", `${failpointVariable}=${orders[site]}`]);
}

/** Starts a site that may die before it serves; true when it serves. */
export async function startsServing(sites: TwoSites, site: SiteName): Promise<boolean> {
  try {
    await sites.start(site);
    if (site === "primary") await sites.waitServing(site);
    return true;
  } catch (error) {
    if (!(await endsWithin(sites, site, 2_000))) throw error;
    return false;
  }
}

/** Waits for the process of a site to end by itself. */
export async function endsWithin(sites: TwoSites, site: SiteName, timeoutMs: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(() => resolve(false), timeoutMs);
  });
  try {
    return await Promise.race([sites.child(site).exited.then(() => true), late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Number of kills of a run: `KILLS`, default `few`. */
export function killCount(few: number): number {
  const kills = Number(process.env["KILLS"] ?? few);
  if (!Number.isInteger(kills) || kills < 1)
    throw new Error(`KILLS=${process.env["KILLS"]} is not a number of kills`);
  return kills;
}

/** Bytes that the client sent in writes. */
export function dataBytesOf(record: ExpectedRecord): number {
  return record.mutations.reduce((sum, { kind, length }) => sum + (kind === "write" ? length : 0), 0);
}
