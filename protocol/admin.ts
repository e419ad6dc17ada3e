/**
 * The admin endpoint of a site: routes and JSON shapes between the CLI and the daemon. Pure types and paths.
 * Failures are `AdminError` bodies; long work answers NDJSON, one `AdminLine` a line, the last one `result` or
 * `error`.
 */
import type { OrderNote } from "./group-life.ts";
import type { AdoptedExport } from "./handover.ts";
import type { HistoryCheck, HistoryFollowStatus, PinStatus, ScanStatus, VerifyResult } from "./status.ts";

/** Who keeps the past of a group at a site: its gateway as a standby, its agent once it has taken the group over. */
export type PastRole = "agent" | "gateway";

export const adminRoutes = {
  /** GET: SiteStatus. */
  status: "/v1/status",
  /** GET ThrottleStatus, PUT ThrottleOverride, DELETE. */
  throttle: "/v1/throttle",
  /** GET: FailoverPlan. */
  failoverPlan: (group: string) => `/v1/groups/${group}/failover/plan`,
  /** POST FailoverRunRequest: lines, result FailoverResult. */
  failoverRun: (group: string) => `/v1/groups/${group}/failover/run`,
  /** GET ?from=SEQUENCE&limit=N: PointList, of what this role keeps; without `from` the newest. */
  points: (role: PastRole, group: string) => `/v1/groups/${group}/${role}/points`,
  /** GET ?volume=NAME&point=POINT: `data` lines with progress between, result ExportedPoint. */
  pointContent: (role: PastRole, group: string) => `/v1/groups/${group}/${role}/point-content`,
  /** POST PinRequest: PinReport. */
  pointPin: (role: PastRole, group: string) => `/v1/groups/${group}/${role}/pin`,
  /** POST UnpinRequest: PinReport of what was pinned. */
  pointUnpin: (role: PastRole, group: string) => `/v1/groups/${group}/${role}/unpin`,
  /** POST ?point=POINT: lines, result PointDigest: reads every volume at the point, unless that was done before. */
  pointDigest: (role: PastRole, group: string) => `/v1/groups/${group}/${role}/point-digest`,
  /** POST {}: lines, result HistoryVerdict: reads all before-images that this role keeps. */
  historyVerify: (role: PastRole, group: string) => `/v1/groups/${group}/${role}/history/verify`,
  /** POST {}: make a new group without asking the other site. */
  groupCreate: (group: string) => `/v1/groups/${group}/create`,
  /** POST GroupPauseRequest: the group's OwnerStatus. */
  groupPause: (group: string) => `/v1/groups/${group}/pause`,
  /** POST GroupResumeRequest: the group's OwnerStatus. */
  groupResume: (group: string) => `/v1/groups/${group}/resume`,
  /** GET: RetirePlan. POST RetireRequest: lines, result RetiredStatus. Of the owner, or of the standby. */
  retire: (role: PastRole, group: string) => `/v1/groups/${group}/${role}/retire`,
  /** POST HandoverRecord: AdoptedExport[]; from the gateway process of the same site when roles run apart. */
  groupAdopt: (group: string) => `/v1/groups/${group}/adopt`,
  /** GET: ScanReport. */
  scan: (group: string) => `/v1/groups/${group}/scan`,
  /** POST ScanRequest: ScanReport, once it is under way; it goes on whoever waits for it. */
  scanStart: (group: string) => `/v1/groups/${group}/scan/start`,
  /** POST {}: ScanReport. */
  scanPause: (group: string) => `/v1/groups/${group}/scan/pause`,
  /** POST {}: ScanReport. */
  scanResume: (group: string) => `/v1/groups/${group}/scan/resume`,
  /** POST {}: ScanReport. */
  scanGiveUp: (group: string) => `/v1/groups/${group}/scan/give-up`,
  /** GET: JournalStats. */
  journalStats: (group: string) => `/v1/groups/${group}/journal/stats`,
  /** POST {}: lines, result JournalVerdict. */
  journalVerify: (group: string) => `/v1/groups/${group}/journal/verify`,
} as const;

/** Contract's exit codes; `code` of an AdminError is one of these, so that the CLI can end with it. */
export const ExitCode = {
  done: 0,
  failed: 1,
  usage: 2,
  configuration: 3,
  unreachable: 4,
  notPermitted: 5,
  refused: 6,
  foundProblem: 7,
  partlyDone: 8,
  timeout: 9,
  interrupted: 130,
} as const;
export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode];

export interface AdminError {
  readonly type: "error";
  readonly code: ExitCode;
  /** Stable, upper snake case. */
  readonly id: string;
  readonly message: string;
  readonly try: string;
}

export type AdminLine =
  | {
      readonly type: "progress";
      readonly step: string;
      readonly message: string;
      readonly time: string;
      readonly done?: number;
      readonly total?: number;
    }
  /** Content that is not zeroes, in rising order of `offset`; everything between is zeroes. */
  | { readonly type: "data"; readonly offset: number; readonly base64: string }
  | { readonly type: "result"; readonly result: unknown }
  | AdminError;

export interface ThrottleStatus {
  /** null: unlimited. */
  readonly limitBytesPerSecond: number | null;
  readonly source: "config" | "window" | "override";
  /** End of the override, RFC 3339; null: until cleared, or no override. */
  readonly until: string | null;
  /** Next switches of the windows, at most 5. */
  readonly next: readonly { readonly at: string; readonly limitBytesPerSecond: number | null }[];
}

export interface ThrottleOverride {
  readonly limitBytesPerSecond: number | null;
  /** null: until cleared or restarted. */
  readonly durationMs: number | null;
}

/** `verify` compares; `repair` sends what the newest verify found to differ. */
export interface ScanRequest {
  readonly purpose: "verify" | "repair";
}

export interface ScanReport {
  readonly group: string;
  /** null: none is under way. */
  readonly scan: ScanStatus | null;
  /** The standby's before-images being read behind the newest verify; null: they are not. */
  readonly historyCheck: HistoryFollowStatus | null;
  /** What the last verifies found, newest first. */
  readonly verifies: readonly VerifyResult[];
}

/** Ship nothing of the group until it is resumed. */
export type GroupPauseRequest = OrderNote;

/** Replication goes on where it was paused. */
export interface GroupResumeRequest {
  /** Serve on although answered, unflushed writes may be gone after the power loss (`UNFLUSHED_MAY_BE_LOST`). */
  readonly acceptUnflushed: boolean;
}

/** `writesMin`, `bytesMin`: what the last contact proves to be missing; the truth may be more. */
export interface LossStatement {
  readonly known: "exact" | "bounded" | "unknown";
  /** Last contact with the owner, RFC 3339; null: never heard. */
  readonly since: string | null;
  readonly writesMin: number;
  readonly bytesMin: number;
}

export interface FailoverPlan {
  readonly group: string;
  readonly epoch: number;
  readonly nextEpoch: number;
  readonly oldOwner: string;
  readonly newOwner: string;
  readonly point: { readonly sequence: number; readonly time: string } | null;
  readonly loss: LossStatement;
  readonly toApply: { readonly records: number; readonly bytes: number };
  /** Names of volumes that are not whole at `point`, and are not handed over. */
  readonly leftOut: readonly string[];
  readonly steps: readonly string[];
  /** `fail` refuses the run. */
  readonly checks: readonly {
    readonly id: string;
    readonly outcome: "pass" | "warn" | "fail";
    readonly message: string;
  }[];
}

export interface FailoverRunRequest {
  readonly reason: string;
}

export interface FailoverResult {
  readonly group: string;
  readonly epoch: number;
  readonly point: { readonly sequence: number; readonly time: string };
  readonly loss: LossStatement;
  readonly durationMs: number;
  readonly exports: readonly AdoptedExport[];
  /** Names of volumes that were not whole at `point`, and were not handed over. */
  readonly leftOut: readonly string[];
  /** Path of the report on the gateway's host. */
  readonly evidence: string;
}

export interface JournalStats {
  readonly group: string;
  readonly epoch: number;
  readonly head: number;
  readonly tail: number;
  readonly durable: number;
  readonly frames: number;
  readonly bytes: number;
  readonly maxBytes: number;
}

export interface JournalVerdict {
  readonly group: string;
  readonly sound: boolean;
  readonly first: number;
  readonly last: number;
  readonly frames: number;
  readonly bytes: number;
  /** Chain value at `last`, hex. */
  readonly chain: string;
  readonly problem: {
    readonly code: string;
    readonly message: string;
    readonly sequence: number | null;
  } | null;
}

export interface PinRequest {
  /** As --point. */
  readonly point: string;
  readonly label: string;
}

export interface UnpinRequest {
  /** Id of the pin, or the sequence that an operator's pin is on. */
  readonly pin: string;
}

export interface PinReport extends PinStatus {
  readonly group: string;
  /** The whole history, and its limit. */
  readonly historyBytes: number;
  readonly historyBytesMax: number;
}

export interface HistoryVerdict extends HistoryCheck {
  readonly group: string;
}

export interface PointList {
  readonly group: string;
  /** All pins, also of points that are not in this list. */
  readonly pins: readonly PinStatus[];
  /** Oldest first. */
  readonly points: readonly {
    readonly sequence: number;
    /** null: the beginning of the group, before its first write. */
    readonly time: string | null;
    /** Data written since the point before it; null: that one is not in this list. */
    readonly bytes: number | null;
    /** Ids of the pins on it. */
    readonly pins: readonly string[];
    /** Chain value at the point, hex. */
    readonly chain: string;
    /** Names of volumes that it does not hold: they joined later, or were not whole yet. */
    readonly leftOut: readonly string[];
    /** Of the whole group at the point, hex; null: none was made (docs/formats/point-digest.md). */
    readonly digest: string | null;
  }[];
}

export interface ExportedPoint {
  readonly group: string;
  readonly volume: string;
  readonly sequence: number;
  readonly time: string | null;
  readonly sizeBytes: number;
  /** Of the whole content, hex. */
  readonly sha256: string;
}
