/**
 * Our side of a benchmark: two sites in a scratch folder on the same disk as the peers, either with the standby running
 * and keeping up, or with its site down, so that only the journal and the local image are at work.
 */
import type { TwoSitesOptions } from "../test/support/sites.ts";
import { TwoSites } from "../test/support/sites.ts";

const gibibyte = 2 ** 30;
export const volumeBytes = gibibyte;

/** Both sites running, the group served. */
export async function startShipping(
  folder: string,
  options: Partial<TwoSitesOptions> = {},
): Promise<TwoSites> {
  const sites = await TwoSites.create({
    volumes: { data: volumeBytes },
    logBytes: "16GiB",
    parent: folder,
    ...options,
  });
  try {
    await Promise.all([sites.start("dr"), sites.start("primary")]);
    await sites.waitServing("primary");
    return sites;
  } catch (error) {
    await sites.dispose();
    throw error;
  }
}

/** The standby's site is down from the start: nothing is shipped, the journal keeps everything. */
export async function startJournalOnly(
  folder: string,
  options: Partial<TwoSitesOptions> = {},
): Promise<TwoSites> {
  const sites = await startShipping(folder, options);
  await sites.stop("dr");
  return sites;
}

/** URI of a volume over the Unix socket, as a guest on the same host would use. */
export function unixUri(sites: TwoSites, site: "primary" | "dr", volume: string): string {
  return `nbd+unix:///${sites.exportOf(volume)}?socket=${sites.nbdSocket(site).path}`;
}
