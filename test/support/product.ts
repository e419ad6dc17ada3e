/** What the product is made of, as opposed to its tests, benchmarks and documents. */

/** Folders of its sources, beneath the root. */
export const productFolders = [
  "block",
  "gateway",
  "image",
  "journal",
  "protocol",
  "runbook",
  "runtime",
  "site-agent",
] as const;
