/** When a FLUSH is expected: only after a row of frames that each had theirs, and never after one that had none. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { FlushHabit } from "../../../site-agent/write-path/flush-habit.ts";
import { seedFromEnvironment } from "../../support/seeded.ts";

test("a FLUSH is expected where each of the last four frames had one before the next came, and nowhere else", () => {
  const seed = seedFromEnvironment();
  fc.assert(
    fc.property(fc.array(fc.constantFrom("frame", "flush"), { maxLength: 60 }), (events) => {
      const habit = new FlushHabit();
      for (const [at, event] of events.entries()) {
        if (event === "flush") {
          habit.flushed();
          continue;
        }
        // Told from the whole list each time: FLUSHes in a row count as one.
        const before = events
          .slice(0, at)
          .join(" ")
          .replaceAll(/flush( flush)+/g, "flush");
        assert.equal(habit.appended(), /(frame flush ?){4}$/.test(before), `after "${before}"`);
      }
    }),
    { seed, numRuns: 2_000 },
  );
});
