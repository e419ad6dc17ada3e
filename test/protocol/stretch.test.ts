/** Stretches without points: what is told of a position, and what their bound may cost. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { Stretch } from "../../protocol/stretch.ts";
import { isOutside, stretchesMax, stretchesOf, withStretch } from "../../protocol/stretch.ts";

/** Ascending and apart, from gaps and lengths. */
const stretches: fc.Arbitrary<Stretch[]> = fc
  .array(fc.tuple(fc.nat({ max: 9 }), fc.integer({ min: 1, max: 9 })), { maxLength: 3 * stretchesMax })
  .map((rows) => {
    let end = 0;
    return rows.map(([gap, length]) => {
      const since = end + gap;
      end = since + length;
      return { since, until: end };
    });
  });

test("no position in a stretch is ever outside, however many come, and up to the bound no other is inside", () => {
  fc.assert(
    fc.property(stretches, (all) => {
      const kept = all.reduce<readonly Stretch[]>(withStretch, []);
      assert.ok(kept.length <= stretchesMax);
      assert.deepEqual(stretchesOf(JSON.parse(JSON.stringify(kept)), "kept"), kept);
      const end = all.at(-1)?.until ?? 0;
      for (let position = 0; position <= end; position += 1) {
        const inside = all.some(({ since, until }) => position >= since && position < until);
        if (inside) assert.ok(!isOutside(kept, position), `${position}`);
        else if (all.length <= stretchesMax) assert.ok(isOutside(kept, position), `${position}`);
      }
    }),
  );
});

test("what does not ascend, or is empty, was not written by this version; older documents say nothing", () => {
  assert.deepEqual(stretchesOf(undefined, "between"), []);
  for (const wrong of [
    [{ since: 3, until: 3 }],
    [
      { since: 3, until: 5 },
      { since: 4, until: 6 },
    ],
    [{ since: -1, until: 5 }],
    [{ since: 1 }],
    {},
    Array.from({ length: stretchesMax + 1 }, (_, index) => ({ since: 2 * index, until: 2 * index + 1 })),
  ])
    assert.throws(() => stretchesOf(wrong, "between"));
});
