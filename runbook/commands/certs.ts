/** `certs issue/show/rotate`: certificates under the private authority that `init` made. Never prints a key. */
import { dirname, join } from "node:path";
import { ExitCode } from "../../protocol/admin.ts";
import { isName } from "../../protocol/ids.ts";
import type { Settings, SiteSettings } from "../../runtime/settings/types.ts";
import {
  authorityFolder,
  certificateFacts,
  fileExists,
  readAuthority,
  readCertificate,
  replacePair,
} from "../certificates/files.ts";
import type { Call, CommandSpec } from "../command.ts";
import { answer } from "../command.ts";
import { usageFailure } from "../failure.ts";
import { table } from "../render/table.ts";

/** Less than this left: worth a warning, days. */
export const expiryWarningDays = 21;

const authorityOption = {
  flags: "--authority DIR",
  summary: "folder of the authority's key (default: authority, beside the configuration)",
};

async function authorityOf(call: Call) {
  const { file } = await call.settings();
  return readAuthority(call.option("authority") ?? authorityFolder(file));
}

/** Sites whose key lies on this host. */
async function sitesWithKeys(settings: Settings): Promise<SiteSettings[]> {
  const present = await Promise.all(settings.sites.map((site) => fileExists(site.tls.key)));
  return settings.sites.filter((_site, index) => present[index]);
}

export const certsIssue: CommandSpec = {
  path: ["certs", "issue"],
  summary: "issue a certificate for an NBD client, or for a site that has none",
  detail:
    "A client's files go to a folder of its own (default: tls/clients/NAME, beside the configuration) under the names that QEMU and libnbd expect. What a client may open stands in `nbd.clients` of the configuration. Nothing is overwritten.",
  options: [
    { flags: "--client NAME", summary: "NBD client to issue for; without it, the site meant" },
    { flags: "--out DIR", summary: "folder of the client's files" },
    authorityOption,
  ],
  examples: ["splitsite certs issue --client kvm-a", "splitsite certs issue --site dr"],
  changes: true,
  async run(call) {
    const { file } = await call.settings();
    const client = call.option("client");
    const out = call.option("out");
    // Loaded here only: certificates are rarely made, and the library is large.
    const { writeClientCertificate, writeSiteCertificate } = await import("../certificates/issue.ts");
    if (client === undefined) {
      if (out !== undefined)
        throw usageFailure("--out goes with --client; a site's files lie where the configuration says");
      const site = await call.site();
      if (!call.dryRun) await writeSiteCertificate(await authorityOf(call), site);
      answer(
        call,
        { site: site.name, cert: site.tls.cert, key: site.tls.key },
        () => `site ${site.name}: ${site.tls.cert}, ${site.tls.key}\n`,
      );
      return ExitCode.done;
    }
    if (!isName(client))
      throw usageFailure(
        `--client is \`${client}\`, must be lower-case letters, digits, \`.\`, \`_\` and \`-\``,
      );
    const folder = out ?? join(dirname(file), "tls", "clients", client);
    if (!call.dryRun) await writeClientCertificate(await authorityOf(call), client, folder);
    answer(
      call,
      { client, folder },
      () =>
        `client ${client}: ${folder}\nNow add to nbd.clients of the site it connects to: { name: ${client}, exports: ["GROUP/*"] }\n`,
    );
    return ExitCode.done;
  },
};

export const certsShow: CommandSpec = {
  path: ["certs", "show"],
  summary: "certificates of the sites on this host: names, identity, expiry",
  detail: `Exit 7 when one has expired or has less than ${expiryWarningDays} days left.`,
  examples: ["splitsite certs show", "splitsite certs show --json"],
  changes: false,
  async run(call) {
    const { sites } = await call.settings();
    const paths = new Set<string>();
    for (const site of sites) {
      for (const path of [site.tls.ca, site.tls.cert]) if (await fileExists(path)) paths.add(path);
    }
    if (paths.size === 0) await readCertificate(sites[0]?.tls.ca ?? "");
    const now = Date.now();
    const facts = await Promise.all(
      [...paths].map(async (path) => certificateFacts(path, await readCertificate(path), now)),
    );
    answer(call, { certificates: facts }, () =>
      table([
        ["SITE", "DAYS LEFT", "UNTIL", "NAMES", "FILE"],
        ...facts.map((fact) => [
          fact.sites.join(",") || "-",
          String(fact.daysLeft),
          fact.notAfter,
          fact.names.join(" ") || "-",
          fact.file,
        ]),
      ]),
    );
    return facts.some((fact) => fact.daysLeft < expiryWarningDays) ? ExitCode.foundProblem : ExitCode.done;
  },
};

export const certsRotate: CommandSpec = {
  path: ["certs", "rotate"],
  summary: "new key and certificate for the sites on this host",
  detail:
    "With --site only that one. The authority stays, so the other site trusts the new certificate at once. A daemon takes it when it is started again.",
  options: [authorityOption],
  examples: ["splitsite certs rotate --site dr", "splitsite certs rotate --dry-run"],
  changes: true,
  async run(call) {
    const settings = await call.settings();
    const sites = call.option("site") === undefined ? await sitesWithKeys(settings) : [await call.site()];
    if (sites.length === 0)
      throw usageFailure(
        "no site's key lies on this host",
        "Use `splitsite certs issue --site NAME` to make the first.",
      );
    if (!call.dryRun) {
      const { issueSite } = await import("../certificates/issue.ts");
      const authority = await authorityOf(call);
      for (const site of sites)
        await replacePair(site.tls.cert, site.tls.key, await issueSite(authority, site));
    }
    const names = sites.map((site) => site.name);
    answer(call, { rotated: call.dryRun ? [] : names, dryRun: call.dryRun }, () =>
      names
        .map(
          (name) =>
            `site ${name}: ${call.dryRun ? "would get" : "has"} a new key and certificate; copy them to its host and restart its service\n`,
        )
        .join(""),
    );
    return ExitCode.done;
  },
};
