/**
 * From the shaped file to Settings: absolute paths, parsed addresses, default places. Pure. What cannot be parsed
 * here becomes a finding; relations between keys are checks.ts's business.
 */
import { dirname, join, resolve } from "node:path";
import { parseAddress, unixPathBytesMax } from "./address.ts";
import type { Finding, KeyPath } from "./findings.ts";
import type { ConfigFile } from "./schema.ts";
import type {
  Address,
  AgentSettings,
  GatewaySettings,
  GroupSettings,
  LineCodec,
  LinkSettings,
  Settings,
  SiteSettings,
} from "./types.ts";

export interface ResolveOutcome {
  readonly settings: Settings;
  readonly findings: readonly Finding[];
}

/**
 * How long records are collected for one batch when the file does not say, ms. 60 stay within the lag that a line with
 * room may have. Who names a codec counts bytes more than a moment, and brotli gains most from what is long.
 */
function collectMsOf(codec: LineCodec): number {
  return { auto: 60, none: 60, lz4: 250, brotli: 500 }[codec];
}

/** Stands in for an address that was refused, so that the other checks can go on; never leaves this folder. */
const nowhere: Address = { kind: "tcp", host: "invalid", port: 0 };

/** `file` is absolute; relative paths in it are relative to its folder. */
export function resolveSettings(file: string, shaped: ConfigFile): ResolveOutcome {
  const resolver = new Resolver(dirname(file));
  const settings: Settings = {
    file,
    sites: Object.entries(shaped.sites).map(([name, site]) => resolver.site(name, site)),
    groups: Object.entries(shaped.groups).map(([name, group]) => resolver.group(name, group)),
    links: shaped.links.map((link) => resolver.link(link)),
  };
  return { settings, findings: resolver.findings };
}

class Resolver {
  readonly findings: Finding[] = [];
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }

  #path(text: string): string {
    return resolve(this.#folder, text);
  }

  #address(text: string, path: KeyPath): Address {
    const address = parseAddress(text, this.#folder);
    if (address === undefined) {
      this.findings.push({
        code: "CONFIG_INVALID",
        path,
        message: `\`${text}\` is not an address`,
        hint: "Write host:port, [IPv6]:port or unix:PATH.",
      });
      return nowhere;
    }
    this.#socketPath(address, path);
    return address;
  }

  #socketPath(address: Address, path: KeyPath): void {
    if (address.kind !== "unix" || Buffer.byteLength(address.path) <= unixPathBytesMax) return;
    this.findings.push({
      code: "CONFIG_INVALID",
      path,
      message: `the socket's path is longer than ${unixPathBytesMax} bytes`,
      hint: "Use a shorter folder, such as /run/splitsite.",
    });
  }

  site(name: string, site: ConfigFile["sites"][string]): SiteSettings {
    const at: KeyPath = ["sites", name];
    const dataDir = this.#path(site.dataDir);
    const admin: Address =
      site.admin === undefined
        ? { kind: "unix", path: join(dataDir, "admin.sock") }
        : this.#address(site.admin, [...at, "admin"]);
    if (site.admin === undefined) this.#socketPath(admin, [...at, "dataDir"]);
    return {
      name,
      dataDir,
      tls: { ca: this.#path(site.tls.ca), cert: this.#path(site.tls.cert), key: this.#path(site.tls.key) },
      admin,
      agent: site.agent === undefined ? null : this.#agent(site.agent, [...at, "agent"]),
      gateway: site.gateway === undefined ? null : this.#gateway(site.gateway, [...at, "gateway"]),
    };
  }

  #agent(agent: NonNullable<ConfigFile["sites"][string]["agent"]>, at: KeyPath): AgentSettings {
    return {
      nbd: {
        listen: agent.nbd.listen.map((text, index) => this.#address(text, [...at, "nbd", "listen", index])),
        tls: agent.nbd.tls,
        clients: agent.nbd.clients,
      },
      journal: { maxBytes: agent.journal.maxBytes, reserveBytes: agent.journal.reserve },
    };
  }

  #gateway(gateway: NonNullable<ConfigFile["sites"][string]["gateway"]>, at: KeyPath): GatewaySettings {
    const listen = this.#address(gateway.listen, [...at, "listen"]);
    if (listen.kind === "unix") {
      this.findings.push({
        code: "CONFIG_INVALID",
        path: [...at, "listen"],
        message: "is a Unix socket",
        hint: "The other site must reach it: write host:port.",
      });
    }
    return {
      listen,
      url: this.#url(gateway.url, [...at, "url"]),
      intake: { maxBytes: gateway.intake.maxBytes, reserveBytes: gateway.intake.reserve },
    };
  }

  #url(text: string, path: KeyPath): string {
    const url = URL.canParse(text) ? new URL(text) : undefined;
    const bare =
      url !== undefined &&
      url.pathname === "/" &&
      url.search === "" &&
      url.hash === "" &&
      url.username === "" &&
      url.password === "";
    if (url?.protocol === "https:" && bare) return url.origin;
    this.findings.push({
      code: "CONFIG_INVALID",
      path,
      message: "is not an https URL without a path",
      hint: "Write https://HOST:PORT; the line between the sites is always TLS.",
    });
    return "https://invalid";
  }

  group(name: string, group: ConfigFile["groups"][string]): GroupSettings {
    const { rpo, durability, overflow, history, scan, onMismatch } = group.protection;
    return {
      name,
      home: group.home,
      standby: group.standby,
      volumes: Object.entries(group.volumes).map(([volumeName, volume]) => ({
        name: volumeName,
        sizeBytes: volume.size,
        image: volume.image === undefined ? null : this.#path(volume.image),
        standbyImage: volume.standbyImage === undefined ? null : this.#path(volume.standbyImage),
      })),
      durability,
      rpo: { ageMs: rpo.age ?? null, bytes: rpo.bytes ?? null },
      overflow,
      history: { windowMs: history.window, bytesMax: history.maxBytes },
      scan: {
        bytesPerSecond: scan.rate,
        verifyCron: group.schedule.verify ?? null,
        onMismatch,
        digestsPoints: scan.digest === "on",
      },
    };
  }

  link(link: ConfigFile["links"][number]): LinkSettings {
    return {
      between: link.between,
      limitBytesPerSecond: link.limit,
      windows: link.windows.map((window) => ({ cron: window.cron, limitBytesPerSecond: window.limit })),
      connections: link.connections,
      codec: link.codec,
      collectMs: link.collect ?? collectMsOf(link.codec),
    };
  }
}
