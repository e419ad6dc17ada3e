/**
 * One site's daemon in one process: starts its roles, joins them by the hand-over, and puts one admin endpoint in
 * front of both. The only place that knows both roles; it decides nothing about data.
 */
import { mkdir, readFile } from "node:fs/promises";
import { dirname } from "node:path";
import type { AdminError } from "../protocol/admin.ts";
import { adminRoutes } from "../protocol/admin.ts";
import type { AdoptedExport, HandoverTarget } from "../protocol/handover.ts";
import type { GroupStatus, SiteStatus } from "../protocol/status.ts";
import type { Clock } from "../runtime/clock.ts";
import { rfc3339, systemClock } from "../runtime/clock.ts";
import { OperationalError } from "../runtime/errors.ts";
import type { Route } from "../runtime/http.ts";
import { createHttpClient } from "../runtime/http-client.ts";
import { createHttpServer } from "../runtime/http-server.ts";
import type { Log } from "../runtime/log.ts";
import type { Random } from "../runtime/random.ts";
import { systemRandom } from "../runtime/random.ts";
import { formatAddress } from "../runtime/settings/address.ts";
import { keysForRestart } from "../runtime/settings/difference.ts";
import type { Address, Settings, SiteSettings } from "../runtime/settings/types.ts";
import type { Role } from "./admin-address.ts";
import { adminAddress } from "./admin-address.ts";
import { mergeStatuses } from "./merge-statuses.ts";

/** What every role is made of. */
export interface RoleWorld {
  readonly settings: Settings;
  readonly site: SiteSettings;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

/** The two composition roots, as far as a service needs them; `run` brings the real ones. */
export interface RoleStarters {
  startAgent(world: RoleWorld): Promise<AgentPart>;
  startGateway(world: RoleWorld & { readonly target: HandoverTarget | null }): Promise<GatewayPart>;
}

interface AgentPart {
  statuses(): readonly GroupStatus[];
  readonly adminRoutes: readonly Route[];
  readonly target: HandoverTarget;
  readonly nbdAddresses: readonly Address[];
  reload(settings: Settings): void;
  close(): Promise<void>;
}

interface GatewayPart {
  statuses(): readonly GroupStatus[];
  readonly adminRoutes: readonly Route[];
  readonly wanAddress: Address;
  reload(settings: Settings): void;
  close(): Promise<void>;
}

export interface ServiceOptions {
  readonly settings: Settings;
  readonly site: SiteSettings;
  readonly roles: readonly Role[];
  /** The site's roles run as processes of their own, this one with a single role. */
  readonly apart: boolean;
  readonly starters: RoleStarters;
  readonly log: Log;
}

export interface Service {
  /** Where it is reached, for the log. */
  readonly addresses: Readonly<Record<string, unknown>>;
  /**
   * The configuration was read again. Volumes that grow or join are taken over while everything runs; keys that need a
   * restart are returned, and nothing is done about them.
   */
  reload(settings: Settings): readonly string[];
  /** Clients first, then the line, then the journals: what was answered is kept. */
  close(): Promise<void>;
}

/** Orders under way get this long at shutdown, ms. */
const adminGraceMs = 1_000;
/** An adopted group replays nothing and opens its journal; the agent answers well within this, ms. */
const adoptTimeoutMs = 60_000;
/** Exports of 256 volumes, about 200 bytes each. */
const adoptAnswerBytesMax = 256 * 1024;

/** Starts everything or nothing: what was started is closed when a later part fails. */
export async function startService(options: ServiceOptions): Promise<Service> {
  const { settings, site, roles, starters, log } = options;
  const world = { settings, site, clock: systemClock, random: systemRandom, log };
  const closing: (() => Promise<void>)[] = [];
  const closeAll = async () => {
    for (const close of closing.toReversed()) await close();
  };
  try {
    const agent = roles.includes("agent") ? await starters.startAgent(world) : undefined;
    if (agent !== undefined) closing.push(() => agent.close());
    const target = agent?.target ?? (site.agent === null ? null : remoteTarget(site));
    const gateway = roles.includes("gateway") ? await starters.startGateway({ ...world, target }) : undefined;
    if (gateway !== undefined) closing.push(() => gateway.close());
    const listen = adminAddress(site, options.apart ? (roles[0] ?? null) : null);
    if (listen.kind === "unix") await mkdir(dirname(listen.path), { recursive: true, mode: 0o700 });
    const statuses = (): GroupStatus[] =>
      mergeStatuses([...(agent?.statuses() ?? []), ...(gateway?.statuses() ?? [])]);
    const admin = createHttpServer({
      listen,
      tls: listen.kind === "unix" ? null : site.tls,
      routes: [
        statusRoute(site, statuses),
        ...guarded(site, [...(agent?.adminRoutes ?? []), ...(gateway?.adminRoutes ?? [])]),
      ],
      log,
      clock: systemClock,
    });
    const adminBound = await admin.listen();
    closing.push(() => admin.close(adminGraceMs));
    return {
      addresses: {
        admin: formatAddress(adminBound),
        nbd: agent?.nbdAddresses.map(formatAddress) ?? [],
        wan: gateway === undefined ? null : formatAddress(gateway.wanAddress),
      },
      reload(changed) {
        // The standby first: the owner asks it whether it is ready.
        gateway?.reload(changed);
        agent?.reload(changed);
        return keysForRestart(settings, changed);
      },
      close: closeAll,
    };
  } catch (error) {
    await closeAll();
    throw error;
  }
}

function statusRoute(site: SiteSettings, statuses: () => GroupStatus[]): Route {
  return guard(site, {
    method: "GET",
    pattern: adminRoutes.status,
    run: async () => {
      const status: SiteStatus = { site: site.name, time: rfc3339(systemClock.wallMs()), groups: statuses() };
      return { status: 200, json: status };
    },
  });
}

function guarded(site: SiteSettings, routes: readonly Route[]): Route[] {
  return routes.map((route) => guard(site, route));
}

/**
 * Over TCP any certificate of our authority passes TLS: an NBD client's, the other site's. Only this site's own may
 * give orders here. A Unix socket is guarded by its file mode.
 */
function guard(site: SiteSettings, route: Route): Route {
  if (site.admin.kind === "unix") return route;
  return {
    ...route,
    run: async (request) => {
      if (request.sites.includes(site.name)) return route.run(request);
      const refusal: AdminError = {
        type: "error",
        code: 5,
        id: "NOT_PERMITTED",
        message: `orders to site ${site.name} need its own certificate`,
        try: "Run the command on the site's host.",
      };
      return { status: 403, json: refusal, early: true };
    },
  };
}

/** Hand-over to the agent's process of the same site. */
function remoteTarget(site: SiteSettings): HandoverTarget {
  return {
    async adopt(record) {
      const address = adminAddress(site, "agent");
      const client =
        address.kind === "unix"
          ? createHttpClient({ socketPath: address.path, connections: 1 })
          : createHttpClient({
              origin: `https://${formatAddress(address)}`,
              tls: {
                ca: await readFile(site.tls.ca),
                cert: await readFile(site.tls.cert),
                key: await readFile(site.tls.key),
                serverSite: site.name,
              },
              connections: 1,
            });
      try {
        const body = Buffer.from(JSON.stringify(record));
        const reply = await client.request({
          method: "POST",
          path: adminRoutes.groupAdopt(record.group),
          headers: { "content-type": "application/json" },
          body,
          contentLength: body.byteLength,
          headersTimeoutMs: adoptTimeoutMs,
          answerBytesMax: adoptAnswerBytesMax,
        });
        return decodeAdopted(reply.status, reply.body);
      } finally {
        await client.destroy();
      }
    },
  };
}

function decodeAdopted(status: number, body: Uint8Array): AdoptedExport[] {
  const value = jsonOrNothing(body);
  if (status === 200 && Array.isArray(value) && value.every(isAdoptedExport)) return value;
  const said =
    typeof value === "object" && value !== null && "message" in value
      ? String(value.message)
      : `HTTP ${status}`;
  throw new OperationalError({
    code: "ADOPT_REFUSED",
    message: `the agent of this site does not take the group: ${said}`,
    reaction: "refuse",
    hint: "Look at the agent's log, then run the failover again; the hand-over is kept.",
  });
}

/** Undefined for what is no JSON: the caller then goes by the status alone. */
function jsonOrNothing(body: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(body).toString("utf8"));
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

function isAdoptedExport(value: unknown): value is AdoptedExport {
  return typeof value === "object" && value !== null && "volume" in value && "uri" in value;
}
