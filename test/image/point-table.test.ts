/** The sparse table of points against a list of all of them: counts, and places to look from, whatever was given back. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { bucketPoints, type PointLabel, PointTable } from "../../image/point-table.ts";
import { SeededRandom, seedFromEnvironment } from "../support/seeded.ts";

const seed = seedFromEnvironment();

test(`it counts exactly and leads to what is looked for (SEED=${seed})`, () => {
  const random = new SeededRandom(seed, 1);
  for (let run = 0; run < 30; run += 1) {
    const table = new PointTable();
    let points: PointLabel[] = [];
    let next: PointLabel = { sequence: random.below(5), timeMs: 1_000 };
    for (let step = 0; step < 2_000; step += 1) {
      points.push(next);
      table.add(next);
      if (random.chance(0.1)) table.add(next);
      next = { sequence: next.sequence + 1 + random.below(9), timeMs: next.timeMs + random.below(300) };
      if (random.chance(0.01)) {
        points = points.slice(random.below(points.length));
        table.keepFrom(points.slice(0, bucketPoints));
      }
      assert.equal(table.count, points.length, `run ${run}`);
    }
    for (const limit of [1, 20, bucketPoints, 700, 5_000]) {
      const found = points.filter(({ sequence }) => sequence >= table.beforeNewest(limit));
      assert.ok(found.length >= Math.min(limit, points.length), `run ${run}: ${limit}`);
      assert.ok(found.length < limit + bucketPoints);
    }
    const { timeMs } = random.pick(points);
    const wanted = points.findLast((point) => point.timeMs <= timeMs);
    const from = table.beforeTime(timeMs);
    const near = points.filter(({ sequence }) => sequence >= from!).slice(0, bucketPoints);
    assert.equal(near.findLast((point) => point.timeMs <= timeMs)?.sequence, wanted?.sequence);
    assert.equal(table.beforeTime(points[0]!.timeMs - 1), undefined);
    table.keepFrom([]);
    assert.deepEqual([table.count, table.newest, table.beforeNewest(5)], [0, undefined, 0]);
  }
});
