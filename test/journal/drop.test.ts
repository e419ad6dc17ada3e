/** Dropping frames that the peer does not have: what is kept of them, in which order, and what is forgotten again. Real LevelDB. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import type { DropOrder } from "../../journal/frame-log.ts";
import { levelEngine } from "../../journal/level-engine.ts";
import type { RowChange } from "../../journal/store.ts";
import { waymarkSpan } from "../../journal/waymark.ts";
import type { Frame } from "../../protocol/frame.ts";
import { systemDisk } from "../../runtime/disk.ts";
import { observeDisk, observeStores } from "../../runtime/failpoints.ts";
import { fill, origin, Scratch } from "./support/scratch-log.ts";

const made: Scratch[] = [];
function scratch(): Scratch {
  // Halves of a few frames, so that they wrap under every test.
  const one = new Scratch(undefined, 16 * 1024);
  made.push(one);
  return one;
}
after(() => {
  for (const one of made) one.remove();
});

function order(anchors: number[], told: Frame[] = []): DropOrder {
  return {
    anchors,
    dropping: (frame) => told.push(frame),
    notes: () => [{ number: 2 ** 40, value: Buffer.from(`${told.length} frames`) }],
  };
}

test("what is dropped is told frame by frame, noted, and where the peer may be stays proven, also after reopening", async () => {
  const place = scratch();
  const log = await place.create({ memoryTailBytes: 20_000 });
  const appended = await fill(log, 20, 4096, 2);
  await log.sync();
  await log.trim(6);
  const told: Frame[] = [];
  // The peer was last known to be in the middle of a frame.
  await log.drop(31, order([9], told));
  assert.deepEqual(
    told.map(({ first, last }) => [first, last]),
    appended.slice(3, 15).map(({ first, last }) => [first, last]),
  );
  const check = async (of: typeof log): Promise<void> => {
    assert.deepEqual([of.head.sequence, of.floor.sequence, of.tail.sequence], [30, 9, 40]);
    for (const { last, chainAfter, dataBytesTotal } of appended.slice(4)) {
      const position = await of.positionAt(last);
      assert.deepEqual([position?.chain, position?.dataBytesTotal], [chainAfter, dataBytesTotal]);
      assert.deepEqual(await of.chainAt(last), chainAfter);
    }
    assert.equal((await of.positionAt(9))?.dataBytesTotal, 9 * 4096);
    assert.equal(await of.positionAt(8), undefined, "it cannot be there any more");
    assert.equal(await of.positionAt(11), undefined, "nothing was cut there");
    await assert.rejects(of.frames(30, 1), { code: "JOURNAL_TRIMMED" });
    const notes = await of.notes();
    assert.deepEqual(
      notes.map(({ number, value }) => [number, Buffer.from(value).toString()]),
      [[2 ** 40, "12 frames"]],
    );
  };
  await check(log);
  await log.close("abandon");
  const { log: again } = await place.open({ memoryTailBytes: 0 });
  await check(again);
  // Once more: the head before is where a gap may have ended.
  await again.drop(36, order([9, 30]));
  assert.equal((await again.positionAt(30))?.sequence, 30);
  await again.changeNotes([{ number: 2 ** 40, value: null }]);
  assert.deepEqual(await again.notes(), []);
  // The peer has come behind all of it.
  await again.trim(40);
  assert.equal(again.floor.sequence, 40);
  assert.equal(await again.positionAt(20), undefined);
  await again.close("clean");
  const { log: third } = await place.open();
  assert.deepEqual([third.head.sequence, third.floor.sequence], [40, 40]);
  await third.close("clean");
});

test("notes, waymarks and head are one change, its log is synced, and only then is anything deleted", async () => {
  const steps: string[] = [];
  const hook = (name: string): void => {
    if (name.endsWith(".after")) steps.push(name.slice("agent.".length, -".after".length));
  };
  const changes: (readonly RowChange[])[] = [];
  const stores = observeStores(levelEngine, "agent", hook);
  const log = await scratch().create(
    {},
    {
      disk: observeDisk(systemDisk, "agent", hook),
      stores: {
        ...stores,
        guard: stores.guard.bind(stores),
        open: async (...args) => {
          const store = await stores.open(...args);
          return new Proxy(store, {
            get(target, name) {
              const value: unknown = Reflect.get(target, name, target);
              if (typeof value !== "function") return value;
              return (...given: unknown[]) => {
                if (name === "putHead") changes.push((given[1] ?? []) as readonly RowChange[]);
                return Reflect.apply(value, target, given);
              };
            },
          });
        },
      },
    },
  );
  await fill(log, 10);
  await log.sync();
  steps.length = 0;
  changes.length = 0;
  await log.drop(6, order([0]));
  assert.equal(changes.length, 1);
  assert.deepEqual(
    changes[0]!.map(({ table, number }) => [table, number]),
    [["note", 2 ** 40], ...[0, 1, 2, 3, 4, 5, 6].map((sequence) => ["waymark", sequence])],
  );
  const put = steps.indexOf("store.putHead");
  const synced = steps.indexOf("journal-log.syncData", put);
  const deleted = steps.indexOf("store.deleteFrames");
  assert.ok(put >= 0 && put < synced && synced < deleted, steps.join(", "));
  assert.equal(steps.indexOf("store.deleteFrames", deleted + 1), -1);
  await log.close("clean");
});

test("beyond the span there are no waymarks, and nothing that is not durable is dropped", async () => {
  const start = { ...origin, sequence: 10 * waymarkSpan };
  const log = await scratch().create({ origin: start });
  const { sequence } = start;
  await fill(log, 4);
  await log.drop(sequence + 4, order([sequence]));
  assert.equal(log.head.sequence, sequence, "nothing is durable yet");
  await log.sync();
  await fill(log, 1);
  assert.equal(log.endOfOldest(1, sequence + 9), sequence + 1);
  assert.equal(log.endOfOldest(1e9, sequence + 3), sequence + 3);
  assert.equal(log.endOfOldest(1e9, sequence + 9), sequence + 4);
  await log.drop(sequence + 9, order([sequence - waymarkSpan + 2]));
  assert.equal(log.head.sequence, sequence + 4);
  assert.ok(await log.positionAt(sequence + 2));
  assert.equal(await log.positionAt(sequence + 3), undefined);
  await log.close("clean");
});

test("a reader whose frames are dropped is told so, and positions stay known meanwhile", async () => {
  const log = await scratch().create({ memoryTailBytes: 0 });
  const appended = await fill(log, 200);
  await log.sync();
  const readers = Array.from({ length: 20 }, (_, at) =>
    log.frames(1 + at * 5, 1e6).then(
      () => "frames",
      (error: { code: string }) => error.code,
    ),
  );
  const positions = appended.slice(0, 150).map(({ last }) => log.positionAt(last));
  const drops = [50, 100, 150].map((through) => log.drop(through, order([0])));
  for (const outcome of await Promise.all(readers))
    assert.ok(["frames", "JOURNAL_TRIMMED"].includes(outcome), outcome);
  for (const [at, position] of (await Promise.all(positions)).entries())
    assert.deepEqual(position?.chain, appended[at]!.chainAfter);
  await Promise.all(drops);
  assert.equal(log.head.sequence, 150);
  await log.close("clean");
});

test("a waymark or note that rots, or stands beyond the head, is damage", async () => {
  for (const change of [
    { table: "waymark", number: 3, value: new Uint8Array(44) },
    { table: "waymark", number: 9, value: null },
  ] as const) {
    const place = scratch();
    const log = await place.create();
    await fill(log, 10);
    await log.sync();
    await log.drop(6, order([0]));
    await log.close("clean");
    const { directory } = place.options();
    const store = await levelEngine.open(directory, "open", 65_536);
    const six = await store.row("waymark", 6);
    await store.changeRows([change.value === null ? { ...change, value: six! } : change]);
    await store.close();
    await assert.rejects(place.open(), { code: "JOURNAL_DAMAGED" });
  }
});
