/**
 * In which order the journal's durable steps happen, read off the interfaces they go through: a promise is written only
 * when the logs are synced, all of them and their names, and nothing is deleted before what replaces it is durable. What a
 * power loss between two steps would show with luck shows here every time (F03, F08, F20).
 */
import assert from "node:assert/strict";
import { appendFileSync } from "node:fs";
import { after, test } from "node:test";
import { levelEngine } from "../../journal/level-engine.ts";
import { LogFiles } from "../../journal/log-files.ts";
import type { StoreEngine } from "../../journal/store.ts";
import { systemDisk } from "../../runtime/disk.ts";
import { observeDisk, observeStores } from "../../runtime/failpoints.ts";
import { diskError, hookedDisk } from "../support/hooked-disk.ts";
import { fill, nextFrame, Scratch } from "./support/scratch-log.ts";

const made: Scratch[] = [];
function scratch(): Scratch {
  const one = new Scratch();
  made.push(one);
  return one;
}
after(() => {
  for (const one of made) one.remove();
});

/** Bytes; with it a frame of 4 KiB is removed from the store as soon as it is trimmed. */
const quotaOfSmallSlices = 32 * 1024;

/** A journal whose steps are noted when they have happened. */
async function observed(bytesMax = 2 ** 30) {
  const steps: string[] = [];
  const hook = (name: string): void => {
    if (name.endsWith(".after")) steps.push(name.slice("agent.".length, -".after".length));
  };
  const log = await scratch().create(
    { bytesMax, watermarkPath: `${made.at(-1)!.directory}/watermark-1` },
    {
      disk: observeDisk(systemDisk, "agent", hook),
      stores: observeStores(levelEngine, "agent", hook),
    },
  );
  steps.length = 0;
  return { log, steps };
}

test("an append is told to the watermark after the put; a sync writes and syncs the watermark after the logs", async () => {
  const { log, steps } = await observed();
  await fill(log, 1);
  assert.deepEqual(steps.splice(0), ["store.putFrame", "watermark.writeNow"]);
  await log.sync();
  const done = steps.splice(0);
  const logSynced = done.lastIndexOf("journal-log.syncData");
  const promised = done.indexOf("watermark.writeNow");
  const promiseSynced = done.indexOf("watermark.syncData");
  assert.ok(logSynced >= 0 && logSynced < promised && promised < promiseSynced, done.join(", "));
  await log.sync();
  assert.deepEqual(steps, [], "nothing new: nothing to sync");
  await log.close("clean");
});

test("after a rotation the old log, the new log and its name are synced before the promise", async () => {
  const names = new Map<string, number>();
  let folderSyncs = 0;
  let promises = 0;
  const place = scratch();
  const wanted = new Set<string>();
  const disk = hookedDisk((operation, path) => {
    if (operation === "syncData" && path.endsWith(".log")) {
      names.set(path, (names.get(path) ?? 0) + 1);
      wanted.delete(path);
    }
    if (operation === "sync" && path === place.options().directory) folderSyncs += 1;
    if (operation === "syncData" && path.endsWith("watermark")) promises += 1;
  });
  const log = await place.create({ writeBufferBytes: 64 * 1024 }, { disk });
  await fill(log, 1);
  await log.sync();
  const before = new Set(names.keys());
  assert.ok(before.size >= 1);
  folderSyncs = 0;
  let rotations = 0;
  for (let round = 0; round < 60; round += 1) {
    // Whatever log holds the new frame, each log that is still there has to be synced again.
    await fill(log, 1, 8192);
    const there = (await systemDisk.list(place.options().directory)).filter((name) => name.endsWith(".log"));
    const known = new Set(names.keys());
    const paths = there.map((name) => `${place.options().directory}/${name}`);
    const isNew = paths.some((path) => !known.has(path));
    for (const path of paths) wanted.add(path);
    const syncsBefore = folderSyncs;
    const promisesBefore = promises;
    await log.sync();
    for (const path of wanted) {
      // A log may go while we sync: LevelDB has synced its table then.
      const still = (await systemDisk.list(place.options().directory)).some((name) => path.endsWith(name));
      assert.ok(!still, `${path} was not synced`);
    }
    wanted.clear();
    assert.equal(promises, promisesBefore + 1);
    if (isNew) {
      rotations += 1;
      assert.ok(folderSyncs > syncsBefore, "the new log's name is not durable");
    }
  }
  assert.ok(rotations >= 2, "the log was rotated under the test");
  await log.close("clean");
});

/** Logs as LevelDB would make them, with what was synced and how often the folder was listed. */
function madeLogs() {
  const place = scratch();
  const synced: string[] = [];
  const seen = { lists: 0 };
  const hook: { onOpen?: (name: string) => void } = {};
  const disk = hookedDisk((operation, path) => {
    const name = path.slice(path.lastIndexOf("/") + 1);
    if (operation === "syncData") synced.push(name);
    if (operation === "listNow") seen.lists += 1;
    if (operation === "open") hook.onOpen?.(name);
  });
  const files = new LogFiles(disk, place.directory);
  /** One write to `name`, settled. */
  const write = (name: string): void => {
    appendFileSync(`${place.directory}/${name}`, "x");
    files.written();
  };
  return { place, files, synced, seen, hook, write };
}

test("while two logs are open both are synced", async () => {
  const { place, files, synced, write } = madeLogs();
  write("000003.log");
  await files.sync();
  assert.deepEqual(synced.splice(0), ["000003.log"]);
  write("000005.log");
  await files.sync();
  assert.deepEqual(new Set(synced.splice(0)), new Set(["000003.log", "000005.log"]));
  await files.sync();
  assert.deepEqual(new Set(synced.splice(0)), new Set(["000003.log", "000005.log"]));
  await systemDisk.remove(`${place.directory}/000003.log`);
  await files.sync();
  assert.deepEqual(synced.splice(0), ["000005.log"]);
  await files.close();
});

test("the folder is listed only after a write that did not go to the log that is known", async () => {
  const { files, synced, seen, write } = madeLogs();
  write("000009.log");
  await files.sync();
  // Opened just now, so its length counts from the next sync on, whatever was written meanwhile.
  await files.sync();
  const { lists } = seen;
  for (let round = 0; round < 20; round += 1) {
    write("000009.log");
    await files.sync();
  }
  assert.equal(seen.lists, lists);
  // 9 is a longer name in the order of letters, and the smaller number.
  write("000010.log");
  synced.length = 0;
  await files.sync();
  assert.deepEqual([seen.lists > lists, synced.includes("000010.log")], [true, true]);
  await files.close();
});

test("a write that goes to a third log while the second is opened is found by the next sync", async () => {
  const { place, files, synced, hook, write } = madeLogs();
  write("000003.log");
  await files.sync();
  write("000005.log");
  // As long as two are open the folder is listed each time.
  await systemDisk.remove(`${place.directory}/000003.log`);
  hook.onOpen = (name) => {
    if (name === "000005.log") write("000007.log");
  };
  await files.sync();
  synced.length = 0;
  await files.sync();
  assert.ok(synced.includes("000007.log"), "it holds a write that has settled");
  await files.close();
});

test("a trim deletes frames only when the head that replaces them is durable", async () => {
  const { log, steps } = await observed(quotaOfSmallSlices);
  await fill(log, 3);
  await log.sync();
  steps.length = 0;
  await log.trim(2);
  const head = steps.indexOf("store.putHead");
  const synced = steps.indexOf("journal-log.syncData");
  const deleted = steps.indexOf("store.deleteFrames");
  assert.ok(head >= 0 && head < synced && synced < deleted, steps.join(", "));
  assert.equal(log.head.sequence, 2);
  await log.close("clean");
});

for (const operation of ["putFrame", "putHead", "deleteFrames"] as const) {
  test(`after a failed put the handle is never written to again (${operation})`, async () => {
    const place = scratch();
    let armed = false;
    let calls = 0;
    const stores: StoreEngine = {
      ...levelEngine,
      open: async (...args) => {
        const store = await levelEngine.open(...args);
        return new Proxy(store, {
          get(from, name) {
            const real: unknown = Reflect.get(from, name, from);
            if (typeof real !== "function") return real;
            return (...given: unknown[]) => {
              if (["putFrame", "putHead", "deleteFrames"].includes(String(name))) calls += 1;
              if (name !== operation || !armed) return Reflect.apply(real, from, given);
              armed = false;
              return Promise.reject(diskError("ENOSPC"));
            };
          },
        });
      },
    };
    const log = await place.create({ bytesMax: quotaOfSmallSlices }, { stores });
    await fill(log, 2);
    await log.sync();
    armed = true;
    const failing = operation === "putFrame" ? log.append(nextFrame(log.tail)) : log.trim(1);
    await assert.rejects(failing, { code: "JOURNAL_POISONED", reaction: "reopen" });
    assert.equal(armed, false);
    const before = calls;
    await assert.rejects(log.append(nextFrame(log.tail)), { code: "JOURNAL_POISONED" });
    await assert.rejects(log.sync(), { code: "JOURNAL_POISONED" });
    await assert.rejects(log.trim(2), { code: "JOURNAL_POISONED" });
    assert.equal(calls, before, "nothing more was asked of the failed handle");
    await log.close("clean");
    const { log: again, recovery } = await place.open();
    assert.equal(recovery.cleanShutdown, false);
    assert.equal(again.tail.sequence, 2);
    await again.close("clean");
  });
}
