/** One value for the contents of a site's images, to see that nothing changed. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import type { SiteName, TwoSites } from "../support/sites.ts";

/** SHA-256 over all images of the group as that role keeps them, in the order of the volumes. */
export async function imageDigest(
  sites: TwoSites,
  site: SiteName,
  kept: "standby" | "home",
): Promise<string> {
  const hash = createHash("sha256");
  for (const { name } of sites.volumes) {
    const path =
      kept === "standby" ? await sites.standbyImage(site, name) : await sites.homeImage(site, name);
    hash.update(await readFile(path));
  }
  return hash.digest("hex");
}
