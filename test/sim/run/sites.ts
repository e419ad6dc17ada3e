/**
 * Two sites out of the product's own shells, on simulated disks, clock and line: what `site-agent/main.ts` and
 * `gateway/main.ts` put together, without NBD, HTTP and locks. Starts, kills, pauses and restarts roles and machines,
 * and tells `Truth` what clients could know. It decides nothing: when what happens is the fault plan's.
 */
import { dirname } from "node:path";
import { brotliCompressSync, constants } from "node:zlib";
import { StandbyGroup } from "../../../gateway/group.ts";
import type { Past } from "../../../image/past.ts";
import type { RowChange, StoreEngine } from "../../../journal/store.ts";
import type { CompressBatch } from "../../../protocol/batch.ts";
import { shorterPayload } from "../../../protocol/batch.ts";
import { parseHandoverRecord } from "../../../protocol/handover.ts";
import type { VolumeEntry } from "../../../protocol/ids.ts";
import { lz4Compress } from "../../../protocol/lz4.ts";
import type { OwnerStatus, StandbyStatus } from "../../../protocol/status.ts";
import { every } from "../../../runtime/clock.ts";
import type { Disk } from "../../../runtime/disk.ts";
import { syncDirectory } from "../../../runtime/disk.ts";
import { readDocument } from "../../../runtime/durable-document.ts";
import { OperationalError } from "../../../runtime/errors.ts";
import { agentGroupPaths, gatewayGroupPaths } from "../../../runtime/paths.ts";
import type { GroupSettings, LineCodec } from "../../../runtime/settings/types.ts";
import { OwnedGroup } from "../../../site-agent/group/owned-group.ts";
import { VolumeDevice } from "../../../site-agent/group/volume-device.ts";
import { SeededRandom } from "../../support/seeded.ts";
import { stampData } from "../../support/stamp.ts";
import type { WanConditions } from "../link.ts";
import { Wan } from "../link.ts";
import type { HeldRange } from "../model/history.ts";
import { readAhead, readDirtyPage, readFrame, readHead } from "../model/journalled.ts";
import type { LossKind } from "../model/owner-book.ts";
import { Violation } from "../model/violation.ts";
import type { WallOffset } from "../world/clock.ts";
import { clockOf, randomOf } from "../world/clock.ts";
import { SimDisk } from "../world/disk.ts";
import { Life } from "../world/life.ts";
import { openSimOrderedStore } from "../world/ordered-store.ts";
import type { Scheduler } from "../world/scheduler.ts";
import type { PowerCut } from "../world/tree.ts";
import { altered, withFile } from "./altered-disk.ts";
import { isHalf } from "./disk-targets.ts";
import { isOwnFault, SimLog } from "./sim-log.ts";
import type { Truth } from "./truth.ts";

export const siteNames = ["a", "b"] as const;
export type SiteName = (typeof siteNames)[number];
export type RoleName = "agent" | "gateway";

export function otherSite(site: SiteName): SiteName {
  return site === "a" ? "b" : "a";
}

/** Sizes and limits of a run: small, so that rotation, trimming and full logs happen within it. */
export interface SitePlan {
  readonly groups: readonly GroupSettings[];
  readonly journalBytesMax: number;
  readonly intakeBytesMax: number;
  readonly memoryTailBytes: number;
  readonly unappliedBytesMax: number;
  /** Both roles of a site are one process: they die together. */
  readonly oneProcess: boolean;
  /** How batches are packed for the line. */
  readonly codec: LineCodec;
}

/** The product's two codecs without the thread pool, whose answers come in no order that a seed decides. */
const packNow: CompressBatch = async (codec, raw) =>
  shorterPayload(
    raw,
    codec === "lz4"
      ? lz4Compress(raw)
      : brotliCompressSync(raw, { params: { [constants.BROTLI_PARAM_QUALITY]: 2 } }),
  );

const writeBufferBytes = 64 * 1024;
/** A half of the write-ahead log: of a few frames, so that both are filled again and again. */
const aheadHalfBytes = 16 * 1024;
/** A segment of before-images: short, so that some are begun and given back within a run. */
const segmentBytes = 64 * 1024;
/** A standby's apply step: short, so that steps overlap whenever it has something to catch up with. */
const stepBytesMax = 32 * 1024;
/** Status is looked at this often, as the roles do, ms. */
const observeIntervalMs = 1_000;

export interface AgentRole {
  readonly life: Life;
  readonly groups: ReadonlyMap<string, OwnedGroup>;
  closing: boolean;
}

export interface GatewayRole {
  readonly life: Life;
  readonly groups: ReadonlyMap<string, StandbyGroup>;
}

export class SimSite {
  readonly name: SiteName;
  readonly disk: SimDisk;
  readonly wall: WallOffset = {};
  /** A fault has made its disk slow, full or failing at some time of the run. */
  diskTroubled = false;
  /** A sync has failed, and with it what it was to write is gone from the cache's care. */
  syncFailed = false;
  readonly dataDir: string;
  agent: AgentRole | undefined;
  gateway: GatewayRole | undefined;

  constructor(name: SiteName, disk: SimDisk) {
    this.name = name;
    this.disk = disk;
    this.dataDir = `/${name}`;
  }
}

/** Wrappers around what the product is given, to plant a bug and see it caught. */
export interface Sabotage {
  readonly disk?: (disk: Disk, site: SiteName, role: RoleName) => Disk;
  readonly stores?: (engine: StoreEngine, site: SiteName, role: RoleName) => StoreEngine;
  readonly standby?: (group: StandbyGroup) => void;
  readonly owned?: (group: OwnedGroup) => void;
}

export class Sites {
  readonly scheduler: Scheduler;
  readonly wan: Wan;
  readonly plan: SitePlan;
  readonly byName: ReadonlyMap<SiteName, SimSite>;
  readonly #truth: Truth;
  readonly #sabotage: Sabotage;
  readonly #agentGone: (site: SiteName) => void;
  /** What the file of each site says of each group now. */
  readonly #configured: ReadonlyMap<SiteName, Map<string, GroupSettings>>;
  /** Calls from a gateway to the agent of its site that are under way. */
  readonly #adoptions = new Map<Life, Set<(error: Error) => void>>();
  #lives = 0;

  constructor(
    scheduler: Scheduler,
    seed: number,
    plan: SitePlan,
    conditions: WanConditions,
    truth: Truth,
    sabotage: Sabotage = {},
    agentGone: (site: SiteName) => void = () => {},
  ) {
    this.scheduler = scheduler;
    this.plan = plan;
    this.#truth = truth;
    this.#sabotage = sabotage;
    this.#agentGone = agentGone;
    this.#configured = new Map(
      siteNames.map((name) => [name, new Map(plan.groups.map((group) => [group.name, group]))]),
    );
    this.wan = new Wan(scheduler, new SeededRandom(seed, 3), conditions, {
      batchLeft: (from, group, last) => this.#judge(() => truth.batchLeft(from as SiteName, group, last)),
      heartbeatLeft: (from, group, body) =>
        this.#judge(() => truth.heartbeatLeft(from as SiteName, group, body)),
      answered: (site, group, what, sender, answer, body) => {
        const { wall } = this.site(site as SiteName);
        this.#judge(() => truth.answered(site as SiteName, group, what, sender, answer, body, wall));
      },
      delivered: (site, group, what, answer) =>
        this.#judge(() => truth.told(site as SiteName, group, what, answer)),
      unexpected: (site, error) => {
        if (isOwnFault(error)) this.#blame(error, `route of the gateway of ${site}`);
      },
    });
    this.byName = new Map(siteNames.map((name) => [name, new SimSite(name, new SimDisk(scheduler, name))]));
  }

  site(name: SiteName): SimSite {
    return this.byName.get(name)!;
  }

  /** Changes what the file of a site says of a group: for whoever reads it from now on. */
  configure(name: SiteName, group: string, change: (settings: GroupSettings) => GroupSettings): void {
    const file = this.#configured.get(name)!;
    file.set(group, change(file.get(group)!));
  }

  /** What SIGHUP does: the standby side first, as the service does it. A role that hangs hears of it when it goes on. */
  reload(name: SiteName): void {
    for (const role of ["gateway", "agent"] as const) {
      const running = this.site(name)[role];
      if (running === undefined) continue;
      const read = (): void => {
        for (const [group, settings] of this.#configured.get(name)!)
          running.groups.get(group)!.reload(settings);
      };
      this.scheduler.at(0.1, `reload ${running.life.name}`, read, running.life);
    }
  }

  /** Runs a check of the model; what it throws ends the run. */
  #judge(check: () => void): void {
    try {
      check();
    } catch (error) {
      this.scheduler.fail(error);
    }
  }

  #blame(error: unknown, where: string): void {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    this.scheduler.fail(
      error instanceof Violation
        ? error
        : new Violation("ASSERT", `${where}: ${text.split("\n").slice(0, 6).join(" | ")}`),
    );
  }

  #newLife(site: SimSite, role: RoleName): { life: Life; log: SimLog } {
    this.#lives += 1;
    const life = new Life(`${site.name}.${role}#${this.#lives}`);
    const log = new SimLog(
      life,
      this.scheduler.trace,
      () => this.scheduler.nowMs,
      (error, line) => this.#blame(error, line),
    );
    return { life, log };
  }

  #disk(site: SimSite, role: RoleName, life: Life): Disk {
    const disk = site.disk.view(life);
    return this.#sabotage.disk?.(disk, site.name, role) ?? disk;
  }

  #engine(site: SimSite, role: RoleName, life: Life): StoreEngine {
    const engine: StoreEngine = {
      open: site.disk.store(life),
      guard: (_directory, _watermark, _bytes, open) => open(),
    };
    return this.#sabotage.stores?.(engine, site.name, role) ?? engine;
  }

  /**
   * The model learns in which order the owner of a group journals, what it notes of what it drops, and what a standby takes
   * in, before the store can do anything to it.
   */
  #overheard(engine: StoreEngine, site: SiteName, role: RoleName, life: Life): StoreEngine {
    const hear = (what: () => void): void => {
      if (life.alive) this.#judge(what);
    };
    const truth = this.#truth;
    return {
      ...engine,
      open: async (directory, ...rest) => {
        const store = await engine.open(directory, ...rest);
        const group = directory.split("/")[3]!;
        const { putFrame, putHead, changeRows } = store;
        store.putFrame = (first, value) => {
          hear(() =>
            role === "agent"
              ? truth.journalled(site, group, first, readFrame(value))
              : truth.received(site, group, first, readFrame(value)),
          );
          return putFrame.call(store, first, value);
        };
        if (role === "gateway") return store;
        const noted = (rows: readonly RowChange[]): void => {
          for (const { table, number, value } of rows)
            if (table === "note")
              truth.noted(site, group, number, value === null ? undefined : readDirtyPage(value));
        };
        store.putHead = (value, rows = []) => {
          hear(() => {
            truth.headMoved(site, group, readHead(value));
            noted(rows);
          });
          return putHead.call(store, value, rows);
        };
        store.changeRows = (rows) => {
          hear(() => noted(rows));
          return changeRows.call(store, rows);
        };
        const head = await store.head();
        const notes = await store.rows("note");
        hear(() => {
          truth.notesForgotten(site, group);
          if (head !== undefined) truth.headMoved(site, group, readHead(head));
          noted(notes.map((row) => ({ table: "note", ...row })));
        });
        return store;
      },
    };
  }

  /** The same of the frames that an owner writes ahead of its store. */
  #overheardAhead(disk: Disk, site: SiteName, life: Life): Disk {
    const truth = this.#truth;
    return withFile(disk, (file, path) => {
      if (!isHalf(path)) return file;
      const group = path.split("/")[3]!;
      return altered(file, {
        writeNow: (position, bytes) => {
          const { first, value } = readAhead(bytes);
          if (life.alive) this.#judge(() => truth.journalled(site, group, first, readFrame(value)));
          file.writeNow(position, bytes);
        },
      });
    });
  }

  /** The data folders are there before anything starts, as an installation leaves them. */
  async prepare(): Promise<void> {
    for (const site of this.byName.values()) {
      const life = new Life(`${site.name}.setup`);
      const disk = site.disk.view(life);
      await this.#setUp(life, async () => {
        await disk.makeDirectory(site.dataDir);
        await syncDirectory(disk, "/");
      });
    }
  }

  /** Puts data into the image of a volume that is not there yet, durably. */
  async fill(
    name: SiteName,
    seed: number,
    path: string,
    sizeBytes: number,
    ranges: readonly HeldRange[],
  ): Promise<void> {
    const site = this.site(name);
    const life = new Life(`${name}.setup`);
    const disk = site.disk.view(life);
    await this.#setUp(life, async () => {
      await disk.makeDirectory(dirname(path));
      const image = await site.disk.images(life).open({ path, sizeBytes, create: "sparse" });
      for (const { number, volume, offset, length } of ranges)
        await image.write(offset, stampData(seed, number, volume, offset, length), { fua: false });
      await image.flush();
      for (let folder = dirname(path); folder !== "/"; folder = dirname(folder))
        await syncDirectory(disk, folder);
    });
  }

  async #setUp(life: Life, work: () => Promise<void>): Promise<void> {
    let done = false;
    const set = async (): Promise<void> => {
      await work();
      done = true;
    };
    set().catch((error: unknown) => this.scheduler.fail(error));
    await this.scheduler.run({ stop: () => done });
    life.end();
  }

  startAgent(name: SiteName): void {
    const site = this.site(name);
    if (site.agent !== undefined) return;
    const { life, log } = this.#newLife(site, "agent");
    const { scheduler, plan } = this;
    const clock = clockOf(scheduler, life, site.wall);
    const disk = this.#overheardAhead(this.#disk(site, "agent", life), name, life);
    const line = this.wan.line(name, otherSite(name), life, plan.codec);
    const groups = new Map<string, OwnedGroup>();
    for (const settings of this.#configured.get(name)!.values()) {
      const paths = agentGroupPaths(site.dataDir, settings.name);
      const groupLog = log.child({ group: settings.name });
      const group = new OwnedGroup({
        site: name,
        settings,
        paths,
        files: {
          disk,
          images: site.disk.images(life),
          stores: this.#overheard(this.#engine(site, "agent", life), name, "agent", life),
          openIndex: openSimOrderedStore(disk),
          segmentBytes,
          history: settings.history,
          clock,
          paths,
          journalBytesMax: plan.journalBytesMax,
          reserveBytes: 0,
          memoryTailBytes: plan.memoryTailBytes,
          writeBufferBytes,
          aheadHalfBytes,
          bootId: site.disk.bootId,
          log: groupLog,
        },
        unappliedBytesMax: plan.unappliedBytesMax,
        readHandover: () =>
          readDocument(disk, gatewayGroupPaths(site.dataDir, settings.name).handover, parseHandoverRecord),
        link: line,
        compress: packNow,
        clock,
        random: randomOf(scheduler),
        log: groupLog,
      });
      this.#sabotage.owned?.(group);
      groups.set(settings.name, group);
    }
    const role: AgentRole = { life, groups, closing: false };
    site.agent = role;
    this.#truth.agentStarted(name, role);
    for (const [group, owned] of groups) {
      owned.start().then(
        () => this.#look(site, role, group),
        (error: unknown) => this.#blame(error, `start of ${life.name}`),
      );
    }
    every(clock, observeIntervalMs, () => {
      for (const group of groups.keys()) this.#look(site, role, group);
    });
  }

  #look(site: SimSite, role: AgentRole, group: string): void {
    if (site.agent !== role || !role.life.alive) return;
    const owned = role.groups.get(group)!;
    this.#judge(() => this.#truth.observeOwner(site.name, group, owned, !site.diskTroubled));
    this.#truth.observePast(site.name, group, owned.past);
  }

  startGateway(name: SiteName): void {
    const site = this.site(name);
    if (site.gateway !== undefined) return;
    const { life, log } = this.#newLife(site, "gateway");
    const { scheduler, plan } = this;
    const clock = clockOf(scheduler, life, site.wall);
    const disk = this.#disk(site, "gateway", life);
    const storage = {
      disk,
      openIndex: openSimOrderedStore(disk),
      segmentBytes,
      stepBytesMax,
      images: site.disk.images(life),
      stores: this.#overheard(this.#engine(site, "gateway", life), name, "gateway", life),
      bootId: site.disk.bootId,
    };
    const groups = new Map<string, StandbyGroup>();
    for (const settings of this.#configured.get(name)!.values()) {
      const group = new StandbyGroup({
        site: name,
        dataDir: site.dataDir,
        settings,
        storage,
        limits: {
          bytesMax: plan.intakeBytesMax,
          reserveBytes: 0,
          memoryTailBytes: plan.memoryTailBytes,
          writeBufferBytes,
        },
        target: { adopt: (record) => this.#adopt(site, life, record.group) },
        clock,
        log: log.child({ group: settings.name }),
      });
      this.#sabotage.standby?.(group);
      groups.set(settings.name, group);
    }
    const role: GatewayRole = { life, groups };
    site.gateway = role;
    Promise.all([...groups.values()].map((group) => group.start())).then(
      () => {
        if (life.alive) this.wan.serve(name, life, groups, log);
      },
      (error: unknown) => this.#blame(error, `start of ${life.name}`),
    );
    every(clock, observeIntervalMs, () => {
      if (site.gateway !== role || !life.alive) return;
      for (const [group, standby] of groups) {
        const status = standby.status();
        this.#judge(() => this.#truth.observeStandby(name, group, status, site));
        this.#truth.observePast(name, group, standby.past);
      }
    });
  }

  /** The call that a gateway makes to the agent of its own site; fails when either end is gone. */
  #adopt(site: SimSite, gateway: Life, group: string): Promise<[]> {
    const { agent } = site;
    const gone = () =>
      new OperationalError({
        code: "AGENT_UNREACHABLE",
        message: "the agent does not answer",
        reaction: "retry",
      });
    return new Promise((resolve, reject) => {
      if (agent === undefined) {
        this.scheduler.at(1, "no agent to adopt", () => reject(gone()), gateway);
        return;
      }
      const calls = this.#adoptions.get(agent.life) ?? new Set();
      this.#adoptions.set(agent.life, calls);
      const broken = (error: Error): void => {
        this.scheduler.at(1, "agent died while adopting", () => reject(error), gateway);
      };
      calls.add(broken);
      this.scheduler.at(
        1,
        `${group} to be adopted at ${site.name}`,
        () => {
          agent.groups
            .get(group)!
            .adopt()
            .then(
              () => {
                if (!agent.life.alive) return;
                calls.delete(broken);
                this.#look(site, agent, group);
                this.scheduler.at(1, `${group} adopted at ${site.name}`, () => resolve([]), gateway);
              },
              (error: Error) => {
                if (calls.delete(broken))
                  this.scheduler.at(1, `${group} not adopted`, () => reject(error), gateway);
              },
            );
        },
        agent.life,
      );
    });
  }

  /** kill -9 of a role; of both when they are one process. */
  kill(name: SiteName, role: RoleName): void {
    const roles: RoleName[] = this.plan.oneProcess ? ["agent", "gateway"] : [role];
    for (const each of roles) this.#kill(name, each);
  }

  #kill(name: SiteName, role: RoleName): void {
    const site = this.site(name);
    const running = site[role];
    if (running === undefined) return;
    this.#trace(`kill ${running.life.name}`);
    site.disk.kill(running.life);
    this.#gone(site, role, "kill");
  }

  #gone(site: SimSite, role: RoleName, loss: LossKind): void {
    if (role === "agent") {
      const life = site.agent?.life;
      site.agent = undefined;
      this.#truth.agentGone(site.name, loss, !site.diskTroubled);
      this.#agentGone(site.name);
      for (const broken of (life === undefined ? undefined : this.#adoptions.get(life)) ?? [])
        broken(
          new OperationalError({ code: "AGENT_UNREACHABLE", message: "connection reset", reaction: "retry" }),
        );
    } else {
      site.gateway = undefined;
      this.#truth.gatewayGone(site.name);
    }
    const silentMs = loss === "kill" ? 0 : 1_000 + this.scheduler.random.fraction() * 8_000;
    this.wan.died(site.name, role, silentMs);
  }

  powerCut(name: SiteName, model: PowerCut): void {
    const site = this.site(name);
    this.#trace(`power cut at ${name}: ${model}`);
    site.disk.powerCut(model);
    // What a failed sync dropped is in no cache any more: with it even this loses what was only answered.
    const loss = model === "everything" && !site.syncFailed ? "spared" : "power";
    this.#judge(() => this.#truth.standbyLostPower(site));
    // Also without an agent: what its kill had left in memory is gone now.
    this.#gone(site, "agent", loss);
    this.#gone(site, "gateway", loss);
  }

  start(name: SiteName, role: RoleName): void {
    const roles: RoleName[] = this.plan.oneProcess ? ["agent", "gateway"] : [role];
    for (const each of roles) {
      if (each === "agent") this.startAgent(name);
      else this.startGateway(name);
    }
  }

  /** An orderly stop of the agent, then its end; whoever waits longer than 10 s kills it. */
  stopAgent(name: SiteName, then: () => void): void {
    const site = this.site(name);
    const role = site.agent;
    if (role === undefined) {
      then();
      return;
    }
    this.#trace(`stop ${role.life.name}`);
    role.closing = true;
    let ended = false;
    const end = (): void => {
      if (ended) return;
      ended = true;
      if (site.agent === role) this.#kill(name, "agent");
      then();
    };
    this.scheduler.at(10_000, "stopping takes too long", end);
    Promise.all([...role.groups.values()].map((group) => group.close())).then(end, (error: unknown) => {
      // A disk that fails during the last steps: the process ends with the error, and recovers as after a kill.
      if (error instanceof OperationalError) end();
      else this.#blame(error, `close of ${role.life.name}`);
    });
  }

  pause(name: SiteName, role: RoleName, forMs: number): void {
    const life = this.site(name)[role]?.life;
    if (life === undefined) return;
    this.#trace(`pause ${life.name}`);
    life.pause();
    this.scheduler.at(forMs, `go on ${life.name}`, () => {
      if (life.alive) this.scheduler.resume(life);
    });
  }

  /** The run is over: nothing of it may go on. */
  endAll(): void {
    for (const site of this.byName.values()) {
      site.agent?.life.end();
      site.gateway?.life.end();
    }
  }

  #trace(text: string): void {
    this.scheduler.trace.add(`${Math.round(this.scheduler.nowMs * 1_000)} == ${text}`);
  }

  ownerStatus(name: SiteName, group: string): OwnerStatus | undefined {
    return this.site(name).agent?.groups.get(group)?.status();
  }

  standbyStatus(name: SiteName, group: string): StandbyStatus | undefined {
    return this.site(name).gateway?.groups.get(group)?.status();
  }

  /** What can be gone back to at a site, by its standby or by an owner that took it over. */
  past(name: SiteName, group: string): Past | undefined {
    const site = this.site(name);
    return site.agent?.groups.get(group)?.past ?? site.gateway?.groups.get(group)?.past;
  }

  /** Volumes that clients find at a site now, with their sizes. */
  served(name: SiteName, group: string): readonly VolumeEntry[] {
    const { agent } = this.site(name);
    const owned = agent?.groups.get(group);
    if (agent === undefined || agent.closing || owned === undefined || owned.fenced) return [];
    return owned.servedVolumes;
  }

  /** The volume as a client reaches it now; undefined while it is not exported. */
  device(name: SiteName, group: string, volume: number): VolumeDevice | undefined {
    const entry = this.served(name, group).find((each) => each.number === volume);
    const owned = this.site(name).agent?.groups.get(group);
    return entry === undefined || owned === undefined ? undefined : new VolumeDevice(owned, entry);
  }
}
