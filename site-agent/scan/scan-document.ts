/**
 * What a group's owner durably knows of its scans: the one under way, and what the last ones of purpose `verify` found.
 * Pure. Ranges are bounded, so that both documents stay small; what does not fit is counted.
 */
import { countOf, fieldsOf, malformed, nullOr, textOf } from "../../protocol/fields.ts";
import { damagedListedMax, rangesListedMax } from "../../protocol/history-check.ts";
import type { Sequence, VolumeNumber } from "../../protocol/ids.ts";
import { blockBytes } from "../../protocol/ids.ts";
import type { ScanPurpose } from "../../protocol/record.ts";
import { hasBit, scanChunkBytes, setBit } from "../../protocol/scan-digest.ts";
import type { HistoryCheck, ScanRange, VerifyResult } from "../../protocol/status.ts";
import type { PlanPlace } from "./plan.ts";

/** Ranges kept of one scan: at most some 150 bytes each in a document, and 20 results in one of at most 1 MiB. */
export const rangesMax = 256;
/** Ranges kept of those that the standby cannot read. */
export const unreadableMax = 64;
/** Results of `verify` kept, newest first. */
export const verifyResultsMax = 20;

/** Half-open, bytes; whole leaves but for a volume's end. */
export interface BlockRange {
  readonly volume: VolumeNumber;
  readonly start: number;
  readonly end: number;
}

export interface ScanDocument {
  readonly purpose: ScanPurpose;
  /** `compare`: digests of everything. `allocated`: content of what is not zero. `listed`: content of `listed`. */
  readonly walk: "compare" | "allocated" | "listed";
  /** Term of ownership in whose journal it stands: in another one it is no scan any more. */
  readonly epoch: number;
  /**
   * How far frames had been dropped when it began, so that a later drop is noticed: what it put into the order may be among
   * them. Null: nothing was, or it is mended.
   */
  readonly dropped: Sequence | null;
  /** Null until the begin's number is known. */
  readonly begin: Sequence | null;
  readonly startedAtMs: number;
  /** Time spent on it, without the time in which no agent ran. */
  readonly elapsedMs: number;
  readonly paused: boolean;
  /** First window that is not confirmed. */
  readonly place: PlanPlace;
  readonly digestBytes: number;
  readonly contentBytes: number;
  readonly differingBlocks: number;
  /** Chunks that differed and were written over before it was known where. */
  readonly overwrittenChunks: number;
  /** The first `rangesMax` ranges in which the standby differs. */
  readonly differences: readonly BlockRange[];
  /** Of `differingBlocks`: those that the standby's disk cannot read, and the first `unreadableMax` ranges of them. */
  readonly unreadableBlocks: number;
  readonly unreadable: readonly BlockRange[];
  readonly listed: readonly BlockRange[];
}

export function newScan(
  purpose: ScanPurpose,
  walk: ScanDocument["walk"],
  epoch: number,
  startedAtMs: number,
  dropped: Sequence | null,
  listed: readonly BlockRange[] = [],
): ScanDocument {
  return {
    purpose,
    walk,
    epoch,
    dropped,
    begin: null,
    startedAtMs,
    elapsedMs: 0,
    paused: false,
    place: { volume: 0, window: 0 },
    digestBytes: 0,
    contentBytes: 0,
    differingBlocks: 0,
    overwrittenChunks: 0,
    differences: [],
    unreadableBlocks: 0,
    unreadable: [],
    listed,
  };
}

/** Adds the marked leaves of a chunk of a volume of `sizeBytes`; neighbours become one range. */
export function withDifferences(
  document: ScanDocument,
  volume: VolumeNumber,
  sizeBytes: number,
  chunk: number,
  leaves: Uint8Array | null,
  unreadable: Uint8Array | null = null,
): ScanDocument {
  if (leaves === null) return { ...document, overwrittenChunks: document.overwrittenChunks + 1 };
  const differences = [...document.differences];
  const lost = [...document.unreadable];
  const differing = addLeaves(differences, rangesMax, volume, sizeBytes, chunk, leaves);
  const missing =
    unreadable === null ? 0 : addLeaves(lost, unreadableMax, volume, sizeBytes, chunk, unreadable);
  return {
    ...document,
    differingBlocks: document.differingBlocks + differing,
    differences,
    unreadableBlocks: document.unreadableBlocks + missing,
    unreadable: lost,
  };
}

/** Gives how many leaves are marked. */
function addLeaves(
  ranges: BlockRange[],
  most: number,
  volume: VolumeNumber,
  sizeBytes: number,
  chunk: number,
  leaves: Uint8Array,
): number {
  let count = 0;
  for (let leaf = 0; leaf < leaves.byteLength * 8; leaf += 1) {
    if (!hasBit(leaves, leaf)) continue;
    count += 1;
    const start = chunk * scanChunkBytes + leaf * blockBytes;
    const end = Math.min(sizeBytes, start + blockBytes);
    const last = ranges.at(-1);
    if (last?.volume === volume && last.end === start) ranges[ranges.length - 1] = { ...last, end };
    else if (ranges.length < most) ranges.push({ volume, start, end });
  }
  return count;
}

/** Bits of the leaves of a chunk that `ranges` touch; null: none. */
export function leavesIn(
  ranges: readonly BlockRange[],
  volume: VolumeNumber,
  chunk: number,
): Uint8Array | null {
  const chunkStart = chunk * scanChunkBytes;
  let bits: Uint8Array | null = null;
  for (const range of ranges) {
    const start = Math.max(range.start, chunkStart);
    const end = Math.min(range.end, chunkStart + scanChunkBytes);
    if (range.volume !== volume || start >= end) continue;
    bits ??= new Uint8Array(scanChunkBytes / blockBytes / 8);
    const last = Math.ceil((end - chunkStart) / blockBytes);
    for (let leaf = Math.floor((start - chunkStart) / blockBytes); leaf < last; leaf += 1) setBit(bits, leaf);
  }
  return bits;
}

function isPurpose(value: unknown): value is ScanPurpose {
  return (
    value === "verify" ||
    value === "first-sync" ||
    value === "resync" ||
    value === "repair" ||
    value === "volume-sync"
  );
}

export function parseScanDocument(value: unknown): ScanDocument {
  const fields = fieldsOf(value, "scan");
  const place = fieldsOf(fields["place"], "place");
  const { purpose, walk } = fields;
  if (!isPurpose(purpose)) return malformed("purpose");
  if (walk !== "compare" && walk !== "allocated" && walk !== "listed") return malformed("walk");
  return {
    purpose,
    walk,
    epoch: countOf(fields["epoch"], "epoch"),
    // Documents written before frames were dropped do not say.
    dropped: nullOr(fields["dropped"] ?? null, (dropped) => countOf(dropped, "dropped")),
    begin: nullOr(fields["begin"], (begin) => countOf(begin, "begin")),
    startedAtMs: countOf(fields["startedAtMs"], "started at"),
    elapsedMs: countOf(fields["elapsedMs"], "elapsed"),
    paused: fields["paused"] === true,
    place: { volume: countOf(place["volume"], "volume"), window: countOf(place["window"], "window") },
    digestBytes: countOf(fields["digestBytes"], "digest bytes"),
    contentBytes: countOf(fields["contentBytes"], "content bytes"),
    differingBlocks: countOf(fields["differingBlocks"], "differing blocks"),
    overwrittenChunks: countOf(fields["overwrittenChunks"], "overwritten chunks"),
    differences: rowsOf(fields["differences"], "differences", rangesMax, blockRangeOf),
    // Documents from before unreadable blocks were told apart do not have these.
    unreadableBlocks: countOf(fields["unreadableBlocks"] ?? 0, "unreadable blocks"),
    unreadable: rowsOf(fields["unreadable"] ?? [], "unreadable", unreadableMax, blockRangeOf),
    listed: rowsOf(fields["listed"], "listed", rangesMax, blockRangeOf),
  };
}

function blockRangeOf(row: Readonly<Record<string, unknown>>): BlockRange {
  return {
    volume: countOf(row["volume"], "volume"),
    start: countOf(row["start"], "start"),
    end: countOf(row["end"], "end"),
  };
}

function rowsOf<T>(
  value: unknown,
  what: string,
  rows: number,
  parse: (row: Readonly<Record<string, unknown>>) => T,
): T[] {
  if (!Array.isArray(value) || value.length > rows) return malformed(what);
  return value.map((row) => parse(fieldsOf(row, what)));
}

/** The results, newest first; one for each begin: a scan that ended twice, around a crash, is told once. */
export function withResult(results: readonly VerifyResult[], result: VerifyResult): VerifyResult[] {
  const older = results.filter(({ begin }) => begin !== result.begin).map(shortened);
  return [result, ...older].slice(0, verifyResultsMax);
}

/** An older result, without the lists of which only one fits into the document. */
function shortened(older: VerifyResult): VerifyResult {
  const result = { ...older, unreadable: [] };
  const { state, check } = result.history;
  if (state === "pending") return { ...result, history: { state: "unknown", check: null } };
  return check === null ? result : { ...result, history: { state, check: { ...check, damaged: [] } } };
}

export function parseVerifyResults(value: unknown): VerifyResult[] {
  return rowsOf(fieldsOf(value, "verify")["results"], "results", verifyResultsMax, (row) => {
    const { outcome } = row;
    if (outcome !== "done" && outcome !== "given-up") return malformed("outcome");
    return {
      begin: countOf(row["begin"], "begin"),
      end: nullOr(row["end"], (end) => countOf(end, "end")),
      outcome,
      startedAt: textOf(row["startedAt"], "started at"),
      durationMs: countOf(row["durationMs"], "duration"),
      checkedBytes: countOf(row["checkedBytes"], "checked"),
      uncheckedBytes: countOf(row["uncheckedBytes"], "unchecked"),
      differingBlocks: countOf(row["differingBlocks"], "differing blocks"),
      overwrittenChunks: countOf(row["overwrittenChunks"], "overwritten chunks"),
      differences: rowsOf(row["differences"], "differences", rangesMax, scanRangeOf),
      unreadableBlocks: countOf(row["unreadableBlocks"] ?? 0, "unreadable blocks"),
      unreadable: rowsOf(row["unreadable"] ?? [], "unreadable", unreadableMax, scanRangeOf),
      history: historyOf(row["history"]),
    };
  });
}

/** Documents from before before-images were read with a verify do not have it. */
function historyOf(value: unknown): VerifyResult["history"] {
  if (value === undefined) return { state: "unknown", check: null };
  const { state, check } = fieldsOf(value, "history");
  if (state !== "pending" && state !== "done" && state !== "none" && state !== "unknown")
    return malformed("history state");
  return { state, check: nullOr(check, historyCheckOf) };
}

function historyCheckOf(value: unknown): HistoryCheck {
  const row = fieldsOf(value, "history check");
  return {
    code: nullOr(row["code"], (code) => textOf(code, "code")),
    startedAt: textOf(row["startedAt"], "started at"),
    durationMs: countOf(row["durationMs"], "duration"),
    checkedBytes: countOf(row["checkedBytes"], "checked"),
    chunks: countOf(row["chunks"], "chunks"),
    damagedChunks: countOf(row["damagedChunks"], "damaged chunks"),
    damaged: rowsOf(row["damaged"], "damaged", damagedListedMax, (damage) => {
      const { part } = damage;
      if (part !== "head" && part !== "blocks" && part !== "padding") return malformed("part");
      return {
        segment: countOf(damage["segment"], "segment"),
        offset: countOf(damage["offset"], "offset"),
        part,
        pointsUpTo: nullOr(damage["pointsUpTo"], (sequence) => countOf(sequence, "points up to")),
        ranges: rowsOf(damage["ranges"], "ranges", rangesListedMax, scanRangeOf),
      };
    }),
  };
}

function scanRangeOf(row: Readonly<Record<string, unknown>>): ScanRange {
  return {
    volume: textOf(row["volume"], "volume"),
    offset: countOf(row["offset"], "offset"),
    length: countOf(row["length"], "length"),
  };
}
