/**
 * When what was trimmed leaves the store, what that costs of the disk, and what a crash before it leaves. Real LevelDB.
 */
import assert from "node:assert/strict";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { after, test } from "node:test";
import type { LevelFrameLog } from "../../journal/level-frame-log.ts";
import { newDatabase } from "../../journal/level-store.ts";
import { fill, nextFrame, Scratch } from "./support/scratch-log.ts";

const made: Scratch[] = [];
after(() => {
  for (const one of made) one.remove();
});

const mebibyte = 2 ** 20;
const options = {
  compression: "none",
  bytesMax: 2 ** 30,
  memoryTailBytes: 0,
  writeBufferBytes: 4 * mebibyte,
} as const;

function bytesOfTables(folder: string): number {
  const names = readdirSync(folder).filter((name) => name.endsWith(".ldb"));
  return names.reduce((sum, name) => sum + statSync(join(folder, name)).size, 0);
}

/** Bytes that compactions have written, as LevelDB's own log has them. */
function bytesRewritten(folder: string): number {
  const told = [...readFileSync(join(folder, "LOG"), "utf8").matchAll(/ Compacted .* => (\d+) bytes/g)];
  assert.ok(told.length > 0, "LevelDB tells of its compactions");
  return told.reduce((sum, [, bytes]) => sum + Number(bytes), 0);
}

test("what is kept is hardly rewritten while the oldest frames go and new ones come", async () => {
  const place = new Scratch();
  made.push(place);
  const log = await place.create(options);
  const backlog = 32;
  // No multiple of a write buffer: there are always some of the newest frames in one.
  const step = 7;
  const frames = 160;
  for (let count = 1; count <= frames; count += 1) {
    await log.append(nextFrame(log.tail, mebibyte));
    if (count <= backlog || count % step !== 0) continue;
    await log.sync();
    await log.trim(log.tail.sequence - backlog);
  }
  const folder = join(place.directory, "journal");
  const kept = bytesOfTables(folder);
  assert.ok(
    kept < (backlog + 3 * step) * mebibyte,
    `the space of what was trimmed is given back: ${kept} bytes are left`,
  );
  const rewritten = bytesRewritten(folder);
  // With deletions and puts in one table it was half of all that there ever was.
  assert.ok(rewritten < (frames / 4) * mebibyte, `${rewritten} bytes were rewritten`);
  await log.close("clean");
});

/** Frames in the store, whatever the head says. */
async function framesStored(place: Scratch): Promise<number> {
  const db = newDatabase(join(place.directory, "journal"), { mode: "open", writeBufferBytes: 2 ** 20 });
  await db.open();
  const keys = await db.keys({ gte: Buffer.of(0x66), lt: Buffer.of(0x67) }).all();
  await db.close();
  return keys.length;
}

async function filled(): Promise<{ readonly place: Scratch; readonly log: LevelFrameLog }> {
  const place = new Scratch();
  made.push(place);
  const log = await place.create();
  await fill(log, 10);
  await log.sync();
  return { place, log };
}

test("what is trimmed leaves the log at once, and the store at a clean end", async () => {
  const { place, log } = await filled();
  const { bytes } = log;
  await log.trim(4);
  assert.equal(log.head.sequence, 4);
  assert.equal(log.frameCount, 6);
  assert.ok(log.bytes < 0.7 * bytes, "what was trimmed counts no more");
  await assert.rejects(log.frames(4, 1e9), { code: "JOURNAL_TRIMMED" });
  await log.close("clean");
  assert.equal(await framesStored(place), 6);
  const { log: again } = await place.open();
  assert.equal(again.head.sequence, 4);
  await again.close("clean");
});

test("a crash before a slice has come together brings what was trimmed back, whole, and it is trimmed again", async () => {
  const { place, log } = await filled();
  const all = await log.frames(1, 1e9);
  await log.trim(4);
  await log.close("abandon");
  assert.equal(await framesStored(place), 10);
  const { log: again } = await place.open();
  assert.equal(again.head.sequence, 0);
  assert.deepEqual(
    (await again.frames(1, 1e9)).map(({ first, chainAfter }) => [first, [...chainAfter]]),
    all.map(({ first, chainAfter }) => [first, [...chainAfter]]),
  );
  await again.trim(6);
  await again.close("clean");
  assert.equal(await framesStored(place), 4);
});

test("a drop takes what was trimmed before it along, and its head is durable", async () => {
  const { place, log } = await filled();
  await log.trim(3);
  await log.drop(5, {
    anchors: [5],
    dropping: () => undefined,
    notes: () => [{ number: 1, value: Buffer.of(1) }],
  });
  await log.close("abandon");
  assert.equal(await framesStored(place), 5);
  const { log: again } = await place.open();
  assert.equal(again.head.sequence, 5);
  assert.equal((await again.notes()).length, 1);
  await again.close("clean");
});
