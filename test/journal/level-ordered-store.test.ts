/** The ordered store on LevelDB: like a sorted map; damage costs its content and nothing else. */
import assert from "node:assert/strict";
import { cpSync, mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import fc from "fast-check";
import { openLevelOrderedStore } from "../../journal/level-ordered-store.ts";
import { errorCode } from "../../runtime/errors.ts";
import { silentLog } from "../../runtime/log.ts";
import type { OrderedStore } from "../../runtime/ordered-store.ts";

const folder = mkdtempSync(join(tmpdir(), "splitsite-ordered-"));
after(() => rmSync(folder, { recursive: true, force: true }));

let stores = 0;
function newDirectory(): string {
  stores += 1;
  return join(folder, `store-${stores}`);
}

const bytes = (text: string): Uint8Array => new Uint8Array(Buffer.from(text));
const text = (value: Uint8Array): string => Buffer.from(value).toString();
const end = bytes("~");

async function contentOf(store: OrderedStore): Promise<[string, string][]> {
  const entries = await store.scan(bytes(""), end, 1_000);
  return entries.map(({ key, value }) => [text(key), text(value)]);
}

const key = fc.stringMatching(/^[a-d]{1,3}$/);
const change = fc.oneof(
  { weight: 6, arbitrary: fc.record({ puts: fc.array(fc.tuple(key, key)), deletes: fc.array(key) }) },
  { weight: 1, arbitrary: fc.constantFrom("clear" as const, "reopen" as const, "settle" as const) },
);

test("it does what a sorted map does, through reopening and settling", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(change, { maxLength: 8 }), key, key, async (changes, from, to) => {
      const directory = newDirectory();
      let store = await openLevelOrderedStore(directory, silentLog);
      const model = new Map<string, string>();
      for (const one of changes) {
        if (one === "clear") {
          await store.clear();
          model.clear();
        } else if (one === "settle") {
          await store.settle({ key: bytes("m"), value: bytes("1") });
          model.set("m", "1");
        } else if (one === "reopen") {
          await store.close();
          store = await openLevelOrderedStore(directory, silentLog);
        } else {
          const puts = new Map(one.puts);
          const deletes = one.deletes.filter((gone) => !puts.has(gone));
          const entries = [...puts].map(([k, v]) => ({ key: bytes(k), value: bytes(v) }));
          await store.write(entries, deletes.map(bytes));
          for (const [k, v] of puts) model.set(k, v);
          for (const gone of deletes) model.delete(gone);
        }
      }
      const sorted = [...model].sort(([a], [b]) => (a < b ? -1 : 1));
      assert.deepEqual(await contentOf(store), sorted);
      const within = sorted.filter(([k]) => k >= from && k < to);
      const found = await store.scan(bytes(from), bytes(to), 2);
      assert.deepEqual(
        found.map((entry) => text(entry.key)),
        within.slice(0, 2).map(([k]) => k),
      );
      const cursor = store.cursor();
      await store.write([{ key: bytes(from), value: bytes("later") }], []);
      for (const at of [from, to, from]) {
        const first = await cursor.first(bytes(at), end);
        assert.equal(
          first && text(first.key),
          sorted.find(([k]) => k >= at)?.[0],
          "as it was when it was opened",
        );
      }
      assert.equal(await cursor.first(bytes(to), bytes(to)), undefined);
      await cursor.close();
      await store.close();
    }),
    { numRuns: 40 },
  );
});

test("what was settled is in tables, and survives the loss of everything in the logs that was not synced", async () => {
  const directory = newDirectory();
  const store = await openLevelOrderedStore(directory, silentLog);
  await store.write([{ key: bytes("a"), value: bytes("1") }], []);
  await store.settle({ key: bytes("m"), value: bytes("a") });
  const copy = newDirectory();
  cpSync(directory, copy, { recursive: true });
  await store.close();
  // Worse than any loss of power: the synced mark goes too. The mark may be missing, what it covers may not.
  for (const name of readdirSync(copy)) if (name.endsWith(".log")) truncateSync(join(copy, name), 0);
  const left = await openLevelOrderedStore(copy, silentLog);
  assert.deepEqual(await contentOf(left), [["a", "1"]]);
  await left.close();
});

test("a damaged database is made anew, empty; one that is in use is not touched", async () => {
  const directory = newDirectory();
  const store = await openLevelOrderedStore(directory, silentLog);
  await store.write([{ key: bytes("a"), value: bytes("1") }], []);
  await assert.rejects(
    openLevelOrderedStore(directory, silentLog),
    (error) => errorCode(error) === "INDEX_LOCKED",
  );
  assert.deepEqual(await contentOf(store), [["a", "1"]]);
  await store.close();
  for (const damage of ["CURRENT", "MANIFEST"]) {
    const name = readdirSync(directory).find((each) => each.startsWith(damage))!;
    writeFileSync(join(directory, name), "rot");
    const anew = await openLevelOrderedStore(directory, silentLog);
    assert.deepEqual(await contentOf(anew), []);
    await anew.write([{ key: bytes("b"), value: bytes("2") }], []);
    await anew.close();
  }
});

test("after a failure everything fails with it", async () => {
  const store = await openLevelOrderedStore(newDirectory(), silentLog);
  await store.close();
  const failed = (error: unknown): boolean => errorCode(error) === "INDEX_FAILED";
  await assert.rejects(store.write([{ key: bytes("a"), value: bytes("1") }], []), failed);
  await assert.rejects(store.scan(bytes("a"), end, 1), failed);
  assert.throws(() => store.cursor(), failed);
  await store.close();
});
