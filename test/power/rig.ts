/**
 * Two sites as real processes, each with its whole data folder on a disk whose power can be cut, under load on two
 * groups: one that promises durability with FLUSH, one with every write. Cuts the power of either site or both, brings
 * it back as a new boot, and asks the oracles. Counts what really happened: a cut of an idle site proves nothing.
 */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { agentGroupPaths, gatewayGroupPaths } from "../../runtime/paths.ts";
import { noteEvidence, nothingLost } from "../support/evidence.ts";
import { GroupLoad } from "../support/group-load.ts";
import { OwnBoot } from "../support/own-boot.ts";
import { PowerCutDisk } from "../support/power-cut.ts";
import type { SeededRandom } from "../support/seeded.ts";
import type { SiteName } from "../support/sites.ts";
import { groupName, TwoSites } from "../support/sites.ts";
import { promisedSequence } from "./watermark-reader.ts";

const mebibyte = 1 << 20;
const volumes = { data: 2 * mebibyte, log: mebibyte };
/** A run below these figures counts as invalid, which fails it; fewer cuts can do less work. */
const answeredMin = (cuts: number): number => Math.min(200, 40 * cuts);
const flushesMin = (cuts: number): number => Math.min(20, 2 * cuts);

/** The most that was ever claimed of a group, by both sites. */
interface Claims {
  ownerDurable: number;
  acknowledged: number;
  standbyDurable: number;
}

interface Host {
  readonly disk: PowerCutDisk;
  readonly boot: OwnBoot;
}

export class PowerRig {
  readonly sites: TwoSites;
  readonly loads: readonly GroupLoad[];
  readonly random: SeededRandom;
  /** Cuts that struck while requests were open at a running owner. */
  cutsUnderLoad = 0;
  readonly #hosts: Readonly<Record<SiteName, Host>>;
  readonly #scratch: string;
  readonly #claims = new Map<string, Claims>();
  readonly #dishonest: string[] = [];
  readonly #probe: Promise<void>;
  #probing = true;
  #acknowledgedAtCut: Readonly<Record<string, number>> = {};

  private constructor(
    sites: TwoSites,
    hosts: Readonly<Record<SiteName, Host>>,
    scratch: string,
    seed: number,
    random: SeededRandom,
    bytesPerSecond: number,
  ) {
    this.sites = sites;
    this.random = random;
    this.#hosts = hosts;
    this.#scratch = scratch;
    this.loads = [
      new GroupLoad({ sites, group: groupName, durability: "flush", seed, bytesPerSecond }),
      new GroupLoad({ sites, group: "crm", durability: "write", seed: seed + 1, bytesPerSecond }),
    ];
    for (const { group } of this.loads)
      this.#claims.set(group, { ownerDurable: 0, acknowledged: 0, standbyDurable: 0 });
    this.#probe = this.#watch();
  }

  /**
   * Both sites serving, their disks on. `bytesPerSecond` of each group: while the standby is gone the journals must
   * take it all.
   */
  static async start(seed: number, random: SeededRandom, bytesPerSecond = 6e6): Promise<PowerRig> {
    const scratch = await mkdtemp(join(tmpdir(), "splitsite-cuts-"));
    const disks: PowerCutDisk[] = [];
    let sites: TwoSites | undefined;
    try {
      const host = async (site: SiteName): Promise<Host> => {
        const disk = await PowerCutDisk.make();
        disks.push(disk);
        await disk.powerOn();
        return { disk, boot: new OwnBoot(join(scratch, `boot-${site}`), disk.mountPoint) };
      };
      const hosts = { primary: await host("primary"), dr: await host("dr") };
      sites = await TwoSites.create({
        volumes,
        durability: "flush",
        otherGroups: { crm: { volumes, durability: "write" } },
        logBytes: "160MiB",
        reserve: "16MiB",
        dataDirs: { primary: dataDir(hosts.primary), dr: dataDir(hosts.dr) },
        launch: (site) => hosts[site].boot.launch(),
      });
      const rig = new PowerRig(sites, hosts, scratch, seed, random, bytesPerSecond);
      await Promise.all([sites.start("dr"), sites.start("primary")]);
      for (const { group } of rig.loads) await sites.waitServing("primary", group);
      return rig;
    } catch (error) {
      await sites?.dispose();
      for (const disk of disks) await disk.destroy();
      await rm(scratch, { recursive: true, force: true });
      throw error;
    }
  }

  async dispose(): Promise<void> {
    this.#probing = false;
    await this.sites.dispose();
    await this.#probe;
    for (const { disk } of Object.values(this.#hosts)) await disk.destroy();
    await rm(this.#scratch, { recursive: true, force: true });
  }

  /** Keeps the largest positions that any status showed, and notes impossible ones. */
  async #watch(): Promise<void> {
    while (this.#probing) {
      await Promise.all([this.#look("primary"), this.#look("dr")]);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  async #look(site: SiteName): Promise<void> {
    const status = await this.sites.status(site).catch(() => undefined);
    for (const found of status?.groups ?? []) {
      const claims = this.#claims.get(found.group);
      const load = this.loads.find(({ group }) => group === found.group);
      if (claims === undefined || load === undefined) continue;
      const sent = load.record.mutations.length;
      if (found.role === "owner" && site === "primary") {
        const { written, durable, acknowledged } = found.position;
        claims.ownerDurable = Math.max(claims.ownerDurable, durable);
        claims.acknowledged = Math.max(claims.acknowledged, acknowledged);
        if (written > sent || durable > written || acknowledged > durable)
          this.#dishonest.push(`${found.group}: ${JSON.stringify(found.position)} with ${sent} sent`);
      } else if (found.role === "standby" && site === "dr") {
        const { received, durable, applied } = found.position;
        claims.standbyDurable = Math.max(claims.standbyDurable, durable);
        if (received > sent || durable > received || applied > durable)
          this.#dishonest.push(`${found.group} standby: ${JSON.stringify(found.position)} with ${sent} sent`);
      }
    }
  }

  async startLoad(): Promise<void> {
    for (const load of this.loads) await load.start();
  }

  async progress(requests: number): Promise<void> {
    await Promise.all(this.loads.map((load) => load.progress(requests)));
  }

  async endLoad(): Promise<void> {
    await Promise.all(this.loads.map((load) => load.end()));
  }

  async anyMoment(msMax: number): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, this.random.below(msMax)));
  }

  /**
   * Cuts the power of these sites at one moment. Their processes end at once, or a little later: what they still say
   * without a disk must be true as well. Afterwards the power is on again, nothing runs, and the boot is another.
   */
  async cut(sites: readonly SiteName[]): Promise<void> {
    assert.ok(this.loads.every((load) => load.running));
    const lingerMs = this.random.chance(0.5) ? this.random.below(60) : 0;
    await Promise.all(
      sites.map(async (site) => {
        const dark = this.#hosts[site].disk.cutPower();
        if (lingerMs > 0) await new Promise((resolve) => setTimeout(resolve, lingerMs));
        await this.sites.kill(site);
        await dark;
      }),
    );
    if (sites.includes("primary")) {
      let unknown = 0;
      for (const load of this.loads) unknown += (await load.cutOff()).unknown;
      if (unknown > 0) this.cutsUnderLoad += 1;
    } else {
      this.cutsUnderLoad += 1;
      await this.#look("primary");
    }
    this.#acknowledgedAtCut = Object.fromEntries(
      this.loads.map(({ group }) => [group, this.#claims.get(group)!.acknowledged]),
    );
    await Promise.all(
      sites.map(async (site) => {
        const { disk, boot } = this.#hosts[site];
        await disk.takeDown();
        await disk.powerOn();
        boot.reboot();
      }),
    );
    for (const site of sites) this.#checkWatermarks(site);
  }

  /** The promise that lies outside the database covers everything that was ever said to be durable there (D4). */
  #checkWatermarks(site: SiteName): void {
    const folder = this.sites.dataDir(site);
    for (const { group, record } of this.loads) {
      const claims = this.#claims.get(group)!;
      const [path, claimed] =
        site === "primary"
          ? [agentGroupPaths(folder, group).watermark(1), claims.ownerDurable]
          : [
              gatewayGroupPaths(folder, group).intakeWatermark,
              Math.max(claims.standbyDurable, claims.acknowledged),
            ];
      const promised = promisedSequence(path);
      assert.ok(promised >= claimed, `${site} ${group}: ${claimed} said durable, watermark at ${promised}`);
      assert.ok(promised <= record.mutations.length, `${site} ${group}: watermark at ${promised}`);
    }
  }

  async startSite(site: SiteName): Promise<void> {
    await this.sites.start(site);
    if (site === "primary")
      for (const { group } of this.loads) await this.sites.waitServing("primary", group);
  }

  /** The home site after a power loss of its own, with no load. */
  async checkHome(context: string): Promise<void> {
    for (const load of this.loads) {
      await load.checkHome(context, "power-loss");
      const { position } = await this.sites.owner("primary", load.group);
      const { ownerDurable, acknowledged, standbyDurable } = this.#claims.get(load.group)!;
      const said = Math.max(ownerDurable, acknowledged, standbyDurable);
      assert.ok(
        position.written >= said,
        `${context}: ${said} were said durable, ${position.written} are there`,
      );
    }
  }

  /** The standby while no owner is sending: one prefix, and never less than was said to be acknowledged. */
  async checkStandbyAlone(context: string): Promise<void> {
    for (const load of this.loads) {
      const sequence = await load.standbyAtRest();
      await load.checkStandby(context, sequence);
      const { acknowledged, standbyDurable } = this.#claims.get(load.group)!;
      assert.ok(
        sequence >= Math.max(acknowledged, standbyDurable),
        `${context}: ${load.group} holds ${sequence}, but ${acknowledged} were acknowledged`,
      );
    }
  }

  /** The standby just after its return while the owner is running: it holds all that was acknowledged. */
  async checkAcknowledged(context: string): Promise<void> {
    for (const { group } of this.loads) {
      const { position, reason } = await this.sites.standby("dr", group);
      const acknowledged = this.#acknowledgedAtCut[group] ?? 0;
      assert.ok(
        position.durable >= acknowledged,
        `${context}: ${group} holds ${position.durable} (${reason?.code}), but ${acknowledged} were acknowledged`,
      );
    }
  }

  /** With no load: everything reaches the standby, and both sides are the same prefix. */
  async checkEqual(context: string): Promise<void> {
    for (const load of this.loads) await load.checkEqual(context);
  }

  /** The last check, and the validity guard. */
  async finish(cuts: number): Promise<string> {
    for (const load of this.loads) {
      const before = this.#acknowledgedAtCut[load.group] ?? 0;
      const sequence = await load.checkEqual("at the end");
      assert.ok(sequence > before, `invalid run: ${load.group} did not advance after the last cut`);
    }
    assert.deepEqual(this.#dishonest, []);
    const answered = this.loads.map(({ record }) => record.count("answered"));
    const flushes = this.loads.map(({ record }) => record.flushes);
    const taken = this.loads.map((load) => load.taken);
    const figures = `${cuts} cuts, ${this.cutsUnderLoad} under load; per group: answered ${answered}, flushes ${flushes}, answered without a promise and taken ${taken}`;
    assert.ok(
      Math.min(...answered) >= answeredMin(cuts) && Math.min(...flushes) >= flushesMin(cuts),
      `invalid run: ${figures}`,
    );
    assert.ok(this.cutsUnderLoad >= Math.ceil(cuts * 0.5), `invalid run: ${figures}`);
    const sum = (each: readonly number[]): number => each.reduce((total, count) => total + count, 0);
    noteEvidence("power cuts", {
      runs: 1,
      cuts,
      "cuts under load": this.cutsUnderLoad,
      "writes answered": sum(answered),
      flushes: sum(flushes),
      ...nothingLost,
    });
    return figures;
  }
}

function dataDir({ disk }: Host): string {
  return join(disk.mountPoint, "data");
}

/** Number of power cuts of this kind: its share of `SPLITSITE_CUTS`, default `few`. */
export function cutCount(few: number): number {
  const given = process.env["SPLITSITE_CUTS"];
  const cuts = given === undefined ? few : Math.ceil(Number(given) / 3);
  if (!Number.isInteger(cuts) || cuts < 1) throw new Error(`SPLITSITE_CUTS=${given} is not a number of cuts`);
  return cuts;
}
