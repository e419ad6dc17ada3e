/** What an owner that comes back must still have, by how its machine was lost. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { History } from "./history.ts";
import type { LossKind } from "./owner-book.ts";
import { OwnerBook } from "./owner-book.ts";
import { Violation } from "./violation.ts";

/** Ten writes answered, the first six of them promised through a loss of power. */
function bookOfTen(): OwnerBook {
  const book = new OwnerBook("g at a", new History([4096]), "flush");
  for (let number = 1; number <= 10; number += 1) book.history.placeScan({ kind: "digest" }, 0);
  book.answeredMax = 10;
  book.durableMax = 6;
  return book;
}

/** Least that it may come back with. */
function least(lose: (book: OwnerBook) => void): number {
  for (let written = 0; written <= 10; written += 1) {
    const book = bookOfTen();
    lose(book);
    try {
      book.returned(written);
      return written;
    } catch (error) {
      assert.ok(error instanceof Violation && error.invariant === "I1", String(error));
    }
  }
  throw new Error("it can never come back");
}

test("what was answered outlives a kill, and a loss of power that spared all; the rest of them only what was synced", () => {
  const kinds: LossKind[] = ["kill", "spared", "power"];
  assert.deepEqual(
    kinds.map((kind) => least((book) => book.lost(kind))),
    [10, 10, 6],
  );
  assert.equal(
    least((book) => {
      book.lost("power");
      book.lost("kill");
    }),
    6,
    "a kill makes nothing better",
  );
});

test("a log that decays takes what was only answered where power was lost, and nowhere else", () => {
  const decayedAfter = (kind: LossKind): number =>
    least((book) => {
      book.lost(kind);
      book.logDecayed();
    });
  assert.deepEqual([decayedAfter("kill"), decayedAfter("spared"), decayedAfter("power")], [10, 6, 6]);
});
