/**
 * Taking images back: a crash at every step of it is finished by the next open or was before the order, and what a log
 * cannot finish is undone, or refused with the images untouched.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import type { GroupImage } from "../../../image/group-image.ts";
import { openView } from "../../../image/history/view.ts";
import { errorCode, OperationalError } from "../../../runtime/errors.ts";
import { SeededRandom, seedFromEnvironment } from "../../support/seeded.ts";
import { folder, KeptImages, lived, overlappingSteps, segmentPath, volumes } from "./kept-images.ts";

const steps = 8;

/** Images at the end of several steps, durable, closed, and the disk as it was after `steps` of them. */
async function made(seed: number): Promise<KeptImages> {
  const kept = new KeptImages(seed);
  await kept.prepare();
  await kept.world.drive(
    (async () => {
      const image = await kept.open("create");
      for (const writes of overlappingSteps(steps)) {
        await image.apply([kept.frame(writes)]);
        await image.commit(await image.sync());
      }
      assert.ok(image.history!.bytes > 3 * kept.segmentBytes, "sets lie in several segments");
      await image.close();
    })(),
  );
  kept.crash("everything", () => true);
  return kept;
}

test("a crash at any step of taking images back is finished by the next open", async (context) => {
  const seed = seedFromEnvironment();
  const kept = await made(seed);
  const random = new SeededRandom(seed, 3);
  const { disk } = kept.world;
  const newest = kept.source.position.sequence;
  const target = [...kept.copies.keys()].sort((a, b) => a - b)[3]!;
  const snapshot = disk.snapshot();
  const base = kept.store;
  const count = { runs: 0, finished: 0, notBegun: 0, twice: 0 };
  const models = ["everything", "nothing", "subset", "torn"] as const;
  for (let step = 1, inRange = true; inRange; step += 1) {
    for (const when of ["before", "after"] as const) {
      disk.restore(snapshot);
      kept.life = kept.world.life();
      kept.store = base.crashed(() => true);
      const what = `SEED=${seed} ${when} step ${step}`;
      let isOver = false;
      const isWhole = await lived(kept, async () => {
        const image = await kept.open();
        disk.crashAt(disk.steps + step, when, () => {
          if (!isOver) disk.powerCut(random.pick(models));
        });
        await image.rollBack(target);
        isOver = kept.life.alive;
        if (isOver) await image.close();
      });
      // The whole of it took fewer steps: every one of them has had its crash.
      if (isWhole) inRange = false;
      count.runs += 1;
      kept.crash("nothing", () => random.chance(0.5));
      if (random.chance(0.5)) {
        const again = disk.steps + 1 + random.below(60);
        let mayHit = true;
        disk.crashAt(again, random.pick(["before", "after"] as const), () => {
          if (mayHit) disk.powerCut(random.pick(models));
        });
        await lived(kept, async () => {
          const image = await kept.open();
          if (kept.life.alive) await image.close();
        });
        mayHit = false;
        if (!kept.life.alive) count.twice += 1;
        kept.crash("nothing", () => random.chance(0.5));
      }
      await kept.world.drive(
        (async () => {
          const image = await kept.open();
          const history = image.history!;
          assert.equal(history.damage, undefined, what);
          assert.equal(history.rollingBack, false, what);
          const isFinished = history.captured === target;
          const end = isFinished ? target : newest;
          assert.equal(history.captured, end, what);
          assert.equal(image.applied.sequence, end, what);
          assert.equal(image.applyingLast, end, what);
          if (isWhole) assert.ok(isFinished, what);
          await kept.checkImages(image, end, what);
          const points = await kept.checkPoints(image, what);
          assert.equal(points.at(-1), end, what);
          if (isFinished) count.finished += 1;
          else count.notBegun += 1;
          await image.close();
        })(),
      );
    }
  }
  context.diagnostic(`SEED=${seed} ${JSON.stringify(count)}`);
  assert.ok(count.finished > 30 && count.notBegun > 5 && count.twice > 5);
});

test("after it, another history goes on from the point", async () => {
  const kept = await made(1);
  await kept.world.drive(
    (async () => {
      const image = await kept.open();
      const history = image.history!;
      const points = await kept.checkPoints(image, "before");
      const [target, behind] = [points[3]!, points[4]!];
      const view = await openView(image, 0, points[5]!);
      const refusedWith = async (code: string): Promise<void> => {
        await assert.rejects(image.rollBack(target), (error) => errorCode(error) === code);
        await kept.checkImages(image, points.at(-1)!, code);
      };
      await refusedWith("VIEWS_OPEN");
      await view.close();
      await history.pin({ id: "p", sequence: behind, reason: "test" }, image.held, 1);
      await refusedWith("POINTS_PINNED");
      await history.unpin("p");
      await history.pin({ id: "p", sequence: target, reason: "test" }, image.held, 1);
      await assert.rejects(image.rollBack(target + 1), (error) => errorCode(error) === "POINT_UNKNOWN");
      const position = await image.rollBack(target);
      assert.equal(position.sequence, target);
      assert.deepEqual(image.applied, await history.point(target));
      kept.source.position = position;
      for (const writes of overlappingSteps(5)) {
        await image.apply([kept.frame(writes.map((write) => ({ ...write, fill: 255 - write.fill })))]);
      }
      await image.commit(await image.sync());
      const now = await kept.checkPoints(image, "after");
      assert.deepEqual(now.slice(0, 4), points.slice(0, 4));
      assert.equal(now.length, 4 + 5);
      await image.close();
    })(),
  );
  kept.crash("nothing", () => false);
  await kept.world.drive(
    (async () => {
      const image = await kept.open();
      assert.equal((await kept.checkPoints(image, "reopened")).length, 4 + 5);
      await image.close();
    })(),
  );
});

test("a chunk that is damaged is found before anything is taken back", async () => {
  const kept = await made(2);
  kept.damagePayload(4);
  await kept.world.drive(
    (async () => {
      const image = await kept.open();
      const newest = image.held.sequence;
      await assert.rejects(image.rollBack(0), (error) => errorCode(error) === "HISTORY_DAMAGED");
      assert.equal(image.history!.rollingBack, false);
      await kept.checkImages(image, newest, "untouched");
      // It is not done for: steps go on.
      await image.apply([kept.frame(overlappingSteps(1)[0]!)]);
      await image.close();
    })(),
  );
});

/** Steps after the last commit: their sets stand behind the marker, and the images hold them in part. */
async function cutOff(seed: number, commitAfter: number, model: "nothing" | "subset" | "everything") {
  const kept = new KeptImages(seed);
  await kept.prepare();
  const ends: number[] = [0];
  const frames = overlappingSteps(steps).map((writes) => kept.frame(writes));
  await kept.world.drive(
    (async () => {
      const image = await kept.open("create");
      for (const [index, frame] of frames.entries()) {
        await image.begin(frame.last);
        await image.apply([frame]);
        ends.push(frame.last);
        if (index + 1 === commitAfter) await image.commit(await image.sync());
      }
    })(),
  );
  kept.crash(model, () => false);
  return { kept, frames, ends };
}

test("what a log has lost is undone, wherever it ends", async () => {
  for (const model of ["nothing", "subset", "everything"] as const) {
    for (let logEnd = 2; logEnd <= steps; logEnd += 1) {
      const { kept, frames, ends } = await cutOff(logEnd, 2, model);
      const what = `${model}, log ends with step ${logEnd}`;
      await kept.world.drive(
        (async () => {
          const image = await kept.open();
          assert.equal(image.applied.sequence, ends[2]);
          assert.equal(image.applyingLast, ends[steps]);
          // Not quite the next step's end: it is undone all the same.
          const last = ends[logEnd]! + (logEnd < steps ? 1 : 0);
          assert.equal(await image.undoBehind({ first: ends[2]! + 1, last }), logEnd < steps, what);
          assert.equal(image.applyingLast, ends[logEnd], what);
          assert.equal(image.history!.captured, ends[logEnd], what);
          await image.apply(frames.slice(2, logEnd));
          await kept.checkImages(image, ends[logEnd]!, what);
          assert.deepEqual(await kept.checkPoints(image, what), ends.slice(0, logEnd + 1));
          await image.close();
        })(),
      );
    }
  }
});

test("a marker in the middle of a set goes back with it, or nothing is touched", async () => {
  for (const canGoBack of [true, false]) {
    const kept = new KeptImages(5);
    await kept.prepare();
    const frames = overlappingSteps(4).map((writes) => kept.frame(writes));
    const [one, two, three] = frames as [(typeof frames)[0], (typeof frames)[0], (typeof frames)[0]];
    await kept.world.drive(
      (async () => {
        const image = await kept.open("create");
        await image.apply([one]);
        await image.commit(await image.sync());
        await image.apply([two, three]);
      })(),
    );
    kept.crash("subset", () => false);
    const drive = (work: (image: GroupImage) => Promise<void>): Promise<void> =>
      kept.world.drive(kept.open().then(work));
    await drive(async (image) => {
      await image.apply([two]);
      await image.commit(await image.sync());
      await image.close();
    });
    const paths = volumes.map(({ name }) => join(folder, `${name}.img`));
    const before = paths.map((path) => kept.world.disk.contentOf(path, "cached")!);
    await drive(async (image) => {
      assert.equal(image.applied.sequence, two.last);
      const log = { first: canGoBack ? two.first : three.first, last: two.last };
      if (canGoBack) {
        assert.equal(await image.undoBehind(log), true);
        assert.equal(image.applied.sequence, one.last);
        await kept.checkImages(image, one.last, "back");
        await image.apply([two]);
        await kept.checkImages(image, two.last, "again");
      } else {
        await assert.rejects(
          image.undoBehind(log),
          (error) =>
            error instanceof OperationalError &&
            error.code === "HISTORY_UNDO_IMPOSSIBLE" &&
            error.reaction === "stop",
        );
        assert.deepEqual(
          paths.map((path) => kept.world.disk.contentOf(path, "cached")),
          before,
        );
      }
      await image.close();
    });
  }
});

test("an order that a damaged history cannot finish stops, or is dropped when nothing was written", async () => {
  for (const where of ["image", "marker"] as const) {
    const kept = await made(4);
    const { disk } = kept.world;
    const newest = kept.source.position.sequence;
    const target = [...kept.copies.keys()].sort((a, b) => a - b)[3]!;
    await lived(kept, async () => {
      const image = await kept.open();
      disk.strikeAt({
        match: (path, operation) =>
          where === "marker" ? path.endsWith("marker") : path.endsWith(".img") && operation === "write",
        after: 0,
        when: where === "marker" ? "before" : "after",
        act: () => disk.powerCut("everything"),
      });
      await image.rollBack(target);
    });
    assert.ok(!kept.life.alive);
    kept.crash("everything", () => true);
    disk.lose(segmentPath(3));
    if (where === "image") {
      await assert.rejects(kept.world.drive(kept.open()), (error) => {
        assert.ok(error instanceof OperationalError && error.reaction === "stop");
        return error.code === "ROLL_BACK_FAILED";
      });
      continue;
    }
    await kept.world.drive(
      (async () => {
        const image = await kept.open();
        assert.equal(image.history!.damage?.code, "HISTORY_DAMAGED");
        assert.equal(image.history!.rollingBack, false);
        assert.equal(image.applied.sequence, newest);
        await kept.checkImages(image, newest, "dropped");
        await image.close();
      })(),
    );
  }
});
