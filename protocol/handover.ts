/**
 * The hand-over record: the one durable fact by which a gateway gives a group to the agent of its own site.
 * Pure types. Written once by the gateway after the seal is applied; from then on the gateway never touches the
 * images again, and the agent opens on exactly this position or not at all.
 */
import type { Lineage, Sequence, Token, VolumeEntry } from "./ids.ts";

export interface HandoverVolume extends VolumeEntry {
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
  readonly volumes: readonly HandoverVolume[];
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
