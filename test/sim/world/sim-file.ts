/**
 * The content of one file or image, twice: as the page cache has it and as the disk has it, with a byte of flags per
 * 512-byte sector between them. Knows what a sync promises and what a loss of power may leave. No names, no time, no
 * faults: those are others'. Arrays are shared with copies (`copy`) until either side changes.
 */
import type { SeededRandom } from "../../support/seeded.ts";

export const sectorBytes = 512;

/** Cached content the disk does not have. */
const dirty = 1;
/** A sync under way has promised the cached content of now. */
const inFlight = 2;
/** Not a hole, in the cache's view and in the disk's. */
const allocated = 4;
const allocatedStored = 8;

const nothing = new Uint8Array(0);
const leastCapacityBytes = 4096;

/** What a sync has to make durable: everything cached when it began. */
export interface SyncJob {
  readonly length: number;
  readonly cuts: number;
}

/** The newest write, as far as a loss of power can tear it. */
export interface TornWrite {
  readonly start: number;
  readonly end: number;
  readonly lengthBefore: number;
}

export interface Run {
  readonly length: number;
  readonly hole: boolean;
}

export class SimFile {
  readonly id: number;
  #data = nothing;
  #stored = nothing;
  #flags = nothing;
  #length = 0;
  #storedLength = 0;
  /** The cut to nothing that is cached and not stored. */
  #cut = false;
  #cuts = 0;
  #shared = false;
  /** Sectors that may be dirty: `#low` <= sector < `#high`. */
  #low = Number.POSITIVE_INFINITY;
  #high = 0;
  #allocatedSectors = 0;

  constructor(id: number) {
    this.id = id;
  }

  get length(): number {
    return this.#length;
  }

  get allocatedBytes(): number {
    return this.#allocatedSectors * sectorBytes;
  }

  /** Cached bytes, fewer at the end of the file; the caller's own. */
  read(position: number, length: number): Uint8Array {
    const end = Math.min(this.#length, position + length);
    return position >= end ? new Uint8Array(0) : this.#data.slice(position, end);
  }

  /** The disk's bytes, as if power were lost now and nothing more persisted. */
  stored(): Uint8Array {
    return this.#stored.slice(0, this.#storedLength);
  }

  write(position: number, bytes: Uint8Array): void {
    const end = position + bytes.byteLength;
    if (end === position) return;
    this.#reach(end);
    for (let sector = position >>> 9; sector < sectorAfter(end); sector += 1) this.#dirty(sector, allocated);
    this.#data.set(bytes, position);
    if (end > this.#length) this.#length = end;
  }

  /** Within the file's length. `free`: whole sectors become holes. */
  zero(position: number, length: number, free: boolean): void {
    const end = position + length;
    if (length === 0) return;
    this.#reach(end);
    for (let sector = position >>> 9; sector < sectorAfter(end); sector += 1) {
      const whole = sector * sectorBytes >= position && (sector + 1) * sectorBytes <= end;
      const kept = free ? (whole ? 0 : this.#flags[sector]! & allocated) : allocated;
      this.#dirty(sector, kept);
    }
    this.#data.fill(0, position, end);
  }

  /** To no bytes at all, as opening for replacement does. */
  cut(): void {
    if (this.#length === 0) return;
    this.#own();
    this.#data.fill(0, 0, this.#length);
    for (let sector = 0; sector < this.#flags.length; sector += 1) {
      this.#flags[sector] = this.#flags[sector]! & allocatedStored;
    }
    this.#allocatedSectors = 0;
    this.#low = Number.POSITIVE_INFINITY;
    this.#high = 0;
    this.#length = 0;
    this.#cut = true;
    this.#cuts += 1;
  }

  /** Grows the file by a hole. */
  grow(length: number): void {
    this.#reach(length);
    this.#length = Math.max(this.#length, length);
  }

  /** Sectors a write would allocate. */
  newSectors(position: number, length: number): number {
    let count = 0;
    for (let sector = position >>> 9; sector < sectorAfter(position + length); sector += 1) {
      if (((this.#flags[sector] ?? 0) & allocated) === 0) count += 1;
    }
    return count;
  }

  beginSync(): SyncJob {
    if (this.#cut || this.#low < this.#high) this.#own();
    // The cut may reach the disk at any time; from the moment a sync is asked for it has.
    if (this.#cut) this.#storeCut();
    for (let sector = this.#low; sector < this.#high; sector += 1) {
      if ((this.#flags[sector]! & dirty) !== 0) this.#flags[sector]! |= inFlight;
    }
    return { length: this.#length, cuts: this.#cuts };
  }

  endSync(job: SyncJob): void {
    if (job.cuts !== this.#cuts) return;
    this.#own();
    let runStart = -1;
    const storeRun = (end: number): void => {
      if (runStart >= 0) this.#storeRun(runStart, end);
      runStart = -1;
    };
    const end = this.#high;
    for (let sector = this.#low; sector < end; sector += 1) {
      if ((this.#flags[sector]! & inFlight) === 0) storeRun(sector);
      else if (runStart < 0) runStart = sector;
    }
    storeRun(end);
    this.#narrow();
    this.#storedLength = Math.max(this.#storedLength, job.length);
  }

  /** A write-back that failed: the pages count as clean, and the disk never got them. A later sync succeeds. */
  failSync(job: SyncJob): void {
    if (job.cuts !== this.#cuts) return;
    this.#own();
    for (let sector = this.#low; sector < this.#high; sector += 1) {
      const flags = this.#flags[sector]!;
      if ((flags & inFlight) !== 0) this.#flags[sector] = flags & ~(dirty | inFlight);
    }
    this.#narrow();
  }

  /** Bit rot: what is stored changes behind the cache's back; a cached sector that is clean is read again. */
  flip(at: number, bit: number): void {
    this.#own();
    if (at < this.#length) this.#data[at]! ^= 1 << bit;
    if (at < this.#storedLength) this.#stored[at]! ^= 1 << bit;
  }

  /** The end of the file is gone, from the cache and from the disk. */
  shorten(length: number): void {
    this.#own();
    const first = sectorAfter(length);
    this.#data.fill(0, Math.min(length, this.#length), this.#length);
    this.#stored.fill(0, Math.min(length, this.#storedLength), this.#storedLength);
    this.#length = Math.min(length, this.#length);
    this.#storedLength = Math.min(length, this.#storedLength);
    for (let sector = first; sector < this.#flags.length; sector += 1) {
      if ((this.#flags[sector]! & allocated) !== 0) this.#allocatedSectors -= 1;
      this.#flags[sector] = 0;
    }
    this.#high = Math.min(this.#high, first);
    this.#narrow();
  }

  /**
   * What is left after power is lost: "everything" cached, "nothing" of it, or a drawn "subset" of sectors, with a
   * length that the persisted ones explain, or now and then all of it. `torn`: that write persisted only up to a
   * drawn sector boundary. All that is left is stored.
   */
  losePower(model: "everything" | "nothing" | "subset", random: SeededRandom, torn?: TornWrite): void {
    this.#own();
    const lengthMax = Math.max(this.#length, this.#storedLength);
    // While the cut itself is not on the disk, nothing written after it can be.
    const cutStored = !this.#cut || model === "everything" || (model === "subset" && random.chance(0.5));
    if (this.#cut && cutStored) this.#storeCut();
    if (cutStored && model !== "nothing") this.#storeSome(model, random, torn);
    this.#stored.fill(0, this.#storedLength, lengthMax);
    this.#data.set(this.#stored.subarray(0, lengthMax));
    this.#length = this.#storedLength;
    this.#cut = false;
    this.#cuts += 1;
    this.#low = Number.POSITIVE_INFINITY;
    this.#high = 0;
    this.#allocatedSectors = 0;
    for (let sector = 0; sector < this.#flags.length; sector += 1) {
      const here = (this.#flags[sector]! & allocatedStored) !== 0;
      this.#flags[sector] = here ? allocated | allocatedStored : 0;
      if (here) this.#allocatedSectors += 1;
    }
  }

  #storeSome(model: "everything" | "subset", random: SeededRandom, torn: TornWrite | undefined): void {
    let length = this.#length;
    if (torn !== undefined) {
      const first = torn.start >>> 9;
      const sectors = sectorAfter(torn.end) - first;
      const tornAt = first + random.below(sectors);
      for (let sector = tornAt; sector < first + sectors; sector += 1) {
        this.#flags[sector] = this.#flags[sector]! & ~(dirty | inFlight);
      }
      if (torn.end > torn.lengthBefore) length = Math.max(torn.lengthBefore, tornAt * sectorBytes);
    }
    // Also all or nothing: one file may be written back as a whole while another one's pages wait.
    const share = model === "everything" ? 1 : random.pick([0, 0.1, 0.5, 0.9, 1]);
    let reached = this.#storedLength;
    for (let sector = this.#low; sector < this.#high; sector += 1) {
      if ((this.#flags[sector]! & dirty) === 0 || (share < 1 && !random.chance(share))) continue;
      this.#store(sector);
      reached = Math.max(reached, Math.min(length, (sector + 1) * sectorBytes));
    }
    this.#storedLength = share === 1 || random.chance(0.25) ? Math.max(this.#storedLength, length) : reached;
  }

  /** Runs of allocated bytes and holes in [position, position + length). */
  runs(position: number, length: number): Run[] {
    const found: Run[] = [];
    const end = position + length;
    for (let at = position; at < end; ) {
      const hole = ((this.#flags[at >>> 9] ?? 0) & allocated) === 0;
      let next = at;
      do next = ((next >>> 9) + 1) * sectorBytes;
      while (next < end && (((this.#flags[next >>> 9] ?? 0) & allocated) === 0) === hole);
      found.push({ length: Math.min(next, end) - at, hole });
      at = next;
    }
    return found;
  }

  /** Any byte that is not zero, in the cache's view. */
  holdsData(): boolean {
    return this.#data.subarray(0, this.#length).some((byte) => byte !== 0);
  }

  /** The same file of another machine's state: cheap, nothing is copied before one of the two changes. */
  copy(): SimFile {
    const copy = new SimFile(this.id);
    this.#shared = true;
    copy.#shared = true;
    copy.#data = this.#data;
    copy.#stored = this.#stored;
    copy.#flags = this.#flags;
    copy.#length = this.#length;
    copy.#storedLength = this.#storedLength;
    copy.#cut = this.#cut;
    copy.#cuts = this.#cuts;
    copy.#low = this.#low;
    copy.#high = this.#high;
    copy.#allocatedSectors = this.#allocatedSectors;
    return copy;
  }

  #storeCut(): void {
    this.#stored.fill(0, 0, this.#storedLength);
    this.#storedLength = 0;
    this.#cut = false;
    for (let sector = 0; sector < this.#flags.length; sector += 1) {
      this.#flags[sector] = this.#flags[sector]! & ~allocatedStored;
    }
  }

  #dirty(sector: number, kept: number): void {
    const flags = this.#flags[sector]!;
    // The sync under way promised what is there now: it is written back before it is overwritten.
    if ((flags & inFlight) !== 0) this.#store(sector);
    if ((flags & allocated) !== kept) this.#allocatedSectors += kept === allocated ? 1 : -1;
    this.#flags[sector] = (this.#flags[sector]! & allocatedStored) | kept | dirty;
    if (sector < this.#low) this.#low = sector;
    if (sector >= this.#high) this.#high = sector + 1;
  }

  #store(sector: number): void {
    this.#storeRun(sector, sector + 1);
  }

  /** Writes sectors back; the file's length is not this one's to decide. */
  #storeRun(first: number, end: number): void {
    this.#stored.set(this.#data.subarray(first * sectorBytes, end * sectorBytes), first * sectorBytes);
    for (let sector = first; sector < end; sector += 1) {
      this.#flags[sector] = (this.#flags[sector]! & allocated) !== 0 ? allocated | allocatedStored : 0;
    }
  }

  /** Forgets the dirty range when nothing in it is dirty any more. */
  #narrow(): void {
    for (let sector = this.#low; sector < this.#high; sector += 1) {
      if ((this.#flags[sector]! & dirty) === 0) continue;
      this.#low = sector;
      return;
    }
    this.#low = Number.POSITIVE_INFINITY;
    this.#high = 0;
  }

  /** Room for `end` bytes, in arrays of our own. */
  #reach(end: number): void {
    if (end <= this.#data.byteLength) {
      this.#own();
      return;
    }
    const wanted = Math.max(leastCapacityBytes, end, Math.min(2 * this.#data.byteLength, end + 1024 * 1024));
    const capacity = sectorAfter(wanted) * sectorBytes;
    this.#data = grown(this.#data, capacity);
    this.#stored = grown(this.#stored, capacity);
    this.#flags = grown(this.#flags, capacity / sectorBytes);
    this.#shared = false;
  }

  #own(): void {
    if (!this.#shared) return;
    this.#data = this.#data.slice();
    this.#stored = this.#stored.slice();
    this.#flags = this.#flags.slice();
    this.#shared = false;
  }
}

function sectorAfter(end: number): number {
  return (end + sectorBytes - 1) >>> 9;
}

function grown(bytes: Uint8Array<ArrayBuffer>, capacity: number): Uint8Array<ArrayBuffer> {
  const larger = new Uint8Array(capacity);
  larger.set(bytes);
  return larger;
}
