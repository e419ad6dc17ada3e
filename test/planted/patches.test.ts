/**
 * Every planted bug still fits the product and names tests that exist, and the judge tells a test that saw a bug from a
 * run that merely broke. Planting them all and running their tests takes minutes: `make test-planted`.
 */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { repositoryPath } from "../support/tree.ts";
import { plantedBugs } from "./bugs.ts";
import type { TestOutcome } from "./judge.ts";
import { judge } from "./judge.ts";
import type { PlantedBug } from "./planted-bug.ts";
import { plant } from "./planted-bug.ts";

test("there are enough of them, each with a name of its own and a sentence", () => {
  assert.ok(plantedBugs.length >= 34);
  assert.equal(new Set(plantedBugs.map(({ id }) => id)).size, plantedBugs.length);
  for (const { id, does } of plantedBugs) {
    assert.match(id, /^[a-z-]+\/[a-z0-9-]+$/);
    assert.match(does, /^[A-Z].*\.$/, id);
  }
});

for (const bug of plantedBugs) {
  test(`fits the product and names its catchers: ${bug.id}`, () => {
    const text = readFileSync(repositoryPath(bug.file), "utf8");
    const planted = plant(bug, text);
    assert.ok(planted !== undefined, `a text to find is not exactly once in ${bug.file}`);
    assert.notEqual(planted, text);
    assert.ok(bug.caughtBy.length > 0);
    for (const { file, only } of bug.caughtBy) {
      assert.ok(existsSync(repositoryPath(file)), file);
      // A title may be put together from parts, so only what stands there as a whole is looked for.
      if (only !== undefined)
        assert.ok(
          only.split("|").some((part) => named(file, part)),
          `${file}: ${only}`,
        );
    }
  });
}

function named(file: string, part: string): boolean {
  const text = readFileSync(repositoryPath(file), "utf8");
  return part.split(" ").every((word) => text.includes(word));
}

test("a patch whose text stands nowhere, or twice, is not planted", () => {
  const bug: PlantedBug = {
    id: "a/b",
    does: "Nothing.",
    file: "x.ts",
    find: "one",
    replace: "two",
    caughtBy: [],
    budgetSeconds: 1,
  };
  assert.equal(plant(bug, "one"), "two");
  assert.equal(plant(bug, "nothing"), undefined);
  assert.equal(plant(bug, "one one"), undefined);
  assert.equal(plant({ ...bug, also: [{ find: "gone", replace: "" }] }, "one"), undefined);
  assert.equal(plant({ ...bug, also: [{ find: "three", replace: "four" }] }, "one three"), "two four");
});

test("caught is an assertion or an error with a code; what does not load is broken; the rest is unclear", () => {
  const outcome = (errors: Partial<TestOutcome["errors"][number]>[], failureType = "testCodeFailure") =>
    judge({
      outcome: "fail",
      title: "t",
      file: "",
      suite: false,
      failureType,
      errors: errors.map((error) => ({ name: "Error", code: "", message: "", ...error })),
    }).kind;
  const runner = { code: "ERR_TEST_FAILURE" };
  assert.equal(outcome([runner, { code: "ERR_ASSERTION" }]), "caught");
  assert.equal(outcome([runner, { code: "JOURNAL_DAMAGED" }]), "caught");
  assert.equal(outcome([runner, { message: "Property failed after 3 tests\n{ seed: 1 }" }]), "caught");
  assert.equal(outcome([runner, { name: "TypeError", message: "x is not a function" }]), "unclear");
  assert.equal(outcome([runner, { message: "waited 20000 ms in vain" }]), "unclear");
  assert.equal(outcome([runner], "testTimeoutFailure"), "unclear");
  assert.equal(outcome([{ ...runner, message: "1 subtest failed" }], "subtestsFailed"), "unclear");
  assert.equal(outcome([runner, { name: "SyntaxError", message: "Unexpected token" }]), "broken");
  assert.equal(outcome([runner, { code: "ERR_MODULE_NOT_FOUND" }]), "broken");
  assert.equal(outcome([runner, { name: "ReferenceError", message: "x is not defined" }]), "broken");
  const passed = { outcome: "pass", title: "", file: "", suite: false, failureType: "", errors: [] } as const;
  assert.equal(judge(passed).kind, "fine");
});
