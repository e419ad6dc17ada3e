/** Watches against a model that knows every byte: who goes on, who waits, what is spoiled, and in which order. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { Watch, WatchedRange, WatchManner } from "../../../site-agent/scan/extent-watch.ts";
import { ExtentWatches, watchesMax } from "../../../site-agent/scan/extent-watch.ts";

/** Bytes of a volume; every range of the model is a set of (volume, byte). */
const bytes = 24;

function cells({ volume, start, end }: WatchedRange): number[] {
  return Array.from({ length: end - start }, (_, index) => volume * bytes + start + index);
}

interface Modelled {
  readonly watch: Watch;
  readonly cells: ReadonlySet<number>;
  readonly manner: WatchManner;
  spoiled: boolean;
}

class Model {
  readonly watches: Modelled[] = [];
  waiting: { cells: number[]; name: number }[] = [];

  requested(touched: number[], name: number): boolean {
    if (this.#blocked(touched, this.waiting.length)) {
      this.waiting.push({ cells: touched, name });
      return false;
    }
    this.#passes(touched);
    return true;
  }

  release(index: number): number[] {
    this.watches.splice(index, 1);
    const gone: number[] = [];
    for (let at = 0; at < this.waiting.length; ) {
      const { cells: touched, name } = this.waiting[at]!;
      if (this.#blocked(touched, at)) {
        at += 1;
      } else {
        this.#passes(touched);
        gone.push(name);
        this.waiting.splice(at, 1);
      }
    }
    return gone;
  }

  #blocked(touched: number[], before: number): boolean {
    const taken = new Set<number>();
    for (const { manner, cells: held } of this.watches)
      if (manner === "hold") for (const cell of held) taken.add(cell);
    for (const { cells: held } of this.waiting.slice(0, before)) for (const cell of held) taken.add(cell);
    return touched.some((cell) => taken.has(cell));
  }

  #passes(touched: number[]): void {
    for (const watch of this.watches) if (touched.some((cell) => watch.cells.has(cell))) watch.spoiled = true;
  }
}

const rangeOf = fc
  .record({
    volume: fc.integer({ min: 0, max: 1 }),
    start: fc.integer({ min: 0, max: bytes - 1 }),
    length: fc.integer({ min: 1, max: 6 }),
  })
  .map(({ volume, start, length }) => ({ volume, start, end: Math.min(bytes, start + length) }));

const actionOf = fc.oneof(
  fc.record({ watch: rangeOf, manner: fc.constantFrom<WatchManner>("spoil", "hold") }),
  fc.record({ request: fc.array(rangeOf, { minLength: 1, maxLength: 3 }) }),
  fc.record({ release: fc.nat() }),
  fc.constant("takeWaiting" as const),
);

test("requests go on, wait and spoil exactly as byte by byte", () => {
  fc.assert(
    fc.property(fc.array(actionOf, { maxLength: 80 }), (actions) => {
      const watches = new ExtentWatches<number>();
      const model = new Model();
      let name = 0;
      for (const action of actions) {
        if (action === "takeWaiting") {
          assert.deepEqual(
            watches.takeWaiting(),
            model.waiting.map((waiting) => waiting.name),
          );
          model.waiting = [];
        } else if ("watch" in action) {
          if (watches.count === watchesMax) continue;
          const watch = watches.watch(action.watch, action.manner);
          model.watches.push({
            watch,
            cells: new Set(cells(action.watch)),
            manner: action.manner,
            spoiled: false,
          });
        } else if ("request" in action) {
          name += 1;
          const touched = action.request.flatMap(cells);
          assert.equal(watches.requested(action.request, name), model.requested(touched, name));
        } else if (model.watches.length > 0) {
          const index = action.release % model.watches.length;
          const { watch } = model.watches[index]!;
          assert.deepEqual(watches.release(watch), model.release(index));
        }
        assert.equal(watches.waiting, model.waiting.length);
        for (const { watch, spoiled, manner } of model.watches) {
          assert.equal(watch.spoiled, spoiled);
          assert(manner === "spoil" || !spoiled, "a watch that holds is never spoiled");
        }
      }
    }),
  );
});

test("watches are bounded, and released once", () => {
  const watches = new ExtentWatches<number>();
  const range = { volume: 0, start: 0, end: 1 };
  const first = watches.watch(range, "spoil");
  for (let count = 1; count < watchesMax; count += 1) watches.watch(range, "spoil");
  assert.throws(() => watches.watch(range, "spoil"), assert.AssertionError);
  watches.release(first);
  assert.throws(() => watches.release(first), assert.AssertionError);
});
