/**
 * What a step changes is kept while the step before it is still being written: over any steps, also where another one follows
 * than was said, where writes fail and where power is lost, every point holds what the volumes held there.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { BlockChange, OnWritten } from "../../../block/bulk-write.ts";
import { isBulkWritable } from "../../../block/bulk-write.ts";
import type { BlockDevice } from "../../../block/device.ts";
import { BlockErrno, BlockError } from "../../../block/device.ts";
import type { GroupImage } from "../../../image/group-image.ts";
import { groupsOf } from "../../../image/history/pieces.ts";
import { WrittenSoFar } from "../../../image/written-so-far.ts";
import type { Frame } from "../../../protocol/frame.ts";
import type { Sequence } from "../../../protocol/ids.ts";
import { blockBytes } from "../../../protocol/ids.ts";
import { errorCode } from "../../../runtime/errors.ts";
import { SeededRandom, seedFromEnvironment } from "../../support/seeded.ts";
import type { Written } from "./kept-images.ts";
import { chunksOf, KeptImages, lived, overlappingSteps, segmentsFolder, volumes } from "./kept-images.ts";

const runs = Number(process.env["SPLITSITE_AHEAD_RUNS"] ?? 25);

/** No set here is long enough for a sync before its end, or for a segment of its own. */
const longSegmentBytes = 64 * 2 ** 20;

/** A device that makes its changes one after another, each in its own time, and tells how far it is. */
class Writing {
  /** Fails the writes to come when it says so. */
  fails: () => boolean = () => false;
  /** Told of each change before it is made. */
  onChange: () => void = () => {};
  isUnderWay = 0;
  /** No block but the first can be read. */
  isUnreadable = false;

  of<T extends BlockDevice>(device: T): T {
    const writeChanges = async (changes: readonly BlockChange[], onWritten?: OnWritten): Promise<void> => {
      assert.ok(isBulkWritable(device));
      this.isUnderWay += 1;
      try {
        for (const [at, change] of changes.entries()) {
          this.onChange();
          if (this.fails()) throw new BlockError(BlockErrno.ENOSPC, "full", undefined);
          await device.writeChanges([change]);
          onWritten?.(changes[at + 1]?.offset ?? Number.POSITIVE_INFINITY);
        }
      } finally {
        this.isUnderWay -= 1;
      }
    };
    const read: BlockDevice["read"] = async (offset, length, into) => {
      if (this.isUnreadable && offset + length > blockBytes)
        throw new BlockError(BlockErrno.EIO, "a bad sector", Object.assign(new Error(), { code: "EIO" }));
      return device.read(offset, length, into);
    };
    return new Proxy(device, {
      get: (target, name) => {
        if (name === "writeChanges") return writeChanges;
        if (name === "read") return read;
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  }
}

class AheadImages extends KeptImages {
  readonly writing = new Writing();

  protected override wrapped<T extends BlockDevice>(device: T, volume: number): T {
    return this.writing.of(super.wrapped(device, volume));
  }
}

async function prepared(seed: number, segmentBytes?: number): Promise<AheadImages> {
  const kept = new AheadImages(seed, segmentBytes);
  await kept.prepare();
  return kept;
}

function randomWrites(random: SeededRandom) {
  return Array.from({ length: 1 + random.below(6) }, () => {
    const block = random.below(36);
    return {
      volume: random.below(volumes.length),
      block,
      blocks: 1 + random.below(Math.min(5, 40 - block)),
      fill: 1 + random.below(250),
    };
  });
}

test(`${runs} runs: whatever follows, and whenever power is lost, every point reads as it was`, async (context) => {
  const seed = seedFromEnvironment();
  const count = { ahead: 0, other: 0, failed: 0, crashes: 0, points: 0 };
  for (let run = 0; run < runs; run += 1) {
    const what = `seed ${seed} run ${run}`;
    const random = new SeededRandom(seed, run);
    const kept = await prepared(seed * 1000 + run, run % 2 === 0 ? undefined : longSegmentBytes);
    const frames: Frame[] = [];
    const frameAt = (at: number): Frame => {
      while (frames.length <= at) frames.push(kept.frame(randomWrites(random)));
      return frames[at]!;
    };
    /** One life: steps that go on from what the images hold, until a crash. */
    const live = async (image: GroupImage): Promise<void> => {
      await image.undoBehind({ first: 1, last: kept.source.position.sequence });
      let next = frames.findIndex(({ first }) => first > image.held.sequence);
      if (next < 0) next = frames.length;
      // Until then the images are between two points.
      const again = Math.max(image.applyingLast, image.history!.captured ?? 0);
      for (let steps = 3 + random.below(8); steps > 0 || image.held.sequence < again; steps -= 1) {
        const taken = [frameAt(next)];
        if (random.chance(0.3)) taken.push(frameAt(next + 1));
        const told = [frameAt(next + taken.length)];
        if (random.chance(0.2)) told.push(frameAt(next + taken.length + 1));
        const isTold = random.chance(0.85);
        let isFailing = random.chance(0.08);
        kept.writing.fails = () => isFailing && random.chance(0.4);
        await image.begin(taken.at(-1)!.last);
        const apply = () => image.apply(taken, undefined, async () => (isTold ? told : undefined));
        try {
          await apply();
        } catch (error) {
          assert.equal(errorCode(error), "IMAGE_FULL", what);
          count.failed += 1;
          isFailing = false;
          await apply();
        }
        if (isTold) count[told.length === 1 ? "ahead" : "other"] += 1;
        next += taken.length;
        if (random.chance(0.4)) await image.commit(await image.sync());
        if (random.chance(0.1)) await kept.checkPoints(image, what, image.held.sequence);
      }
    };
    for (let lives = 1 + random.below(3); lives >= 0; lives -= 1) {
      const image = await kept.world.drive(kept.open(frames.length === 0 ? "create" : "open"));
      await kept.world.drive(live(image));
      if (lives > 0) {
        // Behind the last step there may be a set without its end; nobody waits for it.
        kept.crash(random.pick(["everything", "nothing", "subset", "torn"] as const), () =>
          random.chance(0.5),
        );
        count.crashes += 1;
        continue;
      }
      await kept.world.drive(kept.checkImages(image, image.held.sequence, what));
      const points = await kept.world.drive(kept.checkPoints(image, what, image.held.sequence));
      count.points += points.length;
      await kept.world.drive(image.close());
    }
  }
  assert.ok(count.ahead > runs && count.other > runs / 2 && count.failed > 0 && count.crashes > runs / 2);
  context.diagnostic(JSON.stringify(count));
});

/** What is kept ahead has got as far as it does by itself. */
async function atRest(image: GroupImage): Promise<void> {
  for (let left = 100; left > 0; left -= 1) await image.read(0, 0, 512);
}

/** More than a chunk holds: the one volume is written at once, and kept while the other is written block by block. */
function wideWrites(fill: number): Written[] {
  const blocks = Array.from({ length: 40 }, (_, block) => ({
    volume: 1,
    block,
    blocks: 1,
    fill: fill + block,
  }));
  return [{ volume: 0, block: 0, blocks: 30, fill }, ...blocks];
}

/** Steps one after another, each told what comes next. */
async function applyTold(image: GroupImage, frames: readonly Frame[], from = 0): Promise<void> {
  for (const [at, frame] of frames.entries()) {
    if (at < from) continue;
    await image.apply([frame], undefined, async () => frames.slice(at + 1, at + 2));
  }
}

test("before-images of the next step are appended while the step under way is written, all but the last of them", async () => {
  const kept = await prepared(1);
  await kept.world.drive(
    (async () => {
      const image = await kept.open("create");
      const frames = overlappingSteps(6).map((writes) => kept.frame(writes));
      let ahead = 0;
      kept.world.disk.onOperation = (_life, path, operation, when) => {
        const isAppending = operation === "create" || operation === "write";
        if (
          when === "before" &&
          isAppending &&
          path.startsWith(segmentsFolder) &&
          kept.writing.isUnderWay > 0
        )
          ahead += 1;
      };
      // The first steps write what was a hole: one chunk each, which is the last one and waits.
      await applyTold(image, frames);
      assert.equal(ahead, 0, "the last chunk of a set waits for its step");
      const wide = [100, 150].map((fill) => kept.frame(wideWrites(fill)));
      await applyTold(image, wide);
      assert.ok(ahead > 0, "the first chunk does not wait");
      await kept.checkPoints(image, "wide");
      await image.close();
    })(),
  );
});

test("power lost at any step of the disk: the step under way is applied again, and nothing counts of the next one's set", async (context) => {
  const seed = seedFromEnvironment();
  const random = new SeededRandom(seed, 7);
  const kept = await prepared(seed);
  const { disk } = kept.world;
  const before = overlappingSteps(3).map((writes) => kept.frame(writes));
  const frames = [100, 150, 200].map((fill) => kept.frame(wideWrites(fill)));
  const newest = kept.source.position.sequence;
  await kept.world.drive(
    (async () => {
      const image = await kept.open("create");
      await applyTold(image, before);
      await image.commit(await image.sync());
      await image.close();
    })(),
  );
  kept.crash("everything", () => true);
  const snapshot = disk.snapshot();
  const base = kept.store;
  const count = { crashes: 0, begun: 0 };
  for (let step = 1, inRange = true; inRange; step += 1) {
    disk.restore(snapshot);
    kept.life = kept.world.life();
    kept.store = base.crashed(() => true);
    const what = `SEED=${seed} step ${step}`;
    let isOver = false;
    let isBegun = false;
    const isWhole = await lived(kept, async () => {
      const image = await kept.open();
      disk.crashAt(disk.steps + step, random.pick(["before", "after"] as const), () => {
        if (isOver) return;
        // Longer than its sets: the next one's is begun.
        isBegun = image.history!.captured! < newest && kept.writing.isUnderWay > 0;
        disk.powerCut(random.pick(["everything", "nothing", "subset", "torn"] as const));
      });
      for (const [at, frame] of frames.entries()) {
        await image.begin(frame.last);
        await image.apply([frame], undefined, async () => frames.slice(at + 1, at + 2));
      }
      isOver = kept.life.alive;
      if (isOver) await image.close();
    });
    inRange = !isWhole;
    count.crashes += 1;
    if (isBegun) count.begun += 1;
    kept.writing.isUnderWay = 0;
    kept.crash("nothing", () => random.chance(0.5));
    await kept.world.drive(
      (async () => {
        const image = await kept.open();
        const history = image.history!;
        assert.equal(history.damage, undefined, what);
        assert.ok(history.captured! <= image.applyingLast, `${what}: a set without its step counts`);
        const left = frames.findIndex(({ first }) => first > image.held.sequence);
        await applyTold(image, frames, left);
        await kept.checkImages(image, newest, what);
        await kept.checkPoints(image, what);
        await image.close();
      })(),
    );
  }
  context.diagnostic(`SEED=${seed} ${JSON.stringify(count)}`);
  assert.ok(count.crashes > 100 && count.begun > 20);
});

test("a set under way is neither read through nor given back, and is gone when another step comes", async () => {
  const kept = await prepared(2);
  await kept.world.drive(
    (async () => {
      const image = await kept.open("create");
      const history = image.history!;
      await applyTold(
        image,
        overlappingSteps(8).map((writes) => kept.frame(writes)),
      );
      const { bytes } = history;
      const wide = [90, 110, 130, 150, 170].map((fill) => kept.frame(wideWrites(fill)));
      await image.apply([wide[0]!], undefined, async () => {
        kept.writing.isUnreadable = true;
        return [wide[1]!];
      });
      await atRest(image);
      kept.writing.isUnreadable = false;
      const withBegun = history.bytes;
      const report = await history.verify(() => {});
      assert.deepEqual(report.damaged, []);
      // Nor does a point lack what a set lacks that counts nowhere.
      await history.findLacking(0);
      assert.equal(history.lacking, 0);
      await history.proveRollBack(history.oldest!.sequence);
      await history.retain(0);
      // Takes nothing back but what was begun.
      await image.rollBack(image.held.sequence);
      assert.ok(bytes < history.bytes && history.bytes < withBegun);
      assert.equal(report.bytesTotal, history.bytes);
      // Something else follows than was said.
      await image.apply([wide[1]!, wide[2]!], undefined, async () => [wide[3]!]);
      await atRest(image);
      await image.apply([wide[3]!, wide[4]!]);
      await kept.checkPoints(image, "another step");
      await image.close();
    })(),
  );
  kept.crash("everything", () => true);
  await kept.world.drive(
    (async () => {
      const image = await kept.open();
      assert.equal(image.history!.damage, undefined);
      await image.close();
    })(),
  );
});

/** What there is in the segments of the set that ends at `sequence`; `stored`: all of it would survive power loss. */
function stateOfSet(kept: KeptImages, sequence: Sequence): "missing" | "begun" | "ended" | "stored" {
  const { disk } = kept.world;
  let isBegun = false;
  let isStored = true;
  for (const path of disk.paths().filter((each) => each.startsWith(segmentsFolder))) {
    const cached = disk.contentOf(path, "cached")!;
    const stored = disk.contentOf(path, "stored")!;
    for (const { offset, head, bytes } of chunksOf(cached)) {
      if (head.position.sequence !== sequence) continue;
      isBegun = true;
      const end = offset + bytes;
      if (Buffer.compare(cached.subarray(offset, end), stored.subarray(offset, end)) !== 0) isStored = false;
      if (head.isLast) return isStored ? "stored" : "ended";
    }
  }
  return isBegun ? "begun" : "missing";
}

test("a set that is made ahead gets its end when its step begins, and all of it is stored before the images change", async () => {
  const kept = await prepared(4, longSegmentBytes);
  await kept.world.drive(
    (async () => {
      const image = await kept.open("create");
      const frames = [100, 120, 140, 160].map((fill) => kept.frame(wideWrites(fill)));
      for (const [at, frame] of frames.entries()) {
        let found: string | undefined;
        kept.writing.onChange = () => {
          found ??= stateOfSet(kept, frame.last);
        };
        await image.apply([frame], undefined, async () => frames.slice(at + 1, at + 2));
        assert.equal(found, "stored", `step ${at}`);
        const next = frames[at + 1];
        if (next === undefined) continue;
        for (let left = 20; left > 0 && stateOfSet(kept, next.last) === "missing"; left -= 1)
          await atRest(image);
        // All that can be made of it is made: only its step is missing.
        for (let left = 5; left > 0; left -= 1) await atRest(image);
        assert.equal(stateOfSet(kept, next.last), "begun", `behind step ${at}`);
      }
      await image.close();
    })(),
  );
});

test("images are taken back while a set is under way: it goes with what is behind the point", async () => {
  const kept = await prepared(3);
  await kept.world.drive(
    (async () => {
      const image = await kept.open("create");
      const frames = overlappingSteps(6).map((writes) => kept.frame(writes));
      for (const [at, frame] of frames.slice(0, 5).entries())
        await image.apply([frame], undefined, async () => [frames[at + 1]!]);
      const target = frames[2]!.last;
      await image.rollBack(target);
      await kept.checkImages(image, target, "taken back");
      await applyTold(image, frames, 3);
      await kept.checkPoints(image, "applied again");
      await image.close();
    })(),
  );
});

test("where data lies is asked for when the step before has put it there", async () => {
  const asked: string[] = [];
  const touched = new Map([[0, [{ first: 0, blocks: 100, zeroedOnly: false }]]]);
  const groups = groupsOf(touched, {
    sizeBytes: () => 2 ** 20,
    ready: async (volume, end) => {
      await new Promise((resolve) => setImmediate(resolve));
      asked.push(`ready ${volume} ${end / blockBytes}`);
    },
    extents: async (_volume, offset, length) => {
      asked.push(`extents ${offset / blockBytes} ${length / blockBytes}`);
      return [{ length, hole: false, zero: false }];
    },
  });
  let blocks = 0;
  for await (const group of groups) for (const piece of group) blocks += piece.blocks;
  assert.equal(blocks, 100);
  assert.deepEqual(asked, ["ready 0 100", "extents 0 100"]);
});

test("who looks waits until everything below is written, of the last changes of the step, and never behind a failure", async () => {
  const written = new WrittenSoFar();
  const seen: string[] = [];
  const look = (volume: number, end: number): void => {
    written.ready(volume, end).then(
      () => seen.push(`${volume}:${end}`),
      () => seen.push(`${volume}:${end} failed`),
    );
  };
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  look(0, 4096);
  look(1, 4096);
  look(2, 4096);
  await turn();
  assert.deepEqual(seen, [], "all of the images may change");
  written.begin([0, 1]);
  await turn();
  assert.deepEqual(seen.splice(0), ["2:4096"], "this step does not change that volume any more");
  written.advance(0, 4095);
  await turn();
  assert.deepEqual(seen, []);
  written.advance(0, 4096);
  await turn();
  assert.deepEqual(seen.splice(0), ["0:4096"]);
  written.fail();
  await turn();
  look(0, 512);
  await turn();
  assert.deepEqual(seen, ["1:4096 failed", "0:512 failed"]);
  const ended = new WrittenSoFar();
  ended.begin([0]);
  ended.end();
  await ended.ready(0, 2 ** 40);
});
