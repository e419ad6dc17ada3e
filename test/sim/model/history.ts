/**
 * One history of a group as a child would keep it: the list of mutations in the order in which they were handed in,
 * and for every sector which of them changed it when. Sequence n is simply the n-th entry. It knows nothing of frames,
 * journals or images, and shares no code with the product. After a crash somebody says how many entries exist; whether
 * that number is allowed is `owner-book.ts`'s to judge, and what every sector must then show follows from here alone.
 */

export const modelSectorBytes = 512;
/** What a sector shows when it was never written, or zeroed last. */
export const zeroContent = -1;

export type OpKind = "write" | "zeroes" | "trim";
/** `unknown`: the one who was asked died first. `refused`: told it failed; it may exist nevertheless. */
export type OpOutcome = "flying" | "answered" | "refused" | "unknown";

export interface Op {
  /** Unique in the whole run, over all histories: stamped into every sector a write carries. */
  readonly number: number;
  /** Place in the history if it exists at all. */
  readonly sequence: number;
  readonly volume: number;
  readonly kind: OpKind;
  /** Bytes, whole sectors. */
  readonly offset: number;
  readonly length: number;
  readonly fua: boolean;
  readonly sentAtMs: number;
  answeredAtMs: number;
  outcome: OpOutcome;
}

interface Version {
  readonly sequence: number;
  /** Number of the op, or `zeroContent`. */
  readonly content: number;
}

export class History {
  readonly volumeBytes: readonly number[];
  readonly ops: Op[] = [];
  /** Per volume and sector, oldest first. */
  readonly #versions: Version[][][];

  constructor(volumeBytes: readonly number[]) {
    this.volumeBytes = volumeBytes;
    this.#versions = volumeBytes.map((bytes) =>
      Array.from({ length: bytes / modelSectorBytes }, (): Version[] => []),
    );
  }

  /** Sequence of the newest entry. */
  get last(): number {
    return this.ops.length;
  }

  add(op: Omit<Op, "sequence" | "answeredAtMs" | "outcome">): Op {
    const added: Op = {
      ...op,
      sequence: this.ops.length + 1,
      answeredAtMs: Number.POSITIVE_INFINITY,
      outcome: "flying",
    };
    this.ops.push(added);
    this.#lay(added);
    return added;
  }

  #lay(op: Op): void {
    const content = op.kind === "write" ? op.number : zeroContent;
    const sectors = this.#versions[op.volume]!;
    const end = (op.offset + op.length) / modelSectorBytes;
    for (let sector = op.offset / modelSectorBytes; sector < end; sector += 1)
      sectors[sector]!.push({ sequence: op.sequence, content });
  }

  /** Everything after `sequence` never was. */
  truncate(sequence: number): void {
    for (const op of this.ops.splice(sequence)) {
      const sectors = this.#versions[op.volume]!;
      const end = (op.offset + op.length) / modelSectorBytes;
      for (let sector = op.offset / modelSectorBytes; sector < end; sector += 1) {
        const versions = sectors[sector]!;
        while (versions.length > 0 && versions[versions.length - 1]!.sequence > sequence) versions.pop();
      }
    }
  }

  /** A history of its own that begins with the first `sequence` entries of this one. */
  fork(sequence: number): History {
    const forked = new History(this.volumeBytes);
    for (const op of this.ops.slice(0, sequence)) {
      forked.ops.push(op);
      forked.#lay(op);
    }
    return forked;
  }

  /** Data that the first `sequence` entries carry, bytes: zeroes and trims carry none. */
  dataBytesThrough(sequence: number): number {
    let bytes = 0;
    for (let at = 0; at < sequence && at < this.ops.length; at += 1) {
      const { kind, length } = this.ops[at]!;
      if (kind === "write") bytes += length;
    }
    return bytes;
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
