/**
 * Which blocks an apply step changes: from the folded changes of its portions to ascending, disjoint runs of whole
 * blocks by volume. Pure. Knows nothing of content. Costs O(n log p) in the changes n of p portions.
 */
import type { BlockChange } from "../../block/bulk-write.ts";
import type { VolumeNumber } from "../../protocol/ids.ts";
import { blockBytes } from "../../protocol/ids.ts";
import type { FoldedChanges } from "../fold.ts";

export interface TouchedRun {
  readonly first: number;
  readonly blocks: number;
  /** Every change of these blocks makes them read as zeroes. */
  readonly zeroedOnly: boolean;
}

/** Ascending disjoint half-open ranges of blocks: start, end, start, end ... */
type Ranges = readonly number[];

/** By volume, ascending. Volumes whose changes are empty are left out. */
export function touchedBlocks(portions: readonly FoldedChanges[]): Map<VolumeNumber, TouchedRun[]> {
  const volumes = new Set(portions.flatMap((portion) => [...portion.keys()]));
  const touched = new Map<VolumeNumber, TouchedRun[]>();
  for (const volume of [...volumes].sort((a, b) => a - b)) {
    const lists = portions.map((portion) => portion.get(volume) ?? []);
    const written = unionAll(lists.map((changes) => rangesOf(changes, false)));
    const zeroed = unionAll(lists.map((changes) => rangesOf(changes, true)));
    const runs = interleave(written, without(zeroed, written));
    if (runs.length > 0) touched.set(volume, runs);
  }
  return touched;
}

/** Blocks that the changes of one kind touch, in part or whole. Changes ascend, so their blocks do. */
function rangesOf(changes: readonly BlockChange[], zeroes: boolean): Ranges {
  const ranges: number[] = [];
  for (const { offset, length, data } of changes) {
    if ((data === null) !== zeroes) continue;
    append(ranges, Math.floor(offset / blockBytes), Math.ceil((offset + length) / blockBytes));
  }
  return ranges;
}

/** Adds a range that begins no earlier than the last one. */
function append(ranges: number[], start: number, end: number): void {
  const last = ranges.length - 1;
  if (last > 0 && start <= ranges[last]!) ranges[last] = Math.max(ranges[last]!, end);
  else ranges.push(start, end);
}

/** Pairwise, so that every range is looked at once per doubling of the lists. */
function unionAll(lists: readonly Ranges[]): Ranges {
  let left = lists;
  while (left.length > 1) {
    const joined: Ranges[] = [];
    for (let index = 0; index < left.length; index += 2)
      joined.push(union(left[index]!, left[index + 1] ?? []));
    left = joined;
  }
  return left[0] ?? [];
}

function union(a: Ranges, b: Ranges): Ranges {
  if (a.length === 0) return b;
  if (b.length === 0) return a;
  const joined: number[] = [];
  let inA = 0;
  let inB = 0;
  while (inA < a.length || inB < b.length) {
    if (inB >= b.length || (inA < a.length && a[inA]! <= b[inB]!)) {
      append(joined, a[inA]!, a[inA + 1]!);
      inA += 2;
    } else {
      append(joined, b[inB]!, b[inB + 1]!);
      inB += 2;
    }
  }
  return joined;
}

/** What is in `from` and not in `taken`. */
function without(from: Ranges, taken: Ranges): Ranges {
  const left: number[] = [];
  let index = 0;
  for (let at = 0; at < from.length; at += 2) {
    const end = from[at + 1]!;
    let start = from[at]!;
    while (index < taken.length && taken[index + 1]! <= start) index += 2;
    for (let next = index; next < taken.length && taken[next]! < end; next += 2) {
      if (taken[next]! > start) left.push(start, taken[next]!);
      start = Math.max(start, taken[next + 1]!);
    }
    if (start < end) left.push(start, end);
  }
  return left;
}

function interleave(written: Ranges, zeroed: Ranges): TouchedRun[] {
  const runs: TouchedRun[] = [];
  let atZeroed = 0;
  const takeZeroed = (before: number): void => {
    for (; atZeroed < zeroed.length && zeroed[atZeroed]! < before; atZeroed += 2) {
      const first = zeroed[atZeroed]!;
      runs.push({ first, blocks: zeroed[atZeroed + 1]! - first, zeroedOnly: true });
    }
  };
  for (let at = 0; at < written.length; at += 2) {
    const first = written[at]!;
    takeZeroed(first);
    runs.push({ first, blocks: written[at + 1]! - first, zeroedOnly: false });
  }
  takeZeroed(Number.POSITIVE_INFINITY);
  return runs;
}
