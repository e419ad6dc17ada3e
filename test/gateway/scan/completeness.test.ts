/**
 * Completeness against a naive standby that remembers, record by record, whether its content is whole: whatever scans come
 * and go, and however steps, crashes and repeated folding cut the history, nothing is called openable that is not.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { nextStep } from "../../../gateway/apply/next-step.ts";
import {
  afterMark,
  changesIn,
  type Incomplete,
  incompleteFromStart,
  isOpenable,
  lackOf,
  sameCompleteness,
  stretchesUpTo,
  wasOpenable,
} from "../../../gateway/scan/completeness.ts";
import { parseStandbyDocument } from "../../../gateway/state.ts";
import type { Frame } from "../../../protocol/frame.ts";
import { buildFrame, buildGapFrame } from "../../../protocol/frame.ts";
import type { BlockRecord, ScanMarkRecord, ScanPurpose } from "../../../protocol/record.ts";
import { isOutside } from "../../../protocol/stretch.ts";

/** What happens in a group's order, as far as it matters here. */
type Entry =
  | { readonly kind: "write" }
  /** Frames are dropped at the owner, which gives up its scan; a gap or the begin of a resync tells. */
  | { readonly kind: "dropped"; readonly told: "gap" | "begin" }
  /** A gap while a scan goes on, of which nothing is said: its end is not to be believed. */
  | { readonly kind: "gap" }
  | { readonly kind: "begin"; readonly purpose: ScanPurpose }
  | { readonly kind: "end" | "given-up" };

const entries: fc.Arbitrary<Entry[]> = fc.array(
  fc.oneof(
    { weight: 2, arbitrary: fc.constant<Entry>({ kind: "write" }) },
    { weight: 1, arbitrary: fc.constant<Entry>({ kind: "dropped", told: "begin" }) },
    { weight: 1, arbitrary: fc.constant<Entry>({ kind: "dropped", told: "gap" }) },
    { weight: 1, arbitrary: fc.constant<Entry>({ kind: "gap" }) },
    {
      weight: 3,
      arbitrary: fc
        .constantFrom<ScanPurpose>("first-sync", "resync", "verify", "repair")
        .map((purpose): Entry => ({ kind: "begin", purpose })),
    },
    { weight: 3, arbitrary: fc.constant<Entry>({ kind: "end" }) },
    { weight: 1, arbitrary: fc.constant<Entry>({ kind: "given-up" }) },
  ),
  { maxLength: 40 },
);

interface Moment {
  readonly mark: ScanMarkRecord | undefined;
  readonly gap: boolean;
  /** The standby is the source at this sequence. */
  readonly whole: boolean;
  /** Nothing but the history wrote to the images, and it wrote all of it. */
  readonly pure: boolean;
}

const markOf = (mark: ScanMarkRecord["mark"], purpose: ScanPurpose, begin: number): ScanMarkRecord => ({
  kind: "scanMark",
  volume: 0,
  offset: 0,
  length: 0,
  mark,
  purpose,
  begin,
});

/** A true history of an owner that keeps to its own rules, and what a standby is at each of its sequences. */
function live(plan: readonly Entry[], start: "whole" | "empty" | "unknown"): Moment[] {
  const moments: Moment[] = [];
  /** `isOver`: a gap came since its begin, so that its end completes nothing. */
  let scan: { readonly purpose: ScanPurpose; readonly begin: number; readonly isOver?: boolean } | undefined;
  let lacksBeginning = start !== "whole";
  let lacksDropped = false;
  let pure = start === "empty";
  const push = (mark?: ScanMarkRecord, gap = false): void => {
    moments.push({ mark, gap, whole: !lacksBeginning && !lacksDropped, pure });
  };
  for (const entry of plan) {
    switch (entry.kind) {
      case "write":
        push();
        break;
      case "dropped":
        // Nothing of it is in the order; the owner gives up what was under way and says so with the next begin.
        if (scan !== undefined) push(markOf("given-up", scan.purpose, scan.begin));
        lacksDropped = true;
        pure = false;
        if (entry.told === "gap") {
          scan = undefined;
          push(undefined, true);
          break;
        }
        push(markOf("begin", "resync", 0));
        scan = { purpose: "resync", begin: moments.length };
        break;
      case "gap":
        lacksDropped = true;
        pure = false;
        if (scan !== undefined) scan = { ...scan, isOver: true };
        push(undefined, true);
        break;
      case "begin":
        if (scan !== undefined) break;
        // A scan that copies content makes the standby a mixture until it ends, unless it was whole and lacks nothing.
        if (entry.purpose === "first-sync") lacksBeginning = true;
        if (entry.purpose === "resync") {
          lacksDropped = true;
          pure = false;
        }
        push(markOf("begin", entry.purpose, 0));
        scan = { purpose: entry.purpose, begin: moments.length };
        break;
      case "end":
        if (scan === undefined) break;
        if (scan.isOver === true) {
          push(markOf("end", scan.purpose, scan.begin));
          scan = undefined;
          break;
        }
        if (scan.purpose === "first-sync") {
          lacksBeginning = false;
          lacksDropped = false;
          pure = false;
        }
        if (scan.purpose === "resync") lacksDropped = false;
        push(markOf("end", scan.purpose, scan.begin));
        scan = undefined;
        break;
      case "given-up":
        if (scan === undefined) break;
        push(markOf("given-up", scan.purpose, scan.begin));
        scan = undefined;
    }
  }
  return moments;
}

const initialOf = (start: "whole" | "empty" | "unknown"): Incomplete | null =>
  start === "whole" ? null : incompleteFromStart(start, 0);

function fold(
  state: Incomplete | null,
  moments: readonly Moment[],
  after: number,
  through: number,
): Incomplete | null {
  let next = state;
  for (let sequence = after + 1; sequence <= through; sequence += 1) {
    for (const { after } of changesIn(frameAt(moments, sequence), next)) next = after;
  }
  return next;
}

/** Sequence for sequence a frame, which is all that completeness is about. */
function frameAt(moments: readonly Moment[], sequence: number): Frame {
  const { mark, gap } = moments[sequence - 1]!;
  const chain = new Uint8Array(32);
  const at = (position: number) => ({ sequence: position, chain, dataBytesTotal: 0 });
  const lineage = new Uint8Array(16);
  if (gap) return buildGapFrame({ lineage, after: at(sequence - 1), to: at(sequence), closedAtMs: 0 });
  const records: BlockRecord[] = [mark ?? { kind: "trim", volume: 0, offset: 0, length: 512 }];
  const frame = { lineage, first: sequence, chainBefore: chain, dataBytesBefore: 0, openedAtMs: 0 };
  return buildFrame({ ...frame, closedAtMs: 0, records });
}

/** The last sequence of the step that begins behind `applied` and would end at `last`. */
function stepEnd(
  state: Incomplete | null,
  moments: readonly Moment[],
  applied: number,
  last: number,
): number {
  const frames: Frame[] = [];
  for (let sequence = applied + 1; sequence <= last; sequence += 1) frames.push(frameAt(moments, sequence));
  return nextStep(frames, applied, state).at(-1)!.last;
}

test("no end of a step at which the images were not whole is a point later, however many scans came since", () => {
  let openable = 0;
  fc.assert(
    fc.property(
      entries,
      fc.constantFrom("whole" as const, "empty" as const, "unknown" as const),
      (plan, start) => {
        const moments = live(plan, start);
        const document = fold(initialOf(start), moments, 0, moments.length);
        if (document !== null) assert.deepEqual(parsed(document), document);
        // Whoever takes over at the end knows of it what the standby knew.
        const handed = stretchesUpTo(document, moments.length);
        const isWhole = isOpenable(document, moments.length);
        for (const [index, { whole }] of moments.entries()) {
          const sequence = index + 1;
          if (wasOpenable(document, sequence)) {
            assert.ok(whole, `${sequence} of ${moments.length}`);
            openable += 1;
          }
          if (isWhole && isOutside(handed, sequence))
            assert.ok(whole, `${sequence} of ${moments.length}, handed over`);
        }
      },
    ),
    { numRuns: 2_000 },
  );
  assert.ok(openable > 300, `${openable} points prove too little`);
});

test("nothing is called openable that is not, in steps of any length, with crashes that take steps in again", () => {
  fc.assert(
    fc.property(
      entries,
      fc.constantFrom("whole" as const, "empty" as const, "unknown" as const),
      fc.array(fc.record({ length: fc.integer({ min: 1, max: 7 }), crash: fc.boolean() }), { minLength: 1 }),
      (plan, start, steps) => {
        const moments = live(plan, start);
        let document = initialOf(start);
        let applied = 0;
        for (let turn = 0; applied < moments.length; turn += 1) {
          const { length, crash } = steps[turn % steps.length]!;
          const most = Math.min(moments.length, applied + length);
          const last = stepEnd(document, moments, applied, most);
          document = fold(document, moments, applied, last);
          // What is on disk can be read back.
          assert.deepEqual(parsed(document), document);
          const before = moments[applied - 1]?.whole ?? start === "whole";
          if (isOpenable(document, applied)) assert.ok(before, `at ${applied}, in the step to ${last}`);
          // A step that was cut short is taken in again, in another length.
          if (crash && turn < 200) continue;
          applied = last;
          const { whole } = moments[applied - 1]!;
          if (isOpenable(document, applied)) assert.ok(whole, `${JSON.stringify(document)} at ${applied}`);
          // Where a crash cut a longer step short it may know of a later end only.
          else if (document?.seen !== undefined && document.seen <= applied)
            assert.ok(!whole, `at ${applied}`);
          if (lackOf(document) === "empty") assert.ok(moments[applied - 1]!.pure, `at ${applied}`);
        }
      },
    ),
    { numRuns: 3_000 },
  );
});

test("what was received is folded from any earlier document to the same answer as what was applied", () => {
  fc.assert(
    fc.property(
      entries,
      fc.constantFrom("whole" as const, "empty" as const, "unknown" as const),
      fc.nat(40),
      fc.nat(40),
      (plan, start, one, other) => {
        const moments = live(plan, start);
        const documented = Math.min(moments.length, Math.max(one, other));
        const head = Math.min(documented, one, other);
        const document = fold(initialOf(start), moments, 0, documented);
        // A log that was not trimmed yet holds marks that the document has seen already.
        const atEnd = fold(document, moments, head, moments.length);
        const whole = moments.at(-1)?.whole ?? start === "whole";
        assert.equal(isOpenable(atEnd, moments.length), whole, JSON.stringify({ document, atEnd, head }));
      },
    ),
    { numRuns: 3_000 },
  );
});

test("an end that names another scan, or is of another purpose, completes nothing", () => {
  const begun = afterMark(incompleteFromStart("empty", 0), markOf("begin", "first-sync", 0), 4);
  for (const [purpose, begin] of [
    ["first-sync", 3],
    ["resync", 4],
    ["verify", 4],
    ["repair", 4],
  ] as const)
    assert.ok(sameCompleteness(afterMark(begun, markOf("end", purpose, begin), 9), begun), purpose);
  const ended = afterMark(begun, markOf("end", "first-sync", 4), 9);
  assert.deepEqual([isOpenable(ended, 8), isOpenable(ended, 9), lackOf(ended)], [false, true, undefined]);
});

test("a document without the field is one of a complete standby; one that contradicts itself is damaged", () => {
  assert.equal(parseStandbyDocument({ ...document, incomplete: undefined }).incomplete, null);
  const good = { purpose: "resync", since: 5, until: 9, scan: 5, seen: 9, holds: "unknown" };
  assert.deepEqual(parseStandbyDocument({ ...document, incomplete: good }).incomplete, good);
  for (const wrong of [
    { purpose: "verify" },
    { since: -1 },
    { until: 5 },
    { scan: 4 },
    { scan: null },
    { scan: 0 },
    { seen: 8 },
    { holds: "something" },
    { until: "9" },
  ])
    assert.throws(
      () => parseStandbyDocument({ ...document, incomplete: { ...good, ...wrong } }),
      JSON.stringify(wrong),
    );
});

const document = {
  version: 1,
  group: "erp",
  lineage: "00000000-0000-4000-8000-000000000000",
  token: { epoch: 1, owner: "primary" },
  genesis: "00".repeat(32),
  volumes: [{ number: 0, name: "data", sizeBytes: 4096, imagePath: "/x" }],
  phase: "standing",
  failover: null,
};

function parsed(incomplete: Incomplete | null): Incomplete | null {
  return parseStandbyDocument(JSON.parse(JSON.stringify({ ...document, incomplete }))).incomplete;
}
