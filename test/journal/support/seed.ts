/** A seeded generator for tests that choose places to hurt: the seed is printed and can be given again. */
import type { TestContext } from "node:test";

/** Integers in [0, below). The seed comes from SPLITSITE_SEED or the clock, and is told to the test's reader. */
export function seeded(t: TestContext): (below: number) => number {
  const seed = Number(process.env["SPLITSITE_SEED"] ?? Date.now() % 2 ** 31);
  t.diagnostic(`SPLITSITE_SEED=${seed}`);
  let state = (seed ^ 0x9e3779b9) >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}
