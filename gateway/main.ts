/**
 * Composition root of the gateway: makes the shells of one site's standby side and nothing else. Each group lives
 * alone; one that is broken is shown as stopped and never keeps the others from starting.
 */
import { systemImageFiles } from "../block/image-files.ts";
import { boundAllocator } from "../block/libc.ts";
import { levelEngine } from "../journal/level-engine.ts";
import { openLevelOrderedStore } from "../journal/level-ordered-store.ts";
import type { GroupKnowledge } from "../protocol/control.ts";
import type { HandoverTarget } from "../protocol/handover.ts";
import type { StandbyStatus } from "../protocol/status.ts";
import type { Clock } from "../runtime/clock.ts";
import { every } from "../runtime/clock.ts";
import { systemDisk } from "../runtime/disk.ts";
import { OperationalError } from "../runtime/errors.ts";
import { failpointFromEnvironment, observeStorage } from "../runtime/failpoints.ts";
import { bootId } from "../runtime/host.ts";
import type { Route } from "../runtime/http.ts";
import { createHttpServer } from "../runtime/http-server.ts";
import type { Log } from "../runtime/log.ts";
import { roleLockPath } from "../runtime/paths.ts";
import type { Random } from "../runtime/random.ts";
import { takeRoleLock } from "../runtime/role-lock.ts";
import type { Address, Settings, SiteSettings } from "../runtime/settings/types.ts";
import { settleAll } from "../runtime/settle-all.ts";
import { gatewayAdminRoutes } from "./admin.ts";
import { StandbyGroup } from "./group.ts";
import { shareOfIntake } from "./intake-options.ts";
import { wanRoutesOf } from "./receive/routes.ts";
import type { StandbyStorage } from "./storage.ts";

export interface GatewayWorld {
  readonly settings: Settings;
  readonly site: SiteSettings;
  readonly clock: Clock;
  /** Reserved: nothing at the gateway is random yet. */
  readonly random: Random;
  readonly log: Log;
  /** The agent of this site; null when it has none. */
  readonly target: HandoverTarget | null;
}

export interface GatewayRole {
  /** Every group this site stands by for. */
  statuses(): StandbyStatus[];
  /** What this site knows of a group: gateway state, a hand-over, or state of its own agent. */
  knows(group: string): GroupKnowledge;
  /** Takes over the volumes of a changed configuration, of groups that are known here; nothing else of it. */
  reload(settings: Settings): void;
  readonly adminRoutes: Route[];
  /** Address really bound. */
  readonly wanAddress: Address;
  close(): Promise<void>;
}

/** Requests under way get this long at shutdown, ms; a batch cut off is sent again. */
const closeGraceMs = 2_000;
/** Status is looked at this often even when nobody asks, ms: a loss of protection is logged within it. */
const observeIntervalMs = 1_000;

/**
 * Starts the gateway of `site`: groups first, then the listener, so that nobody is answered by a half-open group.
 * OperationalError `ROLE_NOT_CONFIGURED`, `ROLE_LOCKED`, and those of `createHttpServer`.
 */
export async function startGateway(world: GatewayWorld): Promise<GatewayRole> {
  const { settings, site, clock, target } = world;
  const log = world.log.child({ component: "gateway" });
  if (site.gateway === null) {
    throw new OperationalError({
      code: "ROLE_NOT_CONFIGURED",
      message: `site ${site.name} has no gateway`,
      reaction: "refuse",
    });
  }
  if (!boundAllocator()) log.debug("ALLOCATOR_UNBOUND", "this libc keeps its own settings");
  const lock = await takeRoleLock(roleLockPath(site.dataDir, "gateway"));
  const mine = settings.groups.filter((group) => group.home === site.name || group.standby === site.name);
  const hook = failpointFromEnvironment("gateway", log);
  const storage: StandbyStorage = observeStorage(
    {
      disk: systemDisk,
      images: systemImageFiles,
      stores: levelEngine,
      openIndex: (directory) => openLevelOrderedStore(directory, log),
      bootId: bootId(),
    },
    "gateway",
    hook,
  );
  const limits = shareOfIntake(site.gateway.intake, mine.length);
  const groups = new Map(
    mine.map((group) => [
      group.name,
      new StandbyGroup({
        site: site.name,
        dataDir: site.dataDir,
        settings: group,
        limits,
        target,
        storage,
        clock,
        log: log.child({ group: group.name }),
      }),
    ]),
  );
  const server = createHttpServer({
    listen: site.gateway.listen,
    tls: site.tls,
    routes: wanRoutesOf(groups, log),
    log,
    clock,
  });
  let wanAddress: Address;
  try {
    await Promise.all([...groups.values()].map((group) => group.start()));
    wanAddress = await server.listen();
  } catch (error) {
    await Promise.all([...groups.values()].map((group) => group.close()));
    await lock.release();
    throw error;
  }
  log.info("GATEWAY_LISTENING", "gateway is ready", { address: wanAddress });
  const observer = every(clock, observeIntervalMs, () => {
    for (const group of groups.values()) if (group.hasPart) group.status();
  });
  return {
    statuses: () => [...groups.values()].filter((group) => group.hasPart).map((group) => group.status()),
    knows: (group) => groups.get(group)?.knowledge() ?? { known: false, lineage: null, token: null },
    reload: (changed) => {
      for (const group of changed.groups) groups.get(group.name)?.reload(group);
    },
    adminRoutes: gatewayAdminRoutes(groups, clock),
    wanAddress,
    async close() {
      observer.cancel();
      await server.close(closeGraceMs);
      try {
        await settleAll([...groups.values()].map((group) => group.close()));
      } finally {
        await lock.release();
      }
    },
  };
}
