/** What an owner may say of a standby that has lost everything before it can know that, and no more. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Believed } from "./believed.ts";
import { History } from "./history.ts";
import { honestyMs } from "./honesty.ts";
import type { Journalled } from "./journalled.ts";
import { Received } from "./received.ts";
import { Violation } from "./violation.ts";

const sizeBytes = 4_096;
const digest: Journalled = { kind: "digest" };
const held = [{ number: 1, volume: 0, offset: 0, length: 512 }];

/** `entries` entries, with nothing of a scan among them. */
function historyOf(entries: number, before: ConstructorParameters<typeof History>[1] = []): History {
  const history = new History([sizeBytes], before);
  for (let entry = 0; entry < entries; entry += 1) history.placeScan({ kind: "digest" }, entry);
  return history;
}

function judges(believed: Believed, history: History, nowMs: number, shownMs: number, state = "protected") {
  return () => believed.judge("the owner", state, history, nowMs, shownMs);
}

test("a volume that joined with data and was brought is believed to be there until its loss is known", () => {
  const history = historyOf(1);
  history.placeScan({ kind: "table", volume: 1, name: "new", sizeBytes, holdsData: true }, 2);
  history.placeScan({ kind: "mark", mark: "begin", purpose: "volume-sync", begin: 3 }, 3);
  history.placeScan({ kind: "mark", mark: "end", purpose: "volume-sync", begin: 3 }, 4);
  const received = new Received();
  received.took(1, [digest, digest, digest, digest]);
  const believed = new Believed(received, 4, history.forgottenAt, 1_000);
  const anew = new Received(history.heldData);
  history.forgotten(true);
  assert.equal(
    anew.isWhole(history, 4, 0),
    false,
    "what a standby made anew needs was never sent to another",
  );
  judges(believed, history, 1_150, 10_000)();
  assert.equal(believed.openPoint(history), 4);
});

test("an owner whose standby was not whole when it was lost had no reason to say protected", () => {
  const data = historyOf(2, held);
  const first = new Believed(new Received(), 2, 0, 1_000);
  assert.throws(judges(first, data, 1_001, 1), Violation, "its first sync was not over");
  judges(first, data, 1_001, 1, "catching-up")();
  const lacking = new Received();
  lacking.took(1, [digest, { kind: "gap", span: 2 }, digest]);
  const second = new Believed(lacking, 4, 0, 1_000);
  assert.throws(judges(second, historyOf(4), 1_001, 1), Violation, "nor was its resync");
  assert.equal(second.openPoint(historyOf(4)), 1, "and its lag counts from where it could be opened");
});

test("what an earlier standby was sent excuses nothing of the one that was lost after it", () => {
  const history = historyOf(0, held);
  history.placeScan({ kind: "mark", mark: "begin", purpose: "first-sync", begin: 1 }, 1);
  history.placeScan({ kind: "mark", mark: "end", purpose: "first-sync", begin: 1 }, 2);
  judges(new Believed(new Received(true), 2, 0, 1_000), history, 1_001, 1)();
  assert.throws(judges(new Believed(new Received(true), 2, 2, 1_000), history, 1_001, 1), Violation);
});

test("not even who is told nothing says protected for longer than a state may be wrong", () => {
  const history = historyOf(1);
  const believed = new Believed(new Received(), 1, 0, 1_000);
  judges(believed, history, 1_000 + honestyMs, 60_000)();
  assert.throws(judges(believed, history, 1_001 + honestyMs, 60_000), Violation);
  judges(believed, history, 1_001 + honestyMs, 500)();
});

test("an owner that was started anew goes by what was there for its lag, and for nothing else", () => {
  const history = historyOf(1);
  const next = new Believed(new Received(), 1, 0, 1_000).afterStart();
  assert.equal(next.openPoint(history), 1);
  judges(next, history, 1_001, 0, "catching-up")();
  assert.throws(judges(next, history, 1_001, 0), Violation);
});
