/**
 * Tests of the oracles themselves: an oracle that accepts everything proves nothing, and one that raises false alarms
 * gets switched off. Small runs are compared with a brute-force twin that tries every order and every prefix; large
 * runs are accepted as they are and rejected with each kind of lie told.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Mutation } from "./expected.ts";
import { ExpectedRecord } from "./expected.ts";
import { judgeLocal } from "./local-oracle.ts";
import { judgePrefix } from "./prefix-oracle.ts";
import { SeededRandom, seedFromEnvironment } from "./seeded.ts";
import { applyTo, simulateRun, stateAfter } from "./simulated-group.ts";
import { stampBytes } from "./stamp.ts";
import type { VolumeState } from "./state-reader.ts";
import { foundZero } from "./state-reader.ts";

const seed = seedFromEnvironment();

function keyOf(state: readonly VolumeState[]): string {
  return state.map(({ found }) => found.join(",")).join(";");
}

/** Every state that some prefix of some allowed order gives, with the lengths of the prefixes that give it. */
function legalStates(record: ExpectedRecord): Map<string, Set<number>> {
  const { mutations } = record;
  const legal = new Map<string, Set<number>>();
  const extend = (order: Mutation[]) => {
    const key = keyOf(stateAfter(record, order));
    const lengths = legal.get(key) ?? new Set<number>();
    legal.set(key, lengths.add(order.length));
    for (const next of mutations) {
      if (order.includes(next)) continue;
      // Nothing may come before it that is known to be later, nor be left out that is known to be earlier.
      const missesOne = mutations.some(
        (other) =>
          other !== next && other.outcome === "answered" && other.end < next.start && !order.includes(other),
      );
      const tooLate = order.some((other) => next.end < other.start);
      if (!missesOne && !tooLate) extend([...order, next]);
    }
  };
  extend([]);
  return legal;
}

/** Every state whose sectors each show zero or a write that covers them. */
function* thinkableStates(record: ExpectedRecord): Generator<VolumeState[]> {
  const cells = record.volumeBytes.flatMap((bytes, volume) =>
    Array.from({ length: bytes / stampBytes }, (_, sector) => ({
      volume,
      sector,
      values: [
        foundZero,
        ...record.mutations
          .filter(
            (mutation) =>
              mutation.kind === "write" &&
              mutation.volume === volume &&
              mutation.offset <= sector * stampBytes &&
              sector * stampBytes < mutation.offset + mutation.length,
          )
          .map(({ number }) => number),
      ],
    })),
  );
  const total = cells.reduce((product, { values }) => product * values.length, 1);
  for (let index = 0; index < total; index += 1) {
    const state = stateAfter(record, []);
    let rest = index;
    for (const { volume, sector, values } of cells) {
      state[volume]!.found[sector] = values[rest % values.length]!;
      rest = Math.floor(rest / values.length);
    }
    yield state;
  }
}

test(`the prefix oracle agrees with trying every order and every prefix (SEED=${seed})`, () => {
  let accepted = 0;
  let rejected = 0;
  for (let run = 0; run < 1_000; run += 1) {
    const random = new SeededRandom(seed, run);
    const volumeSectors = run % 2 === 0 ? [4] : [2, 2];
    const { record } = simulateRun(random, {
      count: 1 + random.below(6),
      depth: 3,
      volumeSectors,
      lengthMax: 3,
    });
    const legal = legalStates(record);
    for (const state of thinkableStates(record)) {
      const verdict = judgePrefix({ record, state });
      const lengths = legal.get(keyOf(state));
      const context = `SEED=${seed} run ${run} state ${keyOf(state)} ${JSON.stringify(record.mutations)} ${JSON.stringify(verdict)}`;
      assert.equal(verdict.consistent, lengths !== undefined, context);
      if (lengths !== undefined && verdict.consistent) {
        accepted += 1;
        for (const length of lengths) {
          assert.ok(verdict.recordsMin <= length && length <= verdict.recordsMax, `${length} ${context}`);
          assert.ok(judgePrefix({ record, state, sequence: length }).consistent, context);
        }
      } else {
        rejected += 1;
      }
    }
  }
  assert.ok(accepted > 500 && rejected > 500, `accepted ${accepted}, rejected ${rejected}`);
});

const large = { count: 3_000, depth: 24, volumeSectors: [2_000, 700], lengthMax: 64 };

test(`the oracles accept every prefix of a large run (SEED=${seed})`, () => {
  for (let run = 0; run < 8; run += 1) {
    const random = new SeededRandom(seed, 1_000 + run);
    const { record, order } = simulateRun(random, large);
    const prefix = order.slice(0, random.below(order.length + 1));
    const verdict = judgePrefix({ record, state: stateAfter(record, prefix), sequence: prefix.length });
    assert.ok(verdict.consistent, `SEED=${seed} run ${run} ${JSON.stringify(verdict)}`);
    // How far the bounds are from the truth is what concurrency hides: nowhere near the length of the run.
    assert.ok(verdict.recordsMax - verdict.recordsMin < 400, `${verdict.recordsMin}..${verdict.recordsMax}`);
    const whole = stateAfter(record, order);
    assert.ok(
      judgePrefix({ record, state: whole, required: ({ outcome }) => outcome === "answered" }).consistent,
    );
    assert.deepEqual(judgeLocal(record, whole, "answered"), []);
  }
});

/** One request at a time, so that the true order is known and each lie that can be seen must be seen. */
function simulateSerial(random: SeededRandom, length: number): { record: ExpectedRecord; order: Mutation[] } {
  const record = new ExpectedRecord(
    1,
    large.volumeSectors.map((sectors) => sectors * stampBytes),
  );
  for (let count = 0; count < length; count += 1) {
    const volume = random.below(2);
    const first = random.below(large.volumeSectors[volume]! - 16);
    const kind = random.chance(0.8) ? "write" : "trim";
    const length = (2 + random.below(14)) * stampBytes;
    record.answered(record.begin(volume, kind, first * stampBytes, length, false));
  }
  return { record, order: [...record.mutations] };
}

type Lie = (order: Mutation[], random: SeededRandom, record: ExpectedRecord) => VolumeState[];

const lies: Record<string, Lie> = {
  "a write in the middle is dropped": (order, random, record) => {
    order.splice(random.below(order.length - 1), 1);
    return stateAfter(record, order);
  },
  "two neighbours in the order that overlap are swapped": (order, random, record) => {
    const overlapping = order.flatMap((one, at) => {
      const next = order[at + 1];
      const overlap =
        next !== undefined &&
        next.volume === one.volume &&
        next.offset < one.offset + one.length &&
        one.offset < next.offset + next.length;
      return overlap ? [at] : [];
    });
    const at = overlapping.length === 0 ? 0 : random.pick(overlapping);
    [order[at], order[at + 1]] = [order[at + 1]!, order[at]!];
    return stateAfter(record, order);
  },
  "a write is torn": (order, random, record) => {
    const at = random.below(order.length);
    const state = stateAfter(record, order.slice(0, at));
    const half = order[at]!;
    applyTo(state, { ...half, length: half.length - stampBytes });
    for (const mutation of order.slice(at + 1)) applyTo(state, mutation);
    return state;
  },
  "a trim is lost": (order, random, record) => {
    const trims = order.filter(({ kind }) => kind === "trim");
    order.splice(order.indexOf(random.pick(trims)), 1);
    return stateAfter(record, order);
  },
  "a write after the cut is there": (order, random, record) => {
    const cut = random.below(order.length - 20);
    return stateAfter(record, [...order.slice(0, cut), order[cut + 1 + random.below(18)]!]);
  },
  "one volume is further than the other": (order, _random, record) => {
    const cut = Math.floor(order.length / 2);
    return stateAfter(record, [
      ...order.slice(0, cut),
      ...order.slice(cut).filter(({ volume }) => volume === 1),
    ]);
  },
};

for (const [name, lie] of Object.entries(lies)) {
  test(`the prefix oracle rejects a state where ${name} (SEED=${seed})`, () => {
    let told = 0;
    // A lie may be overwritten before anyone can see it; so runs go on until enough were visible.
    for (let run = 0; run < 200 && told < 10; run += 1) {
      const random = new SeededRandom(seed, 2_000 + run);
      const { record, order } = simulateSerial(random, 150);
      const truths = new Set(prefixKeys(record));
      const state = lie(order, random, record);
      const isLie = !truths.has(keyOf(state));
      if (isLie) told += 1;
      assert.equal(judgePrefix({ record, state }).consistent, !isLie, `SEED=${seed} run ${run}`);
    }
    assert.ok(told === 10, `only ${told} lies were visible`);
  });
}

function prefixKeys(record: ExpectedRecord): string[] {
  const state = stateAfter(record, []);
  const keys = [keyOf(state)];
  for (const mutation of record.mutations) {
    applyTo(state, mutation);
    keys.push(keyOf(state));
  }
  return keys;
}

test("the prefix oracle rejects a position that is later or earlier than the state", () => {
  const { record, order } = simulateSerial(new SeededRandom(seed, 3_000), 600);
  const state = stateAfter(record, order.slice(0, 300));
  for (const [sequence, consistent] of [
    [300, true],
    [330, false],
    [270, false],
  ] as const) {
    assert.equal(judgePrefix({ record, state, sequence }).consistent, consistent, `sequence ${sequence}`);
  }
});

test("the local oracle rejects a lost answered write, and one lost after a FLUSH even when only flushes promise", () => {
  const record = new ExpectedRecord(1, [8 * stampBytes]);
  const first = record.begin(0, "write", 0, 4 * stampBytes, false);
  record.answered(first);
  record.flushAnswered(0, record.flushBegin());
  const second = record.begin(0, "write", 0, 4 * stampBytes, false);
  record.answered(second);
  const third = record.begin(0, "write", 0, 4 * stampBytes, false);
  assert.notDeepEqual(judgeLocal(record, stateAfter(record, []), "answered"), []);
  assert.notDeepEqual(judgeLocal(record, stateAfter(record, []), "durable"), []);
  assert.notDeepEqual(judgeLocal(record, stateAfter(record, [first]), "answered"), []);
  assert.deepEqual(judgeLocal(record, stateAfter(record, [first]), "durable"), []);
  assert.deepEqual(judgeLocal(record, stateAfter(record, [first, second]), "answered"), []);
  assert.deepEqual(judgeLocal(record, stateAfter(record, [first, second, third]), "answered"), []);
});
