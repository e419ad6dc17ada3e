/** How fast a scan reads: a consistency check gives way to writers, nothing else does, and `unlimited` means it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { ScanPurpose } from "../../../protocol/record.ts";
import { paceOf } from "../../../site-agent/scan/pace.ts";

const purposes: readonly ScanPurpose[] = ["verify", "first-sync", "resync", "repair"];

test("only a verify gives way, only while clients write, and never below a quarter of the rate", () => {
  for (const purpose of purposes) {
    for (const rate of [1_000, 64 * 2 ** 20]) {
      assert.equal(paceOf(purpose, rate, false), rate);
      assert.equal(paceOf(purpose, rate, true), purpose === "verify" ? rate / 4 : rate);
    }
    for (const clientsWrite of [false, true])
      assert.equal(paceOf(purpose, null, clientsWrite), Number.POSITIVE_INFINITY);
  }
});
