/** `attach VOLUME --for WHAT`: the ready snippet for a client. Reads the configuration only. */
import { ExitCode } from "../../protocol/admin.ts";
import { exportName } from "../../protocol/ids.ts";
import type { Address, SiteSettings } from "../../runtime/settings/types.ts";
import type { CommandSpec } from "../command.ts";
import { answer } from "../command.ts";
import { findVolume } from "../configured-group.ts";
import { CommandFailure, usageFailure } from "../failure.ts";
import { chooseSite } from "../site-choice.ts";
import type { AttachTarget } from "./attach-snippets.ts";
import { attachKinds, attachSnippet } from "./attach-snippets.ts";

export const attach: CommandSpec = {
  path: ["attach"],
  summary: "print the ready snippet that connects a client to a volume",
  detail:
    "For the group's home site unless --site (or SPLITSITE_SITE) says otherwise: after a failover, name the site that owns the group now.",
  arguments: [
    { name: "VOLUME", summary: "GROUP/VOLUME, or VOLUME when only one group has it", required: true },
  ],
  options: [
    { flags: "--for CLIENT", summary: `one of: ${attachKinds.join(", ")}` },
    { flags: "--unix", summary: "use the site's Unix socket, for a client on the same host" },
    {
      flags: "--client NAME",
      summary: "the client's certificate name, where TLS is required (default: CLIENT)",
    },
  ],
  examples: ["splitsite attach erp/data --for qemu", "splitsite attach data --for libvirt --site dr"],
  changes: false,
  async run(call) {
    const settings = await call.settings();
    const { group, volume } = findVolume(settings.groups, call.argument("VOLUME") ?? "");
    const kind = attachKinds.find((candidate) => candidate === call.option("for"));
    if (kind === undefined)
      throw usageFailure("--for is missing or unknown", `Name one of: ${attachKinds.join(", ")}.`);
    const site = await chooseSite(
      settings,
      call.option("site") ?? call.terminal.env["SPLITSITE_SITE"] ?? group.home,
    );
    if (site.name !== group.home)
      call.terminal.err(
        `note: ${site.name} serves this volume only while it owns ${group.name}; see: splitsite status --site ${site.name}\n`,
      );
    const address = pickAddress(site, call.flag("unix"));
    const target: AttachTarget = {
      exportName: exportName(group.name, volume.name),
      diskName: `${group.name}-${volume.name}`,
      address,
      tls: site.agent?.nbd.tls === "require" && address.kind === "tcp",
      client: call.option("client") ?? "CLIENT",
    };
    const snippet = attachSnippet(kind, target);
    answer(
      call,
      { site: site.name, export: target.exportName, uri: uri(target), tls: target.tls, for: kind, snippet },
      () => snippet,
    );
    return ExitCode.done;
  },
};

function pickAddress(site: SiteSettings, unix: boolean): Address {
  const addresses = site.agent?.nbd.listen ?? [];
  const wanted =
    addresses.find((address) => address.kind === (unix ? "unix" : "tcp")) ??
    (unix ? undefined : addresses[0]);
  if (wanted === undefined) {
    throw new CommandFailure({
      exit: ExitCode.configuration,
      id: "NO_NBD_ADDRESS",
      message: `site ${site.name} has no ${unix ? "Unix socket" : "address"} for NBD`,
      next: "Add one to nbd.listen of the site's agent.",
    });
  }
  if (wanted.kind === "tcp" && (wanted.host === "0.0.0.0" || wanted.host === "::") && site.gateway !== null) {
    // A listener on every address names none; the gateway's url says under which the host is known.
    return { ...wanted, host: new URL(site.gateway.url).hostname };
  }
  return wanted;
}

function uri({ address, exportName: name, tls }: AttachTarget): string {
  if (address.kind === "unix") return `nbd+unix:///${name}?socket=${address.path}`;
  const host = address.host.includes(":") ? `[${address.host}]` : address.host;
  return `${tls ? "nbds" : "nbd"}://${host}:${address.port}/${name}`;
}
