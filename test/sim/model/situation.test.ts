/** What a group is in the middle of, by what rules over what. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Situation, SituationFacts } from "./situation.ts";
import { laggingMs, situationOf, situations } from "./situation.ts";

const nothing: SituationFacts = {
  failingOver: false,
  takenOver: false,
  lacksEntries: false,
  lacksBeginning: false,
  lagMs: undefined,
  inFlight: 0,
};

test("each situation has facts that make it, and the one further on rules", () => {
  const rising: [Partial<SituationFacts>, Situation][] = [
    [{}, "idle"],
    [{ inFlight: 1 }, "steady"],
    [{ lagMs: laggingMs - 1 }, "steady"],
    [{ lagMs: laggingMs }, "lagging"],
    [{ lacksBeginning: true }, "first sync"],
    [{ lacksEntries: true }, "overflow or resync"],
    [{ failingOver: true }, "failing over"],
    [{ takenOver: true }, "taken over"],
  ];
  let facts = nothing;
  for (const [more, expected] of rising) {
    facts = { ...facts, ...more };
    assert.equal(situationOf(facts), expected);
  }
  assert.deepEqual(new Set(rising.map(([, situation]) => situation)), new Set(situations));
});
