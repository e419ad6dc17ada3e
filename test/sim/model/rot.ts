/**
 * Bits that were turned over in a standby's images at rest, and what a verify must say of them: every one that nothing
 * has written over is found by a verify that begins afterwards, and nothing else is ever found. Imports nothing of the
 * product.
 */
import type { History } from "./history.ts";
import { isOp, modelSectorBytes } from "./history.ts";
import { require } from "./violation.ts";

const blockBytes = 4096;

interface Flip {
  readonly volume: number;
  readonly sector: number;
  readonly atMs: number;
  /** Entries that existed then: whatever comes behind them is applied over the flip. */
  readonly journalled: number;
  /** Entries that the images held for certain: what is behind them may have been applied before or after the flip. */
  readonly applied: number;
}

/** Bytes of a volume in which a verify found the standby to differ. */
export interface FoundRange {
  readonly volume: number;
  readonly offset: number;
  readonly length: number;
}

export interface FoundByVerify {
  readonly done: boolean;
  /** Sequences of its marks; null: no end. */
  readonly begin: number;
  readonly end: number | null;
  readonly differences: readonly FoundRange[];
  readonly overwrittenChunks: number;
}

export class Rot {
  readonly #flips: Flip[] = [];

  get count(): number {
    return this.#flips.length;
  }

  plant(flip: Flip): void {
    this.#flips.push(flip);
  }

  /** The images are gone, and every flip with them. */
  forget(): void {
    this.#flips.length = 0;
  }

  /** True when `sector` may show anything after exactly `sequence` entries of `history`. */
  excuses(history: History, volume: number, sector: number, sequence: number): boolean {
    return this.#flips.some(
      (flip) =>
        flip.volume === volume &&
        flip.sector === sector &&
        !isWrittenOver(history, flip, flip.journalled, sequence),
    );
  }

  /** Flips that are still there after all of `history`. */
  left(history: History): number {
    return this.#flips.filter((flip) => !isWrittenOver(history, flip, flip.journalled, history.last)).length;
  }

  /** Answers how many flips had to be found, and were. */
  judge(what: string, history: History, found: FoundByVerify): number {
    const { begin, end, differences, overwrittenChunks, done } = found;
    const last = end ?? history.last;
    // A flip that was written over before the verify began is no reason to report anything.
    const possible = this.#flips.filter((flip) => !isWrittenOver(history, flip, flip.journalled, begin));
    for (const { volume, offset, length } of differences) {
      for (let at = offset; at < offset + length; at += blockBytes)
        require("I2", possible.some((flip) => isIn(flip, volume, at)), () =>
          `${what}: a false alarm of volume ${volume} at ${at}, where nothing was changed`);
    }
    require("I2", overwrittenChunks === 0 || possible.length > 0, () =>
      `${what}: ${overwrittenChunks} chunks differed, and nothing was changed`);
    const mark = history.entries[begin - 1];
    const isBegin =
      mark !== undefined && !isOp(mark) && mark.scan.kind === "mark" && mark.scan.mark === "begin";
    // The begin's record may have gone with the power, and its number to something else: when it began is not known then.
    if (!done || !isBegin) return 0;
    const due = this.#flips.filter((flip) => {
      if (flip.atMs >= mark.atMs) return false;
      const offset = blockOf(flip) * blockBytes;
      return !history.touchedBetween(flip.applied, last, flip.volume, offset, blockBytes);
    });
    for (const flip of due) {
      const isFound = differences.some(({ volume, offset, length }) => {
        const at = blockOf(flip) * blockBytes;
        return volume === flip.volume && offset <= at && at < offset + length;
      });
      require("I2", isFound, () =>
        `${what}: sector ${flip.sector} of volume ${flip.volume} was changed at rest before it, and is not found`);
    }
    return due.length;
  }
}

function blockOf({ sector }: Flip): number {
  return Math.floor((sector * modelSectorBytes) / blockBytes);
}

function isIn(flip: Flip, volume: number, blockStart: number): boolean {
  return flip.volume === volume && blockOf(flip) * blockBytes === blockStart;
}

function isWrittenOver(history: History, flip: Flip, after: number, through: number): boolean {
  const { volume, sector } = flip;
  return history.writtenBetween(after, through, volume, sector * modelSectorBytes, modelSectorBytes);
}
