/**
 * What reading a history's before-images through has found: one form for the document beside them, the answer on the line
 * and the owner's results, and the asking for it. Pure. Bounded, so that the fullest record fits one control message.
 */
import type { ScanAnswer, ScanAsk } from "./control.ts";
import { controlBytesMax, parseScanAnswer, parseScanAsk } from "./control.ts";
import { countOf, fieldsOf, malformed, nullOr, parseFields, textOf } from "./fields.ts";
import type { Sequence, VolumeNumber } from "./ids.ts";
import { blockBytes } from "./ids.ts";
import type { HistoryCheck, Reason } from "./status.ts";

/** Damaged chunks that are listed; the others are counted. */
export const damagedListedMax = 256;
/** Ranges of one of them: blocks that lie closest together are told as one range first. */
export const rangesOfChunkMax = 4;
/**
 * Ranges of all of them. With some 75 characters for a chunk and 30 for a range, a record has at most 50 KiB, below the
 * 64 KiB of a control message.
 */
export const rangesListedMax = 1_024;

const parts = ["head", "blocks", "padding"] as const;
export type DamagedPart = (typeof parts)[number];

/** Volume, first block, blocks of 4 KiB. */
export type BlockSpan = readonly [volume: VolumeNumber, first: number, blocks: number];

export interface DamageRecord {
  /** Segment, and bytes from its start. */
  readonly at: readonly [segment: number, offset: number];
  readonly part: DamagedPart;
  /** First and last sequence of its set; null: nothing knows. */
  readonly set: readonly [first: Sequence, last: Sequence] | null;
  /** Holds every block of the chunk; between them it may hold some that are sound. */
  readonly ranges: readonly BlockSpan[];
}

export interface HistoryCheckRecord {
  /** Wall clock, a label. */
  readonly startedAtMs: number;
  readonly durationMs: number;
  /** Read: of segments, and the chunks in them. */
  readonly bytes: number;
  readonly chunks: number;
  readonly damagedChunks: number;
  /** The first `damagedListedMax` of them. */
  readonly damaged: readonly DamageRecord[];
}

/** A check that is under way, or has ended. */
export type HistoryCheckState =
  /** Nothing is kept that could be read. */
  | { readonly kind: "none" }
  | { readonly kind: "running"; readonly doneBytes: number; readonly totalBytes: number }
  | { readonly kind: "done"; readonly record: HistoryCheckRecord }
  /** It could not be read through; the next ask begins anew. */
  | { readonly kind: "failed"; readonly reason: Reason };

/** What the standby answers. */
export type HistoryCheckAnswer =
  | HistoryCheckState
  | Extract<ScanAnswer, { readonly kind: "unknown" | "superseded" | "conflict" | "refused" }>;

/** Asks for the check that belongs to the verify named `after` (its begin): begins it where there is none yet. */
export interface HistoryAsk extends ScanAsk {
  /** End of that verify, which found nothing: the digest of the first point there or behind is made as well. Absent: none. */
  readonly digestAt?: Sequence;
}

export function parseHistoryAsk(body: Uint8Array): HistoryAsk {
  const { digestAt } = parseFields(body, controlBytesMax);
  return {
    ...parseScanAsk(body),
    ...(digestAt === undefined ? {} : { digestAt: countOf(digestAt, "digest at") }),
  };
}

/** At most `rangesOfChunkMax` ranges, or one of each volume, that hold all the given ones. */
export function fewRanges(ranges: readonly BlockSpan[]): BlockSpan[] {
  const sorted = [...ranges].sort(([a, first], [b, second]) => a - b || first - second);
  const left: BlockSpan[] = [];
  for (const span of sorted) {
    const before = left.at(-1);
    if (before !== undefined && gap(before, span) <= 0) left[left.length - 1] = joined(before, span);
    else left.push(span);
  }
  while (left.length > rangesOfChunkMax) {
    let at = -1;
    for (let index = 1; index < left.length; index += 1) {
      const here = gap(left[index - 1]!, left[index]!);
      if (here < (at < 0 ? Number.POSITIVE_INFINITY : gap(left[at - 1]!, left[at]!))) at = index;
    }
    if (at < 0) break;
    left.splice(at - 1, 2, joined(left[at - 1]!, left[at]!));
  }
  return left;
}

/** Blocks between two ranges; infinite between volumes. */
function gap(before: BlockSpan, behind: BlockSpan): number {
  return before[0] === behind[0] ? behind[1] - (before[1] + before[2]) : Number.POSITIVE_INFINITY;
}

function joined(before: BlockSpan, behind: BlockSpan): BlockSpan {
  const end = Math.max(before[1] + before[2], behind[1] + behind[2]);
  return [before[0], before[1], end - before[1]];
}

/** The list within its bounds, in order; how many there were is for `damagedChunks` to say. */
export function boundedDamage(damaged: readonly DamageRecord[]): DamageRecord[] {
  const listed: DamageRecord[] = [];
  let ranges = 0;
  for (const damage of damaged.slice(0, damagedListedMax)) {
    const few = fewRanges(damage.ranges).slice(0, rangesListedMax - ranges);
    ranges += few.length;
    listed.push({ ...damage, ranges: few });
  }
  return listed;
}

/** With volumes by their names, as status and commands say it. */
export function describeHistoryCheck(
  record: HistoryCheckRecord,
  volumes: readonly { readonly number: VolumeNumber; readonly name: string; readonly sizeBytes: number }[],
  timeText: (ms: number) => string,
): HistoryCheck {
  return {
    code: record.damagedChunks === 0 ? null : "HISTORY_DAMAGED",
    startedAt: timeText(record.startedAtMs),
    durationMs: record.durationMs,
    checkedBytes: record.bytes,
    chunks: record.chunks,
    damagedChunks: record.damagedChunks,
    damaged: record.damaged.map(({ at, part, set, ranges }) => ({
      segment: at[0],
      offset: at[1],
      part,
      pointsUpTo: part === "padding" || set === null ? null : set[0] - 1,
      ranges: ranges.map(([number, first, blocks]) => {
        const volume = volumes.find((each) => each.number === number);
        const offset = first * blockBytes;
        const end = Math.min(volume?.sizeBytes ?? Number.POSITIVE_INFINITY, (first + blocks) * blockBytes);
        return { volume: volume?.name ?? `${number}`, offset, length: end - offset };
      }),
    })),
  };
}

export function parseHistoryCheckRecord(value: unknown): HistoryCheckRecord {
  const fields = fieldsOf(value, "history check");
  return {
    startedAtMs: countOf(fields["startedAtMs"], "started at"),
    durationMs: countOf(fields["durationMs"], "duration"),
    bytes: countOf(fields["bytes"], "bytes"),
    chunks: countOf(fields["chunks"], "chunks"),
    damagedChunks: countOf(fields["damagedChunks"], "damaged chunks"),
    damaged: listOf(fields["damaged"], damagedListedMax, "damaged").map((row) => {
      const damage = fieldsOf(row, "damaged chunk");
      const part = parts.find((each) => each === damage["part"]) ?? malformed("part");
      return {
        at: pairOf(damage["at"], "place"),
        part,
        set: nullOr(damage["set"], (set) => pairOf(set, "set")),
        ranges: listOf(damage["ranges"], rangesListedMax, "ranges").map((span) => {
          const [volume, first, blocks] = listOf(span, 3, "range");
          return [
            countOf(volume, "volume"),
            countOf(first, "first block"),
            countOf(blocks, "blocks"),
          ] as const;
        }),
      };
    }),
  };
}

/** RemoteProtocolError for anything else than an answer. */
export function parseHistoryCheckAnswer(body: Uint8Array): HistoryCheckAnswer {
  const fields = parseFields(body, controlBytesMax);
  switch (fields["kind"]) {
    case "unknown":
    case "superseded":
    case "conflict":
    case "refused": {
      const answer = parseScanAnswer(body);
      return answer.kind === "findings" ? malformed("kind") : answer;
    }
    case "none":
      return { kind: "none" };
    case "running":
      return {
        kind: "running",
        doneBytes: countOf(fields["doneBytes"], "done"),
        totalBytes: countOf(fields["totalBytes"], "total"),
      };
    case "done":
      return { kind: "done", record: parseHistoryCheckRecord(fields["record"]) };
    case "failed": {
      const { code, message } = fieldsOf(fields["reason"], "reason");
      return { kind: "failed", reason: { code: textOf(code, "code"), message: textOf(message, "message") } };
    }
    default:
      return malformed("kind");
  }
}

function listOf(value: unknown, most: number, what: string): unknown[] {
  return Array.isArray(value) && value.length <= most ? value : malformed(what);
}

function pairOf(value: unknown, what: string): readonly [number, number] {
  const [first, second] = listOf(value, 2, what);
  return [countOf(first, what), countOf(second, what)];
}
