/** Issues certificates of sites and NBD clients into files. Owns which names go into which certificate. */
import { join } from "node:path";
import { OperationalError } from "../../runtime/errors.ts";
import type { SiteSettings } from "../../runtime/settings/types.ts";
import type { KeyedCertificate } from "./authority.ts";
import { issueLeaf, leafDays } from "./authority.ts";
import { fileExists, writeNew } from "./files.ts";

/** Names under which a site's listeners are reached: this host, its gateway's url, and its own addresses. */
export function siteHosts(site: SiteSettings): string[] {
  const hosts = new Set(["localhost", "127.0.0.1", "::1"]);
  const add = (host: string) => {
    if (host !== "0.0.0.0" && host !== "::") hosts.add(host);
  };
  if (site.gateway !== null) {
    add(new URL(site.gateway.url).hostname.replace(/^\[|\]$/g, ""));
    if (site.gateway.listen.kind === "tcp") add(site.gateway.listen.host);
  }
  for (const address of site.agent?.nbd.listen ?? []) if (address.kind === "tcp") add(address.host);
  if (site.admin.kind === "tcp") add(site.admin.host);
  return [...hosts];
}

export function issueSite(authority: KeyedCertificate, site: SiteSettings): Promise<KeyedCertificate> {
  return issueLeaf(authority, {
    commonName: site.name,
    site: site.name,
    hosts: siteHosts(site),
    days: leafDays,
  });
}

/** Makes the site's files where the configuration expects them; refuses if any of its own two exists. */
export async function writeSiteCertificate(authority: KeyedCertificate, site: SiteSettings): Promise<void> {
  await refuseExisting([site.tls.cert, site.tls.key]);
  const pair = await issueSite(authority, site);
  // Both sites share one CA file when they share the folder; it is public and the same.
  if (!(await fileExists(site.tls.ca))) await writeNew(site.tls.ca, authority.certPem, false);
  await writeNew(site.tls.key, pair.keyPem, true);
  await writeNew(site.tls.cert, pair.certPem, false);
}

/**
 * A client's folder, with the file names that QEMU and libnbd look for (`tls-creds-x509,dir=`,
 * `tls-certificates=`).
 */
export async function writeClientCertificate(
  authority: KeyedCertificate,
  name: string,
  folder: string,
): Promise<void> {
  const files = {
    ca: join(folder, "ca-cert.pem"),
    cert: join(folder, "client-cert.pem"),
    key: join(folder, "client-key.pem"),
  };
  await refuseExisting(Object.values(files));
  const pair = await issueLeaf(authority, { commonName: name, site: null, hosts: [], days: leafDays });
  await writeNew(files.ca, authority.certPem, false);
  await writeNew(files.key, pair.keyPem, true);
  await writeNew(files.cert, pair.certPem, false);
}

async function refuseExisting(paths: readonly string[]): Promise<void> {
  for (const path of paths) {
    if (await fileExists(path)) {
      throw new OperationalError({
        code: "FILE_EXISTS",
        message: `${path} exists already`,
        reaction: "refuse",
        hint: "Nothing is overwritten: move it away first, or use `splitsite certs rotate` for a site's certificate.",
      });
    }
  }
}
