/**
 * The hand-over record: the one durable fact by which a gateway gives a group to the agent of its own site.
 * Pure. Written once by the gateway after the seal is applied; from then on the gateway never touches the
 * images again, and the agent opens on exactly this position or not at all.
 */
import { isAbsolute } from "node:path";
import {
  chainOf,
  countOf,
  fieldsOf,
  lineageOf,
  malformed,
  nameOf,
  nullOr,
  textOf,
  tokenOf,
  volumesOf,
} from "./fields.ts";
import type { Lineage, Sequence, Token, VolumeEntry } from "./ids.ts";
import type { Stretch } from "./stretch.ts";
import { stretchesOf } from "./stretch.ts";
import type { TableVolume } from "./table-volume.ts";
import { tableVolumeOf } from "./table-volume.ts";

export interface HandoverVolume extends TableVolume {
  /** Absolute path of the standby image that becomes the volume. */
  readonly imagePath: string;
}

export interface HandoverRecord {
  readonly group: string;
  readonly lineage: Lineage;
  /** Token of the new owner: epoch one above the fenced one. */
  readonly token: Token;
  /** Last sequence contained in the images; the new owner's first record is the next one. */
  readonly sealed: Sequence;
  /** Chain value at `sealed`, hex. */
  readonly chain: string;
  readonly dataBytesTotal: number;
  /** Wall-clock label of the point. */
  readonly pointTimeMs: number;
  /** Exactly those that are whole at `sealed`. */
  readonly volumes: readonly HandoverVolume[];
  /**
   * Volumes of the group that are not whole there, and so are no part of what is handed over. Their numbers are never given
   * to others: the history may hold blocks of theirs.
   */
  readonly leftOut: readonly VolumeEntry[];
  /** Absolute path of the folder with what the images held before; null: none goes with them. */
  readonly history: string | null;
  /** Positions in these are no points of that history. */
  readonly between: readonly Stretch[];
}

/** Parses the stored record; RemoteProtocolError for anything this version did not write. */
export function parseHandoverRecord(value: unknown): HandoverRecord {
  const record = fieldsOf(value, "hand-over record");
  return {
    group: nameOf(record["group"], "group"),
    lineage: lineageOf(record["lineage"]),
    token: tokenOf(record["token"]),
    sealed: countOf(record["sealed"], "sealed"),
    chain: chainOf(record["chain"]),
    dataBytesTotal: countOf(record["dataBytesTotal"], "dataBytesTotal"),
    pointTimeMs: countOf(record["pointTimeMs"], "pointTimeMs"),
    volumes: volumesOf(record["volumes"], (row, entry) => {
      const imagePath = textOf(row["imagePath"], "image path");
      return isAbsolute(imagePath) ? { ...tableVolumeOf(row, entry), imagePath } : malformed("image path");
    }),
    leftOut: leftOutOf(record["leftOut"]),
    // Records written before there was a history do not say.
    history: nullOr(record["history"] ?? null, (path) => {
      const directory = textOf(path, "history path");
      return isAbsolute(directory) ? directory : malformed("history path");
    }),
    between: stretchesOf(record["between"], "between"),
  };
}

/** Records written before tables could change do not say: nothing was left out. */
function leftOutOf(value: unknown): readonly VolumeEntry[] {
  if (value === undefined || (Array.isArray(value) && value.length === 0)) return [];
  return volumesOf(value, (_, entry) => entry);
}

/** What the adopting agent answers. */
export interface AdoptedExport {
  readonly volume: string;
  readonly uri: string;
}

/** How a gateway reaches the agent of its own site; in one process a direct call, else its admin endpoint. */
export interface HandoverTarget {
  /** Opens the group on the record and serves it; idempotent. Settles when the exports accept writes. */
  adopt(record: HandoverRecord): Promise<readonly AdoptedExport[]>;
}
