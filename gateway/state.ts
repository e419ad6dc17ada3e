/**
 * The durable document of one standby: which history it holds, whose token it honours, where its images are, and how
 * far a failover has got. Written before anything that rests on it is done or answered. The token in it only rises.
 */
import { isAbsolute } from "node:path";
import type { JsonFields } from "../protocol/fields.ts";
import {
  chainOf,
  countOf,
  fieldsOf,
  lineageOf,
  malformed,
  nameOf,
  nullOr,
  positionOf,
  textOf,
  tokenOf,
  volumesOf,
} from "../protocol/fields.ts";
import type { StandingOrder } from "../protocol/group-life.ts";
import { standingOrderOf } from "../protocol/group-life.ts";
import type { Lineage, Token, VolumeEntry } from "../protocol/ids.ts";
import { stretchesOf } from "../protocol/stretch.ts";
import { tableVolumeOf } from "../protocol/table-volume.ts";
import type { Incomplete } from "./scan/completeness.ts";
import type { HeldVolume } from "./volumes/table.ts";

export interface StandbyVolume extends HeldVolume {
  /** Absolute path of the image file or block device. */
  readonly imagePath: string;
}

/** What the owner last said it had answered, and when that reached us. */
export interface HeardRecord {
  /** Our wall clock when it arrived: a label. */
  readonly atMs: number;
  readonly answered: number;
  readonly dataBytesTotal: number;
}

/** The end of the history that is taken over. */
export interface Seal {
  readonly sequence: number;
  /** Hex. */
  readonly chain: string;
  readonly dataBytesTotal: number;
  readonly timeMs: number;
}

/**
 * `fenced`: the token is raised. `sealed`: the seal is known. `handed-over`: the hand-over record is written; the
 * images are no longer ours. `adopted`: the agent serves and the report is written.
 */
export type FailoverProgress = "fenced" | "sealed" | "handed-over" | "adopted";

export interface FailoverDocument {
  readonly progress: FailoverProgress;
  /** The token that was fenced. */
  readonly previous: Token;
  readonly reason: string;
  readonly startedAtMs: number;
  /** Frozen when the token rose, so that a resumed run states the same loss. */
  readonly heard: HeardRecord | null;
  readonly seal: Seal | null;
  /** End of what was received, where the seal lies before it: images that were incomplete there are taken back. */
  readonly received: ReceivedEnd | null;
}

export interface ReceivedEnd {
  readonly sequence: number;
  readonly dataBytesTotal: number;
}

/** The order that ended the standby's life, and where: nothing behind the seal is in the images in the end. */
export interface RetiredStandby extends StandingOrder {
  readonly seal: Seal;
  /** What was received behind the seal, and is given up. */
  readonly loss: { readonly writes: number; readonly bytes: number };
}

export interface StandbyDocument {
  readonly version: 1;
  readonly group: string;
  readonly lineage: Lineage;
  /** The token this site honours: the owner's, or our own raised one. */
  readonly token: Token;
  /** Hex; follows from the lineage and the volumes that the history began with. */
  readonly genesis: string;
  readonly volumes: readonly StandbyVolume[];
  /** `creating`: images, marker and intake may be half made; nothing was ever acknowledged. */
  readonly phase: "creating" | "standing";
  readonly failover: FailoverDocument | null;
  /** null: its life goes on. Never beside a failover. */
  readonly retired: RetiredStandby | null;
  /** null: every applied position can be opened. */
  readonly incomplete: Incomplete | null;
}

function oneOf<T extends string>(value: unknown, legal: readonly T[], what: string): T {
  return legal.find((each) => each === value) ?? malformed(what);
}

/** RemoteProtocolError for anything that is not a HeardRecord. */
export function parseHeardRecord(value: unknown): HeardRecord {
  const fields = fieldsOf(value, "heard");
  return {
    atMs: countOf(fields["atMs"], "heard at"),
    answered: countOf(fields["answered"], "heard answered"),
    dataBytesTotal: countOf(fields["dataBytesTotal"], "heard bytes"),
  };
}

function parseSeal(value: unknown): Seal {
  const fields = fieldsOf(value, "seal");
  return {
    ...positionOf(fields),
    dataBytesTotal: countOf(fields["dataBytesTotal"], "seal bytes"),
    timeMs: countOf(fields["timeMs"], "seal time"),
  };
}

function parseFailover(value: unknown): FailoverDocument {
  const fields = fieldsOf(value, "failover");
  const progress = oneOf(
    fields["progress"],
    ["fenced", "sealed", "handed-over", "adopted"] as const,
    "failover progress",
  );
  const seal = nullOr(fields["seal"], parseSeal);
  if ((seal === null) !== (progress === "fenced")) malformed("seal of this progress");
  // Absent in documents from before there was anything to take back.
  const received = nullOr(fields["received"] ?? null, parseReceived);
  if (received !== null && (seal === null || received.sequence <= seal.sequence)) malformed("received end");
  return {
    progress,
    previous: tokenOf(fields["previous"]),
    reason: textOf(fields["reason"], "failover reason"),
    startedAtMs: countOf(fields["startedAtMs"], "failover start"),
    heard: nullOr(fields["heard"], parseHeardRecord),
    seal,
    received,
  };
}

function parseReceived(value: unknown): ReceivedEnd {
  const fields = fieldsOf(value, "received end");
  return {
    sequence: countOf(fields["sequence"], "received end"),
    dataBytesTotal: countOf(fields["dataBytesTotal"], "received bytes"),
  };
}

function parseIncomplete(value: unknown): Incomplete {
  const fields = fieldsOf(value, "incomplete");
  const since = countOf(fields["since"], "incomplete since");
  const until = nullOr(fields["until"], (each) => countOf(each, "incomplete until"));
  const scan = nullOr(fields["scan"], (each) => countOf(each, "incomplete scan"));
  const seen = countOf(fields["seen"], "incomplete seen");
  const earlier = stretchesOf(fields["earlier"], "earlier stretches");
  if ((earlier.at(-1)?.until ?? 0) > since) malformed("earlier stretches");
  if (scan !== null && (scan === 0 || scan < since || scan > seen)) malformed("incomplete scan");
  if (until !== null && (scan === null || until <= scan || until > seen)) malformed("incomplete until");
  return {
    purpose: oneOf(fields["purpose"], ["first-sync", "resync"] as const, "incomplete purpose"),
    since,
    until,
    scan,
    seen,
    holds: oneOf(fields["holds"], ["empty", "unknown"] as const, "incomplete holds"),
    ...(earlier.length === 0 ? {} : { earlier }),
  };
}

function parseRetired(value: unknown): RetiredStandby {
  const fields = fieldsOf(value, "retired");
  const loss = fieldsOf(fields["loss"], "retired loss");
  return {
    ...standingOrderOf(fields),
    seal: parseSeal(fields["seal"]),
    loss: {
      writes: countOf(loss["writes"], "retired loss"),
      bytes: countOf(loss["bytes"], "retired loss bytes"),
    },
  };
}

function parseVolume(row: JsonFields, entry: VolumeEntry): StandbyVolume {
  const imagePath = textOf(row["imagePath"], "image path");
  if (!isAbsolute(imagePath)) malformed("image path");
  const volume = tableVolumeOf(row, entry);
  if (row["syncBehind"] === undefined) return { ...volume, imagePath };
  if (volume.wholeFrom !== null) malformed("sync of a whole volume");
  return { ...volume, imagePath, syncBehind: countOf(row["syncBehind"], "sync behind") };
}

/** RemoteProtocolError for anything that is not a StandbyDocument of this version. */
export function parseStandbyDocument(value: unknown): StandbyDocument {
  const fields = fieldsOf(value, "standby document");
  if (fields["version"] !== 1) malformed("version");
  return {
    version: 1,
    group: nameOf(fields["group"], "group"),
    lineage: lineageOf(fields["lineage"]),
    token: tokenOf(fields["token"]),
    genesis: chainOf(fields["genesis"]),
    volumes: volumesOf(fields["volumes"], parseVolume),
    phase: oneOf(fields["phase"], ["creating", "standing"] as const, "phase"),
    failover: nullOr(fields["failover"], parseFailover),
    // Documents from before a standby could be retired do not say.
    retired: nullOr(fields["retired"] ?? null, parseRetired),
    // Documents from before there were scans do not have it: their images began empty with their history.
    incomplete: nullOr(fields["incomplete"] ?? null, parseIncomplete),
  };
}
