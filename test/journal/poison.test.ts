/** After the first failed put, sync or watermark write nothing the handle says is believed (F20, F23, F26). */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { after, test } from "node:test";
import { Level } from "level";
import type { DiskOperation } from "../support/hooked-disk.ts";
import { diskError, hookedDisk } from "../support/hooked-disk.ts";
import { fill, nextFrame, noise, Scratch } from "./support/scratch-log.ts";

const made: Scratch[] = [];
function scratch(): Scratch {
  const one = new Scratch();
  made.push(one);
  return one;
}
after(() => {
  for (const one of made) one.remove();
});

/** The system's disk, of which one operation on the journal's folder fails once when armed. */
function failing(which: DiskOperation) {
  const armed = { now: false };
  const disk = hookedDisk((operation, path) => {
    if (!armed.now || operation !== which || !path.includes("journal")) return;
    armed.now = false;
    throw diskError("EIO");
  });
  return { armed, disk };
}

for (const which of ["syncData", "listNow", "sync", "open"] as const) {
  test(`a sync whose ${which} fails once is never believed, and the next one is not tried`, async () => {
    const place = scratch();
    const { armed, disk } = failing(which);
    const log = await place.create({ writeBufferBytes: 64 * 1024 }, { disk });
    await fill(log, 1);
    await log.sync();
    // Enough to rotate the log, so that there is a new file to open and a folder to sync.
    await fill(log, 40);
    armed.now = true;
    await assert.rejects(log.sync(), { code: "JOURNAL_POISONED", reaction: "reopen" });
    assert.equal(armed.now, false);
    assert.equal(log.durable.sequence, 1);
    assert.equal(log.poisoned, true);
    await assert.rejects(log.sync(), { code: "JOURNAL_POISONED" });
    await assert.rejects(log.append(nextFrame(log.tail)), { code: "JOURNAL_POISONED" });
    await assert.rejects(log.trim(1), { code: "JOURNAL_POISONED" });
    await log.close("clean");
    const again = await place.open();
    assert.equal(again.recovery.cleanShutdown, false);
    assert.equal(again.log.tail.sequence, 41);
    await fill(again.log, 1);
    await again.log.close("clean");
  });
}

test("syncs that wait behind a failed one fail with it", async () => {
  const { armed, disk } = failing("syncData");
  const log = await scratch().create({}, { disk });
  await fill(log, 1);
  await log.sync();
  await fill(log, 1);
  armed.now = true;
  const outcomes = await Promise.allSettled([log.sync(), log.sync(), log.sync()]);
  for (const outcome of outcomes) {
    assert.equal(outcome.status, "rejected");
    assert.equal(outcome.reason.code, "JOURNAL_POISONED");
  }
  await log.close("clean");
});

for (const which of ["writeNow", "syncData"] as const) {
  test(`a watermark whose ${which} fails poisons the handle`, async () => {
    const place = scratch();
    const armed = { now: false };
    const disk = hookedDisk((operation, path) => {
      if (!armed.now || operation !== which || !path.endsWith("watermark")) return;
      throw diskError(which === "writeNow" ? "ENOSPC" : "EIO");
    });
    const log = await place.create({}, { disk });
    await fill(log, 2);
    await log.sync();
    armed.now = true;
    if (which === "writeNow")
      await assert.rejects(log.append(nextFrame(log.tail)), { code: "JOURNAL_POISONED" });
    else {
      await fill(log, 1);
      await assert.rejects(log.sync(), { code: "JOURNAL_POISONED" });
    }
    armed.now = false;
    await assert.rejects(log.append(nextFrame(log.tail)), { code: "JOURNAL_POISONED" });
    assert.equal(log.durable.sequence, 2);
    await log.close("clean");
    const again = await place.open();
    // Refused or not answered: it may exist, and here it does.
    assert.equal(again.log.tail.sequence, 3);
    await again.log.close("clean");
  });
}

/** Lets writes beyond `bytes` in any file of this process fail with EFBIG, as a full disk does with ENOSPC. */
function limitFileSize(bytes: number | "unlimited"): void {
  execFileSync("prlimit", ["--pid", `${process.pid}`, `--fsize=${bytes}:unlimited`]);
}

function skipWithoutPrlimit(): string | false {
  try {
    execFileSync("prlimit", ["--version"]);
    return false;
  } catch {
    return "prlimit is not installed";
  }
}

const sizes = [1, 500, 4_096, 10_000, 65_536];

test("LevelDB alone loses acknowledged synced writes after a failed one: why the handle is poisoned (F20)", {
  skip: skipWithoutPrlimit(),
}, async () => {
  let lostInAll = 0;
  for (const size of sizes) {
    const place = scratch();
    const open = () =>
      new Level<string, Buffer>(`${place.directory}/raw`, { valueEncoding: "buffer", compression: false });
    const db = open();
    await db.open();
    const acknowledged: string[] = [];
    let failures = 0;
    const limit = 20 * size + 100_000;
    limitFileSize(limit);
    for (let at = 0; failures < 3; at += 1) {
      const key = `k${String(at).padStart(6, "0")}`;
      try {
        await db.put(key, Buffer.from(noise(size, at)), { sync: true } as object);
        acknowledged.push(key);
      } catch {
        failures += 1;
      }
      if (failures === 3) limitFileSize("unlimited");
    }
    for (let at = 0; at < 60; at += 1) {
      const key = `z${String(at).padStart(6, "0")}`;
      await db.put(key, Buffer.from(noise(size, at)), { sync: true } as object);
      acknowledged.push(key);
    }
    await db.close();
    const again = open();
    await again.open();
    const kept = new Set(await again.keys().all());
    await again.close();
    lostInAll += acknowledged.filter((key) => !kept.has(key)).length;
  }
  assert.ok(lostInAll > 0, "LevelDB kept everything: the rule may be dropped");
});

for (const size of [512, 4_096, 10_240, 65_536]) {
  test(`no acknowledged record is lost after a failed put of ${size} bytes (F20)`, {
    skip: skipWithoutPrlimit(),
  }, async () => {
    const place = scratch();
    let { log } = { log: await place.create({ compression: "none" }) };
    for (let round = 0; round < 3; round += 1) {
      limitFileSize(150_000 + round * 7_777);
      try {
        await assert.rejects(
          async () => {
            for (;;) {
              await log.append(nextFrame(log.tail, size));
              if (log.tail.sequence % 4 === 0) await log.sync();
            }
          },
          { code: "JOURNAL_POISONED" },
        );
      } finally {
        limitFileSize("unlimited");
      }
      const { tail, durable } = log;
      // Space is back, and still nothing is taken.
      for (let at = 0; at < 5; at += 1) {
        await assert.rejects(log.append(nextFrame(log.tail, size)), { code: "JOURNAL_POISONED" });
        await assert.rejects(log.sync(), { code: "JOURNAL_POISONED" });
      }
      await log.close("clean");
      const again = await place.open({ compression: "none" });
      log = again.log;
      assert.ok(log.tail.sequence >= tail.sequence && durable.sequence <= tail.sequence);
      assert.deepEqual(
        await log.chainAt(tail.sequence),
        Buffer.from(tail.chain).length === 32 ? tail.chain : undefined,
      );
      for (let at = 0; at < 10; at += 1) await log.append(nextFrame(log.tail, size));
      await log.sync();
    }
    const end = log.tail.sequence;
    await log.close("clean");
    const last = await place.open();
    assert.equal(last.log.tail.sequence, end);
    await last.log.close("clean");
  });
}

test("a watermark whose sync failed at an opening is written again by the next one, whatever it seems to say", async () => {
  const place = scratch();
  const log = await place.create({});
  await fill(log, 3);
  await log.sync();
  await fill(log, 2);
  await log.close("abandon");
  let fails = true;
  let synced = 0;
  const disk = hookedDisk((operation, path) => {
    if (operation !== "syncData" || !path.includes("watermark")) return;
    synced += 1;
    if (fails) throw diskError("EIO");
  });
  const afterPowerLoss = { bootId: "33333333-3333-4333-8333-333333333333" };
  await assert.rejects(place.open(afterPowerLoss, { disk }), { code: "JOURNAL_OPEN_FAILED" });
  fails = false;
  synced = 0;
  const again = await place.open(afterPowerLoss, { disk });
  assert.equal(again.recovery.sameBoot, false);
  assert.equal(again.log.tail.sequence, 5);
  assert.ok(synced > 0, "only a sync that succeeded makes it durable");
  await again.log.close("clean");
});
