/**
 * Site names in certificates: a site proves who it is by the SAN URI `splitsite:site:NAME` under our private CA.
 * Pure text work on what Node reports as `subjectaltname`; it never decides whether a chain is trusted.
 */

/** Prefix of the SAN URI that carries a site's name. */
export const siteUriPrefix = "splitsite:site:";

/**
 * Site names in a certificate's `subjectaltname` text (`DNS:x, URI:splitsite:site:dr`). Node quotes values that hold
 * separators, so quoted parts are dropped first: a crafted value must not be able to imitate a second entry.
 */
export function sitesInAltNames(altNames: string | undefined): string[] {
  if (altNames === undefined) return [];
  const sites: string[] = [];
  for (const entry of altNames.replace(/"(?:[^"\\]|\\.)*"/g, '"').split(", ")) {
    if (entry.startsWith(`URI:${siteUriPrefix}`)) sites.push(entry.slice(4 + siteUriPrefix.length));
  }
  return sites;
}
