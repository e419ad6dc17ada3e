/**
 * Findings against a naive model that forgets nothing: whatever is compared, passed over and asked for in whatever order,
 * no answer lets the owner take a digest for equal that was not compared, and what is not told is told to be unknown.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Findings, type FindingsAnswer, findingsMax } from "../../../gateway/scan/findings.ts";
import {
  controlBytesMax,
  parseScanAnswer,
  scanBitsHexMax,
  scanDifferencesMax,
} from "../../../protocol/control.ts";

type Move =
  /** Digests come past: so many, each a few records behind the one before. */
  | { readonly kind: "digests"; readonly count: number; readonly differing: boolean; readonly bytes: number }
  /** One that is passed over, because somebody waits. */
  | { readonly kind: "missed" }
  /** The owner asks behind what it has; `lost`: the answer does not reach it. */
  | { readonly kind: "ask"; readonly lost: boolean }
  /** An ask of long ago arrives once more, or one of an owner that knows better: any position. */
  | { readonly kind: "strayAsk"; readonly share: number };

const moves: fc.Arbitrary<Move[]> = fc.array(
  fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record({
        kind: fc.constant("digests" as const),
        count: fc.integer({ min: 1, max: 6 }),
        differing: fc.boolean(),
        bytes: fc.integer({ min: 1, max: 512 }),
      }),
    },
    { weight: 1, arbitrary: fc.constant({ kind: "missed" as const }) },
    { weight: 3, arbitrary: fc.record({ kind: fc.constant("ask" as const), lost: fc.boolean() }) },
    {
      weight: 1,
      arbitrary: fc.record({
        kind: fc.constant("strayAsk" as const),
        share: fc.double({ min: 0, max: 2, noNaN: true }),
      }),
    },
  ),
  { maxLength: 60 },
);

/** What really happened to a digest: hex of its bits, "" where it agreed, undefined where it was not compared. */
type Truth = Map<number, string | undefined>;

/** An answer as the line carries it says nothing that is not so. */
function requireTrue(truth: Truth, answer: FindingsAnswer): void {
  const bytes = Buffer.from(JSON.stringify(answer));
  assert.ok(bytes.byteLength <= controlBytesMax);
  assert.deepEqual(parseScanAnswer(bytes), answer);
  assert.ok(answer.since <= answer.through);
  const said = new Map(answer.differing.map(({ sequence, bits }) => [sequence, bits]));
  for (const [sequence, bits] of truth) {
    const vouched = sequence > answer.since && sequence <= answer.through;
    if (!vouched) assert.ok(!said.has(sequence), `${sequence} is told and not vouched for`);
    else assert.equal(said.get(sequence) ?? "", bits, `digest ${sequence}`);
  }
}

test("no answer makes a digest equal that was not compared, and every digest is told or called unknown in the end", () => {
  fc.assert(
    fc.property(
      moves,
      fc.integer({ min: 1, max: 9 }),
      fc.integer({ min: 0, max: 50 }),
      (plan, rowsMax, since) => {
        const findings = new Findings(since, rowsMax);
        const truth: Truth = new Map();
        const known = new Map<number, string>();
        let sequence = since;
        let collected = 0;
        let unknownThrough = since;
        const pass = (bits: string | undefined): void => {
          sequence += 1 + (sequence % 3);
          truth.set(sequence, bits);
          if (bits === undefined) findings.missed(sequence);
          else findings.compared(sequence, bits === "" ? undefined : Buffer.from(bits, "hex"));
        };
        const take = (answer: FindingsAnswer): void => {
          const said = new Map(answer.differing.map((row) => [row.sequence, row.bits]));
          for (const each of truth.keys())
            if (each > answer.since && each <= answer.through) known.set(each, said.get(each) ?? "");
          unknownThrough = Math.max(unknownThrough, answer.since);
          collected = Math.max(collected, answer.through);
        };
        for (const move of plan) {
          switch (move.kind) {
            case "digests":
              for (let index = 0; index < move.count; index += 1)
                pass(findings.takes ? (move.differing ? "01".repeat(move.bytes) : "") : undefined);
              break;
            case "missed":
              pass(undefined);
              break;
            case "ask": {
              const answer = findings.collect(collected);
              requireTrue(truth, answer);
              if (!move.lost) take(answer);
              break;
            }
            case "strayAsk":
              requireTrue(truth, findings.collect(Math.floor(move.share * sequence)));
          }
        }
        for (let asks = 0; asks <= rowsMax + 1; asks += 1) {
          const answer = findings.collect(collected);
          requireTrue(truth, answer);
          take(answer);
        }
        assert.ok(findings.takes, "an owner that collects makes room");
        for (const each of truth.keys())
          assert.ok(known.has(each) || each <= unknownThrough, `${each} is neither`);
      },
    ),
    { numRuns: 2_000 },
  );
});

test("an answer holds what its bounds allow, goes on behind its last row, and says nothing of what is behind it", () => {
  for (const bytes of [1, 512]) {
    const findings = new Findings(0);
    for (let sequence = 1; sequence <= findingsMax; sequence += 1)
      findings.compared(sequence, new Uint8Array(bytes).fill(0x80));
    assert.equal(findings.takes, false);
    let collected = 0;
    for (;;) {
      const answer = findings.collect(collected);
      assert.ok(answer.differing.length <= scanDifferencesMax);
      assert.ok(answer.differing.length * bytes * 2 <= scanBitsHexMax);
      assert.equal(answer.differing.length, answer.through - answer.since);
      assert.ok(Buffer.byteLength(JSON.stringify(answer)) <= controlBytesMax);
      collected = answer.through;
      if (!answer.more) break;
    }
    assert.equal(collected, findingsMax);
  }
});

test("at the bound nothing is vouched for until everything is collected, and then only what comes after", () => {
  const findings = new Findings(0, 2);
  findings.compared(1, Uint8Array.of(1));
  findings.compared(2, Uint8Array.of(1));
  findings.missed(3);
  assert.equal(findings.collect(0).through, 2);
  assert.equal(findings.collect(1).through, 2);
  assert.equal(findings.takes, false, "a gap in the middle could not be told");
  assert.deepEqual(findings.collect(2), {
    kind: "findings",
    since: 3,
    through: 3,
    differing: [],
    more: false,
  });
  findings.compared(4, undefined);
  assert.deepEqual([findings.collect(3).since, findings.collect(3).through], [3, 4]);
});
