/**
 * What is damaged in a history: found, told by its code, and never more lost than it holds. Images and newest point stay
 * as they are.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { BlockErrno, BlockError } from "../../../block/device.ts";
import type { GroupImage } from "../../../image/group-image.ts";
import {
  chunkBytes,
  chunkHeadBytes,
  decodeChunkBlocks,
  decodeChunkHead,
  runBytes,
} from "../../../image/history/chunk.ts";
import { openView } from "../../../image/history/view.ts";
import { fewRanges } from "../../../protocol/history-check.ts";
import { errorCode, OperationalError } from "../../../runtime/errors.ts";
import { SeededRandom, seedFromEnvironment } from "../../support/seeded.ts";
import type { Written } from "./kept-images.ts";
import { folder, KeptImages, lived, overlappingSteps, segmentPath, sizeBytes } from "./kept-images.ts";

const seed = seedFromEnvironment();
const steps = 10;

async function made(segmentBytes?: number, written = overlappingSteps(steps)): Promise<KeptImages> {
  const kept = new KeptImages(3, segmentBytes);
  await kept.prepare();
  await kept.world.drive(
    (async () => {
      const image = await kept.open("create");
      for (const writes of written) await image.apply([kept.frame(writes)]);
      await image.commit(await image.sync());
      await image.close();
    })(),
  );
  kept.crash("nothing", () => true);
  return kept;
}

function opened(kept: KeptImages, work: (image: GroupImage) => Promise<void>): Promise<void> {
  return kept.world.drive(
    kept.open().then(async (image) => {
      await work(image);
      await image.close();
    }),
  );
}

/** Given up as a whole: told, the images untouched, and a new history begins with the next step. */
async function isGivenUp(kept: KeptImages): Promise<void> {
  await opened(kept, async (image) => {
    const history = image.history!;
    assert.equal(history.damage?.code, "HISTORY_DAMAGED");
    assert.equal(history.captured, undefined);
    const newest = kept.source.position.sequence;
    assert.equal(image.applied.sequence, newest);
    await kept.checkImages(image, newest, "untouched");
    await image.apply([kept.frame(overlappingSteps(1)[0]!)]);
    assert.deepEqual(await kept.checkPoints(image, "anew"), [newest, kept.source.position.sequence]);
    await image.commit(await image.sync());
  });
  await opened(kept, async (image) => {
    assert.equal(image.history!.damage, undefined);
    assert.equal((await kept.checkPoints(image, "reopened")).length, 2);
  });
}

/** Reads every point of volume `number`; the codes behind the errors, and the points that could be read. */
async function readAll(image: GroupImage, kept: KeptImages, number: number) {
  const codes = new Set<string>();
  const good: number[] = [];
  for (const sequence of kept.copies.keys()) {
    const view = await openView(image, number, sequence);
    try {
      const content = await view.read(0, sizeBytes);
      assert.equal(Buffer.compare(content, kept.copies.get(sequence)![number]!), 0, "read as another point");
      good.push(sequence);
    } catch (error) {
      assert.ok(error instanceof BlockError && error.errno === BlockErrno.EIO, String(error));
      codes.add(errorCode(error.cause));
    }
    await view.close();
  }
  return { codes: [...codes], good };
}

test("a segment that is missing, swapped, or begins with a damaged head costs the points, not the images", async () => {
  const missing = await made();
  missing.world.disk.lose(segmentPath(2));
  await isGivenUp(missing);

  const swapped = await made();
  const disk = swapped.world.disk.view(swapped.life);
  const [one, two] = [segmentPath(1), segmentPath(2)];
  await swapped.world.drive(
    (async () => {
      await disk.rename(one, `${one}-`);
      await disk.rename(two, one);
      await disk.rename(`${one}-`, two);
    })(),
  );
  await isGivenUp(swapped);

  const flipped = await made();
  flipped.world.disk.flipBit(segmentPath(2), 30, 1);
  await isGivenUp(flipped);
});

/** Steps that change every block: their sets have several chunks. */
const wholeSteps: Written[][] = Array.from({ length: 6 }, (_, step) =>
  [0, 1].map((volume) => ({ volume, block: 0, blocks: 40, fill: 1 + step * 7 + volume })),
);

/** One segment with a damaged head in its midst, and the points behind it. */
async function withDamagedHead(written: Written[][], at: number): Promise<[KeptImages, number[]]> {
  const kept = await made(2 ** 20, written);
  const { offset, head } = chunksOf(kept)[at]!;
  kept.world.disk.flipBit(segmentPath(1), offset + 9, 0);
  // The end of a set is a point that its last chunk tells; where that is lost, the next set's end is the first.
  const isKnown = (sequence: number) =>
    head.isLast ? sequence > head.position.sequence : sequence >= head.position.sequence;
  return [kept, [...kept.copies.keys()].filter(isKnown)];
}

/** Behind the segment's first head, which says whose it is, and before its last one, behind which there is nothing. */
async function headsInside(written: Written[][]): Promise<number[]> {
  const chunks = chunksOf(await made(2 ** 20, written));
  return chunks.slice(1, -1).map((_, at) => at + 1);
}

test("a damaged head in the newest segment costs the points before it, and none behind it", async () => {
  for (const written of [overlappingSteps(steps), wholeSteps]) {
    const inside = await headsInside(written);
    assert.ok(inside.length >= 8);
    for (const at of inside) {
      const [kept, left] = await withDamagedHead(written, at);
      await opened(kept, async (image) => {
        const history = image.history!;
        assert.equal(history.damage?.code, "HISTORY_DAMAGED");
        await kept.checkImages(image, kept.source.position.sequence, "untouched");
        assert.deepEqual(await kept.checkPoints(image, "behind it"), left);
        assert.equal(history.oldest?.sequence, left[0]);
        await image.apply([kept.frame(overlappingSteps(1)[0]!)]);
        // What is damaged is not in the way of taking the images back.
        await image.rollBack(left[0]!);
        await kept.checkImages(image, left[0]!, "taken back");
      });
    }
    const [kept] = await withDamagedHead(written, inside.length + 1);
    await isGivenUp(kept);
  }
});

test(`a crash while points before a damaged head are given up costs no other point (SEED=${seed})`, async () => {
  const random = new SeededRandom(seed, 52);
  let crashes = 0;
  for (const written of [overlappingSteps(steps), wholeSteps]) {
    const inside = await headsInside(written);
    for (const model of ["everything", "nothing", "subset", "torn"] as const) {
      for (let step = 1; ; step += 1) {
        const [kept, left] = await withDamagedHead(written, random.pick(inside));
        const { disk } = kept.world;
        disk.crashAt(disk.steps + step, random.pick(["before", "after"] as const), () =>
          disk.powerCut(model),
        );
        if (await lived(kept, async () => (await kept.open()).close())) break;
        crashes += 1;
        kept.crash("nothing", () => random.chance(0.5));
        const what = `crash at step ${step}, ${model} kept`;
        await opened(kept, async (image) => {
          assert.deepEqual(await kept.checkPoints(image, what), left, what);
          await image.apply([kept.frame(overlappingSteps(1)[0]!)]);
          await image.commit(await image.sync());
        });
        await opened(kept, async (image) => {
          assert.equal(image.history!.damage, undefined, what);
          assert.equal((await kept.checkPoints(image, what)).length, left.length + 1, what);
        });
      }
    }
  }
  assert.ok(crashes > 80, `${crashes}`);
});

test("a damaged payload is an error of the points that need it, and nothing else", async () => {
  const kept = await made();
  const { head } = kept.damagePayload(3);
  const data = head.runs.find(({ kind }) => kind === "data")!;
  await opened(kept, async (image) => {
    // Only what is behind the marker is read when it is opened.
    assert.equal(image.history!.damage, undefined);
    const { codes, good } = await readAll(image, kept, data.volume);
    assert.deepEqual(codes, ["HISTORY_DAMAGED"]);
    assert.ok(good.includes(image.held.sequence));
    const needed = [...kept.copies.keys()].filter((sequence) => sequence < head.first);
    assert.ok(good.length >= kept.copies.size - needed.length && good.length < kept.copies.size);
    await image.apply([kept.frame(overlappingSteps(1)[0]!)]);
  });
});

test("a damaged index row ends the history for this time, and the next open makes the index anew", async () => {
  const kept = await made();
  const row = [...kept.store.content].find(([key]) => key.startsWith("62"))!;
  const value = row[1].slice();
  value[5]! ^= 4;
  kept.store.content.set(row[0], value);
  await opened(kept, async (image) => {
    const { codes } = await readAll(image, kept, Number.parseInt(row[0].slice(2, 6), 16)).catch((error) => ({
      codes: [errorCode(error)],
    }));
    assert.deepEqual(codes, ["HISTORY_INDEX_DAMAGED"]);
    await kept.checkImages(image, kept.source.position.sequence, "untouched");
    await assert.rejects(image.apply([kept.frame(overlappingSteps(1)[0]!)]), (error) => {
      assert.ok(error instanceof OperationalError && error.reaction === "reopen");
      return error.code === "HISTORY_INDEX_DAMAGED";
    });
  });
  kept.crash("nothing", () => true);
  await opened(kept, async (image) => {
    assert.equal(image.history!.damage, undefined);
    assert.equal((await kept.checkPoints(image, "made anew")).length, steps + 1);
  });
});

test("damaged pins are never taken for none", async () => {
  const kept = await made();
  kept.world.disk.flipBit(join(folder, "history", "pins.json"), 60, 2);
  await assert.rejects(kept.world.drive(kept.open()), (error) => {
    assert.ok(error instanceof OperationalError && error.reaction === "stop");
    return error.code === "DOCUMENT_DAMAGED";
  });
});

test("reading it through tells every damaged chunk by its blocks, beside steps, and changes nothing", async () => {
  const kept = await made();
  const damaged = [kept.damagePayload(3), kept.damagePayload(5)];
  await opened(kept, async (image) => {
    const history = image.history!;
    let before = -1;
    let calls = 0;
    const report = await history.verify(async ({ bytes, bytesTotal }) => {
      assert.ok(bytes > before && bytes <= bytesTotal);
      before = bytes;
      calls += 1;
      if (calls === 3) await image.apply([kept.frame(overlappingSteps(1)[0]!)]);
    });
    assert.equal(report.bytes, report.bytesTotal);
    assert.deepEqual([report.chunks, report.isCut], [calls, false]);
    assert.deepEqual(
      report.damaged,
      damaged.map(({ place, head }) => ({
        place,
        part: "blocks",
        bytes: chunkBytes(head.runs.length, head.storedBytes),
        set: { first: head.first, last: head.position.sequence },
        ranges: head.runs.map(({ volume, first, blocks }) => ({ volume, first, blocks })),
      })),
    );
  });
  const headless = await made();
  await opened(headless, async (image) => {
    const head = decodeChunkHead(headless.world.disk.contentOf(segmentPath(2), "cached")!);
    headless.world.disk.flipBit(segmentPath(2), 40, 0);
    const { damaged: found, chunks } = await image.history!.verify(() => undefined);
    assert.equal(chunks, steps - 1);
    assert.equal(found.length, 1);
    // What the head cannot say any more, the index says, block by block.
    const { place, part, set, ranges } = found[0]!;
    assert.deepEqual([place, part], [{ segment: 2, offset: 0 }, "head"]);
    assert.deepEqual(set, { first: head.first, last: head.position.sequence });
    assert.deepEqual(fewRanges(spans(ranges)), fewRanges(spans(head.runs)));
  });
});

const spans = (ranges: readonly { volume: number; first: number; blocks: number }[]) =>
  ranges.map(({ volume, first, blocks }) => [volume, first, blocks] as const);

/** The blocks of a chunk, whatever its bytes are now. */
function blocksAt(kept: KeptImages, segment: number, offset: number): Uint8Array {
  const content = kept.world.disk.contentOf(segmentPath(segment), "cached")!.subarray(offset);
  const head = decodeChunkHead(content);
  const payloadAt = chunkHeadBytes + head.runs.length * runBytes;
  return decodeChunkBlocks(head, content.subarray(payloadAt, payloadAt + head.storedBytes));
}

test(`every single bit that flips in a segment is found, with its blocks, unless they are the same (SEED=${seed})`, async () => {
  let harmless = 0;
  const random = new SeededRandom(seed, 51);
  const kept = await made();
  const heads = chunksOf(kept);
  for (let flip = 0; flip < 200; flip += 1) {
    const { segment, offset, bytes, head } = heads[random.below(heads.length)]!;
    const [at, bit] = [offset + random.below(bytes), random.below(8)];
    await opened(kept, async (image) => {
      // Once the history is open: what stands at its end is verified by opening already, and given up.
      kept.world.disk.flipBit(segmentPath(segment), at, bit);
      const { damaged } = await image.history!.verify(() => undefined);
      const what = `bit ${bit} of byte ${at - offset} in ${segment}:${offset}`;
      // A match of LZ4 that points elsewhere may copy the same bytes: nothing was lost then.
      const flipped = damaged.length === 0 ? blocksAt(kept, segment, offset) : undefined;
      kept.world.disk.flipBit(segmentPath(segment), at, bit);
      if (flipped !== undefined) {
        assert.equal(Buffer.compare(flipped, blocksAt(kept, segment, offset)), 0, what);
        harmless += 1;
        return;
      }
      assert.equal(damaged.length, 1, what);
      const { place, set, ranges } = damaged[0]!;
      assert.deepEqual(place, { segment, offset }, what);
      assert.deepEqual(set, { first: head.first, last: head.position.sequence }, what);
      assert.deepEqual(fewRanges(spans(ranges)), fewRanges(spans(head.runs)), what);
    });
  }
  assert.ok(harmless <= 10, `${harmless} of 200 flips were not told`);
});

test("two chunks side by side whose heads are damaged are both told", async () => {
  const kept = await made(2 ** 20);
  const [, one, two] = chunksOf(kept);
  await opened(kept, async (image) => {
    for (const { segment, offset } of [one!, two!])
      kept.world.disk.flipBit(segmentPath(segment), offset + 9, 0);
    const { damaged } = await image.history!.verify(() => undefined);
    assert.deepEqual(
      damaged.map(({ place, set }) => [place.offset, set?.first]),
      [one!, two!].map(({ offset, head }) => [offset, head.first]),
    );
  });
});

test("a block that cannot be read does not keep what replaces it from being applied; older points lack it, by its code", async () => {
  const kept = await made();
  kept.badBlocks.add("0:5");
  await opened(kept, async (image) => {
    const before = image.held.sequence;
    await image.apply([kept.frame([{ volume: 0, block: 4, blocks: 3, fill: 77 }])]);
    // The disk gave the sector another place when it was written.
    kept.badBlocks.clear();
    await kept.checkImages(image, image.held.sequence, "as written");
    const view = await openView(image, 0, before);
    assert.equal(
      Buffer.compare(await view.read(0, 5 * 4096), kept.copies.get(before)![0]!.subarray(0, 5 * 4096)),
      0,
      "the blocks beside it are there",
    );
    await assert.rejects(view.read(5 * 4096, 4096), (error) => {
      assert.ok(error instanceof BlockError && error.errno === BlockErrno.EIO);
      return errorCode(error.cause) === "BLOCK_LOST";
    });
    await view.close();
    const held = image.held.sequence;
    await assert.rejects(image.rollBack(before), { code: "HISTORY_DAMAGED" });
    await kept.checkImages(image, held, "untouched");
    assert.deepEqual((await image.history!.verify(() => undefined)).damaged, [], "what is kept is whole");
  });
});

/** Every chunk of every segment, in order. */
function chunksOf(kept: KeptImages) {
  const found = [];
  for (let segment = 1; ; segment += 1) {
    const content = kept.world.disk.contentOf(segmentPath(segment), "cached");
    if (content === undefined) return found;
    for (let offset = 0; offset < content.byteLength; ) {
      const head = decodeChunkHead(content.subarray(offset));
      const bytes = chunkBytes(head.runs.length, head.storedBytes);
      found.push({ segment, offset, bytes, head });
      offset += bytes;
    }
  }
}

test("segments that are given back while they are read are not missed", async () => {
  const kept = await made();
  await opened(kept, async (image) => {
    let calls = 0;
    const report = await image.history!.verify(async () => {
      calls += 1;
      if (calls === 2) await image.rollBack([...kept.copies.keys()][3]!);
    });
    assert.deepEqual(report.damaged, []);
    assert.ok(report.chunks < steps);
  });
});

test("a full disk holds apply with HISTORY_FULL, touches nothing, and goes on when there is space", async () => {
  for (let room = 0; room <= 14; room += 1) {
    const kept = await made();
    const { disk } = kept.world;
    // Without neighbours: chunks that do not shrink, of several sectors.
    const writes = Array.from({ length: 6 }, (_, index) => ({
      volume: 0,
      block: index * 3,
      blocks: 2,
      fill: index,
    }));
    await opened(kept, async (image) => {
      const before = image.held.sequence;
      const segments = disk.paths().filter((path) => path.includes("segments"));
      const bytes = image.history!.bytes;
      const frame = kept.frame(writes);
      disk.capacityBytes = disk.usedBytes + room * 512;
      let refused = 0;
      for (let attempt = 0; attempt < 3; attempt += 1) {
        try {
          await image.apply([frame]);
          break;
        } catch (error) {
          assert.ok(error instanceof OperationalError, String(error));
          // Where before-images found room and the images did not, that is the images' own matter.
          if (error.code === "IMAGE_FULL") break;
          assert.deepEqual([error.code, error.reaction], ["HISTORY_FULL", "retry"]);
          refused += 1;
          await kept.checkImages(image, before, "untouched");
          assert.equal(image.held.sequence, before);
          assert.equal(image.history!.bytes, bytes, "nothing of the set is left");
          assert.deepEqual(
            disk.paths().filter((path) => path.includes("segments")),
            segments,
          );
        }
      }
      if (room === 0) assert.equal(refused, 3);
      disk.capacityBytes = 2 ** 30;
      if (image.held.sequence === before) await image.apply([frame]);
      assert.equal((await kept.checkPoints(image, "goes on")).length, steps + 2);
      await image.apply([kept.frame(overlappingSteps(1)[0]!)]);
      await image.commit(await image.sync());
    });
    kept.crash("nothing", () => false);
    await opened(kept, async (image) => {
      assert.equal(image.history!.damage, undefined);
      assert.equal((await kept.checkPoints(image, "reopened")).length, steps + 3);
    });
  }
});
