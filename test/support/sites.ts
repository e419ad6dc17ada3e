/**
 * Both sites of a small installation as real processes in a scratch folder: written from what `splitsite init` makes,
 * ports from the kernel, started, watched, killed, restarted and removed. Talks to them only as a user could: through
 * the CLI, the admin socket and NBD.
 */
import { readFileSync, rmSync } from "node:fs";
import { access, cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { request } from "node:http";
import type { AddressInfo, Server } from "node:net";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { FailoverResult } from "../../protocol/admin.ts";
import type { GroupStatus, OwnerStatus, SiteStatus, StandbyStatus } from "../../protocol/status.ts";
import type { Finished } from "./child.ts";
import { Child, mustRun, runTool } from "./child.ts";
import type { NbdAddress } from "./nbd-client.ts";
import { NbdClient } from "./nbd-client.ts";
import { until } from "./wait.ts";

export type SiteName = "primary" | "dr";
export type RoleName = "agent" | "gateway";
/** A process: a site with both roles, or one role of a site whose roles run apart. */
type ProcessName = SiteName | `${SiteName}.${RoleName}`;

export interface TwoSitesOptions {
  /** Volumes of the group `erp`, bytes; the order gives their numbers. */
  readonly volumes: Readonly<Record<string, number>>;
  readonly durability?: "flush" | "write";
  /** Rate as in the configuration, e.g. `2Mbit/s`; default unlimited. */
  readonly limit?: string;
  readonly codec?: "auto" | "lz4" | "brotli" | "none";
  readonly connections?: number;
  /** Quota of journal and intake log, e.g. `1GiB`. */
  readonly logBytes?: string;
  /**
   * Puts something on the line: gets the port the standby's gateway listens on and the folder with the sites'
   * certificates (`ca.pem`, SITE`.pem`, SITE`.key`), gives the port to dial instead.
   */
  readonly line?: (gatewayPort: number, tlsFolder: string) => Promise<number>;
  /** Where the scratch folder goes; default the system's. */
  readonly parent?: string;
  /** Existing files as images at the home site, by volume. */
  readonly images?: Readonly<Record<string, string>>;
  /** Keeps the scratch folder on `dispose`. */
  readonly keep?: boolean;
  /** Further groups with the same home and standby, by name. */
  readonly otherGroups?: Readonly<Record<string, OtherGroup>>;
  /** Data folders that do not lie in the scratch folder; they are made at start and not removed. */
  readonly dataDirs?: Partial<Readonly<Record<SiteName, string>>>;
  /** Free space that journal and intake leave, e.g. `64MiB`. */
  readonly reserve?: string;
  /** Further lines of `protection` of the group `erp`. */
  readonly protection?: readonly string[];
  /** Puts words before the command of a site, asked at each start: a limit, a namespace, a tracer. */
  readonly launch?: (site: SiteName) => readonly string[];
}

export interface OtherGroup {
  readonly volumes: Readonly<Record<string, number>>;
  readonly durability?: "flush" | "write";
}

interface Volume {
  readonly name: string;
  readonly sizeBytes: number;
}

export const groupName = "erp";

/** How to run the CLI from the same tree as this file: built, or from source. */
function cliCommand(): readonly [string, ...string[]] {
  const fromSource = import.meta.url.endsWith(".ts");
  const main = fileURLToPath(
    new URL(`../../runbook/splitsite.${fromSource ? "cts" : "cjs"}`, import.meta.url),
  );
  return fromSource
    ? [process.execPath, "--import", import.meta.resolve("tsx"), main]
    : [process.execPath, main];
}

/**
 * What `splitsite init` makes. Once for all sites of a test process, each of which gets a copy: the command takes as long as
 * the start of a site, and no test looks for two certificates being different.
 */
let firstMade: Promise<string> | undefined;

async function makeFirst(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "splitsite-made-"));
  process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
  const [command, ...args] = cliCommand();
  await mustRun(command, [...args, "init", join(folder, "made")]);
  return join(folder, "made");
}

/** Free ports of the loopback, all different because all are held until the last is known. */
export async function freePorts(count: number): Promise<number[]> {
  const servers: Server[] = [];
  for (let index = 0; index < count; index += 1) {
    const server = createServer();
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject).listen(0, "127.0.0.1", resolve);
    });
    servers.push(server);
  }
  const ports = servers.map((server) => (server.address() as AddressInfo).port);
  for (const server of servers) await new Promise((resolve) => server.close(resolve));
  return ports;
}

interface Ports {
  readonly nbd: number;
  readonly gateway: number;
}

export class TwoSites {
  readonly folder: string;
  readonly configFile: string;
  readonly volumes: readonly Volume[];
  /** A command that takes longer is killed, ms. */
  cliMsMax = 120_000;
  readonly #otherVolumes: ReadonlyMap<string, readonly Volume[]>;
  readonly #dataDirs: Partial<Readonly<Record<SiteName, string>>>;
  readonly #launch: (site: SiteName) => readonly string[];
  readonly #ports: Readonly<Record<SiteName, Ports>>;
  readonly #keep: boolean;
  readonly #children = new Map<ProcessName, Child>();
  /** Ended by the test: no surprise. */
  readonly #taken = new Set<Child>();
  /** Output of processes that have ended, newest last. */
  readonly #pastOutput: Record<SiteName, string> = { primary: "", dr: "" };

  private constructor(folder: string, options: TwoSitesOptions, ports: Readonly<Record<SiteName, Ports>>) {
    this.folder = folder;
    this.configFile = join(folder, "splitsite.yaml");
    this.volumes = volumesOf(options.volumes);
    this.#otherVolumes = new Map(
      Object.entries(options.otherGroups ?? {}).map(([name, { volumes }]) => [name, volumesOf(volumes)]),
    );
    this.#dataDirs = options.dataDirs ?? {};
    this.#launch = options.launch ?? (() => []);
    this.#ports = ports;
    this.#keep = options.keep === true;
  }

  /** Writes the configuration and certificates; starts nothing. */
  static async create(options: TwoSitesOptions): Promise<TwoSites> {
    const folder = await mkdtemp(join(options.parent ?? tmpdir(), "splitsite-"));
    firstMade ??= makeFirst();
    await cp(await firstMade, join(folder, "made"), { recursive: true });
    const [nbd1, nbd2, gateway1, gateway2] = (await freePorts(4)) as [number, number, number, number];
    const dialled = (await options.line?.(gateway2, join(folder, "made", "tls"))) ?? gateway2;
    const ports = { primary: { nbd: nbd1, gateway: gateway1 }, dr: { nbd: nbd2, gateway: gateway2 } };
    const sites = new TwoSites(folder, options, ports);
    await writeFile(sites.configFile, configText(folder, options, ports, dialled));
    return sites;
  }

  /**
   * Starts a site, or with `role` only that role of it as a process of its own, and waits until its admin endpoint
   * answers. A site runs one way or the other.
   */
  async start(site: SiteName, role?: RoleName): Promise<void> {
    const name = processName(site, role);
    if (this.#children.get(name)?.running === true) throw new Error(`${name} runs already`);
    const words = [
      ...this.#launch(site),
      ...cliCommand(),
      "run",
      "--config",
      this.configFile,
      "--site",
      site,
      ...(role === undefined ? [] : ["--role", role]),
    ];
    const child = new Child(name, words[0]!, words.slice(1), { cwd: this.folder });
    this.#children.set(name, child);
    await until(`the admin endpoint of ${name}`, async () => {
      if (!child.running) throw new Error(`${name} ended at start:\n${child.output.slice(-4000)}`);
      return (await this.#ask(site, role).catch(() => undefined)) === undefined ? undefined : true;
    });
  }

  child(site: SiteName, role?: RoleName): Child {
    const name = processName(site, role);
    const child = this.#children.get(name);
    if (child === undefined) throw new Error(`${name} was never started`);
    return child;
  }

  /** Roles of a site that run as processes of their own; empty when it runs as one. */
  #rolesApart(site: SiteName): RoleName[] {
    return (["agent", "gateway"] as const).filter((role) => this.#children.has(processName(site, role)));
  }

  #processesOf(site: SiteName): Child[] {
    const names = [site, ...this.#rolesApart(site).map((role) => processName(site, role))];
    return names.flatMap((name) => this.#children.get(name) ?? []);
  }

  /** kill -9; settles when the process is reaped and can do nothing any more. */
  async kill(site: SiteName, role?: RoleName): Promise<void> {
    const child = this.child(site, role);
    this.#taken.add(child);
    await child.kill();
    this.#pastOutput[site] += child.output;
  }

  /** SIGTERM; a site that does not stop in time or cleanly is a failure. */
  async stop(site: SiteName, role?: RoleName): Promise<void> {
    const child = this.child(site, role);
    this.#taken.add(child);
    const { code, signal } = await child.stop();
    this.#pastOutput[site] += child.output;
    if (code !== 0)
      throw new Error(`${child.name} stopped with ${code ?? signal}:\n${child.output.slice(-4000)}`);
  }

  /** All log lines of a site, past processes included. */
  log(site: SiteName): string {
    const living = this.#processesOf(site).filter((child) => child.running);
    return this.#pastOutput[site] + living.map((child) => child.output).join("");
  }

  dataDir(site: SiteName): string {
    return this.#dataDirs[site] ?? join(this.folder, "data", site);
  }

  volumesOf(group = groupName): readonly Volume[] {
    return group === groupName ? this.volumes : (this.#otherVolumes.get(group) ?? []);
  }

  adminSocket(site: SiteName, role?: RoleName): string {
    return join(this.dataDir(site), role === undefined ? "admin.sock" : `admin.sock.${role}`);
  }

  async #ask(site: SiteName, role?: RoleName): Promise<SiteStatus> {
    return (await getJson(this.adminSocket(site, role), "/v1/status")) as SiteStatus;
  }

  /**
   * Status document, straight from the admin socket. Rejects while the site is down. Of roles apart it has the groups
   * of those that answer, the agent's first.
   */
  async status(site: SiteName): Promise<SiteStatus> {
    const roles = this.#rolesApart(site);
    if (roles.length === 0) return this.#ask(site);
    const asked = await Promise.allSettled(roles.map((role) => this.#ask(site, role)));
    const [first, ...more] = asked.flatMap((each) => (each.status === "fulfilled" ? [each.value] : []));
    if (first === undefined) throw new Error(`no role of ${site} answers`);
    return { ...first, groups: [first, ...more].flatMap(({ groups }) => groups) };
  }

  async groupStatus(site: SiteName, group = groupName): Promise<GroupStatus> {
    const { groups } = await this.status(site);
    const found = groups.find((status) => status.group === group);
    if (found === undefined) throw new Error(`${site} does not know ${group}: ${JSON.stringify(groups)}`);
    return found;
  }

  async owner(site: SiteName, group = groupName): Promise<OwnerStatus> {
    const status = await this.groupStatus(site, group);
    if (status.role !== "owner") throw new Error(`${site} is not the owner: ${JSON.stringify(status)}`);
    return status;
  }

  async standby(site: SiteName, group = groupName): Promise<StandbyStatus> {
    const { groups } = await this.status(site);
    const status = groups.find((found) => found.group === group && found.role === "standby");
    if (status?.role !== "standby") throw new Error(`${site} is not the standby: ${JSON.stringify(groups)}`);
    return status;
  }

  /** Waits until the agent of `site` serves the group. */
  async waitServing(site: SiteName, name = groupName): Promise<OwnerStatus> {
    let last: unknown;
    return until(`${site} to serve`, async () => {
      this.#mustRun(site);
      const { groups } = await this.status(site);
      last = groups;
      return groups.find(
        (group): group is OwnerStatus =>
          group.group === name && group.role === "owner" && group.io === "serving",
      );
    }).catch((error: unknown) => {
      throw new Error(`${String(error)}; last: ${JSON.stringify(last)}\n${this.log(site).slice(-3000)}`);
    });
  }

  /** Waits until the owner at `primary` says what `isIt` looks for; a failure brings its last words and both logs' ends. */
  waitOwner(what: string, isIt: (owner: OwnerStatus) => boolean): Promise<OwnerStatus> {
    let last: OwnerStatus | undefined;
    return until(
      what,
      async () => {
        last = await this.owner("primary");
        return isIt(last) ? last : undefined;
      },
      120_000,
    ).catch((error: unknown) => {
      const logs = `${this.log("primary").slice(-4000)}\n${this.log("dr").slice(-4000)}`;
      throw new Error(`${String(error)}; last: ${JSON.stringify(last)}\n${logs}`);
    });
  }

  /** Waits until everything the owner has is applied at the standby. Nothing may be writing. */
  async waitIdle(owner: SiteName, standby: SiteName, timeoutMs = 60_000, group = groupName): Promise<number> {
    let last: unknown;
    return until(
      "the standby to have everything",
      async () => {
        this.#mustRun(owner);
        this.#mustRun(standby);
        const [here, there] = [await this.owner(owner, group), await this.standby(standby, group)];
        last = {
          owner: here.position,
          reason: here.reason,
          standby: there.position,
          standbyReason: there.reason,
        };
        const { written, acknowledged } = here.position;
        return there.position.applied === written && acknowledged === written ? written : undefined;
      },
      timeoutMs,
    ).catch((error: unknown) => {
      throw new Error(
        `${String(error)}; last: ${JSON.stringify(last)}\n${this.log(owner).slice(-2000)}\n${this.log(standby).slice(-2000)}`,
      );
    });
  }

  #mustRun(site: SiteName): void {
    const processes = this.#processesOf(site).filter((child) => !this.#taken.has(child));
    if (processes.length === 0) throw new Error(`${site} does not run`);
    for (const { name, running, output } of processes) {
      if (!running) throw new Error(`${name} ended by itself:\n${output.slice(-4000)}`);
    }
  }

  nbdAddress(site: SiteName): { readonly host: string; readonly port: number } {
    return { host: "127.0.0.1", port: this.#ports[site].nbd };
  }

  /** Where the site's gateway listens, whatever is put on the line to it. */
  gatewayAddress(site: SiteName): { readonly host: string; readonly port: number } {
    return { host: "127.0.0.1", port: this.#ports[site].gateway };
  }

  nbdSocket(site: SiteName): { readonly path: string } {
    return { path: join(this.folder, `${site}-nbd.sock`) };
  }

  /** Export name of a volume, `GROUP/VOLUME`. */
  exportOf(volume: string, group = groupName): string {
    return `${group}/${volume}`;
  }

  /** URI for libnbd and QEMU tools. */
  uri(site: SiteName, volume: string): string {
    return `nbd://127.0.0.1:${this.#ports[site].nbd}/${this.exportOf(volume)}`;
  }

  /** `perVolume` connections to each volume. */
  async connect(
    site: SiteName,
    perVolume = 1,
    address: NbdAddress = this.nbdSocket(site),
    group = groupName,
  ): Promise<NbdClient[][]> {
    const clients: NbdClient[][] = [];
    for (const { name } of this.volumesOf(group)) {
      const own: NbdClient[] = [];
      for (let index = 0; index < perVolume; index += 1)
        own.push(await NbdClient.connect(address, this.exportOf(name, group)));
      clients.push(own);
    }
    return clients;
  }

  /** Runs the CLI at a site. */
  async cli(site: SiteName, ...args: string[]): Promise<Finished> {
    const [command, ...first] = cliCommand();
    return runTool(command, [...first, ...args, "--config", this.configFile, "--site", site], {
      cwd: this.folder,
      timeoutMs: this.cliMsMax,
    });
  }

  /** `failover run` at a site; throws unless it ended with 0 and a result. */
  async failover(site: SiteName): Promise<FailoverResult> {
    const finished = await this.cli(
      site,
      "failover",
      "run",
      groupName,
      "--yes",
      "--json",
      "--reason",
      "the building is gone",
    );
    if (finished.code !== 0)
      throw new Error(
        `failover ended with ${finished.code}:\n${finished.output}\n${this.log(site).slice(-4000)}`,
      );
    return lastJson(finished.stdout) as FailoverResult;
  }

  /** Standby image of a volume as the gateway of `site` keeps it. */
  async standbyImage(site: SiteName, volume: string, group = groupName): Promise<string> {
    return this.#image(site, "gateway", volume, group);
  }

  /** Image of a volume as the agent of `site` keeps it; unlike the export it may lag behind what was answered. */
  async homeImage(site: SiteName, volume: string, group = groupName): Promise<string> {
    return this.#image(site, "agent", volume, group);
  }

  async #image(site: SiteName, role: string, volume: string, group: string): Promise<string> {
    const path = join(this.dataDir(site), role, group, "images", `${volume}.img`);
    await access(path);
    return path;
  }

  /** kill -9 of whatever still runs, and the folder is gone. */
  async dispose(): Promise<void> {
    for (const child of this.#children.values()) await child.kill();
    if (!this.#keep) await rm(this.folder, { recursive: true, force: true, maxRetries: 3 });
  }
}

function volumesOf(volumes: Readonly<Record<string, number>>): Volume[] {
  return Object.entries(volumes).map(([name, sizeBytes]) => ({ name, sizeBytes }));
}

function processName(site: SiteName, role?: RoleName): ProcessName {
  return role === undefined ? site : `${site}.${role}`;
}

function configText(
  folder: string,
  options: TwoSitesOptions,
  ports: Record<SiteName, Ports>,
  dialled: number,
): string {
  const {
    limit = "unlimited",
    codec = "auto",
    connections = 4,
    logBytes = "2GiB",
    reserve = "64MiB",
  } = options;
  const tls = (site: SiteName) => {
    const made = join(folder, "made", "tls");
    return `{ ca: ${made}/ca.pem, cert: ${made}/${site}.pem, key: ${made}/${site}.key }`;
  };
  const dataDir = (name: SiteName) => options.dataDirs?.[name] ?? `${folder}/data/${name}`;
  const site = (name: SiteName, url: number) => `
  ${name}:
    dataDir: ${dataDir(name)}
    tls: ${tls(name)}
    admin: "unix:${dataDir(name)}/admin.sock"
    agent:
      nbd: { listen: ["127.0.0.1:${ports[name].nbd}", "unix:${folder}/${name}-nbd.sock"], tls: off }
      journal: { maxBytes: ${logBytes}, reserve: ${reserve} }
    gateway:
      listen: 127.0.0.1:${ports[name].gateway}
      url: "https://127.0.0.1:${url}"
      intake: { maxBytes: ${logBytes}, reserve: ${reserve} }`;
  const group = (
    name: string,
    settings: OtherGroup,
    images: TwoSitesOptions["images"] = {},
    more: readonly string[] = [],
  ) => {
    const volumes = Object.entries(settings.volumes).map(([volume, bytes]) => {
      const image = images[volume];
      return `      ${volume}: { size: ${bytes}B${image === undefined ? "" : `, image: ${image}`} }`;
    });
    return `
  ${name}:
    home: primary
    standby: dr
    volumes:
${volumes.join("\n")}
    protection:
      level: async
      durability: ${settings.durability ?? "flush"}
      rpo: { age: 5s, bytes: 256MiB, onBreach: alert }${more.map((line) => `\n      ${line}`).join("")}`;
  };
  const others = Object.entries(options.otherGroups ?? {}).map(([name, settings]) => group(name, settings));
  return `version: 1
sites:${site("primary", ports.primary.gateway)}${site("dr", dialled)}
groups:${group(groupName, options, options.images, options.protection)}${others.join("")}
links:
  - between: [primary, dr]
    limit: ${limit}
    connections: ${connections}
    codec: ${codec}
`;
}

async function getJson(socketPath: string, path: string): Promise<unknown> {
  const body = await new Promise<Buffer>((resolve, reject) => {
    const sent = request({ socketPath, path, method: "GET", agent: false, timeout: 10_000 }, (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("error", reject);
      response.on("end", () => {
        if (response.statusCode === 200) resolve(Buffer.concat(chunks));
        else reject(new Error(`${path}: ${response.statusCode} ${Buffer.concat(chunks).toString()}`));
      });
    });
    sent.on("timeout", () => sent.destroy(new Error(`${path}: no answer within 10 s`)));
    sent.on("error", reject);
    sent.end();
  });
  return JSON.parse(body.toString());
}

/** The last JSON value of a command's standard output, pretty-printed or one a line. */
export function lastJson(stdout: string): unknown {
  const text = stdout.trim();
  try {
    return JSON.parse(text);
  } catch {
    return JSON.parse(text.split("\n").at(-1) ?? "");
  }
}

/** Resident memory of a process, bytes. */
export function residentBytes(pid: number): number {
  const match = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"));
  return Number(match?.[1] ?? Number.NaN) * 1024;
}

/** CPU time a process has used, milliseconds. */
export async function cpuMs(pid: number): Promise<number> {
  const text = await readFile(`/proc/${pid}/stat`, "utf8");
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10;
}
