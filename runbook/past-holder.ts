/** Finds who keeps the past of a group at a site: its gateway, or its agent when that has taken the group over. */
import type { PastRole } from "../protocol/admin.ts";
import { ExitCode } from "../protocol/admin.ts";
import type { AdminClient } from "./admin-client.ts";
import { CommandFailure } from "./failure.ts";

/** CommandFailure `POINTS_NONE` when nobody does. */
export async function pastHolder(client: AdminClient, group: string): Promise<PastRole> {
  const { site, groups } = await client.status();
  const parts = groups.filter((part) => part.group === group);
  if (parts.some((part) => part.role === "owner" && part.history !== null)) return "agent";
  if (parts.some((part) => part.role === "standby")) return "gateway";
  throw new CommandFailure({
    exit: ExitCode.refused,
    id: "POINTS_NONE",
    message: `site ${site} keeps no points of group ${group}`,
    next: "Ask at the site that stands by for it, with --site.",
  });
}
