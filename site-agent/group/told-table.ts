/**
 * What a greeting says of the volume table. Pure. A standby that is made by a greeting takes all of it as its beginning, so
 * it must be of one moment: never a row of a change without what comes with it.
 */
import type { VolumeEntry } from "../../protocol/ids.ts";
import { foundingTable } from "../../protocol/table-volume.ts";
import type { ToldTable } from "../ship/shipper.ts";
import type { AgentGroupState } from "./state.ts";
import type { ChangingVolume } from "./volume-intent.ts";

/** The table of `state` with `durable`, the rows of a change under way whose records are durable. */
export function toldTable(
  state: Pick<AgentGroupState, "volumes" | "initial">,
  durable: readonly ChangingVolume[],
): ToldTable {
  const rows = new Map<number, VolumeEntry>(state.volumes.map((volume) => [volume.number, volume]));
  for (const row of durable) rows.set(row.number, row);
  const volumes = [...rows.values()].map(({ number, name, sizeBytes }) => ({ number, name, sizeBytes }));
  const founding = foundingTable(state.volumes);
  const sizes = new Map(founding.map(({ number, sizeBytes }) => [number, sizeBytes]));
  const isFounding = volumes.every(({ number, sizeBytes }) => sizes.get(number) === sizeBytes);
  return {
    volumes,
    founding: isFounding ? undefined : founding,
    imagesHeldData: state.initial === "data" || durable.some(({ holdsData }) => holdsData),
  };
}
