/** What is remembered of repairs: what comes back bars the policy until an operator orders, whatever order things happen in. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { provenBytesMax, provenRanges } from "../../../site-agent/scan/owner-proof.ts";
import {
  afterOrder,
  afterRepair,
  afterVerify,
  noRepairs,
  parseRepairs,
  policyIsBarred,
  repairsInARowMax,
} from "../../../site-agent/scan/repairs.ts";
import type { BlockRange } from "../../../site-agent/scan/scan-document.ts";

const range = (block: number, blocks = 1, volume = 0): BlockRange => ({
  volume,
  start: block * 4096,
  end: (block + blocks) * 4096,
});

test("the same as a naive memory of single blocks, through any course, and through its document", () => {
  const ranges = fc.array(
    fc.tuple(fc.nat(20), fc.integer({ min: 1, max: 4 }), fc.nat(1)).map((row) => range(...row)),
    { maxLength: 4 },
  );
  const event = fc.record({
    kind: fc.constantFrom("operator", "policy", "verify"),
    ranges,
    ends: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(event, { maxLength: 12 }), (events) => {
      let repairs = noRepairs;
      const repaired = new Set<string>();
      let alarm = false;
      let inARow = 0;
      const blocks = (each: BlockRange) =>
        Array.from(
          { length: (each.end - each.start) / 4096 },
          (_, index) => `${each.volume}:${each.start / 4096 + index}`,
        );
      for (const { kind, ranges: named, ends } of events) {
        if (kind === "verify") {
          if (named.flatMap(blocks).some((block) => repaired.has(block))) alarm = true;
          if (named.length === 0) inARow = 0;
          repairs = afterVerify(repairs, named);
          assert.equal(repairs.awaitsProof, false);
        } else if (kind === "operator" || policyIsBarred(repairs) === null) {
          if (ends) for (const block of named.flatMap(blocks)) repaired.add(block);
          if (kind === "operator") alarm = false;
          inARow = kind === "operator" ? 0 : inARow + 1;
          repairs = afterOrder(repairs, kind as "operator" | "policy");
          if (ends) repairs = afterRepair(repairs, named);
          assert.equal(repairs.awaitsProof, kind === "policy");
        }
        const wanted: string | null = alarm
          ? "MISMATCH_RECURRED"
          : inARow >= repairsInARowMax
            ? "REPAIRS_IN_A_ROW"
            : null;
        assert.equal(policyIsBarred(repairs), wanted);
        repairs = parseRepairs(JSON.parse(JSON.stringify(repairs)));
      }
    }),
  );
  assert.deepEqual(parseRepairs(undefined), noRepairs);
});

test("the owner is right only where it reads the same twice, without an error", async () => {
  const [same, flaky, broken, later] = [range(0), range(1), range(2), range(3)];
  const huge = { volume: 0, start: 4 * 4096, end: 4 * 4096 + provenBytesMax };
  let reads = 0;
  let rests = 0;
  const unreadable: BlockRange[] = [];
  const world = {
    read: async (_volume: number, offset: number, length: number) => {
      reads += 1;
      const bytes = Buffer.alloc(length);
      if (offset === flaky.start) bytes[0] = reads;
      if (offset === broken.start && rests > 0) throw Object.assign(new Error("medium"), { code: "EIO" });
      // A client wrote there between the first two reads.
      if (offset === later.start) bytes[0] = Math.min(rests, 1);
      return bytes;
    },
    rest: async () => {
      rests += 1;
    },
    unreadable: (each: BlockRange) => unreadable.push(each),
  };
  const proven = await provenRanges([same, flaky, broken, later, huge], world);
  assert.deepEqual(proven, [same, later]);
  assert.deepEqual(unreadable, [broken]);
  assert.equal(rests, 3, "no more than three times");
});
