/** The evidence sheet adds up what it should, and tells the product of now from what it was. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { EvidenceLine } from "../support/evidence.ts";
import { bound, sheet, sumOf } from "./sheet.ts";

const order = { families: ["disks", "line"], states: ["idle", "steady"] };
const machine = { day: "2026-05-31", text: "a machine" };
const lines: readonly EvidenceLine[] = [
  { commit: "old", kind: "kills", figures: { faults: 100, "agent MiB max": 300 } },
  { commit: "new", kind: "kills", figures: { faults: 20, "agent MiB max": 200 } },
  { commit: "same", kind: "kills", figures: { faults: 30, "agent MiB max": 100 } },
  { commit: "new", kind: "faults by state", figures: { "disks while idle": 3, "line while steady": 4 } },
  { commit: "old", kind: "faults by state", figures: { "disks while idle": 1_000 } },
];

test("figures add up, and of a largest the largest stays", () => {
  const kills = sumOf(lines).get("kills")!;
  assert.deepEqual(Object.fromEntries(kills), { faults: 150, "agent MiB max": 300 });
});

test("the bound is three in the number of trials, and none without one", () => {
  assert.equal(bound(3_000), "< 0.1 %");
  assert.equal(bound(150), "< 2 %");
  assert.equal(bound(0), "");
});

test("what is counted for now was shown with the product of now", () => {
  const page = sheet(lines, (commit) => commit !== "old", order, machine);
  assert.ok(page.includes("| kills | 50 faults | < 6 % | 150 | < 2 % |"), page);
  assert.ok(page.includes("sources of it: new, same."), page);
  assert.ok(page.includes("| disks | 3 | 0 |\n| line | 0 | 4 |"), page);
  const [seenNow, seenEver] = page.split("## Seen ever");
  assert.ok(seenNow!.includes("- **kills**: agent MiB max 200"), page);
  assert.ok(seenEver!.includes("- **kills**: agent MiB max 300"), page);
});

test("with nothing shown of now the page says so", () => {
  const page = sheet(lines, () => false, order, machine);
  assert.ok(page.includes("sources of it: none."), page);
  assert.ok(page.includes("| kills | 0 faults |  | 150 | < 2 % |"), page);
  assert.ok(!page.includes("| fault |"), page);
});
