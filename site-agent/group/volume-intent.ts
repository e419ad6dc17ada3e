/**
 * A change of the volume table on its way into the write order: what is written down before its records are, and what is
 * made of it when the group is opened again. Pure. The journal decides: a record that is in it has happened, one that is not
 * never will, and the table follows (docs/volumes.md).
 */
import { isAbsolute } from "node:path";
import { countOf, fieldsOf, malformed, textOf, volumesOf } from "../../protocol/fields.ts";
import type { Sequence, VolumeEntry } from "../../protocol/ids.ts";
import type { VolumeChangeRecord } from "../../protocol/record.ts";
import { OperationalError } from "../../runtime/errors.ts";
import type { StateVolume } from "./state.ts";

/** A row as it will be once its record is in the journal; its file is ready. */
export interface ChangingVolume extends VolumeEntry {
  readonly imagePath: string;
  readonly imageIdentity: string;
  /** A new volume whose image was not empty. */
  readonly holdsData: boolean;
}

export interface VolumeIntent {
  /** The records stand behind this: the journal's tail when it was written down. */
  readonly after: Sequence;
  /** In the order of their records, at least one. */
  readonly volumes: readonly ChangingVolume[];
}

/** A record of the journal, by its sequence. */
export interface FoundChange {
  readonly sequence: Sequence;
  readonly record: VolumeChangeRecord;
}

/** Parses what stands in the state document; RemoteProtocolError for anything that this version did not write. */
export function parseVolumeIntent(value: unknown): VolumeIntent {
  const fields = fieldsOf(value, "changing");
  return {
    after: countOf(fields["after"], "after"),
    volumes: volumesOf(fields["volumes"], (row, entry) => {
      const imagePath = textOf(row["imagePath"], "image path");
      return {
        ...entry,
        imagePath: isAbsolute(imagePath) ? imagePath : malformed("image path"),
        imageIdentity: textOf(row["imageIdentity"], "image identity"),
        holdsData: row["holdsData"] === true,
      };
    }),
  };
}

/** Records of an intent, in order. */
export function recordsOf({ volumes }: VolumeIntent): VolumeChangeRecord[] {
  return volumes.map(({ number, name, sizeBytes, holdsData }) => ({
    kind: "volumeChange",
    volume: number,
    offset: 0,
    length: 0,
    sizeBytes,
    name,
    holdsData,
  }));
}

/**
 * The table once `found`, the first records of `intent`, are in the journal. `hasStandby`: content that a new volume held
 * has to be brought to it. OperationalError `VOLUME_CHANGE_UNKNOWN` (`stop`) for a record that nobody meant.
 */
export function tableWith(
  held: readonly StateVolume[],
  intent: VolumeIntent,
  found: readonly FoundChange[],
  hasStandby: boolean,
): StateVolume[] {
  const table = [...held];
  for (const [index, { sequence, record }] of found.entries()) {
    const row = intent.volumes[index];
    if (row === undefined || !isOf(row, record)) throw unknownChange(sequence, record);
    const { number, name, sizeBytes, imagePath, imageIdentity, holdsData } = row;
    const known = table.findIndex((volume) => volume.number === number);
    const changed = { number, name, sizeBytes, imagePath, imageIdentity, changedAt: sequence };
    if (known >= 0) table[known] = { ...table[known]!, ...changed };
    else {
      const wholeFrom = holdsData && hasStandby ? null : sequence;
      table.push({ ...changed, foundingBytes: null, wholeFrom });
    }
  }
  return table;
}

function isOf({ number, name, sizeBytes, holdsData }: ChangingVolume, record: VolumeChangeRecord): boolean {
  return (
    number === record.volume &&
    name === record.name &&
    sizeBytes === record.sizeBytes &&
    holdsData === record.holdsData
  );
}

function unknownChange(sequence: Sequence, { name, sizeBytes }: VolumeChangeRecord): OperationalError {
  return new OperationalError({
    code: "VOLUME_CHANGE_UNKNOWN",
    message: `record ${sequence} changes volume ${name} to ${sizeBytes} bytes, which was not under way`,
    reaction: "stop",
    hint: "Journal and state document must be of one moment: restore both together, or fail over to the standby.",
  });
}
