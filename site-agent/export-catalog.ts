/**
 * Which exports an NBD client may see and open at this site: the volumes of the groups it serves, under the names
 * `GROUP/VOLUME`, narrowed by the client's certificate where TLS is required. Touches no file.
 */
import type {
  ClientIdentity,
  DescribeOutcome,
  ExportCatalog,
  ExportRefusal,
  ExportSummary,
  OpenOutcome,
} from "../block/export-catalog.ts";
import type { VolumeEntry } from "../protocol/ids.ts";
import { exportName } from "../protocol/ids.ts";
import type { NbdClientRule } from "../runtime/settings/types.ts";
import type { OwnedGroup } from "./group/owned-group.ts";
import { VolumeDevice } from "./group/volume-device.ts";

const unknownExport: ExportRefusal = { kind: "unknown" };

export class AgentExportCatalog implements ExportCatalog {
  readonly #groups: ReadonlyMap<string, OwnedGroup>;
  readonly #rules: readonly NbdClientRule[];

  /** `rules` bind only clients that came with a certificate; plain clients are the listener's decision. */
  constructor(groups: ReadonlyMap<string, OwnedGroup>, rules: readonly NbdClientRule[]) {
    this.#groups = groups;
    this.#rules = rules;
  }

  list(client: ClientIdentity): readonly ExportSummary[] {
    const summaries: ExportSummary[] = [];
    for (const group of this.#groups.values()) {
      for (const volume of group.servedVolumes) {
        const name = exportName(group.name, volume.name);
        if (this.#allows(client, group.name, name)) summaries.push({ name, sizeBytes: volume.sizeBytes });
      }
    }
    return summaries;
  }

  async describe(name: string, client: ClientIdentity): Promise<DescribeOutcome> {
    const found = this.#find(name, client);
    if ("kind" in found) return found;
    const { sizeBytes, blockSize, can } = new VolumeDevice(found.group, found.volume);
    return { kind: "described", shape: { sizeBytes, blockSize, can, readOnly: false } };
  }

  async open(name: string, client: ClientIdentity): Promise<OpenOutcome> {
    const found = this.#find(name, client);
    if ("kind" in found) return found;
    return { kind: "opened", device: new VolumeDevice(found.group, found.volume), readOnly: false };
  }

  #find(
    name: string,
    client: ClientIdentity,
  ): ExportRefusal | { readonly group: OwnedGroup; readonly volume: VolumeEntry } {
    const slash = name.indexOf("/");
    const group = this.#groups.get(name.slice(0, Math.max(0, slash)));
    if (group === undefined || !this.#allows(client, group.name, name)) return unknownExport;
    if (group.fenced)
      return { kind: "refused", reason: "shutdown", message: "another site owns this group now" };
    if (group.retired)
      return { kind: "refused", reason: "shutdown", message: "this group's life here has ended" };
    const volume = group.servedVolumes.find((entry) => exportName(group.name, entry.name) === name);
    if (volume === undefined) return unknownExport;
    if (client.transport === "tcp" && group.unflushedMayBeLost) {
      // A guest on this host died with the power; one across the network may still count on what it wrote.
      return {
        kind: "refused",
        reason: "shutdown",
        message: "stopped after a power loss until an operator accepts it",
      };
    }
    return { group, volume };
  }

  #allows(client: ClientIdentity, group: string, name: string): boolean {
    if (!client.tls) return true;
    return this.#rules.some(
      (rule) =>
        client.certificateNames.includes(rule.name) &&
        rule.exports.some((allowed) => allowed === name || allowed === `${group}/*`),
    );
  }
}
