/** Turns are taken one after another in the order of asking, whatever comes of them. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Turns } from "../../runtime/turns.ts";

test("no turn begins before the one before it is over, and a failure is told to who asked for it alone", async () => {
  const turns = new Turns();
  const seen: string[] = [];
  let end: () => void = () => {};
  const first = turns.take(async () => {
    seen.push("first begins");
    await new Promise<void>((resolve) => {
      end = resolve;
    });
    seen.push("first ends");
    throw new Error("of the first");
  });
  const second = turns.take(async () => {
    seen.push("second");
    return 2;
  });
  const third = turns.take(() => {
    // Not even a promise came of it.
    throw new Error("of the third");
  });
  const settled = turns.settled().then(() => seen.push("settled"));
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(seen, ["first begins"]);
  end();
  await assert.rejects(first, /of the first/);
  assert.equal(await second, 2);
  await assert.rejects(third, /of the third/);
  await settled;
  assert.deepEqual(seen, ["first begins", "first ends", "second", "settled"]);
});
