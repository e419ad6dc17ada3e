/**
 * What hostile tests ask of a whole running site from outside: its sockets, its peak of memory, its errors in the log,
 * and clients that come from many source addresses. It changes nothing at the site and never judges by itself.
 */
import { readdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import type { Address } from "../../runtime/settings/types.ts";
import { RawClient } from "../block/nbd-rig.ts";
import type { SiteName, TwoSites } from "../support/sites.ts";

/** The `index`-th loopback address of a test's own range `block` (1..250), up to 60,000 of each. */
export function loopback(block: number, index: number): string {
  return `127.${block}.${1 + Math.floor(index / 240)}.${1 + (index % 240)}`;
}

export function nbdOf(sites: TwoSites, site: SiteName): Address {
  return { kind: "tcp", ...sites.nbdAddress(site) };
}

export function rawClient(sites: TwoSites, site: SiteName, from?: string): Promise<RawClient> {
  return RawClient.connect(nbdOf(sites, site), from);
}

/** TCP connections that a process holds with this local port, in any state but listening. */
export function connectionsAt(pid: number, port: number): number {
  const held = new Set<string>();
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    try {
      const inode = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1];
      if (inode !== undefined) held.add(inode);
    } catch {
      // Closed between the listing and the look.
    }
  }
  const ending = `:${port.toString(16).toUpperCase().padStart(4, "0")}`;
  const listening = "0A";
  let connections = 0;
  for (const line of readFileSync(`/proc/${pid}/net/tcp`, "utf8").trim().split("\n").slice(1)) {
    const fields = line.trim().split(/\s+/);
    const inode = fields[9] ?? "";
    if (fields[1]?.endsWith(ending) === true && fields[3] !== listening && held.has(inode)) connections += 1;
  }
  return connections;
}

/** Begins a new measure of `peakBytes`. */
export function forgetPeak(pid: number): void {
  writeFileSync(`/proc/${pid}/clear_refs`, "5");
}

/** Most resident memory a process had since its start or the last `forgetPeak`, bytes. */
export function peakBytes(pid: number): number {
  const match = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"));
  return Number(match?.[1] ?? Number.NaN) * 1024;
}

/** Log lines of level error: nothing a client does may cause one. */
export function errorsIn(log: string): string[] {
  return log
    .split("\n")
    .filter((line) => line.includes('"level":"error"') || line.includes('"level":"fatal"'));
}
