/**
 * A planted bug: one change of one product file that a named test must catch. Kept as text to find and text to put in
 * its place, so that a change of the product that a patch no longer fits is noticed at once instead of silently
 * proving nothing.
 */

/** A test file that must fail, and which of its tests where the whole file would take long. */
export interface Catcher {
  /** Relative to the root. */
  readonly file: string;
  /** Regular expression for test titles; all when left out. */
  readonly only?: string;
}

export interface Edit {
  /** Text that stands in the file exactly once. */
  readonly find: string;
  readonly replace: string;
}

export interface PlantedBug extends Edit {
  /** Short and for ever: `write-path/answer-before-put`. */
  readonly id: string;
  /** What the changed product does, in one sentence. */
  readonly does: string;
  /** Product file, relative to the root. */
  readonly file: string;
  /** Further changes of the same file, where one alone would be noticed by its other half. */
  readonly also?: readonly Edit[];
  /** At least one; the bug counts as caught when any of them fails as it should. */
  readonly caughtBy: readonly Catcher[];
  /** Environment of the tests, for seeds and counts. */
  readonly env?: Readonly<Record<string, string>>;
  /** The tests must have failed by then, seconds. */
  readonly budgetSeconds: number;
}

/** `text` with the bug in it; undefined when a text to find does not stand there exactly once. */
export function plant(bug: PlantedBug, text: string): string | undefined {
  let planted = text;
  for (const { find, replace } of [bug, ...(bug.also ?? [])]) {
    const at = planted.indexOf(find);
    if (at < 0 || planted.indexOf(find, at + 1) >= 0) return undefined;
    planted = planted.slice(0, at) + replace + planted.slice(at + find.length);
  }
  return planted;
}
