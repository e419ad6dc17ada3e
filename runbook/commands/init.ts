/**
 * `init DIR`: a working configuration for two sites with a private authority and both sites' certificates. Writes new
 * files only; checks its own file with the loader before anything is written.
 */
import { join, resolve } from "node:path";
import { ExitCode } from "../../protocol/admin.ts";
import { isName } from "../../protocol/ids.ts";
import { parseRate, parseSize, rateForm, sizeForm } from "../../runtime/settings/units.ts";
import { authorityFiles, authorityFolder, fileExists, writeNew } from "../certificates/files.ts";
import type { Call, CommandSpec } from "../command.ts";
import { answer } from "../command.ts";
import { CommandFailure, usageFailure } from "../failure.ts";
import { renderFirstConfig } from "./init-config.ts";

export const init: CommandSpec = {
  path: ["init"],
  summary: "write a configuration for two sites, with a private CA and certificates",
  detail:
    "Without hosts both sites run on this machine, for a first look. With --primary-host and --dr-host each site runs on its own host and serves its disks on that host; copy the folder, without authority/, to both. Nothing is overwritten.",
  arguments: [{ name: "DIR", summary: "folder to write to; made when missing", required: true }],
  options: [
    { flags: "--group NAME", summary: "name of the first group (default: app)" },
    {
      flags: "--volume NAME=SIZE",
      summary: "a volume of it; may be repeated (default: data=64MiB and log=16MiB)",
      many: true,
    },
    {
      flags: "--primary-host HOST",
      summary: "name or address of the primary site's host, as the other site reaches it",
    },
    { flags: "--dr-host HOST", summary: "the same for the standby's site" },
    { flags: "--limit RATE", summary: "limit of the line between them (default: unlimited)" },
  ],
  examples: [
    "splitsite init ./first",
    "splitsite init ./erp --group erp --volume data=500GiB --volume log=50GiB --primary-host berlin.example.net --dr-host munich.example.net --limit 100Mbit/s",
  ],
  changes: true,
  async run(call) {
    const folder = resolve(call.argument("DIR") ?? "");
    const file = join(folder, "splitsite.yaml");
    const text = renderFirstConfig(choices(call));
    const { parseSettings } = await import("../../runtime/settings/load.ts");
    const settings = parseSettings(file, text);
    const authority = authorityFiles(authorityFolder(file));
    const planned = [
      file,
      authority.key,
      authority.cert,
      ...settings.sites.flatMap((site) => [site.tls.ca, site.tls.cert, site.tls.key]),
    ];
    const files = [...new Set(planned)];
    for (const path of files) {
      if (await fileExists(path)) {
        throw new CommandFailure({
          exit: ExitCode.refused,
          id: "FILE_EXISTS",
          message: `${path} exists already`,
          next: "Nothing is overwritten: choose a new folder.",
        });
      }
    }
    if (!call.dryRun) {
      const { createAuthority } = await import("../certificates/authority.ts");
      const { writeSiteCertificate } = await import("../certificates/issue.ts");
      const keyed = await createAuthority();
      await writeNew(authority.key, keyed.keyPem, true);
      await writeNew(authority.cert, keyed.certPem, false);
      for (const site of settings.sites) await writeSiteCertificate(keyed, site);
      // Last: a folder with a configuration is whole.
      await writeNew(file, text, false);
    }
    const [primary, dr] = settings.sites;
    const apart = call.option("primary-host") !== undefined;
    const next = apart
      ? [
          `copy ${folder} to /etc/splitsite on each host, without the folder authority and without the other site's key`,
          "splitsite run      # on both hosts",
          "splitsite doctor   # on each, once both run",
          "splitsite status",
        ]
      : [
          `splitsite run --config ${file} --site ${primary?.name ?? ""}`,
          `splitsite run --config ${file} --site ${dr?.name ?? ""}`,
          `splitsite status --config ${file} --site ${primary?.name ?? ""}`,
        ];
    answer(call, { file, files, dryRun: call.dryRun, next }, () => {
      const done = call.dryRun ? "would write" : "wrote";
      return `${files.map((path) => `${done} ${path}\n`).join("")}\nNext:\n${next.map((line) => `  ${line}\n`).join("")}`;
    });
    return ExitCode.done;
  },
};

function choices(call: Call) {
  const group = call.option("group") ?? "app";
  if (!isName(group))
    throw usageFailure(`--group is \`${group}\`, must be lower-case letters, digits, \`.\`, \`_\` and \`-\``);
  const given = call.values("volume");
  const volumes = (given.length === 0 ? ["data=64MiB", "log=16MiB"] : given).map((text) => {
    const at = text.indexOf("=");
    const [name, size] = [text.slice(0, Math.max(0, at)), text.slice(at + 1)];
    if (!isName(name) || parseSize(size) === undefined)
      throw usageFailure(`--volume is \`${text}\`, must be NAME=SIZE with ${sizeForm}`);
    return { name, size };
  });
  const limit = call.option("limit") ?? "unlimited";
  if (parseRate(limit) === undefined) throw usageFailure(`--limit is \`${limit}\`, must be ${rateForm}`);
  const hosts = { primary: hostOption(call, "primary-host"), dr: hostOption(call, "dr-host") };
  if ((hosts.primary === null) !== (hosts.dr === null))
    throw usageFailure("give both --primary-host and --dr-host, or neither");
  return { group, volumes, limit, hosts };
}

function hostOption(call: Call, name: string): string | null {
  const host = call.option(name);
  if (host === undefined) return null;
  if (!/^([A-Za-z0-9.-]{1,253}|[0-9a-fA-F:]{2,45})$/.test(host))
    throw usageFailure(`--${name} is \`${host}\`, must be a host name or an address`);
  return host;
}
