/**
 * The main job, once, with real processes: two sites replicate a group of two volumes over a line that is thin, cut
 * once and restored; the primary is killed in the middle of writes; the standby's site takes over and every block it
 * then serves is judged against the client's own record. Returns what was seen; decides nothing by trust.
 */
import type { FailoverPlan, FailoverResult } from "../../protocol/admin.ts";
import { ExpectedRecord } from "../support/expected.ts";
import type { NbdClient } from "../support/nbd-client.ts";
import { exportReader, NbdRefused } from "../support/nbd-client.ts";
import { judgePrefix } from "../support/prefix-oracle.ts";
import type { Relay } from "../support/relay.ts";
import { startRelay } from "../support/relay.ts";
import { SeededRandom } from "../support/seeded.ts";
import { groupName, lastJson, TwoSites } from "../support/sites.ts";
import { stampData } from "../support/stamp.ts";
import { readGroup } from "../support/state-reader.ts";
import { until } from "../support/wait.ts";
import { runWorkload } from "../support/workload.ts";

export interface DemoOptions {
  readonly seed: number;
  /** One-way delay of the line, ms. */
  readonly delayMs: number;
  /** Chance in percent that the line resets a connection, per MiB that it carries. */
  readonly resetPercent: number;
  /** Limit of the line as in the configuration. */
  readonly limit: string;
  /** What the client tries to write, bytes per second. */
  readonly bytesPerSecond: number;
  /** How long each of the two phases under load lasts, ms. */
  readonly phaseMs: number;
  readonly report: (line: string) => void;
  /** Leave the scratch folder. */
  readonly keep: boolean;
}

export interface DemoReport {
  readonly seed: number;
  readonly answered: number;
  readonly unknown: number;
  readonly bytes: number;
  readonly rawBytes: number;
  readonly wireBytes: number;
  readonly lagWorstWrites: number;
  readonly lagWorstMs: number;
  /** Writes answered while the line was cut. */
  readonly answeredWhileCut: number;
  readonly acknowledgedSeen: number;
  readonly point: number;
  readonly lossStated: FailoverResult["loss"];
  /** Answered mutations that the promoted volumes lack: the client's own count, as bounds. */
  readonly lossTrueMin: number;
  readonly lossTrueMax: number;
  readonly failoverMs: number;
  /** From the start of the command until a block of each promoted volume was read over NBD. */
  readonly servedAgainMs: number;
  readonly blocksRead: number;
  /** Every reason for doubt; empty: consistent. */
  readonly doubts: readonly string[];
}

const mebibyte = 1 << 20;
const volumes = { data: 64 * mebibyte, log: 16 * mebibyte };
const depth = 16;
const pollMs = 200;
/** A line thinner than the load never catches up, and the demo must end: it then goes on with what there is, ms. */
const catchUpMsMax = 12_000;

/** Watches the owner's status: the worst lag, the best acknowledged position, and anything that goes backwards. */
class Watch {
  lagWorstWrites = 0;
  lagWorstMs = 0;
  acknowledged = 0;
  rawBytes = 0;
  wireBytes = 0;
  readonly doubts: string[] = [];
  #stop = false;
  readonly #done: Promise<void>;

  constructor(sites: TwoSites, record: ExpectedRecord) {
    this.#done = this.#run(sites, record);
  }

  async #run(sites: TwoSites, record: ExpectedRecord): Promise<void> {
    while (!this.#stop) {
      const status = await sites.owner("primary").catch(() => undefined);
      const sentNow = record.mutations.length;
      if (status !== undefined) {
        const { position, lag, link } = status;
        if (position.acknowledged < this.acknowledged)
          this.doubts.push("the acknowledged position went back");
        const { written, durable, shipped, acknowledged, applied } = position;
        if (applied > acknowledged || acknowledged > shipped || shipped > written || durable > written) {
          this.doubts.push(`positions out of order: ${JSON.stringify(position)}`);
        }
        if (written > sentNow) this.doubts.push(`${written} records written, but only ${sentNow} sent`);
        if (lag.writes < written - acknowledged)
          this.doubts.push(`lag ${lag.writes} is less than ${written} - ${acknowledged}`);
        this.acknowledged = Math.max(this.acknowledged, acknowledged);
        this.lagWorstWrites = Math.max(this.lagWorstWrites, lag.writes);
        this.lagWorstMs = Math.max(this.lagWorstMs, lag.ageMs);
        this.rawBytes = link.rawBytes;
        this.wireBytes = link.wireBytes;
      }
      await delay(pollMs);
    }
  }

  async stop(): Promise<void> {
    this.#stop = true;
    await this.#done;
  }
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Runs the main job. Rejects when something does not work at all; doubts about what it did are in the report. */
export async function runDemo(options: DemoOptions): Promise<DemoReport> {
  const { seed, report, phaseMs } = options;
  const random = new SeededRandom(seed, 0xd3);
  let relay: Relay | undefined;
  const sites = await TwoSites.create({
    volumes,
    limit: options.limit,
    keep: options.keep,
    line: async (port) => {
      relay = await startRelay({
        listenPort: 0,
        target: { host: "127.0.0.1", port },
        delayMs: options.delayMs,
        resetPerMebibyte: options.resetPercent / 100,
        seed,
      });
      return relay.port;
    },
  });
  try {
    return await replicateAndFailOver(options, sites, relay!, random);
  } finally {
    await sites.dispose();
    await relay?.close();
    if (options.keep) report(`scratch folder kept: ${sites.folder}`);
  }

  async function replicateAndFailOver(
    { seed, bytesPerSecond }: DemoOptions,
    sites: TwoSites,
    relay: Relay,
    random: SeededRandom,
  ): Promise<DemoReport> {
    const doubts: string[] = [];
    await Promise.all([sites.start("dr"), sites.start("primary")]);
    await sites.waitServing("primary");
    report(`both sites run; ${groupName}: two volumes, ${options.limit}, ${options.delayMs} ms each way`);

    const sizes = sites.volumes.map(({ sizeBytes }) => sizeBytes);
    const record = new ExpectedRecord(seed, sizes);
    const watch = new Watch(sites, record);
    const clients = await sites.connect("primary", 2);
    let answered = 0;
    const load = runWorkload({
      record,
      clients,
      depth,
      bytesPerSecond,
      onAnswered: (count) => {
        answered = count;
      },
    });
    const describe = async () => {
      const status = await sites.owner("primary").catch(() => undefined);
      return `${record.count("answered")} writes answered, ${status?.position.acknowledged ?? "?"} acknowledged, ${status?.state ?? "?"}${status?.reason ? ` (${status.reason.code})` : ""}`;
    };
    await delay(phaseMs);
    report(`replicating: ${await describe()}`);

    relay.cut();
    const atCut = answered;
    await delay(phaseMs);
    const whileCut = answered - atCut;
    report(`line cut for ${phaseMs} ms: ${await describe()}`);
    if (whileCut === 0) doubts.push("no write was answered while the line was cut");
    relay.restore();
    const atRestore = watch.acknowledged;
    await until(
      "replication to go on after the cut",
      () => (watch.acknowledged > atRestore ? true : undefined),
      30_000,
    );
    const caughtUp = await until(
      "the standby to catch up",
      async () => ((await sites.owner("primary")).lag.ageMs < 1_000 ? true : undefined),
      catchUpMsMax,
    ).catch(() => false);
    report(`line restored, ${caughtUp ? "caught up" : "still behind"}: ${await describe()}`);

    // Any moment may be the last: the seed picks it.
    await delay(phaseMs / 4 + random.below(phaseMs));
    await sites.kill("primary");
    record.settle();
    const result = await load;
    await watch.stop();
    if (result.refused > 0) doubts.push(`writes were refused: errno ${result.errnos.join(", ")}`);
    doubts.push(...result.problems, ...watch.doubts);
    const unknown = record.count("unknown");
    const lastAnswered = record.count("answered");
    report(
      `primary killed: ${lastAnswered} writes answered, ${unknown} without an answer, ${watch.acknowledged} known acknowledged`,
    );

    const planned = await sites.cli("dr", "failover", "plan", groupName, "--json");
    if (planned.code !== 0) throw new Error(`failover plan ended with ${planned.code}:\n${planned.output}`);
    const plan = lastJson(planned.stdout) as FailoverPlan;
    report(
      `plan: epoch ${plan.epoch} to ${plan.nextEpoch}, ${plan.toApply.records} records to apply, loss ${plan.loss.known}`,
    );

    const startedMs = performance.now();
    const failover = await sites.failover("dr");
    const promoted = await sites.connect("dr");
    for (const [client] of promoted) await exportReader(client!).read(0, 4096);
    const servedAgainMs = performance.now() - startedMs;
    const point = failover.point.sequence;
    const state = await readGroup(
      promoted.map(([client]) => exportReader(client!)),
      seed,
    );
    const verdict = judgePrefix({ record, state, sequence: point });
    if (!verdict.consistent) doubts.push(...verdict.problems);
    if (point < watch.acknowledged)
      doubts.push(`point ${point} is before ${watch.acknowledged}, which was reported acknowledged`);
    const lossTrueMin = Math.max(verdict.consistent ? verdict.missingMin : 0, lastAnswered - point);
    const lossTrueMax = Math.min(
      verdict.consistent ? verdict.missingMax : lastAnswered,
      lastAnswered + unknown - point,
    );
    if (failover.loss.writesMin > lastAnswered + unknown - point) {
      doubts.push(
        `${failover.loss.writesMin} lost writes stated as the least, but ${lossTrueMax} is the most`,
      );
    }
    if (failover.loss.known === "exact" && failover.loss.writesMin < lossTrueMin)
      doubts.push("an exact loss was stated too low");
    report(
      `took over at record ${point}: every block read, ${verdict.consistent ? "one prefix of the write order" : "NOT A PREFIX"}`,
    );

    doubts.push(...(await writeAndReadBack(promoted, seed, sizes)));
    for (const [client] of promoted) await client!.close();
    report("promoted volumes take writes and give them back");

    await sites.start("primary");
    doubts.push(...(await fencedDoubts(sites)));
    report(
      `old owner started again: ${(await sites.groupStatus("primary")).reason?.message ?? "says nothing"}`,
    );
    const epoch = (await sites.owner("dr")).epoch;
    if (epoch !== failover.epoch) doubts.push(`the new owner is at epoch ${epoch}, not ${failover.epoch}`);

    return {
      seed,
      answered: lastAnswered,
      unknown,
      bytes: record.answeredBytes(),
      rawBytes: watch.rawBytes,
      wireBytes: watch.wireBytes,
      lagWorstWrites: watch.lagWorstWrites,
      lagWorstMs: watch.lagWorstMs,
      answeredWhileCut: whileCut,
      acknowledgedSeen: watch.acknowledged,
      point,
      lossStated: failover.loss,
      lossTrueMin: Math.max(0, lossTrueMin),
      lossTrueMax: Math.max(0, lossTrueMax),
      failoverMs: failover.durationMs,
      servedAgainMs,
      blocksRead: sizes.reduce((sum, size) => sum + size / 4096, 0),
      doubts,
    };
  }
}

/** Writes to every promoted volume, flushes, reads back. */
async function writeAndReadBack(
  clients: readonly (readonly NbdClient[])[],
  seed: number,
  sizes: readonly number[],
): Promise<string[]> {
  const doubts: string[] = [];
  for (const [volume, [client]] of clients.entries()) {
    for (const offset of [0, 512 * 7, sizes[volume]! - 65536]) {
      const data = stampData(seed + 1, offset, volume, offset, offset === 0 ? 512 : 65536);
      const write = await client!.write(offset, data);
      const flush = await client!.flush();
      const read = await client!.read(offset, data.length);
      const same = read.outcome === "answered" && read.data.equals(data);
      if (write.outcome !== "answered" || flush.outcome !== "answered" || !same) {
        doubts.push(
          `volume ${volume} offset ${offset}: write ${write.outcome}, flush ${flush.outcome}, read back ${same ? "same" : "differs"}`,
        );
      }
    }
  }
  return doubts;
}

const eshutdown = 108;

/** The old owner must learn that it is fenced, say so, and answer its clients ESHUTDOWN or serve them nothing. */
async function fencedDoubts(sites: TwoSites): Promise<string[]> {
  const doubts: string[] = [];
  const status = await until(
    "the old owner to find itself fenced",
    async () => {
      const group = await sites.groupStatus("primary").catch(() => undefined);
      return group?.state === "fenced" ? group : undefined;
    },
    15_000,
  ).catch((error: unknown) => String(error));
  if (typeof status === "string") {
    return [`${status}: ${JSON.stringify(await sites.groupStatus("primary").catch(String))}`];
  }
  if (status.reason === null) doubts.push("the old owner does not say why it is fenced");
  if (status.role === "owner" && status.io !== "refused")
    doubts.push(`the old owner's disks are ${status.io}`);
  let clients: NbdClient[][];
  try {
    clients = await sites.connect("primary");
  } catch (error) {
    if (!(error instanceof NbdRefused)) throw error;
    return doubts;
  }
  for (const [client] of clients) {
    const write = await client!.write(0, Buffer.alloc(4096, 0xee));
    if (write.outcome !== "refused" || write.errno !== eshutdown)
      doubts.push(`the old owner answered a write: ${JSON.stringify(write)}`);
    await client!.destroy();
  }
  return doubts;
}
