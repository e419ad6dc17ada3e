/**
 * Compares the bytes of a volume with what the history says. Reads stamps with the test tree's own reader; imports
 * nothing of the product.
 */
import { readStamp } from "../../support/stamp.ts";
import type { History } from "./history.ts";
import { isOp, modelSectorBytes, zeroContent } from "./history.ts";
import type { Rot } from "./rot.ts";
import type { InvariantId } from "./violation.ts";
import { require, Violation } from "./violation.ts";

/** The op that a sector shows, `zeroContent`, or a sentence about what is wrong with it. */
export function contentOf(
  bytes: Uint8Array,
  at: number,
  seed: number,
  volume: number,
  sector: number,
): number | string {
  const data = Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const reading = readStamp(data, at, seed, volume, sector);
  switch (reading.kind) {
    case "zero":
      return zeroContent;
    case "stamp":
      return reading.number;
    case "foreign":
      return reading.why;
  }
}

export interface ExactQuestion {
  readonly what: string;
  readonly invariant: InvariantId;
  readonly history: History;
  readonly volume: number;
  readonly seed: number;
  /** All bytes of the volume, or those that it had at `sequence` and as many more as there are: these are zeroes then. */
  readonly bytes: Uint8Array;
  /** Exactly these entries happened. */
  readonly sequence: number;
  /** Sectors that were changed at rest, and not written since, may show anything. */
  readonly rot?: Rot | undefined;
}

function sectorsOf({ what, invariant, history, volume, bytes, sequence }: ExactQuestion): number {
  const least = history.sizeAt(volume, sequence);
  require(invariant, bytes.byteLength >= least, () =>
    `${what}, volume ${volume}, has ${bytes.byteLength} bytes at ${sequence}, where it must have ${least}`);
  return bytes.byteLength / modelSectorBytes;
}

/** Throws a Violation that names the first wrong sectors. */
export function requireExact(question: ExactQuestion): void {
  const { what, invariant, history, volume, seed, bytes, sequence, rot } = question;
  const wrong: string[] = [];
  const sectors = sectorsOf(question);
  for (let sector = 0; sector < sectors && wrong.length < 5; sector += 1) {
    const found = contentOf(bytes, sector * modelSectorBytes, seed, volume, sector);
    const expected = history.contentAt(volume, sector, sequence);
    if (found !== expected && rot?.excuses(history, volume, sector, sequence) !== true)
      wrong.push(`sector ${sector}: ${name(history, found)} instead of ${name(history, expected)}`);
  }
  if (wrong.length > 0)
    throw new Violation(invariant, `${what}, volume ${volume}, at ${sequence}: ${wrong.join("; ")}`);
}

/** For images that lack entries: a sector that differs from what it should show must lie where `mayDiffer`. */
export function requireElsewhereExact(question: ExactQuestion, mayDiffer: (sector: number) => boolean): void {
  const { what, invariant, history, volume, seed, bytes, sequence, rot } = question;
  const sectors = sectorsOf(question);
  for (let sector = 0; sector < sectors; sector += 1) {
    const found = contentOf(bytes, sector * modelSectorBytes, seed, volume, sector);
    const expected = history.contentAt(volume, sector, sequence);
    if (found === expected || rot?.excuses(history, volume, sector, sequence) === true) continue;
    require(invariant, mayDiffer(sector), () =>
      `${what}, volume ${volume}, at ${sequence}: sector ${sector}: ${name(history, found)} instead of ${name(history, expected)}, and nothing says that it may differ`);
  }
}

export interface RangeQuestion {
  readonly what: string;
  readonly invariant: InvariantId;
  readonly history: History;
  readonly volume: number;
  readonly seed: number;
  readonly offset: number;
  readonly bytes: Uint8Array;
  /** Some number of entries in `first..last` happened, for each sector its own. */
  readonly first: number;
  readonly last: number;
  readonly rot?: Rot | undefined;
}

/** For a read beside writes: each sector may show any state between what was answered before and asked for after. */
export function requireWithin(question: RangeQuestion): void {
  const { what, invariant, history, volume, seed, offset, bytes, first, last, rot } = question;
  for (let at = 0; at < bytes.byteLength; at += modelSectorBytes) {
    const sector = (offset + at) / modelSectorBytes;
    const found = contentOf(bytes, at, seed, volume, sector);
    if (typeof found === "number" && history.mayShow(volume, sector, found, first, last)) continue;
    if (rot?.excuses(history, volume, sector, first) === true) continue;
    throw new Violation(
      invariant,
      `${what}, volume ${volume} sector ${sector}: ${name(history, found)}, allowed is ${first}..${last}, ` +
        `which begins with ${name(history, history.contentAt(volume, sector, first))}`,
    );
  }
}

function name(history: History, content: number | string): string {
  if (typeof content === "string") return content;
  if (content === zeroContent) return "zeroes";
  const at = history.entries.findIndex((entry) => isOp(entry) && entry.number === content);
  if (at >= 0) return `write #${content} (${at + 1})`;
  return history.isOfBefore(content)
    ? `#${content} of before the first write`
    : `write #${content}, which is not in this history`;
}
