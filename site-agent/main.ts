/**
 * Composition root of the agent: makes the shells of one site's owner side and nothing else. Each group lives alone;
 * what stops one never keeps the others from starting.
 */
import { readFile } from "node:fs/promises";
import { systemImageFiles } from "../block/image-files.ts";
import { boundAllocator } from "../block/libc.ts";
import { nbdServerLimits } from "../block/nbd-limits.ts";
import { NbdRequestMemory } from "../block/nbd-request-memory.ts";
import { NbdServer } from "../block/nbd-server.ts";
import { levelEngine } from "../journal/level-engine.ts";
import { openLevelOrderedStore } from "../journal/level-ordered-store.ts";
import type { AdoptedExport, HandoverTarget } from "../protocol/handover.ts";
import { parseHandoverRecord } from "../protocol/handover.ts";
import { exportName } from "../protocol/ids.ts";
import type { OwnerStatus } from "../protocol/status.ts";
import type { Clock } from "../runtime/clock.ts";
import { every } from "../runtime/clock.ts";
import { systemCron } from "../runtime/cron.ts";
import { systemDisk } from "../runtime/disk.ts";
import { readDocument } from "../runtime/durable-document.ts";
import { OperationalError } from "../runtime/errors.ts";
import type { StepHook } from "../runtime/failpoints.ts";
import { failpointFromEnvironment, observeLine, observeStorage } from "../runtime/failpoints.ts";
import { bootId, descriptorsMax } from "../runtime/host.ts";
import type { Route } from "../runtime/http.ts";
import type { Log } from "../runtime/log.ts";
import { agentGroupPaths, gatewayGroupPaths, roleLockPath } from "../runtime/paths.ts";
import type { Random } from "../runtime/random.ts";
import { takeRoleLock } from "../runtime/role-lock.ts";
import type { Address, GroupSettings, Settings, SiteSettings } from "../runtime/settings/types.ts";
import { settleAll } from "../runtime/settle-all.ts";
import { agentAdminRoutes } from "./admin.ts";
import { AgentExportCatalog } from "./export-catalog.ts";
import { OwnedGroup } from "./group/owned-group.ts";
import { VerifySchedule } from "./scan/verify-schedule.ts";
import { throttleRoutes } from "./ship/admin.ts";
import { compressAside } from "./ship/compress-aside.ts";
import type { Line } from "./ship/line.ts";
import { Link } from "./ship/link.ts";

export interface AgentWorld {
  readonly settings: Settings;
  readonly site: SiteSettings;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

export interface AgentRole {
  statuses(): OwnerStatus[];
  readonly adminRoutes: Route[];
  readonly target: HandoverTarget;
  /** Addresses really bound, in the order of the configuration. */
  readonly nbdAddresses: readonly Address[];
  /** Takes over the volumes of groups that it has; everything else needs a restart. */
  reload(settings: Settings): void;
  close(): Promise<void>;
}

/** Frame bodies of all groups that may wait for their images, bytes; each group gets its share, at least 8 MiB. */
const unappliedBytesSite = 32 * 1024 * 1024;
const unappliedBytesGroupMin = 8 * 1024 * 1024;
/** Newest frames kept in memory for the shippers, all groups together, bytes; at least 2 MiB each. */
const memoryTailBytesSite = 8 * 1024 * 1024;
const memoryTailBytesGroupMin = 2 * 1024 * 1024;
/** Payloads and replies of NBD requests in flight, all clients together, bytes; beyond it clients take turns. */
const requestMemoryBytes = 512 * 1024 * 1024;
/** Descriptors kept back from NBD clients: for the process and its admin and line's servers, and for each group's files. */
const descriptorsProcess = 64;
const descriptorsGroup = 32;
/** Clients of one door that are served whatever the limit: fewer would make a low limit an outage. */
const connectionsMin = 8;
/** LevelDB write buffers, all groups together, bytes; a journal may hold two of its own. */
const writeBufferBytesSite = 4 * 1024 * 1024;
const writeBufferBytesGroupMin = 1024 * 1024;
/**
 * Each half of the write-ahead logs, all groups together, bytes; at least 512 KiB each. With 4 MiB, 1,000 frames of 4 KiB, the
 * store's syncs between two fillings do not matter; what both halves hold may wait in memory as well.
 */
const aheadHalfBytesSite = 4 * 1024 * 1024;
const aheadHalfBytesGroupMin = 512 * 1024;
/** Status is looked at this often even when nobody asks, ms: a loss of protection is logged within it. */
const observeIntervalMs = 1_000;
/** NBD requests in flight get this long to finish at shutdown, ms; the whole shutdown takes at most 10 s. */
const nbdCloseGraceMs = 3_000;

/** Starts the agent of `site`. Settles when its exports are served or each group has said why not. */
export async function startAgent(world: AgentWorld): Promise<AgentRole> {
  const { settings, site, clock, random } = world;
  const log = world.log.child({ component: "agent" });
  if (site.agent === null) {
    throw new OperationalError({
      code: "ROLE_NOT_CONFIGURED",
      message: `site ${site.name} has no agent`,
      reaction: "refuse",
    });
  }
  if (!boundAllocator()) log.debug("ALLOCATOR_UNBOUND", "this libc keeps its own settings");
  const agent = site.agent;
  const lock = await takeRoleLock(roleLockPath(site.dataDir, "agent"));
  const mine = settings.groups.filter((group) => group.home === site.name || group.standby === site.name);
  const links = makeLinks(world, mine, log);
  const groups = new Map<string, OwnedGroup>();
  const boot = bootId();
  const hook = failpointFromEnvironment("agent", log);
  const storage = observeStorage(
    {
      disk: systemDisk,
      images: systemImageFiles,
      stores: levelEngine,
      openIndex: (directory) => openLevelOrderedStore(directory, log),
    },
    "agent",
    hook,
  );
  for (const group of mine) {
    const paths = agentGroupPaths(site.dataDir, group.name);
    const groupLog = log.child({ group: group.name });
    groups.set(
      group.name,
      new OwnedGroup({
        site: site.name,
        settings: group,
        paths,
        files: {
          ...storage,
          clock,
          paths,
          journalBytesMax: Math.floor(agent.journal.maxBytes / mine.length),
          reserveBytes: agent.journal.reserveBytes,
          memoryTailBytes: share(memoryTailBytesSite, mine.length, memoryTailBytesGroupMin),
          writeBufferBytes: share(writeBufferBytesSite, mine.length, writeBufferBytesGroupMin),
          aheadHalfBytes: share(aheadHalfBytesSite, mine.length, aheadHalfBytesGroupMin),
          history: group.history,
          bootId: boot,
          log: groupLog,
        },
        unappliedBytesMax: share(unappliedBytesSite, mine.length, unappliedBytesGroupMin),
        readHandover: () =>
          readDocument(
            storage.disk,
            gatewayGroupPaths(site.dataDir, group.name).handover,
            parseHandoverRecord,
          ),
        link: lineOf(links.get(otherSite(group, site.name)), hook),
        compress: compressAside,
        clock,
        random,
        log: groupLog,
      }),
    );
  }
  const servers = await listenNbd(world, new AgentExportCatalog(groups, agent.nbd.clients), mine.length, log);
  await Promise.all([...groups.values()].map((group) => group.start()));
  const schedules = mine.flatMap(({ name, scan }) =>
    verifyScheduleOf(groups.get(name)!, scan.verifyCron, world),
  );
  for (const schedule of schedules) schedule.start();
  const observer = every(clock, observeIntervalMs, () => {
    for (const group of groups.values()) group.status();
  });
  const nbdAddresses = servers.map((server) => server.address);
  const adopt = async (name: string): Promise<readonly AdoptedExport[]> => {
    const group = groups.get(name);
    if (group === undefined) {
      throw new OperationalError({
        code: "GROUP_UNKNOWN",
        message: `this agent has no group ${name}`,
        reaction: "refuse",
      });
    }
    await group.adopt();
    return group.servedVolumes.flatMap((volume) =>
      nbdAddresses.slice(0, 1).map((address) => ({
        volume: volume.name,
        uri: exportUri(address, agent.nbd.tls, exportName(name, volume.name)),
      })),
    );
  };
  return {
    statuses: () => [...groups.values()].filter((group) => group.hasPart).map((group) => group.status()),
    adminRoutes: [...agentAdminRoutes(groups, adopt, clock), ...throttleRoutes(links)],
    target: { adopt: (record) => adopt(record.group) },
    nbdAddresses,
    reload(changed) {
      for (const group of changed.groups) groups.get(group.name)?.reload(group);
    },
    async close() {
      observer.cancel();
      for (const schedule of schedules) schedule.stop();
      // Clients first: what they have in flight is answered, then nothing new can come.
      await settleAll(servers.map((server) => server.close(nbdCloseGraceMs)));
      try {
        await settleAll([...groups.values()].map((group) => group.close()));
      } finally {
        await settleAll([...links.values()].map((link) => link.close()));
        await lock.release();
      }
    },
  };
}

function lineOf(link: Link | undefined, hook: StepHook | null): Line | null {
  return link === undefined || hook === null ? (link ?? null) : observeLine<Line>(link, hook);
}

/** The consistency checks that a group's settings ask for; none: no schedule. */
function verifyScheduleOf(
  group: OwnedGroup,
  expression: string | null,
  { clock, random, log }: AgentWorld,
): VerifySchedule[] {
  if (expression === null) return [];
  const target = {
    group: group.name,
    lastBegunMs: () => {
      const last = group.scans.results.find(({ outcome }) => outcome === "done");
      return last === undefined ? null : Date.parse(last.startedAt);
    },
    canVerify: () => group.scans.status() === null && canBeCompared(group.status()),
    verify: () => group.scans.verify(),
  };
  return [new VerifySchedule(expression, target, { cron: systemCron(log), clock, random, log })];
}

function canBeCompared({ io, link, paused, volumes }: OwnerStatus): boolean {
  const isWhole = volumes.every(({ wholeFrom }) => wholeFrom !== null);
  return io === "serving" && link.up && paused === null && isWhole;
}

/** A group's part of a site's budget, bytes. */
function share(siteBytes: number, groups: number, groupBytesMin: number): number {
  return Math.max(groupBytesMin, Math.floor(siteBytes / groups));
}

function otherSite(group: GroupSettings, site: string): string {
  return group.home === site ? group.standby : group.home;
}

/** One link per other site, shared by all groups that have a part there. */
function makeLinks(world: AgentWorld, groups: readonly GroupSettings[], log: Log): Map<string, Link> {
  const links = new Map<string, Link>();
  for (const group of groups) {
    const name = otherSite(group, world.site.name);
    const peer = world.settings.sites.find((site) => site.name === name);
    const line = world.settings.links.find(
      ({ between }) => between.includes(name) && between.includes(world.site.name),
    );
    if (links.has(name) || peer === undefined || peer.gateway === null || line === undefined) continue;
    const { clock, random } = world;
    links.set(
      name,
      new Link({ self: world.site, peer, settings: line, clock, random, log: log.child({ peer: name }) }),
    );
  }
  return links;
}

async function listenNbd(
  world: AgentWorld,
  catalog: AgentExportCatalog,
  groups: number,
  log: Log,
): Promise<{ address: Address; close(graceMs: number): Promise<void> }[]> {
  const { site, clock } = world;
  const { nbd } = site.agent ?? { nbd: { listen: [], tls: "off" as const } };
  const tls =
    nbd.tls === "off"
      ? null
      : {
          ca: await readFile(site.tls.ca),
          cert: await readFile(site.tls.cert),
          key: await readFile(site.tls.key),
          requireClientCertificate: true as const,
        };
  const servers: { address: Address; close(graceMs: number): Promise<void> }[] = [];
  // One budget for all listeners: what clients make us hold is bounded for the process, not for each door.
  const memory = new NbdRequestMemory(requestMemoryBytes);
  const spare = descriptorsMax() - descriptorsProcess - groups * descriptorsGroup;
  const connectionsMax = Math.max(
    connectionsMin,
    Math.min(nbdServerLimits.connectionsMax, Math.floor(spare / nbd.listen.length)),
  );
  try {
    for (const listen of nbd.listen) {
      // A Unix socket is guarded by its file mode; the network needs certificates.
      const server = new NbdServer({
        listen,
        tls: listen.kind === "unix" ? null : tls,
        catalog,
        clock,
        log,
        memory,
        limits: { connectionsMax },
      });
      servers.push({ address: await server.listen(), close: (graceMs) => server.close(graceMs) });
    }
  } catch (error) {
    for (const server of servers) await server.close(0);
    throw error;
  }
  return servers;
}

function exportUri(address: Address, tls: "off" | "require", name: string): string {
  if (address.kind === "unix") return `nbd+unix:///${name}?socket=${address.path}`;
  return `${tls === "require" ? "nbds" : "nbd"}://${address.host}:${address.port}/${name}`;
}
