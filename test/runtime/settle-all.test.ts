/** Ends of several things at once: none cut off, no failure lost. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { settleAll } from "../../runtime/settle-all.ts";
import { Door } from "../support/door.ts";

test("a failure does not cut off what still runs, and is told when all have ended", async () => {
  const door = new Door();
  door.close();
  let ended = false;
  let told = false;
  const slow = door.pass().then(() => {
    ended = true;
  });
  const all = settleAll([Promise.reject(new Error("one group's disk")), slow]).catch(() => {
    told = true;
    assert.ok(ended);
  });
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(told, false);
  door.open();
  await all;
  assert.equal(told, true);
});
