/** Where a standby can be opened that has received nothing, everything, or not all. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { History } from "./history.ts";
import type { Journalled } from "./journalled.ts";
import { Received } from "./received.ts";

const sizeBytes = 4_096;
const digest: Journalled = { kind: "digest" };

function historyOf(entries: number, held: ConstructorParameters<typeof History>[1] = []): History {
  const history = new History([sizeBytes], held);
  for (let entry = 0; entry < entries; entry += 1) history.placeScan({ kind: "digest" }, entry);
  return history;
}

test("with nothing received there is nothing to open, though the images are the source", () => {
  const history = historyOf(4);
  const received = new Received();
  assert.equal(received.openPoint(history, 0, 0), undefined);
  assert.equal(received.isWhole(history, 0, 0), true);
  received.took(1, [digest, digest]);
  assert.equal(received.openPoint(history, 2, 0), 2);
  assert.equal(received.isWhole(history, 2, 0), true);
});

test("a gap at the very beginning leaves nothing to open, handed to the intake, kept or lost again", () => {
  const history = historyOf(4);
  const received = new Received();
  received.took(1, [{ kind: "gap", span: 3 }, digest]);
  assert.equal(received.openPoint(history, 4, 0), undefined);
  assert.equal(received.isWhole(history, 4, 0), false);
  // A loss of power took the frame: what the standby holds is as it was.
  assert.equal(received.openPoint(history, 0, 0), undefined);
  assert.equal(received.isWhole(history, 0, 0), true);
});

test("the point before a gap is the one to open, from the first entry on", () => {
  const history = historyOf(4);
  const received = new Received();
  received.took(1, [digest, { kind: "gap", span: 2 }, digest]);
  assert.equal(received.openPoint(history, 1, 0), 1);
  assert.equal(received.openPoint(history, 4, 0), 1);
  assert.equal(received.isWhole(history, 4, 0), false);
});

test("where the disks held data images with nothing received are no source", () => {
  const history = historyOf(1, [{ number: 1, volume: 0, offset: 0, length: 512 }]);
  const received = new Received();
  assert.equal(received.openPoint(history, 0, 0), undefined);
  assert.equal(received.isWhole(history, 0, 0), false);
});

test("a first sync that takes the place of entries lost after the standby was is one behind that loss", () => {
  const history = historyOf(5, [{ number: 1, volume: 0, offset: 0, length: 512 }]);
  const received = new Received(true);
  history.forgotten(true);
  // The owner's power took the last two, and nobody could know that when the standby was lost.
  history.truncate(3);
  history.placeScan({ kind: "mark", mark: "begin", purpose: "first-sync", begin: 4 }, 6);
  history.placeScan({ kind: "mark", mark: "end", purpose: "first-sync", begin: 4 }, 7);
  received.took(1, [digest, digest, digest, digest, digest]);
  assert.equal(received.openPoint(history, 5, history.forgottenAt), 5);
  history.forgotten(true);
  assert.equal(received.openPoint(history, 5, history.forgottenAt), undefined, "of before the loss");
});

test("what joined behind the loss of the standby is known to be whole by a volume sync alone", () => {
  const table = { kind: "table", volume: 1, name: "new", sizeBytes, holdsData: true } as const;
  const mark = (of: "begin" | "end", purpose: "first-sync" | "volume-sync", begin: number) =>
    ({ kind: "mark", mark: of, purpose, begin }) as const;
  const history = historyOf(2, [{ number: 1, volume: 0, offset: 0, length: 512 }]);
  history.placeScan(table, 3);
  const received = new Received(true);
  const later = historyOf(2, [{ number: 1, volume: 0, offset: 0, length: 512 }]);
  later.forgotten(true);
  later.placeScan(table, 3);
  history.forgotten(true);
  for (const of of [history, later]) {
    of.placeScan(mark("begin", "first-sync", 4), 4);
    of.placeScan(mark("end", "first-sync", 4), 5);
    assert.equal(received.wholeFrom(of, 1, 5), 5, "its content is there");
  }
  assert.equal(
    received.knownWholeFrom(history, 1, 5),
    5,
    "it was in the table that the standby was made for",
  );
  assert.equal(received.knownWholeFrom(later, 1, 5), undefined);
  later.placeScan(mark("begin", "volume-sync", 6), 6);
  later.placeScan(mark("end", "volume-sync", 6), 7);
  assert.equal(received.knownWholeFrom(later, 1, 7), 7);
});
