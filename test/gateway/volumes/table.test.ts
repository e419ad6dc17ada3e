/** The standby's table against a second, slow account of it, which keeps the whole order and looks back. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { parseStandbyDocument } from "../../../gateway/state.ts";
import {
  decideChange,
  type HeldVolume,
  tableAfterContent,
  tableAfterReceived,
  withVolume,
} from "../../../gateway/volumes/table.ts";
import type { Frame } from "../../../protocol/frame.ts";
import { sliceFrame } from "../../../protocol/frame-split.ts";
import type { BlockRecord, ScanMark, ScanPurpose, VolumeChangeRecord } from "../../../protocol/record.ts";
import { foundingTable, foundingVolume, isWholeAt } from "../../../protocol/table-volume.ts";
import { FrameSource, originOf } from "../../image/frames.ts";

const founding = [
  { number: 0, name: "a", sizeBytes: 1024 },
  { number: 1, name: "b", sizeBytes: 512 },
];
const start: readonly HeldVolume[] = founding.map(foundingVolume);
const names = ["a", "b", "c", "d"];

const changeOf = (
  volume: number,
  sizeBytes: number,
  holdsData = false,
  name = names[volume]!,
): VolumeChangeRecord => ({
  kind: "volumeChange",
  volume,
  offset: 0,
  length: 0,
  sizeBytes,
  name,
  holdsData,
});
const markOf = (mark: ScanMark, purpose: ScanPurpose, begin: number): BlockRecord => ({
  kind: "scanMark",
  volume: 0,
  offset: 0,
  length: 0,
  mark,
  purpose,
  begin,
});
const write: BlockRecord = { kind: "trim", volume: 0, offset: 0, length: 512 };

type Entry =
  | { readonly kind: "write" }
  | { readonly kind: "gap"; readonly span: number }
  | {
      readonly kind: "change";
      readonly volume: number;
      readonly sectors: number;
      readonly holdsData: boolean;
    }
  | { readonly kind: "begin"; readonly purpose: ScanPurpose }
  /** Of the scan that began that many begins ago. */
  | { readonly kind: "end" | "given-up"; readonly purpose: ScanPurpose; readonly back: number };

const purpose = fc.constantFrom<ScanPurpose[]>(
  "volume-sync",
  "volume-sync",
  "resync",
  "verify",
  "first-sync",
);
const arbitraryEntry: fc.Arbitrary<Entry> = fc.oneof(
  fc.constant<Entry>({ kind: "write" }),
  fc.integer({ min: 1, max: 3 }).map((span): Entry => ({ kind: "gap", span })),
  fc
    .tuple(fc.nat(3), fc.integer({ min: 1, max: 6 }), fc.boolean())
    .map(([volume, sectors, holdsData]): Entry => ({ kind: "change", volume, sectors, holdsData })),
  purpose.map((of): Entry => ({ kind: "begin", purpose: of })),
  fc
    .tuple(fc.constantFrom("end" as const, "end" as const, "given-up" as const), purpose, fc.nat(2))
    .map(([kind, of, back]): Entry => ({ kind, purpose: of, back })),
);

interface Told {
  readonly frames: readonly Frame[];
  /** What happened, by sequence of its last record. */
  readonly order: readonly { readonly at: number; readonly record: BlockRecord }[];
}

function tell(entries: readonly Entry[]): Told {
  const source = new FrameSource(originOf(founding));
  const frames: Frame[] = [];
  const order: { at: number; record: BlockRecord }[] = [];
  const begins: number[] = [];
  const put = (record: BlockRecord): void => {
    const frame = record.kind === "gap" ? source.gap(record.span, 0) : source.next([record]);
    frames.push(frame);
    order.push({ at: frame.last, record: frame.records[0]! });
  };
  for (const entry of entries) {
    switch (entry.kind) {
      case "write":
        put(write);
        break;
      case "gap":
        put({
          kind: "gap",
          volume: 0,
          offset: 0,
          length: 0,
          span: entry.span,
          dataBytes: 0,
          chainAfter: new Uint8Array(32),
        });
        break;
      case "change":
        put(changeOf(entry.volume, entry.sectors * 512, entry.holdsData));
        break;
      case "begin":
        put(markOf("begin", entry.purpose, 0));
        begins.push(frames.at(-1)!.last);
        break;
      default:
        put(markOf(entry.kind, entry.purpose, begins.at(-1 - entry.back) ?? 1));
    }
  }
  return { frames, order };
}

/** Looks back over the whole order, for one volume, at what was told up to `through`. */
function slowly(order: Told["order"], number: number, through: number) {
  let sizeBytes = founding[number]?.sizeBytes;
  let changedAt = 0;
  let wholeFrom: number | null = 0;
  for (const [index, { at, record }] of order.entries()) {
    if (at > through) break;
    if (record.kind === "volumeChange" && record.volume === number) {
      if (sizeBytes === undefined) wholeFrom = record.holdsData ? null : at;
      else if (record.sizeBytes <= sizeBytes || (record.holdsData && wholeFrom !== null)) continue;
      sizeBytes = record.sizeBytes;
      changedAt = at;
    }
    if (record.kind !== "scanMark" || record.mark !== "end" || record.purpose !== "volume-sync") continue;
    if (sizeBytes === undefined || wholeFrom !== null || record.begin <= changedAt) continue;
    const isBroken = order
      .slice(0, index)
      .some((each) => each.record.kind === "gap" && each.at >= record.begin && each.at > changedAt);
    if (!isBroken) wholeFrom = at;
  }
  return sizeBytes === undefined ? undefined : { sizeBytes, changedAt, wholeFrom };
}

const summary = (table: readonly HeldVolume[], number: number) => {
  const found = table.find((each) => each.number === number);
  return found && { sizeBytes: found.sizeBytes, changedAt: found.changedAt, wholeFrom: found.wholeFrom };
};

test("any order: the table is what looking back over all of it says, and telling a part again changes nothing", () => {
  fc.assert(
    fc.property(fc.array(arbitraryEntry, { maxLength: 24 }), fc.nat(), (entries, again) => {
      const { frames, order } = tell(entries);
      let table = start;
      for (const frame of frames) {
        const next = tableAfterReceived(table, frame);
        // Sizes never shrink, nothing goes, and what is whole stays so.
        for (const before of table) {
          const after = next.find(({ number }) => number === before.number)!;
          assert.ok(after.sizeBytes >= before.sizeBytes && after.name === before.name);
          if (before.wholeFrom !== null) assert.equal(after.wholeFrom, before.wholeFrom);
          if (after.wholeFrom !== null && before.wholeFrom === null)
            assert.equal(after.wholeFrom, frame.last);
        }
        table = next;
        for (const number of names.keys())
          assert.deepEqual(summary(table, number), slowly(order, number, frame.last));
      }
      assert.deepEqual(foundingTable(table), founding);
      // A step that a crash cut short is taken in again, from where it began.
      const from = frames.length === 0 ? 0 : again % frames.length;
      const step = frames.slice(from).findIndex(({ records }) => records[0]!.kind === "volumeChange");
      const cut = step < 0 ? frames.slice(from) : frames.slice(from, from + Math.max(1, step));
      let before = start;
      for (const frame of frames.slice(0, from)) before = tableAfterReceived(before, frame);
      const once = cut.reduce(tableAfterReceived, before);
      assert.deepEqual(cut.reduce(tableAfterReceived, once), once);
    }),
  );
});

test("a record that says no more than what is known changes nothing, whatever else it says", () => {
  assert.deepEqual(decideChange(start, changeOf(0, 1024), 9), { kind: "nothing" });
  assert.deepEqual(decideChange(start, changeOf(0, 512, true), 9), { kind: "nothing" });
});

test("names and numbers belong together for life, and whole content is not replaced by unknown content", () => {
  for (const record of [changeOf(0, 2048, false, "b"), changeOf(2, 512, false, "b"), changeOf(1, 1024, true)])
    assert.equal(decideChange(start, record, 9).kind, "refused");
  const frame = new FrameSource(originOf(founding)).next([changeOf(2, 512, false, "b")]);
  assert.equal(tableAfterReceived(start, frame), start);
});

test("a volume that came with data is whole at the end of a sync that began behind it, and grows before that", () => {
  const source = new FrameSource(originOf(founding));
  const frames = [
    source.next([changeOf(2, 512, true)]),
    source.next([markOf("begin", "volume-sync", 0)]),
    source.next([changeOf(2, 1024, true)]),
    source.next([markOf("end", "volume-sync", 2)]),
  ];
  let table = start;
  for (const frame of frames) table = tableAfterReceived(table, frame);
  assert.equal(summary(table, 2)?.wholeFrom, null, "that sync did not walk what came later");
  for (const record of [markOf("begin", "volume-sync", 0), write, markOf("end", "volume-sync", 5)])
    table = tableAfterReceived(table, source.next([record]));
  assert.deepEqual(summary(table, 2), { sizeBytes: 1024, changedAt: 3, wholeFrom: 7 });
  const volume = table.find(({ number }) => number === 2)!;
  assert.deepEqual([isWholeAt(volume, 6), isWholeAt(volume, 7)], [false, true]);
});

test("a gap in the midst of a volume sync leaves the volume as it is until another one has ended", () => {
  const source = new FrameSource(originOf(founding));
  let table = start;
  const put = (frame: Frame): void => {
    table = tableAfterReceived(table, frame);
  };
  put(source.next([changeOf(2, 512, true)]));
  put(source.next([markOf("begin", "volume-sync", 0)]));
  put(source.gap(3, 0));
  put(source.next([markOf("end", "volume-sync", 2)]));
  assert.deepEqual([summary(table, 2)?.wholeFrom, table[2]?.syncBehind], [null, 5]);
  put(source.next([markOf("begin", "volume-sync", 0)]));
  put(source.next([markOf("end", "volume-sync", 7)]));
  assert.deepEqual([summary(table, 2)?.wholeFrom, table[2]?.syncBehind], [8, undefined]);
});

test("a mark counts at its own sequence, wherever frames are cut", () => {
  const source = new FrameSource(originOf(founding));
  source.next([write, write, write]);
  const table = withVolume(start, {
    ...foundingVolume({ number: 2, name: "c", sizeBytes: 512 }),
    changedAt: 3,
    wholeFrom: null,
  });
  const frame = source.next([
    markOf("begin", "volume-sync", 0),
    write,
    markOf("end", "volume-sync", 4),
    write,
  ]);
  for (let cut = frame.first; cut < frame.last; cut += 1) {
    const parts = [sliceFrame(frame, frame.first, cut), sliceFrame(frame, cut + 1, frame.last)];
    assert.equal(summary(tableAfterContent(table, parts), 2)?.wholeFrom, 6);
  }
  assert.equal(tableAfterContent(start, [frame]), start, "nothing is written where nothing changes");
});

test("documents from before tables could change are founding tables, and what the new fields may be is held", () => {
  const row = { number: 0, name: "data", sizeBytes: 1024, imagePath: "/srv/data.img" };
  const document = (volume: object) => ({
    version: 1,
    group: "erp",
    lineage: "0b8f3c56-1f2e-4c3a-9d41-5f6a7b8c9d0e",
    token: { epoch: 1, owner: "primary" },
    genesis: "00".repeat(32),
    volumes: [volume],
    phase: "standing",
    failover: null,
  });
  const volumeOf = (volume: object) => parseStandbyDocument(document(volume)).volumes[0];
  assert.deepEqual(volumeOf(row), { ...foundingVolume(row), imagePath: "/srv/data.img" });
  const later = { ...row, foundingBytes: null, changedAt: 9, wholeFrom: null };
  for (const good of [
    { ...row, foundingBytes: 512, changedAt: 3, wholeFrom: 0 },
    later,
    { ...later, syncBehind: 12 },
  ])
    assert.deepEqual(volumeOf(good), good);
  for (const bad of [
    { ...later, foundingBytes: 2048 },
    { ...later, changedAt: -1 },
    { ...later, changedAt: null },
    { ...later, wholeFrom: "9" },
    { ...later, wholeFrom: 11, syncBehind: 10 },
    { ...later, syncBehind: 1.5 },
  ])
    assert.throws(() => volumeOf(bad), { code: "MALFORMED" }, JSON.stringify(bad));
});
