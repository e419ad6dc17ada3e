/** An owner's history in which volumes join and grow, and what its disks hold at every sequence. Test support. */
import type { HeldVolume } from "../../../gateway/volumes/table.ts";
import type { Frame } from "../../../protocol/frame.ts";
import { blockBytes, type VolumeEntry } from "../../../protocol/ids.ts";
import type { BlockRecord, ScanMark, ScanPurpose } from "../../../protocol/record.ts";
import { foundingVolume, isWholeAt } from "../../../protocol/table-volume.ts";
import { FrameSource, originOf } from "../../image/frames.ts";
import type { SeededRandom } from "../../support/seeded.ts";

/** Sizes that end inside a block: what is behind them in it reads as zeroes once they have grown. */
const begun = 512;
export const founding: readonly VolumeEntry[] = [
  { number: 0, name: "data", sizeBytes: 8 * blockBytes - begun },
  { number: 1, name: "wal", sizeBytes: 4 * blockBytes },
];

export class Story {
  readonly frames: Frame[] = [];
  /** By sequence: contents by volume number, with the sizes of then. */
  readonly content: ReadonlyMap<number, Buffer>[] = [];
  /** By sequence: whether a standby's images are those of one instant there. */
  readonly whole: boolean[] = [];
  /** By sequence: the table as a standby has it that has got so far. */
  readonly tables: (readonly HeldVolume[])[] = [];
  readonly #source = new FrameSource(originOf(founding));
  readonly #random: SeededRandom;
  #disks = new Map<number, Buffer>(
    founding.map(({ number, sizeBytes }) => [number, Buffer.alloc(sizeBytes)]),
  );
  #table: readonly HeldVolume[] = founding.map(foundingVolume);
  #whole = true;
  #pending: BlockRecord[] = [];

  constructor(random: SeededRandom) {
    this.#random = random;
    this.#note();
    this.#writes(4);
    this.#grow(0, 3 * blockBytes);
    this.#writes(4);
    this.#add(2, "log", 4 * blockBytes + begun, null);
    this.#writes(6);
    this.#add(3, "old", 5 * blockBytes, random.below(200) + 1);
    this.#writes(3);
    this.#sync([3], "given-up");
    this.#grow(2, blockBytes);
    this.#writes(3);
    const begin = this.#mark("begin", "volume-sync", 0);
    this.#bring([3]);
    // Frames are lost in its midst: it brings nothing whole any more, and the others need a resync.
    this.#gap(5);
    this.#mark("end", "volume-sync", begin);
    // The table changes while nothing behind the gap can be opened: a failover takes the images back past it.
    this.#grow(1, blockBytes);
    this.#add(5, "mid", 2 * blockBytes, null);
    this.#writes(3);
    this.#resync();
    this.#writes(2);
    this.#sync([3], "end");
    this.#writes(4);
    // Two at once, one of them with data again.
    this.#add(4, "late", 2 * blockBytes, 99);
    this.#grow(1, 2 * blockBytes + begun);
    this.#writes(4);
    this.#sync([4], "end");
    this.#writes(4);
    this.#cut();
  }

  get last(): number {
    return this.content.length - 1;
  }

  tableAt(sequence: number): readonly HeldVolume[] {
    return this.tables[sequence]!;
  }

  /** The volumes that a point at `sequence` holds. */
  wholeAt(sequence: number): readonly HeldVolume[] {
    return this.tableAt(this.last).filter((volume) => isWholeAt(volume, sequence));
  }

  /** What `volume` held at `sequence`, as long as `sizeBytes`. */
  contentAt(sequence: number, volume: number, sizeBytes: number): Buffer {
    const held = this.content[sequence]!.get(volume) ?? Buffer.alloc(0);
    return Buffer.concat([held, Buffer.alloc(sizeBytes - held.byteLength)]);
  }

  /** What a failover opens that has received everything up to `sequence`. */
  openable(sequence: number): number | undefined {
    const found = this.whole.lastIndexOf(true, sequence);
    return found > 0 ? found : undefined;
  }

  #note(): void {
    this.content.push(new Map(this.#disks));
    this.whole.push(this.#whole);
    this.tables.push(this.#table);
  }

  #put(record: BlockRecord): number {
    if (record.kind === "volumeChange") this.#cut();
    this.#pending.push(record);
    if (record.kind === "write") {
      const disk = Buffer.from(this.#disks.get(record.volume)!);
      disk.set(record.data, record.offset);
      this.#disks.set(record.volume, disk);
    }
    this.#note();
    if (record.kind === "volumeChange" || this.#random.chance(0.3)) this.#cut();
    return this.last;
  }

  #cut(): void {
    if (this.#pending.length === 0) return;
    this.frames.push(this.#source.next(this.#pending));
    this.#pending = [];
  }

  #writes(count: number): void {
    for (let index = 0; index < count; index += 1) {
      const volumes = [...this.#disks.keys()];
      const volume = this.#random.chance(0.5)
        ? volumes.at(-1)!
        : volumes[this.#random.below(volumes.length)]!;
      const size = this.#disks.get(volume)!.byteLength;
      const length = 512 * (1 + this.#random.below(12));
      // Near the end as often as anywhere: what has grown is written, across the old end too.
      const from = this.#random.chance(0.5) ? Math.max(0, size - 3 * blockBytes) : 0;
      const offset = from + 512 * this.#random.below((size - from - length) / 512 + 1);
      const data = Buffer.alloc(length, 1 + this.#random.below(255));
      this.#put({ kind: "write", volume, offset, length, data });
    }
  }

  #add(number: number, name: string, sizeBytes: number, byte: number | null): void {
    this.#disks.set(number, Buffer.alloc(sizeBytes, byte ?? 0));
    this.#change(number, name, sizeBytes, byte !== null);
  }

  #grow(number: number, byBytes: number): void {
    const disk = this.#disks.get(number)!;
    const { name } = this.#table.find((each) => each.number === number)!;
    this.#disks.set(number, Buffer.concat([disk, Buffer.alloc(byBytes)]));
    this.#change(number, name, disk.byteLength + byBytes, false);
  }

  #change(volume: number, name: string, sizeBytes: number, holdsData: boolean): void {
    const sequence = this.last + 1;
    const before = this.#table.find((each) => each.number === volume);
    const row: HeldVolume =
      before === undefined
        ? {
            ...{ number: volume, name, sizeBytes, foundingBytes: null },
            ...{ changedAt: sequence, wholeFrom: holdsData ? null : sequence },
          }
        : { ...before, sizeBytes, changedAt: sequence };
    this.#table =
      before === undefined
        ? [...this.#table, row]
        : this.#table.map((each) => (each.number === volume ? row : each));
    this.#put({ kind: "volumeChange", volume, offset: 0, length: 0, sizeBytes, name, holdsData });
  }

  #mark(mark: ScanMark, purpose: ScanPurpose, begin: number): number {
    return this.#put({ kind: "scanMark", volume: 0, offset: 0, length: 0, mark, purpose, begin });
  }

  /** All content of these volumes, with writes in between. */
  #bring(volumes: readonly number[]): void {
    for (const volume of volumes) {
      for (let offset = 0; offset < this.#disks.get(volume)!.byteLength; offset += blockBytes) {
        const now = this.#disks.get(volume)!.subarray(offset, offset + blockBytes);
        const data = now.every((byte) => byte === 0) ? null : Buffer.from(now);
        this.#put({ kind: "scanContent", volume, offset, length: now.byteLength, data });
        if (this.#random.chance(0.3)) this.#writes(1);
      }
    }
  }

  #sync(volumes: readonly number[], how: "end" | "given-up"): void {
    const begin = this.#mark("begin", "volume-sync", 0);
    this.#bring(volumes);
    if (how === "end") {
      const whole = this.last + 1;
      this.#table = this.#table.map(({ syncBehind: _, ...row }) =>
        volumes.includes(row.number) ? { ...row, wholeFrom: whole } : row,
      );
    }
    this.#mark(how, "volume-sync", begin);
  }

  #gap(span: number): void {
    this.#cut();
    this.#whole = false;
    const end = this.last + span;
    this.#table = this.#table.map((row) => (row.wholeFrom === null ? { ...row, syncBehind: end } : row));
    for (let sequence = 0; sequence < span; sequence += 1) {
      const disk = Buffer.from(this.#disks.get(0)!);
      disk.fill(this.#random.below(256), 0, 2 * blockBytes);
      this.#disks.set(0, disk);
      this.#note();
    }
    this.frames.push(this.#source.gap(span, span * 8_192));
  }

  #resync(): void {
    const begin = this.#mark("begin", "resync", 0);
    this.#bring([0]);
    this.#whole = true;
    this.#mark("end", "resync", begin);
  }
}
