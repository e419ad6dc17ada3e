/**
 * Where a site's daemon takes orders. One process with both roles listens at `admin`. A process with one role listens
 * beside it: a Unix socket with the role's name appended; over TCP the agent at the port, the gateway at the next.
 */
import type { Address, SiteSettings } from "../runtime/settings/types.ts";

export type Role = "agent" | "gateway";

export function adminAddress(site: SiteSettings, role: Role | null): Address {
  const { admin } = site;
  if (role === null) return admin;
  if (admin.kind === "unix") return { kind: "unix", path: `${admin.path}.${role}` };
  return role === "agent" ? admin : { ...admin, port: admin.port + 1 };
}

/** All addresses where some process of the site may answer, the shared one first. */
export function adminAddresses(site: SiteSettings): Address[] {
  const agent = adminAddress(site, "agent");
  const gateway = adminAddress(site, "gateway");
  return site.admin.kind === "unix" ? [site.admin, agent, gateway] : [site.admin, gateway];
}
