/**
 * What is a lie about points of the past and what is not, in the end of a run: a point that is listed and cannot be
 * opened, against one that was given back between the list and the look.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { AppliedPosition } from "../../../image/marker.ts";
import type { HistoryStatus } from "../../../protocol/status.ts";
import { OperationalError } from "../../../runtime/errors.ts";
import { SeededRandom } from "../../support/seeded.ts";
import { History } from "../model/history.ts";
import { Violation } from "../model/violation.ts";
import type { AskedPast } from "./past-check.ts";
import { checkPast } from "./past-check.ts";

const sizeBytes = 4_096;
const volumes = [{ number: 0, name: "data", sizeBytes }];
const ends = [0, 4, 9, 13];

interface Behaviour {
  /** Where the history begins behind each list of its points, one after another. */
  readonly begins?: readonly number[];
  readonly pinned?: readonly number[];
  /** Listed, and never opened. */
  readonly lies?: readonly number[];
  /** Listed also when the history begins behind it. */
  readonly stale?: readonly number[];
}

/** A past of nothing but zeroes. */
class ListedPast implements AskedPast {
  readonly volumes = volumes;
  readonly #behaviour: Behaviour;
  #begin: number;
  lists = 0;

  constructor(behaviour: Behaviour, begin = 0) {
    this.#behaviour = behaviour;
    this.#begin = begin;
  }

  get status(): HistoryStatus {
    const { pinned = [] } = this.#behaviour;
    return {
      ...{ oldest: this.#begin, newest: 13, points: ends.length, bytes: 1, maxBytes: 1, oldestTime: null },
      pins: pinned.map((sequence) => ({ id: "p", sequence, label: "", since: "", keptBytes: 0 })),
      ...{ problem: null, check: null, checking: null },
    };
  }

  async points(): Promise<AppliedPosition[]> {
    const { begins = [], stale = [] } = this.#behaviour;
    const listed = ends.filter((sequence) => sequence >= this.#begin || stale.includes(sequence));
    this.#begin = begins[this.lists] ?? this.#begin;
    this.lists += 1;
    return listed.map((sequence) => ({
      ...{ sequence, chain: new Uint8Array(32), dataBytesTotal: 0, timeMs: sequence },
    }));
  }

  volumesAt() {
    return volumes;
  }

  async openView(_volume: number, sequence: number) {
    if (sequence < this.#begin || this.#behaviour.lies?.includes(sequence) === true)
      throw new OperationalError({ code: "POINT_UNKNOWN", message: `${sequence}`, reaction: "refuse" });
    return { sizeBytes, read: async () => new Uint8Array(sizeBytes), close: async () => undefined };
  }
}

function look(past: AskedPast): Promise<number> {
  return checkPast({
    ...{ what: "g in the end", past, history: new History([sizeBytes]), seed: 1 },
    ...{ random: new SeededRandom(1, 1), rot: undefined, mustHold: () => true, how: "whole" },
  });
}

async function isLie(behaviour: Behaviour, begin = 0): Promise<void> {
  await assert.rejects(
    look(new ListedPast(behaviour, begin)),
    (error) => error instanceof Violation && error.invariant === "I2",
    JSON.stringify(behaviour),
  );
}

test("a point that was given back between the list and the look is no lie, and what is left is looked at", async () => {
  const past = new ListedPast({ begins: [9] });
  assert.equal(await look(past), 2, "both points that are left");
  assert.equal(past.lists, 2);
});

test("a point that is listed and unknown is a lie while the history begins at or before it", async () => {
  for (const lie of [0, 13]) await isLie({ lies: [lie] });
  // Also in the list that is read anew.
  await isLie({ begins: [9], lies: [9] });
});

test("a point that is listed though the history began behind it before is a lie", async () => {
  await isLie({ stale: [4] }, 9);
  await isLie({ begins: [9], stale: [4] });
});

test("a point that a pin should have kept was not given back in time", async () => {
  await isLie({ begins: [9], pinned: [0] });
  assert.equal(
    await look(new ListedPast({ begins: [9], pinned: [9] })),
    2,
    "a pin behind it keeps nothing of it",
  );
});

test("a history that gives points back under every look is not passed over", async () => {
  await isLie({ begins: [4, 9, 13] });
});
