/**
 * Two sites under load on two groups, one of which (`erp`) gets its disks from the test; the other (`crm`) lies on
 * sound ones and must never notice. Watches both for dishonesty while a disk fails, and asks the oracles afterwards.
 */
import assert from "node:assert/strict";
import { mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { OwnerStatus, StandbyStatus } from "../../protocol/status.ts";
import { noteEvidence, nothingLost } from "../support/evidence.ts";
import { GroupLoad } from "../support/group-load.ts";
import type { SiteName, TwoSitesOptions } from "../support/sites.ts";
import { groupName, TwoSites } from "../support/sites.ts";
import { until } from "../support/wait.ts";

const mebibyte = 1 << 20;
export const volumes = { data: 2 * mebibyte, log: mebibyte };
/** A run with fewer answered writes in either group counts as invalid, which fails it. */
const answeredMin = 40;
const spoilt = groupName;
const sound = "crm";

export interface DiskRigOptions {
  readonly seed: number;
  readonly durability?: "flush" | "write";
  /** Called with each site's data folder before anything starts: mounts what the test wants over parts of it. */
  readonly prepare?: (dataDirs: Readonly<Record<SiteName, string>>) => Promise<void>;
  /** Takes away what `prepare` and the test mounted; runs when all processes are gone. */
  readonly clean?: () => Promise<void>;
  readonly sites?: Partial<TwoSitesOptions>;
  /** The images of `erp` at home lie outside its folder, so that a disk under the folder holds journal and state only. */
  readonly homeImagesApart?: boolean;
}

export class DiskRig {
  readonly sites: TwoSites;
  /** Group on the disks of the test. */
  readonly spoilt: GroupLoad;
  /** Group on sound disks. */
  readonly sound: GroupLoad;
  readonly #scratch: string;
  readonly #clean: () => Promise<void>;
  #soundAnswered = 0;

  private constructor(sites: TwoSites, scratch: string, options: DiskRigOptions) {
    this.sites = sites;
    this.#scratch = scratch;
    this.#clean = options.clean ?? (() => Promise.resolve());
    const { seed, durability = "flush" } = options;
    const common = { sites, durability, depth: 8, bytesPerSecond: 3e6 };
    this.spoilt = new GroupLoad({ ...common, group: spoilt, seed });
    this.sound = new GroupLoad({ ...common, group: sound, seed: seed + 1 });
  }

  /** Both sites serving both groups, both under load. */
  static async start(options: DiskRigOptions): Promise<DiskRig> {
    const scratch = await mkdtemp(join(tmpdir(), "splitsite-disks-"));
    const dataDirs = { primary: join(scratch, "primary"), dr: join(scratch, "dr") };
    let sites: TwoSites | undefined;
    try {
      await options.prepare?.(dataDirs);
      const images: Record<string, string> = {};
      if (options.homeImagesApart === true) {
        for (const [volume, bytes] of Object.entries(volumes)) {
          images[volume] = join(scratch, `${volume}.img`);
          await writeFile(images[volume], "");
          await truncate(images[volume], bytes);
        }
      }
      const { durability = "flush" } = options;
      sites = await TwoSites.create({
        volumes,
        durability,
        otherGroups: { [sound]: { volumes, durability } },
        dataDirs,
        images,
        logBytes: "64MiB",
        reserve: "1MiB",
        ...options.sites,
      });
      const rig = new DiskRig(sites, scratch, options);
      await Promise.all([sites.start("dr"), sites.start("primary")]);
      for (const group of [spoilt, sound]) await sites.waitServing("primary", group);
      await rig.spoilt.start();
      await rig.sound.start();
      // What a loss of power may take of them is not counted as answered in the end.
      await Promise.all([rig.spoilt.progress(2 * answeredMin), rig.sound.progress(answeredMin)]);
      return rig;
    } catch (error) {
      await sites?.dispose();
      await options.clean?.();
      await rm(scratch, { recursive: true, force: true });
      throw error;
    }
  }

  async dispose(): Promise<void> {
    await this.sites.dispose();
    await this.#clean();
    await rm(this.#scratch, { recursive: true, force: true });
  }

  /** The sound group goes on: more answers, and not one refusal, since the last time this was asked. */
  async soundGoesOn(): Promise<void> {
    const before = this.sound.record.count("refused") + this.sound.record.count("unknown");
    await this.sound.progress(10);
    assert.equal(this.sound.record.count("refused") + this.sound.record.count("unknown"), before);
    const answered = this.sound.record.count("answered");
    assert.ok(answered > this.#soundAnswered, "the sound group stands still");
    this.#soundAnswered = answered;
  }

  /** Waits until the owner shows what `wanted` looks for, within the 15 s of promise 8. */
  async ownerShows(what: string, wanted: (status: OwnerStatus) => boolean): Promise<OwnerStatus> {
    let last: unknown;
    return until(
      `the owner to show ${what}`,
      async () => {
        const status = await this.sites.owner("primary", spoilt);
        last = { state: status.state, io: status.io, reason: status.reason };
        return wanted(status) ? status : undefined;
      },
      15_000,
    ).catch((error: unknown) => {
      throw new Error(`${String(error)}; last ${JSON.stringify(last)}\n${this.#tail("primary")}`);
    });
  }

  async standbyShows(what: string, wanted: (status: StandbyStatus) => boolean): Promise<StandbyStatus> {
    let last: unknown;
    return until(
      `the standby to show ${what}`,
      async () => {
        const status = await this.sites.standby("dr", spoilt);
        last = { state: status.state, reason: status.reason, position: status.position };
        return wanted(status) ? status : undefined;
      },
      15_000,
    ).catch((error: unknown) => {
      throw new Error(`${String(error)}; last ${JSON.stringify(last)}\n${this.#tail("dr")}`);
    });
  }

  #tail(site: SiteName): string {
    return this.sites.log(site).slice(-3_000);
  }

  /** Owner serves and replicates the spoilt group again; waits longer than its longest pause between attempts. */
  async protectedAgain(): Promise<void> {
    await until(
      "the spoilt group to be protected again",
      async () => {
        const owner = await this.sites.owner("primary", spoilt);
        return (owner.io === "serving" && owner.link.up && owner.reason?.code !== "NO_PROGRESS") || undefined;
      },
      60_000,
    );
  }

  /** Home and standby of both groups, with all load ended; `true` when requests of the spoilt group must all be answered. */
  async finish(allAnswered: boolean): Promise<string> {
    if (this.spoilt.running) {
      if (allAnswered) await this.spoilt.end();
      else await this.spoilt.stop();
    }
    if (this.sound.running) await this.sound.end();
    for (const load of [this.spoilt, this.sound]) {
      await load.checkHome("at the end", "kill");
      await load.checkEqual("at the end");
    }
    const { record } = this.spoilt;
    const figures = `answered ${record.count("answered")}, refused ${record.count("refused")}, unknown ${record.count("unknown")}, flushes ${record.flushes}; sound group answered ${this.sound.record.count("answered")}`;
    assert.ok(
      record.count("answered") >= answeredMin && this.sound.record.count("answered") >= answeredMin,
      `invalid run: ${figures}`,
    );
    noteEvidence("disk faults", {
      runs: 1,
      "writes answered": record.count("answered"),
      flushes: record.flushes,
      ...nothingLost,
    });
    return figures;
  }
}
