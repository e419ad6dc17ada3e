/**
 * One history of a group as a child would keep it: the list of entries in the order in which they were journalled, and
 * for every sector which of them changed it when. Sequence n is simply the n-th entry. An entry is a mutation that a
 * client asked for, or something that a scan put there, which changes no sector, or a change of the volume table. It knows nothing of frames, journals or
 * images, and shares no code with the product. After a crash somebody says how many entries exist; whether that number is
 * allowed is `owner-book.ts`'s to judge, and what every sector must then show follows from here alone.
 */
import type { JournalledScan, JournalledTable } from "./journalled.ts";

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

/** A change of the volume table, and its place. */
export interface TableChange extends JournalledTable {
  readonly sequence: number;
}

export interface VolumeBytes {
  readonly volume: number;
  readonly sizeBytes: number;
}

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

/** What volumes hold that will join: it is there from their change on. */
export type JoiningRanges = readonly HeldRange[];

export class History {
  /** What each volume had when the history began, or was taken over, bytes; 0: no such volume. */
  #begunBytes: readonly number[];
  #begunAt = 0;
  readonly entries: Entry[] = [];
  /** What the disks held before the first entry. */
  readonly held: readonly HeldRange[];
  readonly #joining: JoiningRanges;
  /** Changes of the table among the entries, oldest first. */
  #changes: TableChange[] = [];
  /** Per volume and sector, oldest first; absent: never written. */
  readonly #versions: Version[][][] = [];
  /** Entries that there were when the standby last lost everything, as far as there still are; 0: it never did. */
  #lostAt = 0;
  /** The same where something had been carried there. */
  #forgottenAt = 0;

  constructor(volumeBytes: readonly number[], held: readonly HeldRange[] = [], joining: JoiningRanges = []) {
    this.#begunBytes = volumeBytes;
    this.held = held;
    this.#joining = joining;
    for (const range of held) this.#lay(range, { sequence: 0, content: range.number });
  }

  /** The volumes after exactly `sequence` entries; by default after all. */
  volumes(sequence = this.last): VolumeBytes[] {
    const bytes = [...this.#begunBytes];
    for (const change of this.#changes)
      if (change.sequence > this.#begunAt && change.sequence <= sequence)
        bytes[change.volume] = Math.max(change.sizeBytes, bytes[change.volume] ?? 0);
    return bytes.flatMap((sizeBytes, volume) => (sizeBytes > 0 ? [{ volume, sizeBytes }] : []));
  }

  /** Bytes of a volume after exactly `sequence` entries; 0: it was not there. */
  sizeAt(volume: number, sequence: number): number {
    return this.volumes(sequence).find((each) => each.volume === volume)?.sizeBytes ?? 0;
  }

  /** What was changed of the table up to `sequence`. */
  tableChanges(sequence = this.last): readonly TableChange[] {
    return this.#changes.filter((change) => change.sequence <= sequence);
  }

  /** The disks held data before, of the beginning or of a volume that joined. */
  get heldData(): boolean {
    return this.held.length > 0 || this.#changes.some(({ holdsData }) => holdsData);
  }

  /** The range was there before anything was written to its volume. */
  isOfBefore(number: number): boolean {
    return [...this.held, ...this.#joining].some((range) => range.number === number);
  }

  get lostAt(): number {
    return this.#lostAt;
  }

  get forgottenAt(): number {
    return this.#forgottenAt;
  }

  /** The standby lost everything; `carried`: what none of these entries brings it again. */
  forgotten(carried: boolean): void {
    this.#lostAt = this.last;
    this.#forgottenAt = carried ? this.last : 0;
  }

  /** From here on the volumes are these: what a new owner got. */
  handedOver(volumes: readonly VolumeBytes[]): void {
    const bytes: number[] = [];
    for (const { volume, sizeBytes } of volumes) bytes[volume] = sizeBytes;
    this.#begunBytes = Array.from(bytes, (each) => each ?? 0);
    this.#begunAt = this.last;
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
    if (scan.kind === "table") this.#change(scan, this.last);
  }

  #change(change: JournalledTable, sequence: number): void {
    const isNew = this.sizeAt(change.volume, sequence) === 0;
    this.#changes.push({ ...change, sequence });
    if (!isNew || !change.holdsData) return;
    for (const range of this.#joining)
      if (range.volume === change.volume) this.#lay(range, { sequence, content: range.number });
  }

  #layOp(op: Op): void {
    this.#lay(op, { sequence: op.sequence, content: op.kind === "write" ? op.number : zeroContent });
  }

  #lay(range: Pick<HeldRange, "volume" | "offset" | "length">, version: Version): void {
    this.#versions[range.volume] ??= [];
    const sectors = this.#versions[range.volume]!;
    const end = (range.offset + range.length) / modelSectorBytes;
    for (let sector = range.offset / modelSectorBytes; sector < end; sector += 1) {
      const versions = sectors[sector];
      if (versions === undefined) sectors[sector] = [version];
      else versions.push(version);
    }
  }

  #unlay(range: Pick<HeldRange, "volume" | "offset" | "length">, sequence: number): void {
    const sectors = this.#versions[range.volume] ?? [];
    const end = (range.offset + range.length) / modelSectorBytes;
    for (let sector = range.offset / modelSectorBytes; sector < end; sector += 1) {
      const versions = sectors[sector] ?? [];
      while (versions.length > 0 && versions[versions.length - 1]!.sequence > sequence) versions.pop();
    }
  }

  /** Everything after `sequence` never was. Returns the clients' part of it, in order. */
  truncate(sequence: number): Op[] {
    // What comes in their place was put into the order after the loss.
    this.#lostAt = Math.min(this.#lostAt, sequence);
    this.#forgottenAt = Math.min(this.#forgottenAt, sequence);
    const gone = this.entries.splice(sequence).filter(isOp);
    for (const op of gone) this.#unlay(op, sequence);
    const kept = this.tableChanges(sequence);
    if (kept.length < this.#changes.length) {
      this.#changes = [...kept];
      for (const range of this.#joining) this.#unlay(range, sequence);
    }
    return gone;
  }

  /** A history of its own that begins with the first `sequence` entries of this one. */
  fork(sequence: number): History {
    const forked = new History(this.#begunBytes, this.held, this.#joining);
    forked.#begunAt = this.#begunAt;
    for (const [index, entry] of this.entries.slice(0, sequence).entries()) {
      forked.entries.push(entry);
      if (!isOp(entry) && entry.scan.kind === "table") forked.#change(entry.scan, index + 1);
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
    const versions = this.#versions[volume]?.[sector] ?? [];
    for (let at = versions.length - 1; at >= 0; at -= 1) {
      if (versions[at]!.sequence <= sequence) return versions[at]!.content;
    }
    return zeroContent;
  }

  /** True when `content` is what `sector` shows for some number of entries in `first..last`. */
  mayShow(volume: number, sector: number, content: number, first: number, last: number): boolean {
    const versions = this.#versions[volume]?.[sector] ?? [];
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
