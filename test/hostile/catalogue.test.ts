/**
 * Every case of the catalogue of hostile clients is held by a test that names it, or stands here with the reason why
 * not; and the table in docs/testing.md says exactly what the sources say.
 */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { repositoryPath } from "../support/tree.ts";

const range = (letter: string, last: number): string[] =>
  Array.from({ length: last }, (_, index) => `${letter}${String(index + 1).padStart(2, "0")}`);

/** Handshake, TLS and transmission cases, and the faults of crowds and floods that a client alone can make. */
const catalogue: readonly string[] = [...range("H", 33), ...range("S", 12), ...range("T", 31), "F80", "F82"];

/** Cases no test can name, each with why, and where what is left of them is held. */
const withoutTest: Readonly<Record<string, { readonly reason: string; readonly see?: string }>> = {
  S11: { reason: "the product has no NBD client that could go on in plain text" },
  T26: {
    reason: "needs a power cut between a FUA write and its reply, which the tests of power loss make",
    see: "test/journal/power-cut.test.ts",
  },
};

/** Rules for what is read back from storage; they are no client's cases, and their tests speak of faults instead. */
const storageRules: Readonly<Record<string, string>> = {
  D1: "test/journal/poison.test.ts",
  D2: "test/journal/damage.test.ts",
  D3: "test/protocol/frame.test.ts",
  D4: "test/journal/watermark.test.ts",
  D5: "test/protocol/batch.test.ts",
};

/** Case ids in the titles of tests, by file. Templates count as far as they are literal. */
function casesInTitles(): Map<string, Set<string>> {
  const found = new Map<string, Set<string>>();
  const walk = (folder: string): void => {
    for (const entry of readdirSync(repositoryPath(folder), { withFileTypes: true })) {
      const path = `${folder}/${entry.name}`;
      if (entry.isDirectory()) walk(path);
      else if (entry.name.endsWith(".test.ts")) {
        const text = readFileSync(repositoryPath(path), "utf8");
        for (const [, title = ""] of text.matchAll(/\b(?:test|describe)\(\s*["'`]([^\n]*)/g)) {
          for (const [id] of title.matchAll(/\b(?:[HST]\d{2}|F8[02])\b/g)) {
            if (!found.has(path)) found.set(path, new Set());
            found.get(path)?.add(id);
          }
        }
      }
    }
  };
  walk("test");
  return found;
}

/** Rows `| file | ids |` of the table under the heading. */
function tableInDocs(): Map<string, Set<string>> {
  const text = readFileSync(repositoryPath("docs/testing.md"), "utf8");
  const section = text.split("\n## ").find((part) => part.startsWith("Hostile clients")) ?? "";
  const table = new Map<string, Set<string>>();
  for (const [, file = "", ids = ""] of section.matchAll(/^\| `(test\/[^`]+)`\s*\| ([^|]*)\|$/gm)) {
    const cases = new Set<string>();
    for (const [, letter = "", first = "", last = first] of ids.matchAll(/([HSTF])(\d{2})(?:-\1(\d{2}))?/g)) {
      for (let number = Number(first); number <= Number(last); number += 1) {
        cases.add(`${letter}${String(number).padStart(2, "0")}`);
      }
    }
    table.set(file, cases);
  }
  return table;
}

const inTitles = casesInTitles();

test("every case is named by a test, or excused", () => {
  const named = new Set([...inTitles.values()].flatMap((ids) => [...ids]));
  for (const id of catalogue) {
    const excuse = withoutTest[id];
    assert.ok(named.has(id) !== (excuse !== undefined), `${id}: needs a test or an excuse, not both`);
    if (excuse?.see !== undefined) readFileSync(repositoryPath(excuse.see));
  }
  for (const id of Object.keys(withoutTest)) assert.ok(catalogue.includes(id), id);
  for (const path of Object.values(storageRules)) readFileSync(repositoryPath(path));
  for (const [path, ids] of inTitles) {
    for (const id of ids) assert.ok(catalogue.includes(id), `${path} names ${id}, which is in no catalogue`);
  }
});

test("the table in the documents is what the sources say", () => {
  const sorted = (ids: Iterable<string>): string => [...ids].toSorted((a, b) => a.localeCompare(b)).join(" ");
  const shown = (table: ReadonlyMap<string, ReadonlySet<string>>): string[] =>
    [...table].map(([file, ids]) => `${file}: ${sorted(ids)}`).toSorted((a, b) => a.localeCompare(b));
  assert.deepEqual(shown(tableInDocs()), shown(inTitles));
});

test("the excuses stand in the documents too", () => {
  const text = readFileSync(repositoryPath("docs/testing.md"), "utf8");
  for (const id of [...Object.keys(withoutTest), ...Object.keys(storageRules)]) {
    assert.match(text, new RegExp(`\\b${id}\\b`));
  }
});
