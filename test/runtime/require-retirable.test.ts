/** An order to retire a group is refused by the first check that stands against it, with the way out that there is. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { RetireCheck, RetirePlan } from "../../protocol/retirement.ts";
import { failed, passed, warned } from "../../protocol/retirement.ts";
import { OperationalError } from "../../runtime/errors.ts";
import { requireRetirable } from "../../runtime/require-retirable.ts";

function planOf(...checks: RetireCheck[]): RetirePlan {
  const loss = { writes: 0, bytes: 0 };
  return {
    ...{ group: "erp", site: "hq", part: "owner", sequence: 1 },
    ...{ loss, images: [], deletable: [], steps: [], checks },
  };
}

const fine = passed("A", "fine");
const doubtful = warned("B", "doubtful");
const hard = failed("C", "never");
const soft = failed("D", "only by force", true);

const table: readonly {
  readonly checks: readonly RetireCheck[];
  readonly force: boolean;
  readonly code: string | null;
}[] = [
  { checks: [fine, doubtful], force: false, code: null },
  { checks: [fine, soft, hard], force: false, code: "D" },
  { checks: [fine, soft, hard], force: true, code: "C" },
  { checks: [fine, soft], force: true, code: null },
  { checks: [hard], force: true, code: "C" },
];

for (const { checks, force, code } of table) {
  const title = `${checks.map(({ id }) => id).join(", ")}${force ? " by force" : ""}: ${code ?? "may go"}`;
  test(title, () => {
    const order = () => requireRetirable(planOf(...checks), force, "wait");
    if (code === null) return order();
    assert.throws(order, (error: unknown) => {
      assert.ok(error instanceof OperationalError);
      assert.equal(error.code, code);
      assert.equal(error.reaction, "refuse");
      assert.equal(error.hint === "wait", code === "D", "force is offered where it would help");
      return true;
    });
  });
}
