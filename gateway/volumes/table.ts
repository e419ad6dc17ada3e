/**
 * What the write order makes of a standby's volume table: changes of it, gaps, and ends of volume syncs. Pure. It errs
 * towards *not whole*: an end makes whole only what the scan that it names has walked from its begin on, without a gap in
 * between. What is durable of it, and when, is the caller's; docs/volumes.md, "The standby".
 */
import type { Frame } from "../../protocol/frame.ts";
import { gapOf } from "../../protocol/frame.ts";
import type { Sequence } from "../../protocol/ids.ts";
import type { VolumeChangeRecord } from "../../protocol/record.ts";
import type { TableVolume } from "../../protocol/table-volume.ts";

/** A volume in a standby's table. */
export interface HeldVolume extends TableVolume {
  /**
   * Of a volume that is not whole: the end of the newest gap since it was changed. Only a volume sync that began behind it
   * brings everything. Absent: there was none.
   */
  readonly syncBehind?: Sequence;
}

export type TableChange<V extends HeldVolume> =
  /** The table says all that the record does. */
  | { readonly kind: "nothing" }
  | { readonly kind: "added"; readonly volume: HeldVolume }
  /** `before` is the row that `volume` takes the place of. */
  | { readonly kind: "grown"; readonly before: V; readonly volume: V }
  | { readonly kind: "refused"; readonly message: string };

/** What the record at `sequence` makes of `table`. Refused: no owner of ours writes it. */
export function decideChange<V extends HeldVolume>(
  table: readonly V[],
  record: VolumeChangeRecord,
  sequence: Sequence,
): TableChange<V> {
  const { volume: number, name, sizeBytes, holdsData } = record;
  const before = table.find((each) => each.number === number);
  if (before === undefined) {
    if (table.some((each) => each.name === name))
      return { kind: "refused", message: `volume ${name} has another number than ${number}` };
    const wholeFrom = holdsData ? null : sequence;
    return {
      kind: "added",
      volume: { number, name, sizeBytes, foundingBytes: null, changedAt: sequence, wholeFrom },
    };
  }
  if (before.name !== name)
    return { kind: "refused", message: `volume ${number} is ${before.name}, and not ${name}` };
  if (sizeBytes <= before.sizeBytes) return { kind: "nothing" };
  if (holdsData && before.wholeFrom !== null)
    return { kind: "refused", message: `volume ${name} grows by what is not zeroes` };
  return { kind: "grown", before, volume: { ...before, sizeBytes, changedAt: sequence } };
}

/** `table` after the gaps and ends of volume syncs in `frames`; the same when they change nothing. Changes of it pass by. */
export function tableAfterContent<V extends HeldVolume>(
  table: readonly V[],
  frames: Iterable<Frame>,
): readonly V[] {
  let next = table;
  for (const frame of frames) {
    if (gapOf(frame) !== undefined) {
      next = afterGap(next, frame.last);
      continue;
    }
    for (const [index, record] of frame.records.entries()) {
      if (record.kind === "scanMark" && record.purpose === "volume-sync" && record.mark === "end")
        next = afterEnd(next, record.begin, frame.first + index);
    }
  }
  return next;
}

/** The volumes in a table, as it is once everything that was received is applied. Nothing of it is durable. */
export function tableAfterReceived(table: readonly HeldVolume[], frame: Frame): readonly HeldVolume[] {
  let next = tableAfterContent(table, [frame]);
  for (const [index, record] of frame.records.entries()) {
    if (record.kind !== "volumeChange") continue;
    const change = decideChange(next, record, frame.first + index);
    if (change.kind === "added" || change.kind === "grown") next = withVolume(next, change.volume);
  }
  return next;
}

/** `table` with `volume`, in the place of the one with its number. */
export function withVolume<V extends HeldVolume>(table: readonly V[], volume: V): readonly V[] {
  const isKnown = table.some(({ number }) => number === volume.number);
  return isKnown ? table.map((each) => (each.number === volume.number ? volume : each)) : [...table, volume];
}

/** What it stands for may have been content of a volume that is not whole, and never comes. */
function afterGap<V extends HeldVolume>(table: readonly V[], last: Sequence): readonly V[] {
  if (!table.some((each) => each.wholeFrom === null && last > mustBeginBehind(each))) return table;
  return table.map((each) =>
    each.wholeFrom === null && last > mustBeginBehind(each) ? { ...each, syncBehind: last } : each,
  );
}

function afterEnd<V extends HeldVolume>(
  table: readonly V[],
  begin: Sequence,
  sequence: Sequence,
): readonly V[] {
  const isBrought = (each: V): boolean => each.wholeFrom === null && begin > mustBeginBehind(each);
  if (!table.some(isBrought)) return table;
  return table.map((each) => {
    if (!isBrought(each)) return each;
    const { syncBehind: _, ...volume } = each;
    // The rest of the row is as it was, whatever it carries besides.
    return { ...volume, wholeFrom: sequence } as V;
  });
}

function mustBeginBehind({ changedAt, syncBehind = 0 }: HeldVolume): Sequence {
  return Math.max(changedAt, syncBehind);
}
