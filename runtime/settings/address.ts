/** Addresses as they stand in the configuration: `host:port`, `[v6]:port` or `unix:PATH`. Pure. */
import { resolve } from "node:path";
import type { Address } from "./types.ts";

/** Longest path of a Unix socket, bytes: the kernel's `sun_path` of 108 with its closing zero. */
export const unixPathBytesMax = 107;

/** Undefined when `text` is not an address. A relative socket path is taken from `folder`. */
export function parseAddress(text: string, folder: string): Address | undefined {
  if (text.startsWith("unix:")) {
    const path = text.slice("unix:".length);
    return path === "" ? undefined : { kind: "unix", path: resolve(folder, path) };
  }
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || !(port <= 65_535)) return undefined;
  return { kind: "tcp", host, port };
}

/** The form `parseAddress` takes. */
export function formatAddress(address: Address): string {
  if (address.kind === "unix") return `unix:${address.path}`;
  return `${address.host.includes(":") ? `[${address.host}]` : address.host}:${address.port}`;
}
