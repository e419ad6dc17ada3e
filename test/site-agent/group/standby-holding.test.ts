/** How far a standby is taken to hold the order: the table of what is heard of it, and what may be said of it then. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Holding, HoldingNews } from "../../../site-agent/group/standby-holding.ts";
import { heldAt, holdingAfter, nothingHeard, safeAt } from "../../../site-agent/group/standby-holding.ts";

const known: Holding = { acknowledged: 9, applied: 7, isLost: false };
const lost: Holding = { acknowledged: 9, applied: 0, isLost: true };

test("news of a standby: what was acknowledged stays for the journal, and what is said of it goes back to nothing", () => {
  const table: readonly (readonly [what: string, Holding, HoldingNews, Holding])[] = [
    [
      "an earlier life's",
      nothingHeard,
      { kind: "journalBegan", floor: 5 },
      { ...nothingHeard, acknowledged: 5 },
    ],
    ["known better", known, { kind: "journalBegan", floor: 5 }, known],
    ["no proof that it is back", lost, { kind: "journalBegan", floor: 12 }, { ...lost, acknowledged: 12 }],
    ["gone", known, { kind: "lost" }, lost],
    ["gone already", lost, { kind: "lost" }, lost],
    ["never there", nothingHeard, { kind: "lost" }, { ...nothingHeard, isLost: true }],
    ["met again", known, { kind: "attached", held: 9 }, known],
    ["made anew", lost, { kind: "attached", held: 0 }, nothingHeard],
    ["not lost after all", lost, { kind: "attached", held: 9 }, { ...known, applied: 0 }],
    ["further", known, { kind: "acknowledged", durable: 11 }, { ...known, acknowledged: 11 }],
    ["an answer that was overtaken", known, { kind: "acknowledged", durable: 8 }, known],
    [
      "there, by its own word",
      lost,
      { kind: "acknowledged", durable: 3 },
      { ...nothingHeard, acknowledged: 3 },
    ],
    ["applied", known, { kind: "applied", applied: 9 }, { ...known, applied: 9 }],
  ];
  for (const [what, before, news, after] of table) assert.deepEqual(holdingAfter(before, news), after, what);
});

test("nothing is said of a standby that is lost, and nothing behind what was dropped of one that is there", () => {
  assert.deepEqual([heldAt(known), safeAt(known, null), safeAt(known, 4), safeAt(known, 20)], [9, 9, 4, 9]);
  assert.deepEqual([heldAt(lost), safeAt(lost, null), safeAt(lost, 4)], [0, 0, 0]);
});
