/**
 * The durable document of one standby: which history it holds, whose token it honours, where its images are, and how
 * far a failover has got. Written before anything that rests on it is done or answered. The token in it only rises.
 */
import type { Lineage, Token, VolumeEntry } from "../protocol/ids.ts";
import { isName, lineageFromText } from "../protocol/ids.ts";

export interface StandbyVolume extends VolumeEntry {
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
}

export interface StandbyDocument {
  readonly version: 1;
  readonly group: string;
  readonly lineage: Lineage;
  /** The token this site honours: the owner's, or our own raised one. */
  readonly token: Token;
  /** Hex; recomputed from lineage and volumes whenever it is compared. */
  readonly genesis: string;
  readonly volumes: readonly StandbyVolume[];
  /** `creating`: images, marker and intake may be half made; nothing was ever acknowledged. */
  readonly phase: "creating" | "standing";
  readonly failover: FailoverDocument | null;
}

type Json = Readonly<Record<string, unknown>>;

function object(value: unknown): Json {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new TypeError("not an object");
  return value as Json;
}

function count(value: unknown): number {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0)
    throw new TypeError("not a count");
  return value;
}

function text(value: unknown): string {
  if (typeof value !== "string") throw new TypeError("not a text");
  return value;
}

function name(value: unknown): string {
  const found = text(value);
  if (!isName(found)) throw new TypeError("not a name");
  return found;
}

function oneOf<T extends string>(value: unknown, legal: readonly T[]): T {
  const found = legal.find((each) => each === value);
  if (found === undefined) throw new TypeError(`not one of ${legal.join(", ")}`);
  return found;
}

function token(value: unknown): Token {
  const fields = object(value);
  return { epoch: count(fields["epoch"]), owner: name(fields["owner"]) };
}

function lineage(value: unknown): Lineage {
  const found = text(value);
  if (lineageFromText(found) === undefined) throw new TypeError("not a lineage");
  return found;
}

function chain(value: unknown): string {
  const found = text(value);
  if (!/^[0-9a-f]{64}$/.test(found)) throw new TypeError("not a chain value");
  return found;
}

/** Throws for anything that is not a HeardRecord. */
export function parseHeardRecord(value: unknown): HeardRecord {
  const fields = object(value);
  return {
    atMs: count(fields["atMs"]),
    answered: count(fields["answered"]),
    dataBytesTotal: count(fields["dataBytesTotal"]),
  };
}

function parseSeal(value: unknown): Seal {
  const fields = object(value);
  return {
    sequence: count(fields["sequence"]),
    chain: chain(fields["chain"]),
    dataBytesTotal: count(fields["dataBytesTotal"]),
    timeMs: count(fields["timeMs"]),
  };
}

function parseFailover(value: unknown): FailoverDocument {
  const fields = object(value);
  const progress = oneOf(fields["progress"], ["fenced", "sealed", "handed-over", "adopted"] as const);
  const seal = fields["seal"] === null ? null : parseSeal(fields["seal"]);
  if ((seal === null) !== (progress === "fenced")) throw new TypeError("seal and progress disagree");
  return {
    progress,
    previous: token(fields["previous"]),
    reason: text(fields["reason"]),
    startedAtMs: count(fields["startedAtMs"]),
    heard: fields["heard"] === null ? null : parseHeardRecord(fields["heard"]),
    seal,
  };
}

/** Throws for anything that is not a StandbyDocument of this version. */
export function parseStandbyDocument(value: unknown): StandbyDocument {
  const fields = object(value);
  if (fields["version"] !== 1) throw new TypeError(`version ${String(fields["version"])}`);
  const rows = fields["volumes"];
  if (!Array.isArray(rows) || rows.length === 0) throw new TypeError("no volumes");
  return {
    version: 1,
    group: name(fields["group"]),
    lineage: lineage(fields["lineage"]),
    token: token(fields["token"]),
    genesis: chain(fields["genesis"]),
    volumes: rows.map((row: unknown) => {
      const volume = object(row);
      return {
        number: count(volume["number"]),
        name: name(volume["name"]),
        sizeBytes: count(volume["sizeBytes"]),
        imagePath: text(volume["imagePath"]),
      };
    }),
    phase: oneOf(fields["phase"], ["creating", "standing"] as const),
    failover: fields["failover"] === null ? null : parseFailover(fields["failover"]),
  };
}
