/**
 * A row of a group's volume table as a site keeps it: what the volume was when the history began, when the order last
 * changed it, and from where on its content is whole. Pure. Both roles' documents and the hand-over record carry it.
 */
import { countOf, type JsonFields, malformed, nullOr } from "./fields.ts";
import type { Sequence, VolumeEntry } from "./ids.ts";

export interface TableVolume extends VolumeEntry {
  /** Size when the history began, bytes; null: added later. With the lineage it is what genesis is made of. */
  readonly foundingBytes: number | null;
  /** Sequence of the newest record that changed this row; 0: none did. */
  readonly changedAt: Sequence;
  /** First sequence at which its content here is whole; null: its content is still to come. */
  readonly wholeFrom: Sequence | null;
}

/** A point holds exactly the volumes that were whole when it was made, with the sizes they have now. */
export function isWholeAt({ wholeFrom }: Pick<TableVolume, "wholeFrom">, point: Sequence): boolean {
  return wholeFrom !== null && wholeFrom <= point;
}

/** `table` parted into what a point holds and what it leaves out, each in the order of the table. */
export function partedAt<V extends Pick<TableVolume, "wholeFrom">>(
  table: readonly V[],
  point: Sequence,
): { readonly whole: V[]; readonly partial: V[] } {
  return {
    whole: table.filter((volume) => isWholeAt(volume, point)),
    partial: table.filter((volume) => !isWholeAt(volume, point)),
  };
}

/** A volume that a history began with. */
export function foundingVolume(entry: VolumeEntry): TableVolume {
  const { number, name, sizeBytes } = entry;
  return { number, name, sizeBytes, foundingBytes: sizeBytes, changedAt: 0, wholeFrom: 0 };
}

/** The table that the history began with; numbers, names and sizes as they were. */
export function foundingTable(table: readonly TableVolume[]): VolumeEntry[] {
  return table.flatMap(({ number, name, foundingBytes }) =>
    foundingBytes === null ? [] : [{ number, name, sizeBytes: foundingBytes }],
  );
}

/** Reads the row of a document. One written before tables could change does not say: it is a founding volume, whole. */
export function tableVolumeOf(row: JsonFields, entry: VolumeEntry): TableVolume {
  const foundingBytes =
    row["foundingBytes"] === undefined
      ? entry.sizeBytes
      : nullOr(row["foundingBytes"], (value) => countOf(value, "founding size"));
  const changedAt = row["changedAt"] === undefined ? 0 : countOf(row["changedAt"], "changed at");
  const wholeFrom =
    row["wholeFrom"] === undefined ? 0 : nullOr(row["wholeFrom"], (value) => countOf(value, "whole from"));
  if ((foundingBytes ?? 0) > entry.sizeBytes) malformed("founding size");
  return { ...entry, foundingBytes, changedAt, wholeFrom };
}
