/**
 * F31: the database of a group is not what it was when its site starts: files missing, empty, swapped or of another
 * group. At the running agent and at the running gateway: each such group says so with a code and serves nothing, at
 * every start again, because nothing is ever repaired; the groups beside it are served and replicated.
 */
import assert from "node:assert/strict";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { agentGroupPaths, gatewayGroupPaths } from "../../runtime/paths.ts";
import { GroupLoad } from "../support/group-load.ts";
import { NbdClient, NbdRefused } from "../support/nbd-client.ts";
import { seedFromEnvironment } from "../support/seeded.ts";
import type { SiteName } from "../support/sites.ts";
import { TwoSites } from "../support/sites.ts";
import { until } from "../support/wait.ts";

const seed = seedFromEnvironment();

/** A database and the watermark outside it. */
interface Place {
  readonly database: string;
  readonly watermark: string;
}

const filesOf = ({ database }: Place, pattern: RegExp): string[] =>
  readdirSync(database)
    .filter((name) => pattern.test(name))
    .sort()
    .map((name) => join(database, name));
const manifest = (place: Place): string => filesOf(place, /^MANIFEST-/).at(-1)!;
const largest = (paths: readonly string[]): string =>
  paths.reduce((a, b) => (statSync(b).size > statSync(a).size ? b : a));

type Damage = (place: Place, other: Place) => void;

/** Kinds of damage. */
const damages: Readonly<Record<string, Damage>> = {
  "current-gone": ({ database }) => rmSync(join(database, "CURRENT")),
  "current-empty": ({ database }) => truncateSync(join(database, "CURRENT")),
  "current-astray": ({ database }) => writeFileSync(join(database, "CURRENT"), "MANIFEST-999999\n"),
  "manifest-gone": (place) => rmSync(manifest(place)),
  "manifest-empty": (place) => truncateSync(manifest(place)),
  "manifest-zeroed": (place) => writeFileSync(manifest(place), Buffer.alloc(statSync(manifest(place)).size)),
  "log-gone": (place) => rmSync(largest(filesOf(place, /\.log$/))),
  "log-empty": (place) => truncateSync(largest(filesOf(place, /\.log$/))),
  "tables-gone": (place) => {
    for (const path of filesOf(place, /\.ldb$/)) rmSync(path);
  },
  "folder-empty": ({ database }) => {
    rmSync(database, { recursive: true });
    mkdirSync(database);
  },
  "folder-gone": ({ database }) => rmSync(database, { recursive: true }),
  "of-another-group": ({ database }, other) => {
    rmSync(database, { recursive: true });
    cpSync(other.database, database, { recursive: true });
  },
  "watermark-gone": ({ watermark }) => rmSync(watermark),
  "watermark-zeroed": ({ watermark }) => writeFileSync(watermark, Buffer.alloc(16_384)),
};
/** What both sites say of it. */
const codes: Readonly<Record<string, string>> = {
  "folder-empty": "JOURNAL_MISSING",
  "folder-gone": "JOURNAL_MISSING",
  "watermark-gone": "WATERMARK_MISSING",
  "watermark-zeroed": "WATERMARK_DAMAGED",
};
const damagedCode = "JOURNAL_DAMAGED";

const soundGroup = "erp";
const nameOf = (kind: string): string => `g-${kind}`;
const volumeBytes = 1 << 20;

test(`each of ${Object.keys(damages).length} damaged databases stops its group at both sites, and no other (F31, SEED=${seed})`, async (t) => {
  const scratch = await mkdtemp(join(tmpdir(), "splitsite-damage-"));
  const dataDirs = { primary: join(scratch, "primary"), dr: join(scratch, "dr") };
  const kinds = Object.keys(damages);
  const sites = await TwoSites.create({
    volumes: { data: volumeBytes },
    otherGroups: Object.fromEntries(kinds.map((kind) => [nameOf(kind), { volumes: { data: volumeBytes } }])),
    dataDirs,
    logBytes: "1GiB",
    reserve: "1MiB",
  });
  t.after(async () => {
    await sites.dispose();
    await rm(scratch, { recursive: true, force: true });
  });
  const startBoth = async (): Promise<void> => {
    await Promise.all([startPatiently(sites, "dr"), startPatiently(sites, "primary")]);
  };
  await startBoth();
  // Two lives, so that each database has both a table and a log.
  for (let life = 0; life < 2; life += 1) {
    for (const kind of kinds) await writeSome(sites, nameOf(kind));
    for (const kind of kinds) await sites.waitIdle("primary", "dr", 60_000, nameOf(kind));
    await Promise.all([sites.kill("primary"), sites.kill("dr")]);
    if (life === 0) await startBoth();
  }
  const placesOf = (site: SiteName, group: string): Place => {
    const agent = agentGroupPaths(dataDirs.primary, group);
    const gateway = gatewayGroupPaths(dataDirs.dr, group);
    return site === "primary"
      ? { database: agent.journal(1), watermark: agent.watermark(1) }
      : { database: gateway.intake, watermark: gateway.intakeWatermark };
  };
  for (const site of ["primary", "dr"] as const) {
    for (const kind of kinds) {
      const place = placesOf(site, nameOf(kind));
      assert.ok(
        filesOf(place, /\.ldb$/).length > 0 && filesOf(place, /\.log$/).length > 0,
        `${site} ${kind}`,
      );
      damages[kind]!(place, placesOf(site, soundGroup));
    }
  }

  let refused = 0;
  for (let start = 1; start <= 2; start += 1) {
    await startBoth();
    await sites.waitServing("primary", soundGroup);
    const load = new GroupLoad({
      sites,
      group: soundGroup,
      durability: "flush",
      seed: seed + start,
      bytesPerSecond: 2e6,
    });
    await load.start();
    for (const site of ["primary", "dr"] as const) {
      for (const kind of kinds) {
        const group = nameOf(kind);
        const code = await codeOf(sites, site, group);
        const key = `${site} ${kind}`;
        // The same at every start: a refusal never mends.
        assert.equal(code, codes[kind] ?? damagedCode, `start ${start}, ${key}`);
        refused += 1;
        assert.ok(!existsSync(join(placesOf(site, group).database, "lost")), `${key}: LevelDB repaired it`);
        if (site !== "primary") continue;
        await assert.rejects(
          NbdClient.connect(sites.nbdSocket("primary"), sites.exportOf("data", group)),
          NbdRefused,
        );
      }
    }
    await load.progress(20);
    await load.end();
    await sites.waitIdle("primary", "dr", 60_000, soundGroup);
    await Promise.all([sites.kill("primary"), sites.kill("dr")]);
  }
  t.diagnostic(`${refused} damaged databases refused, at 2 sites and 2 starts`);
});

async function writeSome(sites: TwoSites, group: string): Promise<void> {
  await sites.waitServing("primary", group);
  const [[client]] = (await sites.connect("primary", 1, undefined, group)) as [[NbdClient]];
  for (let at = 0; at < 4; at += 1) {
    const reply = await client.write(at * 65_536, Buffer.alloc(65_536, group), false);
    assert.equal(reply.outcome, "answered");
  }
  assert.equal((await client.flush()).outcome, "answered");
  await client.close();
}

/** LevelDB may abort on what it reads; the next start then looks first. As a service manager would, starts again. */
async function startPatiently(sites: TwoSites, site: SiteName): Promise<void> {
  let last: unknown;
  for (let attempt = 0; attempt < 6; attempt += 1) {
    try {
      return await sites.start(site);
    } catch (error) {
      last = error;
    }
  }
  throw last;
}

async function codeOf(sites: TwoSites, site: SiteName, group: string): Promise<string> {
  return until(`${site} to say what is wrong with ${group}`, async () => {
    const status = site === "primary" ? await sites.owner(site, group) : await sites.standby(site, group);
    if (status.state !== "stopped" && !(status.role === "owner" && status.io === "held")) return undefined;
    return status.reason?.code === "STARTING" ? undefined : status.reason?.code;
  });
}
