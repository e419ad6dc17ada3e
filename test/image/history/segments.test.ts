/**
 * Segments on a disk that forgets: after any crash at any step every set that was ended is there whole, nothing else
 * is taken for a set, and what follows joins.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import type { SetIdentity } from "../../../image/history/chunk.ts";
import { encodeChunk } from "../../../image/history/chunk.ts";
import type { ChunkPlace } from "../../../image/history/segments.ts";
import { Segments } from "../../../image/history/segments.ts";
import { systemDisk } from "../../../runtime/disk.ts";
import { errorCode } from "../../../runtime/errors.ts";
import { SimWorld } from "../../sim/world/driven.ts";
import type { Life } from "../../sim/world/life.ts";
import { diskError, hookedDisk } from "../../support/hooked-disk.ts";
import { SeededRandom, seedFromEnvironment } from "../../support/seeded.ts";

const lineage = new Uint8Array(16).fill(7);
const directory = "/history/segments";
const segmentBytes = 6 * 4096;

interface KnownSet {
  readonly first: number;
  readonly last: number;
  readonly chunks: number;
  readonly fill: number;
}

interface FoundSet extends KnownSet {
  readonly end: ChunkPlace;
}

function identityOf({ first, last, fill }: KnownSet): SetIdentity {
  const chain = new Uint8Array(32).fill(fill);
  return {
    lineage,
    first,
    position: { sequence: last, chain, dataBytesTotal: last * 512, timeMs: last * 10 },
  };
}

function chunkOf(known: KnownSet, number: number): Uint8Array {
  const runs = [{ volume: 0, kind: "data", first: number * 10, blocks: 2 } as const];
  const blocks = new Uint8Array(2 * 4096).fill(known.fill + number);
  const isLast = number === known.chunks - 1;
  return encodeChunk({ set: identityOf(known), number, isLast, runs, blocks }, "none");
}

async function addSet(segments: Segments, known: KnownSet): Promise<void> {
  const { first, position } = identityOf(known);
  await segments.beginSet();
  for (let number = 0; number < known.chunks; number += 1) {
    await segments.append({ first, position, number }, chunkOf(known, number));
  }
  await segments.endSet();
}

/** Whole sets that join, in order, as a reader that believes nothing finds them; all their chunks are read. */
async function findSets(segments: Segments): Promise<FoundSet[]> {
  const found: FoundSet[] = [];
  let next = segments.list[0]?.from;
  let number = 0;
  for (const { number: segment } of segments.list) {
    for await (const { place, head, bytes } of segments.walk(segment)) {
      // The rest of a set whose beginning was given back with the oldest segment.
      if (found.length === 0 && number === 0 && head.number > 0) continue;
      if (head.first !== next || head.number !== number) return found;
      let fill: number;
      try {
        const { blocks } = await segments.read(place);
        fill = blocks[0]! - number;
        assert.ok(blocks.every((byte) => byte === blocks[0]));
      } catch (error) {
        assert.equal(errorCode(error), "HISTORY_DAMAGED");
        return found;
      }
      number += 1;
      if (!head.isLast) continue;
      const end = { segment, offset: place.offset + bytes };
      found.push({ first: head.first, last: head.position.sequence, chunks: number, fill, end });
      next = head.position.sequence + 1;
      number = 0;
    }
  }
  return found;
}

const plain = ({ first, last, chunks, fill }: KnownSet): KnownSet => ({ first, last, chunks, fill });

/** One disk through several lives, each ended by a crash at a drawn step, or not. */
async function runSeed(
  seed: number,
): Promise<{ crashes: number; sets: number; cuts: number; removed: number }> {
  const world = new SimWorld(seed);
  const random = new SeededRandom(seed, 1);
  const count = { crashes: 0, sets: 0, cuts: 0, removed: 0 };
  /** Ended sets that nothing gave up; `next` may be there as well, `oldest` and `newest` may be gone. */
  let known: KnownSet[] = [];
  /** Last sequence of the newest set there ever was and still counts. */
  let tip = 0;
  let maybe: KnownSet | undefined;
  /** Sets that begin before this may be gone: the oldest segment was being removed. */
  let mayLoseBelow = 0;
  let mayLoseFrom = Number.POSITIVE_INFINITY;
  const prepare = world.disk.view(world.life());
  await world.drive(prepare.makeDirectory(directory));
  for (const folder of ["/", "/history", directory]) {
    const file = await world.drive(prepare.open(folder, "read"));
    await world.drive(file.sync());
  }

  const liveOnce = async (life: Life): Promise<void> => {
    const disk = world.disk.view(life);
    const segments = await Segments.open({ disk, directory, lineage, segmentBytes });
    const found = await findSets(segments);
    const sets = found.map(plain);
    // Judged only by a life that still lives: a dead one's promises never settle.
    const oldestAt = known.findIndex(({ first }) => first === sets[0]?.first);
    if (mayLoseBelow === 0 && known[0] !== undefined && mayLoseFrom > known[0].last)
      assert.equal(oldestAt, 0);
    const expected = sets.length === 0 ? [] : known.slice(Math.max(0, oldestAt));
    const must = expected.filter(({ last }) => last < mayLoseFrom);
    const withMaybe = maybe === undefined ? expected : [...expected, maybe];
    const allowed = sets.length === 0 && maybe !== undefined && known.length === 0 ? [] : withMaybe;
    assert.deepEqual(sets, allowed.slice(0, sets.length), `seed ${seed}: nothing but what was written`);
    assert.ok(sets.length >= must.length, `seed ${seed}: lost an ended set`);
    if (sets.length === 0)
      assert.ok(
        known.every(({ first, last }) => last >= mayLoseFrom || first < mayLoseBelow),
        `seed ${seed}: lost all`,
      );
    const end = found.at(-1)?.end;
    if (end !== undefined) await segments.cut(end);
    else if (segments.list.length > 0) {
      await segments.cut({ segment: segments.list[0]!.number, offset: 0 });
    }
    // From here on what was found counts, as it does for the owner: cut to it, which also makes it durable.
    known = sets;
    tip = sets.at(-1)?.last ?? (segments.list.at(-1)?.from ?? 1) - 1;
    maybe = undefined;
    mayLoseBelow = 0;
    mayLoseFrom = Number.POSITIVE_INFINITY;

    for (let step = random.below(12); step > 0; step -= 1) {
      const what = random.below(8);
      if (what === 0 && segments.list.length > 1) {
        const from = segments.list[1]!.from;
        mayLoseBelow = from;
        await segments.removeOldest();
        known = known.filter(({ first }) => first >= from);
        count.removed += 1;
        mayLoseBelow = 0;
      } else if (what === 1 && known.length > 1) {
        const ends = await findSets(segments);
        const left = 1 + random.below(known.length);
        mayLoseFrom = known[left]?.first ?? Number.POSITIVE_INFINITY;
        await segments.cut(ends[left - 1]!.end);
        known = known.slice(0, left);
        tip = known.at(-1)!.last;
        mayLoseFrom = Number.POSITIVE_INFINITY;
        count.cuts += 1;
      } else {
        const first = tip + 1;
        const chunks = random.chance(0.1) ? 9 : 1 + random.below(3);
        const next = { first, last: first + random.below(5), chunks, fill: 1 + random.below(200) };
        maybe = next;
        await addSet(segments, next);
        known = [...known, next];
        tip = next.last;
        maybe = undefined;
        count.sets += 1;
      }
    }
    await segments.close();
  };

  for (let life = 0; life < 8; life += 1) {
    const one = world.life();
    const crash = (): void => {
      count.crashes += 1;
      if (random.chance(0.3)) world.disk.kill(one);
      else world.disk.powerCut(random.pick(["everything", "nothing", "subset", "torn"] as const));
    };
    world.disk.crashAt(
      world.disk.steps + 1 + random.below(40),
      random.pick(["before", "after"] as const),
      crash,
    );
    let failure: unknown;
    let settled = false;
    liveOnce(one).then(
      () => {
        settled = true;
      },
      (error: unknown) => {
        settled = true;
        failure = error;
      },
    );
    await world.scheduler.run({ stop: () => settled || !one.alive });
    if (failure !== undefined)
      throw new Error(`seed ${seed}: ${String((failure as Error).stack)}`, { cause: failure });
    assert.ok(settled || !one.alive, `seed ${seed}: stuck`);
    if (one.alive) world.disk.powerCut("everything");
  }
  return count;
}

test("F11: whatever step a crash hits, ended sets are whole and nothing else is a set", async (context) => {
  const seed = seedFromEnvironment();
  const total = { crashes: 0, sets: 0, cuts: 0, removed: 0 };
  for (let run = 0; run < 300; run += 1) {
    const count = await runSeed((seed + run) >>> 0);
    for (const key of Object.keys(total) as (keyof typeof total)[]) total[key] += count[key];
  }
  context.diagnostic(`SEED=${seed} ${JSON.stringify(total)}`);
  assert.ok(total.crashes > 500 && total.sets > 500 && total.cuts > 20 && total.removed > 20);
});

test("a sync in the midst of a set that fails is the set's failure, though the last one would succeed", async () => {
  const folder = mkdtempSync(join(tmpdir(), "splitsite-segments-"));
  try {
    for (const fails of [false, true]) {
      let syncs = 0;
      const disk = hookedDisk((operation) => {
        if (operation !== "syncData") return;
        syncs += 1;
        if (fails && syncs === 1) throw diskError("EIO");
      });
      const segments = await Segments.open({ disk, directory: folder, lineage, segmentBytes: 2 ** 20 });
      // With the last chunk there is enough for a sync: nothing but the end of the set comes behind it.
      const added = addSet(segments, { first: 1, last: 1, chunks: 8, fill: 3 });
      if (fails) {
        await assert.rejects(added, { code: "HISTORY_FAILED" });
        await assert.rejects(segments.beginSet(), { code: "HISTORY_FAILED" });
      } else {
        await added;
        assert.equal(syncs, 2, "one in the midst, and the last");
        assert.equal((await findSets(segments)).length, 1);
      }
      await segments.close();
      await Segments.removeAll(systemDisk, folder);
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});
