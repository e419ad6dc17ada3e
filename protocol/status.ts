/**
 * The status document of one group, as `splitsite status --json` prints it: the read model of both roles. Pure
 * types. Computed when asked, so that lag and silence grow while nothing moves. Numbers carry their unit in the
 * name; times are RFC 3339 UTC; unknown fields are to be ignored by readers.
 */

import type { OrderStatus } from "./group-life.ts";
import type { RetiredStatus } from "./retirement.ts";

/** About protection, not about the process. */
export type ProtectionState = "protected" | "catching-up" | "at-risk" | "stopped" | "fenced" | "retired";
/** What the pair sees. */
export type IoState = "serving" | "held" | "refused";

/** A stable code and a sentence. */
export interface Reason {
  readonly code: string;
  readonly message: string;
}

export interface VolumeStatus {
  readonly volume: string;
  readonly sizeBytes: number;
  /**
   * First sequence at which its content is whole at the standby: points from there on hold it. null: a scan still has to
   * bring what it held when it was added.
   */
  readonly wholeFrom: number | null;
}

/** A difference between the configuration and the volume table, on its way or refused (docs/volumes.md). */
export interface VolumeChangeStatus {
  /**
   * `waiting`: for what `code` says. `preparing`: its images are made ready. `changing`: it is put into the write order.
   * `refused`: the group goes on with the table that it has.
   */
  readonly state: "waiting" | "preparing" | "changing" | "refused";
  readonly code: string;
  readonly message: string;
  /** What would change; `fromBytes` null: a new volume. Empty where the configuration is refused. */
  readonly volumes: readonly {
    readonly volume: string;
    readonly fromBytes: number | null;
    readonly toBytes: number;
  }[];
}

/** An order to keep a point. */
export interface PinStatus {
  readonly id: string;
  readonly sequence: number;
  readonly label: string;
  /** When it was pinned. */
  readonly since: string;
  /** What of the history it keeps from being given back. */
  readonly keptBytes: number;
}

/** Points of the past that can be opened at this site. */
export interface HistoryStatus {
  /** Sequences of the oldest and the newest one. */
  readonly oldest: number;
  readonly newest: number;
  /** How many; after a start those that are counted so far. */
  readonly points: number;
  /** What is kept for them. */
  readonly bytes: number;
  readonly maxBytes: number;
  /** Label of the oldest one; null: none, or the beginning of the group, before its first write. */
  readonly oldestTime: string | null;
  readonly pins: readonly PinStatus[];
  /** What had to be given up when it was last opened, such as `HISTORY_DAMAGED`. */
  readonly problem: Reason | null;
  /** What the last reading of all before-images found; null: none came to its end here. */
  readonly check: HistoryCheck | null;
  /** One that is under way. */
  readonly checking: { readonly doneBytes: number; readonly totalBytes: number } | null;
}

/** What reading all before-images found. */
export interface HistoryCheck {
  /** null: nothing is damaged; else `HISTORY_DAMAGED`. */
  readonly code: string | null;
  readonly startedAt: string;
  readonly durationMs: number;
  readonly checkedBytes: number;
  readonly chunks: number;
  readonly damagedChunks: number;
  /** The first 256 of them. */
  readonly damaged: readonly HistoryDamage[];
}

/** A chunk of before-images that is not what was written. */
export interface HistoryDamage {
  /** File, and bytes from its start. */
  readonly segment: number;
  readonly offset: number;
  /** `padding`: no point needs what is damaged, but the disk did not keep it. */
  readonly part: "head" | "blocks" | "padding";
  /** Points up to this record may need it; newer ones do not. null: none does, or nothing knows. */
  readonly pointsUpTo: number | null;
  /** Its blocks lie in these. */
  readonly ranges: readonly ScanRange[];
}

export interface OwnerStatus {
  readonly group: string;
  readonly role: "owner";
  readonly lineage: string | null;
  readonly epoch: number | null;
  readonly state: ProtectionState;
  readonly io: IoState;
  readonly reason: Reason | null;
  readonly since: string;
  readonly level: "async";
  readonly durability: "flush" | "write";
  readonly position: {
    readonly written: number;
    readonly durable: number;
    readonly shipped: number;
    readonly acknowledged: number;
    readonly applied: number;
  };
  readonly lag: {
    readonly writes: number;
    readonly bytes: number;
    readonly ageMs: number;
    readonly noProgressMs: number;
  };
  readonly rpo: {
    readonly ageMs: number | null;
    readonly bytes: number | null;
    readonly breached: boolean;
    readonly delayMs: number;
  };
  readonly journal: { readonly bytes: number; readonly maxBytes: number };
  readonly link: LinkStatus;
  readonly members: readonly { readonly member: string; readonly state: string }[];
  /** null: none is kept, as at a site that has not taken a group over. */
  readonly history: HistoryStatus | null;
  readonly scan: ScanStatus | null;
  /** What the standby lacks because the journal was full; null: nothing. */
  readonly overflow: OverflowStatus | null;
  /** An operator's order to ship nothing; null: none stands. */
  readonly paused: OrderStatus | null;
  /** What is left where the group's life here was ended by an order; null: it goes on. */
  readonly retired: RetiredStatus | null;
  /** null: the table is what the configuration says. */
  readonly volumeChange: VolumeChangeStatus | null;
  readonly volumes: readonly VolumeStatus[];
}

/** Records were dropped that the standby does not have. Until a resync has ended a failover opens a point before them. */
export interface OverflowStatus {
  /** `dropping`: it has not yet been told of all that it will never receive. `resync`: it has, and gets what differs. */
  readonly state: "dropping" | "resync";
  /** Newest position of the standby from before the first of them that is known here; lag is counted from it. */
  readonly since: number;
  /** Newest sequence that was dropped. */
  readonly through: number;
  /** Chunks of 1 MiB that they touched. */
  readonly dirtyChunks: number;
}

/** A scan under way; `reason` says why it waits. */
export interface ScanStatus {
  readonly purpose: "verify" | "first-sync" | "resync" | "repair" | "volume-sync";
  readonly state: "running" | "waiting" | "paused";
  readonly reason: Reason | null;
  /** Being walked; null: before the first, or behind the last. */
  readonly volume: string | null;
  readonly doneBytes: number;
  readonly totalBytes: number;
  /** Over the last ten seconds. */
  readonly bytesPerSecond: number;
  /** null: it does not move. */
  readonly etaMs: number | null;
  readonly differingBlocks: number;
  /** Put into the write order, uncompressed. */
  readonly digestBytes: number;
  readonly contentBytes: number;
}

/** Bytes of a volume, by its name. */
export interface ScanRange {
  readonly volume: string;
  readonly offset: number;
  readonly length: number;
}

/** What a scan of purpose `verify` found. */
export interface VerifyResult {
  /** Positions of its begin and its end; end null: it was given up. */
  readonly begin: number;
  readonly end: number | null;
  readonly outcome: "done" | "given-up";
  readonly startedAt: string;
  readonly durationMs: number;
  /** Compared, each byte at its own position between begin and end. */
  readonly checkedBytes: number;
  readonly uncheckedBytes: number;
  /** Blocks of 4 KiB in which the standby differs. */
  readonly differingBlocks: number;
  /** Chunks of 1 MiB that differed and were written over before it was known where: they are right since. */
  readonly overwrittenChunks: number;
  /** Where they are; the first 256 ranges. */
  readonly differences: readonly ScanRange[];
  /** Of these blocks: those that the standby's disk cannot read. A repair writes them anew. */
  readonly unreadableBlocks: number;
  /** Where they are; the first 64 ranges, of the newest result only. */
  readonly unreadable: readonly ScanRange[];
  /**
   * The standby's before-images, read through behind the comparison. `pending`: that is under way, or waits. `none`: the
   * standby keeps no history. `unknown`: it did not come to its end, or a newer verify took its place.
   */
  readonly history: {
    readonly state: "pending" | "done" | "none" | "unknown";
    /** Only with `done`; of results before the newest without the list of what is damaged. */
    readonly check: HistoryCheck | null;
  };
}

/** Where the reading of the standby's before-images behind a verify is; `reason`: what it waits for. */
export interface HistoryFollowStatus {
  readonly doneBytes: number;
  readonly totalBytes: number;
  readonly reason: Reason | null;
}

export interface LinkStatus {
  readonly up: boolean;
  /** null: unlimited. */
  readonly limitBytesPerSecond: number | null;
  readonly wireBytes: number;
  readonly rawBytes: number;
  readonly roundTripMs: number | null;
  readonly codec: "none" | "lz4" | "brotli" | null;
  /** Last answer of the peer. */
  readonly lastContact: string | null;
}

export interface StandbyStatus {
  readonly group: string;
  readonly role: "standby";
  readonly lineage: string | null;
  readonly epoch: number | null;
  readonly owner: string | null;
  readonly state: ProtectionState;
  readonly reason: Reason | null;
  readonly since: string;
  readonly position: { readonly received: number; readonly durable: number; readonly applied: number };
  readonly consistent: { readonly sequence: number; readonly time: string } | null;
  /** Without a history the one point that the images hold. */
  readonly history: HistoryStatus;
  readonly drills: readonly never[];
  readonly intake: { readonly bytes: number; readonly maxBytes: number };
  /** What the owner had answered when it was last heard: the ground for stating loss. */
  readonly lastHeard: {
    readonly time: string;
    readonly answered: number;
    readonly dataBytesTotal: number;
  } | null;
  /** What the owner last said of an order to ship nothing; null: none stands. */
  readonly paused: OrderStatus | null;
  /** What is left where the group's life here was ended by an order; null: it goes on. */
  readonly retired: RetiredStatus | null;
  readonly volumes: readonly VolumeStatus[];
}

export type GroupStatus = OwnerStatus | StandbyStatus;

export interface SiteStatus {
  readonly site: string;
  readonly time: string;
  readonly groups: readonly GroupStatus[];
}
