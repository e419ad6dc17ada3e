/** Finds groups and volumes by the names on a command line, in the configuration. */
import type { GroupSettings, VolumeSettings } from "../runtime/settings/types.ts";
import type { Call } from "./command.ts";
import { usageFailure } from "./failure.ts";

/** The group of argument GROUP. */
export async function configuredGroup(call: Call): Promise<GroupSettings> {
  const name = call.argument("GROUP") ?? "";
  const { groups } = await call.settings();
  const group = groups.find((candidate) => candidate.name === name);
  if (group !== undefined) return group;
  throw usageFailure(
    `there is no group \`${name}\``,
    `Name one of: ${groups.map((candidate) => candidate.name).join(", ")}.`,
  );
}

/** A volume by `GROUP/VOLUME`, or by its own name if only one group has it. */
export function findVolume(
  groups: readonly GroupSettings[],
  text: string,
): { readonly group: GroupSettings; readonly volume: VolumeSettings } {
  const all = groups.flatMap((group) => group.volumes.map((volume) => ({ group, volume })));
  const found = all.filter(
    ({ group, volume }) => `${group.name}/${volume.name}` === text || volume.name === text,
  );
  const [only] = found;
  if (only !== undefined && found.length === 1) return only;
  const names = (found.length > 1 ? found : all)
    .map(({ group, volume }) => `${group.name}/${volume.name}`)
    .join(", ");
  throw usageFailure(
    `${found.length > 1 ? "more than one" : "no"} volume is called \`${text}\``,
    `Name one of: ${names}.`,
  );
}
