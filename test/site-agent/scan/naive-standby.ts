/**
 * A standby as simple as can be: one buffer for each volume, records applied one by one, digests compared on the spot. A test
 * plants differences in it, makes it forget what it found, or keeps its findings back.
 */
import type { ScanAnswer, ScanDifference, StandbyLack } from "../../../protocol/control.ts";
import type { Frame } from "../../../protocol/frame.ts";
import type { Sequence } from "../../../protocol/ids.ts";
import { blockBytes } from "../../../protocol/ids.ts";
import type { BlockRecord } from "../../../protocol/record.ts";
import {
  chunkDigest,
  differingBits,
  leafDigests,
  scanChunkBytes,
  setBit,
} from "../../../protocol/scan-digest.ts";

export class NaiveStandby {
  readonly volumes: Buffer[];
  /** Volumes that joined with data, and the records that brought them; they are not whole. */
  readonly partial = new Map<number, Sequence>();
  /** Names of the volumes that joined, by number. */
  readonly joined = new Map<number, string>();
  readonly records: BlockRecord[] = [];
  lacks: StandbyLack | undefined;
  /** Findings are not told: as if it had not got there yet. */
  silent = false;
  /** Rows of one answer. */
  rowsMax = 512;
  since = 0;
  #applied = 0;
  /** Begin of the resync whose end would complete it; 0: none since the last gap. */
  #resync = 0;
  /** Leaves of volume 0 that cannot be read, until they are written. */
  readonly unreadable = new Set<number>();
  #found: ScanDifference[] = [];

  constructor(sizes: readonly number[], lacks?: StandbyLack) {
    this.volumes = sizes.map((size) => Buffer.alloc(size));
    this.lacks = lacks;
  }

  get applied(): Sequence {
    return this.#applied;
  }

  apply(frames: readonly Frame[]): void {
    for (const frame of frames) for (const record of frame.records) this.#apply(record);
  }

  #apply(record: BlockRecord): void {
    this.records.push(record);
    this.#applied += record.kind === "gap" ? record.span : 1;
    if (record.kind === "volumeChange") {
      this.#change(record);
      return;
    }
    const volume = this.volumes[record.volume]!;
    const end = record.offset + record.length;
    switch (record.kind) {
      case "write":
        volume.set(record.data, record.offset);
        return;
      case "zeroes":
      case "trim":
        volume.fill(0, record.offset, end);
        return;
      case "scanContent":
        for (let at = record.offset; at < end; at += blockBytes) this.unreadable.delete(at / blockBytes);
        if (record.data === null) volume.fill(0, record.offset, end);
        else volume.set(record.data, record.offset);
        return;
      case "scanMark":
        if (record.mark === "begin" && record.purpose === "resync") this.#resync = this.#applied;
        if (record.mark === "end" && record.purpose === "first-sync") this.lacks = undefined;
        if (record.mark === "end" && record.purpose === "resync" && record.begin === this.#resync)
          this.lacks = undefined;
        if (record.mark === "end" && record.purpose === "volume-sync" && this.lacks === undefined)
          for (const [number, sequence] of this.partial)
            if (sequence < record.begin) this.partial.delete(number);
        return;
      case "gap":
        this.lacks = "resync";
        this.#resync = 0;
        // What a scan sent before may be in it: only one that begins behind it is believed.
        for (const number of this.partial.keys()) this.partial.set(number, this.#applied);
        return;
      case "scanDigest": {
        const ours: Uint8Array[] = [];
        for (let at = record.offset; at < end; at += scanChunkBytes) {
          const leaves = leafDigests(volume.subarray(at, Math.min(end, at + scanChunkBytes)));
          ours.push(record.level === "leaf" ? leaves : chunkDigest(leaves));
        }
        const differing = differingBits(record.level, Buffer.concat(ours), record.digests);
        const unit = record.level === "leaf" ? blockBytes : scanChunkBytes;
        const lost = [...this.unreadable].filter(
          (leaf) => record.volume === 0 && leaf * blockBytes >= record.offset && leaf * blockBytes < end,
        );
        if (differing === undefined && lost.length === 0) return;
        const bits = differing ?? new Uint8Array(Math.ceil(Math.ceil(record.length / unit) / 8));
        const unreadable = new Uint8Array(bits.byteLength);
        for (const leaf of lost) {
          const at = Math.floor((leaf * blockBytes - record.offset) / unit);
          setBit(bits, at);
          setBit(unreadable, at);
        }
        this.#found.push({
          sequence: this.applied,
          bits: Buffer.from(bits).toString("hex"),
          ...(record.level === "leaf" && lost.length > 0
            ? { unreadable: Buffer.from(unreadable).toString("hex") }
            : {}),
        });
      }
    }
  }

  #change({
    volume: number,
    sizeBytes,
    name,
    holdsData,
  }: Extract<BlockRecord, { kind: "volumeChange" }>): void {
    const before = this.volumes[number];
    if (before === undefined) {
      this.joined.set(number, name);
      if (holdsData) this.partial.set(number, this.#applied);
    }
    const after = Buffer.alloc(Math.max(sizeBytes, before?.byteLength ?? 0));
    if (before !== undefined) after.set(before);
    this.volumes[number] = after;
  }

  /** Killed: what it found is gone. */
  forget(): void {
    this.#found = [];
    this.since = this.applied;
  }

  findings(after: Sequence): ScanAnswer {
    if (this.silent) return { kind: "findings", since: 0, through: 0, differing: [], more: false };
    const rows = this.#found.filter(({ sequence }) => sequence > after);
    return {
      kind: "findings",
      since: this.since,
      through: this.applied,
      differing: rows.slice(0, this.rowsMax),
      more: rows.length > this.rowsMax,
    };
  }
}
