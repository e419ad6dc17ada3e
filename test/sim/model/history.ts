/**
 * One history of a group as a child would keep it: the list of entries in the order in which they were journalled, and
 * for every sector which of them changed it when. Sequence n is simply the n-th entry. An entry is a mutation that a
 * client asked for, or something that a scan put there, which changes no sector. It knows nothing of frames, journals or
 * images, and shares no code with the product. After a crash somebody says how many entries exist; whether that number is
 * allowed is `owner-book.ts`'s to judge, and what every sector must then show follows from here alone.
 */
import type { JournalledScan } from "./journalled.ts";

export const modelSectorBytes = 512;
/** What a sector shows when it was never written, or zeroed last. */
export const zeroContent = -1;

export type OpKind = "write" | "zeroes" | "trim";
/** `unknown`: the one who was asked died first. `refused`: told it failed; it may exist nevertheless. */
export type OpOutcome = "flying" | "answered" | "refused" | "unknown";

export interface OpRequest {
  /** Unique in the whole run, over all histories: stamped into every sector a write carries. */
  readonly number: number;
  readonly volume: number;
  readonly kind: OpKind;
  /** Bytes, whole sectors. */
  readonly offset: number;
  readonly length: number;
  readonly fua: boolean;
}

export interface Op extends OpRequest {
  /** Place in the history if it exists at all; 0 while it has none. */
  sequence: number;
  readonly sentAtMs: number;
  answeredAtMs: number;
  outcome: OpOutcome;
}

/** What a scan put into the order, and when. */
export interface ScanEntry {
  readonly scan: JournalledScan;
  readonly atMs: number;
}

export type Entry = Op | ScanEntry;

export function isOp(entry: Entry): entry is Op {
  return "number" in entry;
}

/** Bytes of a volume, with the stamp that they carry. */
export type HeldRange = Pick<OpRequest, "number" | "volume" | "offset" | "length">;

interface Version {
  readonly sequence: number;
  /** Number of the op, or `zeroContent`. */
  readonly content: number;
}

export class History {
  readonly volumeBytes: readonly number[];
  readonly entries: Entry[] = [];
  /** What the disks held before the first entry. */
  readonly held: readonly HeldRange[];
  /** Per volume and sector, oldest first. */
  readonly #versions: Version[][][];

  constructor(volumeBytes: readonly number[], held: readonly HeldRange[] = []) {
    this.volumeBytes = volumeBytes;
    this.held = held;
    this.#versions = volumeBytes.map((bytes) =>
      Array.from({ length: bytes / modelSectorBytes }, (): Version[] => []),
    );
    for (const range of held) this.#lay(range, { sequence: 0, content: range.number });
  }

  /** Sequence of the newest entry. */
  get last(): number {
    return this.entries.length;
  }

  /** Gives `op` its place behind all entries. */
  place(op: Op): void {
    this.entries.push(op);
    op.sequence = this.last;
    this.#layOp(op);
  }

  placeScan(scan: JournalledScan, atMs: number): void {
    this.entries.push({ scan, atMs });
  }

  #layOp(op: Op): void {
    this.#lay(op, { sequence: op.sequence, content: op.kind === "write" ? op.number : zeroContent });
  }

  #lay(range: Pick<HeldRange, "volume" | "offset" | "length">, version: Version): void {
    const sectors = this.#versions[range.volume]!;
    const end = (range.offset + range.length) / modelSectorBytes;
    for (let sector = range.offset / modelSectorBytes; sector < end; sector += 1)
      sectors[sector]!.push(version);
  }

  /** Everything after `sequence` never was. Returns the clients' part of it, in order. */
  truncate(sequence: number): Op[] {
    const gone = this.entries.splice(sequence).filter(isOp);
    for (const op of gone) {
      const sectors = this.#versions[op.volume]!;
      const end = (op.offset + op.length) / modelSectorBytes;
      for (let sector = op.offset / modelSectorBytes; sector < end; sector += 1) {
        const versions = sectors[sector]!;
        while (versions.length > 0 && versions[versions.length - 1]!.sequence > sequence) versions.pop();
      }
    }
    return gone;
  }

  /** A history of its own that begins with the first `sequence` entries of this one. */
  fork(sequence: number): History {
    const forked = new History(this.volumeBytes, this.held);
    for (const [index, entry] of this.entries.slice(0, sequence).entries()) {
      forked.entries.push(entry);
      const content = isOp(entry) && entry.kind === "write" ? entry.number : zeroContent;
      if (isOp(entry)) forked.#lay(entry, { sequence: index + 1, content });
    }
    return forked;
  }

  /** Data that the first `sequence` entries carry, bytes: zeroes, trims and what a scan put there carry none. */
  dataBytesThrough(sequence: number): number {
    let bytes = 0;
    for (const entry of this.entries.slice(0, sequence))
      if (isOp(entry) && entry.kind === "write") bytes += entry.length;
    return bytes;
  }

  /** What clients asked for behind `after` and up to `through`, oldest first. */
  opsBetween(after: number, through: number): Op[] {
    return this.entries.slice(after, through).filter(isOp);
  }

  /** Sequence of the newest entry up to `through` that a client asked for; 0: none. */
  newestOp(through: number): number {
    const at = this.entries.slice(0, through).findLastIndex(isOp);
    return at + 1;
  }

  /** True when something behind `after` and up to `through` gave all of this range its content. */
  writtenBetween(after: number, through: number, volume: number, offset: number, length: number): boolean {
    return this.#anyBetween(
      after,
      through,
      volume,
      (start, end) => start <= offset && end >= offset + length,
    );
  }

  /** True when something behind `after` and up to `through` changed or sent any of this range. */
  touchedBetween(after: number, through: number, volume: number, offset: number, length: number): boolean {
    return this.#anyBetween(after, through, volume, (start, end) => start < offset + length && offset < end);
  }

  #anyBetween(
    after: number,
    through: number,
    volume: number,
    matches: (start: number, end: number) => boolean,
  ): boolean {
    return this.entries.slice(after, through).some((entry) => {
      const range = isOp(entry) ? entry : entry.scan.kind === "content" ? entry.scan : undefined;
      return range?.volume === volume && matches(range.offset, range.offset + range.length);
    });
  }

  /** What `sector` shows when exactly the first `sequence` entries happened. */
  contentAt(volume: number, sector: number, sequence: number): number {
    const versions = this.#versions[volume]![sector]!;
    for (let at = versions.length - 1; at >= 0; at -= 1) {
      if (versions[at]!.sequence <= sequence) return versions[at]!.content;
    }
    return zeroContent;
  }

  /** True when `content` is what `sector` shows for some number of entries in `first..last`. */
  mayShow(volume: number, sector: number, content: number, first: number, last: number): boolean {
    const versions = this.#versions[volume]![sector]!;
    for (let at = versions.length - 1; at >= 0; at -= 1) {
      const version = versions[at]!;
      if (version.sequence > last) continue;
      if (version.content === content) return true;
      // The newest at or before `first` is the oldest that may still be seen.
      if (version.sequence <= first) return false;
    }
    return content === zeroContent;
  }
}
