/**
 * The write-ahead halves under a journal: what is in them is found again, whatever the store has of it; nothing is written
 * over before the store has it durably; nothing that is gone comes back. Real LevelDB, real files.
 */
import assert from "node:assert/strict";
import { cpSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { after, test } from "node:test";
import type { FrameLogOptions } from "../../journal/frame-log.ts";
import { verifyFrameLog } from "../../journal/inspect.ts";
import { levelEngine } from "../../journal/level-engine.ts";
import type { LevelFrameLog } from "../../journal/level-frame-log.ts";
import type { FrameStore, StoreEngine } from "../../journal/store.ts";
import { aheadRecordBytesMax, encodeAheadInto } from "../../journal/write-ahead-frames.ts";
import { encodeFrame } from "../../protocol/frame.ts";
import { systemDisk } from "../../runtime/disk.ts";
import { observeDisk, observeStores } from "../../runtime/failpoints.ts";
import { decodeAhead } from "../protocol/naive/write-ahead.ts";
import type { DiskOperation } from "../support/hooked-disk.ts";
import { diskError, hookedDisk } from "../support/hooked-disk.ts";
import { fill, nextFrame, Scratch, small } from "./support/scratch-log.ts";
import { seeded } from "./support/seed.ts";

const halfBytes = 16 * 1024;
const made: Scratch[] = [];
function scratch(): Scratch {
  const one = new Scratch(undefined, halfBytes);
  made.push(one);
  return one;
}
after(() => {
  for (const one of made) one.remove();
});

function halfOf(place: Scratch, half: 0 | 1): string {
  return `${place.ahead!.directory}/half-${half}`;
}

function recordsIn(place: Scratch, half: 0 | 1): number[] {
  return decodeAhead([...readFileSync(halfOf(place, half))]).map(({ first }) => first);
}

/** First sequences of the frames that the store itself has, read when nobody has it open. */
async function storedFirsts(place: Scratch): Promise<number[]> {
  const store = await levelEngine.open(place.options().directory, "open", 65_536);
  const firsts: number[] = [];
  for await (const { first } of store.walk(0)) firsts.push(first);
  await store.close();
  return firsts;
}

/** LevelDB whose calls can be seen, held back and made to fail. */
function hookedStores(before: (name: string, args: readonly unknown[]) => Promise<void> | void): StoreEngine {
  return {
    ...levelEngine,
    open: async (...args) => {
      const store = await levelEngine.open(...args);
      return new Proxy(store, {
        get(from, name) {
          const real: unknown = Reflect.get(from, name, from);
          if (typeof real !== "function") return real;
          if (!["putFrame", "putFrames", "putHead", "deleteFrames"].includes(String(name)))
            return (...given: unknown[]) => Reflect.apply(real, from, given);
          return async (...given: unknown[]) => {
            await before(String(name), given);
            return Reflect.apply(real, from, given);
          };
        },
      }) as FrameStore;
    },
  };
}

/** A gate that store writes can be held at. */
function gate() {
  let open: () => void = () => {};
  let closed: Promise<void> | undefined;
  return {
    close: () => {
      closed = new Promise((resolve) => {
        open = resolve;
      });
    },
    open: () => {
      closed = undefined;
      open();
    },
    pass: () => closed,
  };
}

async function contentOf(log: LevelFrameLog): Promise<string[]> {
  const frames = await log.frames(log.head.sequence + 1, 1e9);
  return frames.map(({ first, body }) => `${first} ${Buffer.from(body).toString("hex").slice(0, 40)}`);
}

test("a short frame is one write into a half before the watermark, and no store write; a long one goes into the store", async () => {
  const place = scratch();
  const steps: string[] = [];
  const hook = (name: string): void => {
    if (name.endsWith(".after")) steps.push(name.slice("agent.".length, -".after".length));
  };
  const log = await place.create(
    { watermarkPath: `${place.directory}/watermark-1`, compression: "none" },
    { disk: observeDisk(systemDisk, "agent", hook), stores: observeStores(levelEngine, "agent", hook) },
  );
  steps.length = 0;
  await log.append(nextFrame(log.tail, 4096));
  assert.deepEqual(steps.splice(0), ["half.writeNow", "watermark.writeNow"]);
  await log.sync();
  assert.deepEqual(steps.splice(0), ["half.syncData", "watermark.writeNow", "watermark.syncData"]);
  await log.append(nextFrame(log.tail, 16_384));
  assert.deepEqual(steps.splice(0), ["store.putFrame", "watermark.writeNow"]);
  await log.append(nextFrame(log.tail, 512));
  steps.length = 0;
  await log.sync();
  const done = steps.splice(0);
  const promised = done.indexOf("watermark.writeNow");
  for (const needed of ["half.syncData", "journal-log.syncData"])
    assert.ok(done.indexOf(needed) >= 0 && done.indexOf(needed) < promised, done.join(", "));
  await log.sync();
  assert.deepEqual(steps.splice(0), [], "nothing new: nothing to sync");
  await log.close("clean");
});

test("a sync covers both halves when both hold frames that it promises", async () => {
  const place = scratch();
  const steps: string[] = [];
  const disk = hookedDisk((operation, path) => {
    if (operation === "syncData") steps.push(path.slice(place.directory.length + 1));
  });
  const log = await place.create({ ...small }, { disk });
  await fill(log, 4);
  assert.deepEqual([recordsIn(place, 0), recordsIn(place, 1)], [[1, 2, 3], [4]]);
  steps.length = 0;
  await log.sync();
  const promised = steps.indexOf("watermark");
  for (const half of ["ahead-1/half-0", "ahead-1/half-1"])
    assert.ok(steps.indexOf(half) >= 0 && steps.indexOf(half) < promised, steps.join(", "));
  await log.close("clean");
});

for (const how of ["clean", "abandon"] as const) {
  test(`what only the halves hold is there after ${how}, in the store, and the halves are empty`, async (t) => {
    const random = seeded(t);
    const place = scratch();
    let log = await place.create({ compression: "none" });
    for (let round = 0; round < 12; round += 1) {
      for (let at = random(20); at >= 0; at -= 1)
        await log.append(nextFrame(log.tail, [512, 2048, 4096, 8192, 20_480][random(5)]!));
      if (random(2) === 0) await log.sync();
      if (random(4) === 0) await log.trim(random(log.durable.sequence + 1));
      const { tail, head } = log;
      const content = await contentOf(log);
      await log.close(how);
      log = (await place.open({ compression: "none" })).log;
      assert.deepEqual([log.tail.sequence, log.tail.chain], [tail.sequence, tail.chain]);
      // What was trimmed last, and not by the slice, is there again after a crash.
      assert.ok(how === "clean" ? log.head.sequence === head.sequence : log.head.sequence <= head.sequence);
      assert.deepEqual((await contentOf(log)).slice(-content.length || Number.MAX_SAFE_INTEGER), content);
      assert.deepEqual([recordsIn(place, 0), recordsIn(place, 1)], [[], []]);
      assert.equal((await verifyFrameLog(log)).sound, true);
    }
    await log.close("clean");
    const firsts = await storedFirsts(place);
    assert.equal(firsts.length, log.tail.sequence - log.head.sequence);
  });
}

test("after a clean end the store alone has everything", async () => {
  const place = scratch();
  const log = await place.create({ compression: "none" });
  await fill(log, 2);
  await log.close("clean");
  rmSync(place.ahead!.directory, { recursive: true });
  const again = await place.open();
  assert.deepEqual([again.log.tail.sequence, again.recovery.cleanShutdown], [2, true]);
  await again.log.close("clean");
});

test("the halves alternate, and one is written again only after the store's logs are synced behind the last of its frames", async () => {
  const place = scratch();
  /** What happened, in order: `0 5`: frame 5 into half 0; `carry 5`; `sync`: of a log of the store. */
  const steps: string[] = [];
  let next = 1;
  const disk = hookedDisk((operation, path) => {
    if (operation === "writeNow" && path.includes("half-")) steps.push(`${path.slice(-1)} ${next}`);
    if (operation === "syncData" && path.endsWith(".log")) steps.push("sync");
  });
  const stores = hookedStores((name, args) => {
    if (name !== "putFrames") return;
    for (const { first } of args[0] as { first: number }[]) steps.push(`carry ${first}`);
  });
  const log = await place.create({ ...small }, { disk, stores });
  steps.length = 0;
  const held: [number[], number[]] = [[], []];
  let current = 0;
  let turns = 0;
  // A half may be busy for any time; then frames go into the store itself.
  for (; turns < 6 && next < 5_000; next += 1) {
    const before = steps.length;
    await log.append(nextFrame(log.tail, 4096));
    const at = steps.findIndex((step, index) => index >= before && /^[01] /.test(step));
    if (at >= 0) {
      const half = Number(steps[at]![0]) as 0 | 1;
      if (half !== current) {
        turns += 1;
        const carried = held[half].map((first) => steps.indexOf(`carry ${first}`));
        const synced = steps.lastIndexOf("sync", at);
        const isFree = carried.every((index) => index >= 0 && index < synced);
        assert.ok(isFree, `half ${half} of ${held[half].join(" ")}: ${steps.slice(0, at + 1).join(", ")}`);
        held[half] = [];
        current = half;
      }
      held[half].push(next);
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.equal(turns, 6);
  await log.close("clean");
});

test("while the store hangs, appends fill both halves and then wait for the store; nothing in a half is written over", async () => {
  const place = scratch();
  const held = gate();
  const stores = hookedStores(() => held.pass());
  const log = await place.create({ compression: "none", memoryTailBytes: 0 }, { stores });
  held.close();
  const appended = [];
  // Three frames of 4 KiB fit into a half.
  for (let at = 0; at < 6; at += 1) {
    appended.push(nextFrame(log.tail, 4096));
    await log.append(appended.at(-1)!);
  }
  assert.deepEqual(
    [recordsIn(place, 0), recordsIn(place, 1)],
    [
      [1, 2, 3],
      [4, 5, 6],
    ],
  );
  let settled = false;
  const waiting = log.append(nextFrame(log.tail, 4096)).then(() => {
    settled = true;
  });
  await log.sync();
  assert.deepEqual([log.durable.sequence, settled], [6, false], "a FLUSH needs no store");
  // Not in memory and not in the store: still there to be read.
  const read = await log.frames(1, 1e9);
  assert.deepEqual(
    read.map(({ first, body }) => [first, Buffer.from(body)]),
    appended.map(({ first, body }) => [first, Buffer.from(body)]),
  );
  assert.deepEqual(
    [recordsIn(place, 0), recordsIn(place, 1)],
    [
      [1, 2, 3],
      [4, 5, 6],
    ],
  );
  held.open();
  await waiting;
  await log.close("clean");
  const again = await place.open();
  assert.equal(again.log.tail.sequence, 7);
  await again.log.close("clean");
});

test("a frame on its way into the store is read while it is put", async () => {
  const place = scratch();
  const held = gate();
  let puts = 0;
  const stores = hookedStores((name) => {
    if (name === "putFrames") puts += 1;
    return held.pass();
  });
  const log = await place.create({ compression: "none", memoryTailBytes: 0 }, { stores });
  held.close();
  await fill(log, 5);
  while (puts === 0) await new Promise((resolve) => setImmediate(resolve));
  assert.equal((await log.frames(1, 1e9)).length, 5);
  held.open();
  await log.close("clean");
});

test("a frame that was removed does not come back from a half", async () => {
  const place = scratch();
  // So that two frames of 4 KiB are a slice.
  const log = await place.create({ compression: "none", bytesMax: 64 * 1024 });
  await fill(log, 3);
  await log.sync();
  await log.trim(2);
  assert.deepEqual(recordsIn(place, 0), [1, 2, 3]);
  await log.close("abandon");
  assert.deepEqual(await storedFirsts(place), [3]);
  const again = await place.open();
  assert.deepEqual([again.log.head.sequence, again.log.tail.sequence, again.log.frameCount], [2, 3, 1]);
  assert.deepEqual(await again.log.frames(3, 1e9).then((found) => found.map(({ first }) => first)), [3]);
  await again.log.close("clean");
  assert.deepEqual(await storedFirsts(place), [3]);
});

/** A journal of 6 frames, 3 in each half, of which the store has none; durable to `durable`. */
async function halvesOnly(durable: number): Promise<Scratch> {
  const place = scratch();
  const held = gate();
  const log = await place.create({ ...small }, { stores: hookedStores(() => held.pass()) });
  held.close();
  for (let at = 1; at <= 6; at += 1) {
    await fill(log, 1);
    if (at === durable) await log.sync();
  }
  // Taken as it is: what is under way never happened.
  const copy = scratch();
  cpSync(place.directory, copy.directory, { recursive: true });
  held.open();
  await log.close("abandon");
  return copy;
}

async function opened(place: Scratch, changes: Partial<FrameLogOptions>): Promise<string> {
  try {
    const { log } = await place.open({ ...small, ...changes });
    const tail = log.tail.sequence;
    await log.close("abandon");
    return `tail ${tail}`;
  } catch (error) {
    const { code, details } = error as { code: string; details: { problem?: string } };
    return `${code} ${details.problem}`;
  }
}

const restarted = { bootId: "boot-2" };
/** Byte of a half at which the record number `at` begins: values are headers, record headers and 4 KiB. */
const recordBytes = 32 + 140 + 16 + 4096 + 4;

const losses: readonly {
  readonly name: string;
  readonly durable: number;
  readonly spoil: (place: Scratch) => void;
  readonly sameBoot: string;
  readonly otherBoot: string;
}[] = [
  { name: "nothing", durable: 2, spoil: () => {}, sameBoot: "tail 6", otherBoot: "tail 6" },
  {
    name: "the end of the newer half",
    durable: 4,
    spoil: (place) => zero(halfOf(place, 1), recordBytes + 600, 4096),
    sameBoot: "JOURNAL_DAMAGED answered-lost",
    otherBoot: "tail 4",
  },
  {
    name: "a record in the older half, with newer ones in both",
    durable: 1,
    spoil: (place) => zero(halfOf(place, 0), recordBytes + 600, 512),
    sameBoot: "JOURNAL_DAMAGED hole",
    otherBoot: "tail 1",
  },
  {
    name: "a record that was promised through power loss",
    durable: 4,
    spoil: (place) => zero(halfOf(place, 0), recordBytes + 600, 512),
    sameBoot: "JOURNAL_DAMAGED hole",
    otherBoot: "JOURNAL_DAMAGED hole",
  },
  {
    name: "the newer half, promised",
    durable: 5,
    spoil: (place) => rmSync(halfOf(place, 1)),
    sameBoot: "JOURNAL_DAMAGED durable-lost",
    otherBoot: "JOURNAL_DAMAGED durable-lost",
  },
  {
    name: "the newer half, never synced",
    durable: 3,
    spoil: (place) => rmSync(halfOf(place, 1)),
    sameBoot: "JOURNAL_DAMAGED answered-lost",
    otherBoot: "tail 3",
  },
  {
    name: "half of the newer half, never synced",
    durable: 3,
    spoil: (place) => truncateSync(halfOf(place, 1), 8_000),
    sameBoot: "JOURNAL_DAMAGED answered-lost",
    otherBoot: "tail 4",
  },
  {
    name: "both halves",
    durable: 1,
    spoil: (place) => rmSync(place.ahead!.directory, { recursive: true }),
    sameBoot: "JOURNAL_DAMAGED durable-lost",
    otherBoot: "JOURNAL_DAMAGED durable-lost",
  },
];

function zero(path: string, at: number, length: number): void {
  const bytes = readFileSync(path);
  bytes.fill(0, at, at + length);
  writeFileSync(path, bytes);
}

for (const { name, durable, spoil, sameBoot, otherBoot } of losses) {
  test(`lost: ${name}`, async () => {
    const place = await halvesOnly(durable);
    assert.deepEqual(await storedFirsts(place), []);
    spoil(place);
    for (const [changes, wanted] of [
      [{}, sameBoot],
      [restarted, otherBoot],
    ] as const) {
      const one = scratch();
      cpSync(place.directory, one.directory, { recursive: true });
      assert.equal(await opened(one, changes), wanted);
      // Asking again changes nothing; what could be opened stays as it is and has its halves whole.
      assert.equal(await opened(one, changes), wanted);
      if (!wanted.startsWith("tail")) continue;
      for (const half of [0, 1] as const) assert.equal(statSync(halfOf(one, half)).size, halfBytes);
      const { log } = await one.open({ ...small, ...changes });
      await fill(log, 9);
      await log.sync();
      await log.close("abandon");
      assert.equal(await opened(one, changes), `tail ${Number(wanted.slice(5)) + 9}`);
    }
  });
}

test("a frame that differs in a half and in the store is damage", async () => {
  const place = scratch();
  const log = await place.create({ ...small });
  await fill(log, 2);
  await log.close("clean");
  const other = nextFrame({ ...log.tail, sequence: 1, chain: log.tail.chain }, 512);
  const record = encodeAheadInto(Buffer.alloc(aheadRecordBytesMax), 1, 2, encodeFrame(other, "none"));
  const bytes = readFileSync(halfOf(place, 0));
  bytes.set(record, 0);
  writeFileSync(halfOf(place, 0), bytes);
  assert.equal(await opened(place, {}), "JOURNAL_DAMAGED ahead-differs");
});

test("a journal without halves gets them when it is opened, and other lengths are made right", async () => {
  const place = new Scratch();
  made.push(place);
  const log = await place.create({ ...small });
  await fill(log, 3);
  await log.close("abandon");
  for (const bytes of [halfBytes, 4 * halfBytes, halfBytes]) {
    const ahead = { directory: `${place.directory}/ahead-1`, halfBytes: bytes };
    const { log: again } = await place.open({ ...small, ahead });
    for (const half of ["half-0", "half-1"]) assert.equal(statSync(`${ahead.directory}/${half}`).size, bytes);
    await fill(again, 3);
    await again.close("abandon");
  }
  assert.equal(
    await opened(place, { ahead: { directory: `${place.directory}/ahead-1`, halfBytes } }),
    "tail 12",
  );
});

test("a new journal does not take somebody's halves for its own", async () => {
  const place = scratch();
  const log = await place.create({ ...small });
  await fill(log, 1);
  await log.close("clean");
  rmSync(place.options().directory, { recursive: true });
  rmSync(place.options().watermarkPath);
  await assert.rejects(place.create(), { code: "JOURNAL_EXISTS" });
});

/** The system's disk, of which one operation on a half fails once when armed. */
function failing(which: DiskOperation) {
  const armed = { now: false };
  const disk = hookedDisk((operation, path) => {
    if (!armed.now || operation !== which || !path.includes("half-")) return;
    armed.now = false;
    throw diskError("EIO");
  });
  return { armed, disk };
}

for (const which of ["writeNow", "syncData"] as const) {
  test(`a half whose ${which} fails once is never believed again`, async () => {
    const place = scratch();
    const { armed, disk } = failing(which);
    const log = await place.create({ ...small }, { disk });
    await fill(log, 2);
    await log.sync();
    if (which === "syncData") await fill(log, 1);
    armed.now = true;
    const frame = nextFrame(log.tail);
    await assert.rejects(which === "writeNow" ? log.append(frame) : log.sync(), {
      code: "JOURNAL_POISONED",
      reaction: "reopen",
    });
    assert.equal((await log.whenPoisoned).code, "JOURNAL_POISONED");
    assert.equal(armed.now, false);
    assert.deepEqual([log.durable.sequence, log.poisoned], [2, true]);
    await assert.rejects(log.sync(), { code: "JOURNAL_POISONED" });
    await assert.rejects(log.append(nextFrame(log.tail)), { code: "JOURNAL_POISONED" });
    await assert.rejects(log.trim(1), { code: "JOURNAL_POISONED" });
    await log.close("clean");
    const again = await place.open();
    assert.equal(again.recovery.cleanShutdown, false);
    assert.equal(again.log.tail.sequence, which === "writeNow" ? 2 : 3);
    await again.log.close("clean");
  });
}

for (const operation of ["putFrames", "store log sync"] as const) {
  test(`a journal whose ${operation} fails behind the writers says so by itself, and takes nothing any more`, async () => {
    const place = scratch();
    let armed = false;
    let calls = 0;
    const stores = hookedStores((name) => {
      calls += 1;
      if (operation !== "putFrames" || name !== "putFrames" || !armed) return;
      armed = false;
      throw diskError("ENOSPC");
    });
    const disk = hookedDisk((step, path) => {
      if (operation === "putFrames" || !armed || step !== "syncData" || !path.endsWith(".log")) return;
      armed = false;
      throw diskError("EIO");
    });
    const log = await place.create({ ...small }, { stores, disk });
    await fill(log, 3);
    await log.sync();
    armed = true;
    // Begins the second half: the first is to be carried, synced and freed.
    await fill(log, 1);
    assert.equal((await log.whenPoisoned).code, "JOURNAL_POISONED");
    const before = calls;
    await assert.rejects(log.append(nextFrame(log.tail)), { code: "JOURNAL_POISONED" });
    await assert.rejects(log.sync(), { code: "JOURNAL_POISONED" });
    await assert.rejects(log.trim(2), { code: "JOURNAL_POISONED" });
    if (operation === "putFrames")
      await assert.rejects(log.storedFrames().next(), { code: "JOURNAL_POISONED" });
    assert.equal(calls, before, "nothing more was asked of the failed handle");
    await log.close("clean");
    const { log: again, recovery } = await place.open();
    assert.deepEqual([again.tail.sequence, recovery.cleanShutdown], [4, false]);
    await again.close("clean");
  });
}

test("what fails while the halves are brought in and emptied leaves everything for the next opening", async () => {
  const place = await halvesOnly(2);
  for (const [which, match] of [
    ["syncData", ".log"],
    ["write", "half-1"],
    ["sync", "half-0"],
    ["sync", "half-1"],
    ["sync", "ahead-1"],
    ["writeNow", "watermark"],
  ] as const) {
    let fired = false;
    const disk = hookedDisk((operation, path) => {
      if (fired || operation !== which || !path.includes(match)) return;
      fired = true;
      throw diskError("EIO");
    });
    await assert.rejects(
      place.open({ ...small }, { disk }),
      { code: "JOURNAL_OPEN_FAILED" },
      `${which} ${match}`,
    );
    assert.ok(fired);
  }
  assert.equal(await opened(place, {}), "tail 6");
});
