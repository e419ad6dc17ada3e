/**
 * Checks that span several keys: what is well formed but cannot work. Pure; sees Settings, answers findings.
 * Each check is one function, so that a new rule is one more line of the list.
 */
import { blockBytes } from "../../protocol/ids.ts";
import { validate } from "../cron.ts";
import { formatAddress } from "./address.ts";
import type { Finding, KeyPath } from "./findings.ts";
import type { Address, Settings, SiteSettings } from "./types.ts";
import { formatSizeExact } from "./units.ts";

/** A volume number is 16 bits, the volume table travels in one control message of 64 KiB: 256 rows of about 200 bytes. */
export const volumesMax = 256;
/** Each group keeps a journal open (some 20 descriptors); 256 of them stay under the usual limit of descriptors. */
export const groupsMax = 256;
/** Least share of a log for one group, bytes: three batches of 4 MiB and what LevelDB keeps of deleted ones. */
export const logBytesGroupMin = 16 * 1024 * 1024;
/** Larger files are not tested. */
export const volumeBytesMax = 8 * 1024 ** 4;

type Check = (settings: Settings, add: (path: KeyPath, message: string, hint: string) => void) => void;

const everyCheck: readonly Check[] = [
  checkSites,
  checkAddresses,
  checkClients,
  checkGroups,
  checkLogShares,
  checkVolumes,
  checkImages,
  checkLinks,
  checkGroupsAreLinked,
  checkSchedules,
];

export function checkSettings(settings: Settings): Finding[] {
  const findings: Finding[] = [];
  for (const check of everyCheck) {
    check(settings, (path, message, hint) => findings.push({ code: "CONFIG_INVALID", path, message, hint }));
  }
  return findings;
}

function siteNamed(settings: Settings, name: string): SiteSettings | undefined {
  return settings.sites.find((site) => site.name === name);
}

function checkSites(settings: Settings, add: Parameters<Check>[1]): void {
  if (settings.sites.length < 2)
    add(["sites"], "names fewer than two sites", "Describe both sites; the file is the same at each.");
  for (const site of settings.sites) {
    if (site.agent === null && site.gateway === null) {
      add(["sites", site.name], "has neither an agent nor a gateway", "Give it at least one role.");
    }
  }
}

/** Two listeners of one site would fight for the port; sites are different hosts and may use the same. */
function checkAddresses(settings: Settings, add: Parameters<Check>[1]): void {
  for (const site of settings.sites) {
    const listeners: { readonly path: KeyPath; readonly address: Address }[] = [];
    const at: KeyPath = ["sites", site.name];
    listeners.push({ path: [...at, "admin"], address: site.admin });
    site.agent?.nbd.listen.forEach((address, index) => {
      listeners.push({ path: [...at, "agent", "nbd", "listen", index], address });
    });
    if (site.gateway !== null)
      listeners.push({ path: [...at, "gateway", "listen"], address: site.gateway.listen });
    listeners.forEach((later, index) => {
      const earlier = listeners.slice(0, index).find((other) => collide(other.address, later.address));
      if (earlier !== undefined) {
        add(
          later.path,
          `uses ${formatAddress(later.address)}, which this site uses already`,
          "Give each listener its own port.",
        );
      }
    });
  }
}

function collide(a: Address, b: Address): boolean {
  if (a.kind === "unix" || b.kind === "unix")
    return a.kind === "unix" && b.kind === "unix" && a.path === b.path;
  // Port 0: the kernel picks a free one for each.
  return a.port === b.port && a.port !== 0 && (a.host === b.host || isWildcard(a.host) || isWildcard(b.host));
}

function isWildcard(host: string): boolean {
  return host === "0.0.0.0" || host === "::";
}

function checkClients(settings: Settings, add: Parameters<Check>[1]): void {
  const exports = new Set(
    settings.groups.flatMap((group) => [
      `${group.name}/*`,
      ...group.volumes.map((volume) => `${group.name}/${volume.name}`),
    ]),
  );
  for (const site of settings.sites) {
    if (site.agent === null) continue;
    const at: KeyPath = ["sites", site.name, "agent", "nbd", "clients"];
    if (site.agent.nbd.clients.length > 0 && site.agent.nbd.tls === "off") {
      add(at, "are told apart by certificate, but tls is off", "Set `tls: require` or remove the clients.");
    }
    site.agent.nbd.clients.forEach((client, index) => {
      client.exports.forEach((name, place) => {
        if (!exports.has(name))
          add(
            [...at, index, "exports", place],
            `\`${name}\` is no volume of this file`,
            "Write GROUP/VOLUME or GROUP/*.",
          );
      });
    });
  }
}

function checkGroups(settings: Settings, add: Parameters<Check>[1]): void {
  if (settings.groups.length === 0)
    add(["groups"], "is empty", "Describe at least one group with one volume.");
  if (settings.groups.length > groupsMax)
    add(["groups"], `names more than ${groupsMax} groups`, "Use several pairs of sites.");
  const names = settings.sites.map((site) => site.name).join(", ");
  for (const group of settings.groups) {
    const at: KeyPath = ["groups", group.name];
    const home = siteNamed(settings, group.home);
    const standby = siteNamed(settings, group.standby);
    if (home === undefined)
      add([...at, "home"], `\`${group.home}\` is no site of this file`, `Name one of: ${names}.`);
    if (standby === undefined)
      add([...at, "standby"], `\`${group.standby}\` is no site of this file`, `Name one of: ${names}.`);
    if (group.home === group.standby) add([...at, "standby"], "is the home site", "Name the other site.");
    if (home !== undefined && home.agent === null)
      add([...at, "home"], `site \`${home.name}\` has no agent`, "Give the home site an agent.");
    if (standby === undefined) continue;
    if (standby.gateway === null)
      add([...at, "standby"], `site \`${standby.name}\` has no gateway`, "Give the standby site a gateway.");
    if (standby.agent === null) {
      add(
        [...at, "standby"],
        `site \`${standby.name}\` has no agent`,
        "Give the standby site an agent; it serves the disks after a failover.",
      );
    }
  }
}

/** Every group gets an equal share of a site's log; one that holds less than a few batches would never take any. */
function checkLogShares(settings: Settings, add: Parameters<Check>[1]): void {
  for (const site of settings.sites) {
    const groups = settings.groups.filter(({ home, standby }) => home === site.name || standby === site.name);
    const quotas = [
      ["agent", "journal", site.agent?.journal.maxBytes],
      ["gateway", "intake", site.gateway?.intake.maxBytes],
    ] as const;
    for (const [role, log, maxBytes] of quotas) {
      if (maxBytes === undefined || maxBytes >= groups.length * logBytesGroupMin) continue;
      const least = formatSizeExact(groups.length * logBytesGroupMin);
      add(
        ["sites", site.name, role, log, "maxBytes"],
        `is too little for ${groups.length} groups: each needs ${formatSizeExact(logBytesGroupMin)}`,
        `Give it at least ${least}.`,
      );
    }
  }
}

function checkVolumes(settings: Settings, add: Parameters<Check>[1]): void {
  for (const group of settings.groups) {
    const at: KeyPath = ["groups", group.name, "volumes"];
    if (group.volumes.length === 0) add(at, "is empty", "Describe at least one volume.");
    if (group.volumes.length > volumesMax)
      add(at, `names more than ${volumesMax} volumes`, "Use several groups.");
    for (const volume of group.volumes) {
      if (
        volume.sizeBytes === 0 ||
        volume.sizeBytes % blockBytes !== 0 ||
        volume.sizeBytes > volumeBytesMax
      ) {
        add(
          [...at, volume.name, "size"],
          `must be a multiple of ${blockBytes} bytes, up to 8TiB`,
          "Round it up, such as 1GiB.",
        );
      }
    }
  }
}

/** Paths are compared within a site: the same device name on two hosts is two disks. */
function checkImages(settings: Settings, add: Parameters<Check>[1]): void {
  const used = new Map<string, string>();
  for (const group of settings.groups) {
    for (const volume of group.volumes) {
      for (const [key, site] of [["image", group.home] as const, ["standbyImage", group.standby] as const]) {
        const path = volume[key];
        if (path === null) continue;
        const place = JSON.stringify([site, path]);
        const owner = used.get(place);
        if (owner !== undefined) {
          add(
            ["groups", group.name, "volumes", volume.name, key],
            `is also the image of ${owner}`,
            "Give each volume its own image at each site.",
          );
        }
        used.set(place, `${group.name}/${volume.name}`);
      }
    }
  }
}

function checkLinks(settings: Settings, add: Parameters<Check>[1]): void {
  const seen = new Set<string>();
  settings.links.forEach((link, index) => {
    const at: KeyPath = ["links", index];
    const [a, b] = link.between;
    link.between.forEach((name, side) => {
      if (siteNamed(settings, name) === undefined)
        add([...at, "between", side], `\`${name}\` is no site of this file`, "Name two sites of this file.");
    });
    if (a === b) add([...at, "between"], "names one site twice", "Name the two sites that the link joins.");
    const key = a < b ? `${a} ${b}` : `${b} ${a}`;
    if (seen.has(key))
      add(
        [...at, "between"],
        "joins two sites that another link joins already",
        "Keep one link for two sites.",
      );
    seen.add(key);
    link.windows.forEach((window, place) => {
      checkCron(window.cron, [...at, "windows", place, "cron"], add);
    });
  });
}

function checkCron(expression: string, path: KeyPath, add: Parameters<Check>[1]): void {
  if (validate(expression)) return;
  add(
    path,
    `\`${expression}\` is no cron expression`,
    "Write 5 fields, such as `0 8 * * 1-5`, or a nickname such as @daily.",
  );
}

function checkSchedules(settings: Settings, add: Parameters<Check>[1]): void {
  for (const { name, scan } of settings.groups) {
    if (scan.verifyCron !== null) checkCron(scan.verifyCron, ["groups", name, "schedule", "verify"], add);
  }
}

function checkGroupsAreLinked(settings: Settings, add: Parameters<Check>[1]): void {
  for (const group of settings.groups) {
    const both = [siteNamed(settings, group.home), siteNamed(settings, group.standby)];
    if (both.includes(undefined) || group.home === group.standby) continue;
    const linked = settings.links.some(
      (link) => link.between.includes(group.home) && link.between.includes(group.standby),
    );
    if (!linked) {
      add(
        ["groups", group.name, "standby"],
        `no link joins \`${group.home}\` and \`${group.standby}\``,
        `Add \`- between: [${group.home}, ${group.standby}]\` to links.`,
      );
    }
  }
}
