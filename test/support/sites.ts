/**
 * Both sites of a small installation as real processes in a scratch folder: written from what `splitsite init` makes,
 * ports from the kernel, started, watched, killed, restarted and removed. Talks to them only as a user could: through
 * the CLI, the admin socket and NBD.
 */
import { readFileSync } from "node:fs";
import { access, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
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
  /** Puts something on the line: gets the port the standby's gateway listens on, gives the port to dial instead. */
  readonly line?: (gatewayPort: number) => Promise<number>;
  /** Where the scratch folder goes; default the system's. */
  readonly parent?: string;
  /** Existing files as images at the home site, by volume. */
  readonly images?: Readonly<Record<string, string>>;
  /** Keeps the scratch folder on `dispose`. */
  readonly keep?: boolean;
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
  readonly volumes: readonly { readonly name: string; readonly sizeBytes: number }[];
  readonly #ports: Readonly<Record<SiteName, Ports>>;
  readonly #keep: boolean;
  readonly #children = new Map<SiteName, Child>();
  /** Output of processes that have ended, newest last. */
  readonly #pastOutput: Record<SiteName, string> = { primary: "", dr: "" };

  private constructor(folder: string, options: TwoSitesOptions, ports: Readonly<Record<SiteName, Ports>>) {
    this.folder = folder;
    this.configFile = join(folder, "splitsite.yaml");
    this.volumes = Object.entries(options.volumes).map(([name, sizeBytes]) => ({ name, sizeBytes }));
    this.#ports = ports;
    this.#keep = options.keep === true;
  }

  /** Writes the configuration and certificates; starts nothing. */
  static async create(options: TwoSitesOptions): Promise<TwoSites> {
    const folder = await mkdtemp(join(options.parent ?? tmpdir(), "splitsite-"));
    const [command, ...args] = cliCommand();
    await mustRun(command, [...args, "init", join(folder, "made")]);
    const [nbd1, nbd2, gateway1, gateway2] = (await freePorts(4)) as [number, number, number, number];
    const dialled = (await options.line?.(gateway2)) ?? gateway2;
    const ports = { primary: { nbd: nbd1, gateway: gateway1 }, dr: { nbd: nbd2, gateway: gateway2 } };
    const sites = new TwoSites(folder, options, ports);
    await writeFile(sites.configFile, configText(folder, options, ports, dialled));
    return sites;
  }

  /** Starts a site and waits until its admin endpoint answers. */
  async start(site: SiteName): Promise<void> {
    if (this.#children.get(site)?.running === true) throw new Error(`${site} runs already`);
    const [command, ...args] = cliCommand();
    const child = new Child(site, command, [...args, "run", "--config", this.configFile, "--site", site], {
      cwd: this.folder,
    });
    this.#children.set(site, child);
    await until(`the admin endpoint of ${site}`, async () => {
      if (!child.running) throw new Error(`${site} ended at start:\n${child.output.slice(-4000)}`);
      return (await this.status(site).catch(() => undefined)) === undefined ? undefined : true;
    });
  }

  child(site: SiteName): Child {
    const child = this.#children.get(site);
    if (child === undefined) throw new Error(`${site} was never started`);
    return child;
  }

  /** kill -9; settles when the process is reaped and can do nothing any more. */
  async kill(site: SiteName): Promise<void> {
    const child = this.child(site);
    await child.kill();
    this.#pastOutput[site] += child.output;
  }

  /** SIGTERM; a site that does not stop in time or cleanly is a failure. */
  async stop(site: SiteName): Promise<void> {
    const child = this.child(site);
    const { code, signal } = await child.stop();
    this.#pastOutput[site] += child.output;
    if (code !== 0) throw new Error(`${site} stopped with ${code ?? signal}:\n${child.output.slice(-4000)}`);
  }

  /** All log lines of a site, past processes included. */
  log(site: SiteName): string {
    const child = this.#children.get(site);
    return this.#pastOutput[site] + (child?.running === true ? child.output : "");
  }

  adminSocket(site: SiteName): string {
    return join(this.folder, "data", site, "admin.sock");
  }

  /** Status document, straight from the admin socket. Rejects while the site is down. */
  async status(site: SiteName): Promise<SiteStatus> {
    return (await getJson(this.adminSocket(site), "/v1/status")) as SiteStatus;
  }

  async groupStatus(site: SiteName): Promise<GroupStatus> {
    const { groups } = await this.status(site);
    const group = groups.find((status) => status.group === groupName);
    if (group === undefined) throw new Error(`${site} does not know ${groupName}: ${JSON.stringify(groups)}`);
    return group;
  }

  async owner(site: SiteName): Promise<OwnerStatus> {
    const status = await this.groupStatus(site);
    if (status.role !== "owner") throw new Error(`${site} is not the owner: ${JSON.stringify(status)}`);
    return status;
  }

  async standby(site: SiteName): Promise<StandbyStatus> {
    const { groups } = await this.status(site);
    const status = groups.find((group) => group.group === groupName && group.role === "standby");
    if (status?.role !== "standby") throw new Error(`${site} is not the standby: ${JSON.stringify(groups)}`);
    return status;
  }

  /** Waits until the agent of `site` serves the group. */
  async waitServing(site: SiteName): Promise<OwnerStatus> {
    let last: unknown;
    return until(`${site} to serve`, async () => {
      this.#mustRun(site);
      const { groups } = await this.status(site);
      last = groups;
      return groups.find((group): group is OwnerStatus => group.role === "owner" && group.io === "serving");
    }).catch((error: unknown) => {
      throw new Error(`${String(error)}; last: ${JSON.stringify(last)}\n${this.log(site).slice(-3000)}`);
    });
  }

  /** Waits until everything the owner has is applied at the standby. Nothing may be writing. */
  async waitIdle(owner: SiteName, standby: SiteName, timeoutMs = 60_000): Promise<number> {
    let last: unknown;
    return until(
      "the standby to have everything",
      async () => {
        this.#mustRun(owner);
        this.#mustRun(standby);
        const [here, there] = [await this.owner(owner), await this.standby(standby)];
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
    const child = this.child(site);
    if (!child.running) throw new Error(`${site} ended by itself:\n${child.output.slice(-4000)}`);
  }

  nbdAddress(site: SiteName): { readonly host: string; readonly port: number } {
    return { host: "127.0.0.1", port: this.#ports[site].nbd };
  }

  nbdSocket(site: SiteName): { readonly path: string } {
    return { path: join(this.folder, `${site}-nbd.sock`) };
  }

  /** Export name of a volume, `GROUP/VOLUME`. */
  exportOf(volume: string): string {
    return `${groupName}/${volume}`;
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
  ): Promise<NbdClient[][]> {
    const clients: NbdClient[][] = [];
    for (const { name } of this.volumes) {
      const own: NbdClient[] = [];
      for (let index = 0; index < perVolume; index += 1)
        own.push(await NbdClient.connect(address, this.exportOf(name)));
      clients.push(own);
    }
    return clients;
  }

  /** Runs the CLI at a site. */
  async cli(site: SiteName, ...args: string[]): Promise<Finished> {
    const [command, ...first] = cliCommand();
    return runTool(command, [...first, ...args, "--config", this.configFile, "--site", site], {
      cwd: this.folder,
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
  async standbyImage(site: SiteName, volume: string): Promise<string> {
    return this.#image(site, "gateway", volume);
  }

  /** Image of a volume as the agent of `site` keeps it; unlike the export it may lag behind what was answered. */
  async homeImage(site: SiteName, volume: string): Promise<string> {
    return this.#image(site, "agent", volume);
  }

  async #image(site: SiteName, role: string, volume: string): Promise<string> {
    const path = join(this.folder, "data", site, role, groupName, "images", `${volume}.img`);
    await access(path);
    return path;
  }

  /** kill -9 of whatever still runs, and the folder is gone. */
  async dispose(): Promise<void> {
    for (const child of this.#children.values()) await child.kill();
    if (!this.#keep) await rm(this.folder, { recursive: true, force: true, maxRetries: 3 });
  }
}

function configText(
  folder: string,
  options: TwoSitesOptions,
  ports: Record<SiteName, Ports>,
  dialled: number,
): string {
  const {
    durability = "flush",
    limit = "unlimited",
    codec = "auto",
    connections = 4,
    logBytes = "2GiB",
  } = options;
  const tls = (site: SiteName) => {
    const made = join(folder, "made", "tls");
    return `{ ca: ${made}/ca.pem, cert: ${made}/${site}.pem, key: ${made}/${site}.key }`;
  };
  const site = (name: SiteName, url: number) => `
  ${name}:
    dataDir: ${folder}/data/${name}
    tls: ${tls(name)}
    admin: "unix:${folder}/data/${name}/admin.sock"
    agent:
      nbd: { listen: ["127.0.0.1:${ports[name].nbd}", "unix:${folder}/${name}-nbd.sock"], tls: off }
      journal: { maxBytes: ${logBytes}, reserve: 64MiB }
    gateway:
      listen: 127.0.0.1:${ports[name].gateway}
      url: "https://127.0.0.1:${url}"
      intake: { maxBytes: ${logBytes}, reserve: 64MiB }`;
  const volumes = Object.entries(options.volumes).map(([name, bytes]) => {
    const image = options.images?.[name];
    return `      ${name}: { size: ${bytes}B${image === undefined ? "" : `, image: ${image}`} }`;
  });
  return `version: 1
sites:${site("primary", ports.primary.gateway)}${site("dr", dialled)}
groups:
  ${groupName}:
    home: primary
    standby: dr
    volumes:
${volumes.join("\n")}
    protection:
      level: async
      durability: ${durability}
      rpo: { age: 5s, bytes: 256MiB, onBreach: alert }
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
