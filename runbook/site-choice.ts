/**
 * Which site a command means when nobody says: the one whose daemon answers on this host, else the one whose key lies
 * on this host, else none, and the operator must name it. Guesses only when exactly one site qualifies.
 */
import { createConnection } from "node:net";
import type { Settings, SiteSettings } from "../runtime/settings/types.ts";
import { adminAddresses } from "./admin-address.ts";
import { fileExists } from "./certificates/files.ts";
import { usageFailure } from "./failure.ts";

export async function chooseSite(settings: Settings, named: string | undefined): Promise<SiteSettings> {
  const names = settings.sites.map((site) => site.name).join(", ");
  if (named !== undefined) {
    const site = settings.sites.find((candidate) => candidate.name === named);
    if (site !== undefined) return site;
    throw usageFailure(`there is no site \`${named}\` in ${settings.file}`, `Name one of: ${names}.`);
  }
  for (const qualifies of [answersHere, keyLiesHere]) {
    const qualified = await Promise.all(settings.sites.map(qualifies));
    const found = settings.sites.filter((_site, index) => qualified[index]);
    const [only] = found;
    if (only !== undefined && found.length === 1) return only;
  }
  throw usageFailure("which site is meant?", `Add --site with one of: ${names}; or set SPLITSITE_SITE.`);
}

async function answersHere(site: SiteSettings): Promise<boolean> {
  for (const address of adminAddresses(site)) {
    if (address.kind === "unix" && (await accepts(address.path))) return true;
  }
  return false;
}

function accepts(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection({ path });
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}

function keyLiesHere(site: SiteSettings): Promise<boolean> {
  return fileExists(site.tls.key);
}
