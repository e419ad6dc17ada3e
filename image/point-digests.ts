/**
 * Digests of points that were made, beside the history they are of: made on demand, through views, at a pace, and kept so
 * that nobody reads the volumes twice for one point. Reads only; a digest says what was read, and nothing of who is right.
 */
import { join } from "node:path";
import { fieldsOf, malformed } from "../protocol/fields.ts";
import type { Lineage, LineageBytes, Sequence, VolumeEntry, VolumeNumber } from "../protocol/ids.ts";
import { bytesToHex, lineageToText } from "../protocol/ids.ts";
import type { PointDigest } from "../protocol/point-digest.ts";
import { parsePointDigest, pointDigest, VolumeDigester } from "../protocol/point-digest.ts";
import type { Clock } from "../runtime/clock.ts";
import type { Disk } from "../runtime/disk.ts";
import { readDocument, writeDocument } from "../runtime/durable-document.ts";
import { errorText } from "../runtime/errors.ts";
import type { Log } from "../runtime/log.ts";
import { Turns } from "../runtime/turns.ts";
import type { AppliedPosition } from "./marker.ts";

/** Kept, newest first, those of points that are gone last: 256 volumes of some 110 bytes each make 30 KiB of one, below the 1 MiB of a document. */
const digestsMax = 24;
const fileName = "digests.json";

/** A volume at a point, as far as it is read here. */
export interface DigestView {
  read(offset: number, length: number): Promise<Uint8Array>;
  close(): Promise<void>;
}

export interface DigestOrder {
  readonly group: string;
  readonly point: AppliedPosition;
  /** The oldest point that can be opened: digests of older ones make room first. */
  readonly oldest: Sequence;
  /** The label of the point. */
  readonly time: string | null;
  readonly volumes: readonly VolumeEntry[];
  readonly openView: (volume: VolumeNumber) => Promise<DigestView>;
  /** Null: as fast as it may. */
  readonly bytesPerSecond: number | null;
  readonly onProgress: (doneBytes: number, totalBytes: number) => void;
}

export class PointDigests {
  readonly #disk: Disk;
  readonly #path: string;
  readonly #lineage: Lineage;
  readonly #clock: Clock;
  readonly #log: Log;
  #kept: readonly PointDigest[] = [];
  readonly #loaded: Promise<void>;
  readonly #turns = new Turns();

  constructor(
    folder: { readonly disk: Disk; readonly directory: string; readonly lineage: LineageBytes },
    clock: Clock,
    log: Log,
  ) {
    this.#disk = folder.disk;
    this.#path = join(folder.directory, fileName);
    this.#lineage = lineageToText(folder.lineage);
    this.#clock = clock;
    this.#log = log;
    this.#loaded = this.#load();
  }

  async #load(): Promise<void> {
    try {
      const found = await readDocument(this.#disk, this.#path, parseKept);
      this.#kept = found ?? [];
    } catch (error) {
      // They can all be made anew.
      this.#log.warn("DIGESTS_UNREADABLE", `digests of points are lost: ${errorText(error)}`);
    }
  }

  /**
   * The digest of a point that was made before; undefined: of this one none was. One of a volume that has grown since is of
   * another size than the point has now, and counts no more.
   */
  async of(
    { sequence, chain }: { readonly sequence: Sequence; readonly chain: Uint8Array },
    volumes: readonly VolumeEntry[],
  ) {
    await this.#loaded;
    const hex = bytesToHex(chain);
    return this.#kept.find(
      (each) =>
        each.sequence === sequence &&
        each.chain === hex &&
        each.lineage === this.#lineage &&
        isSameTable(each.volumes, volumes),
    );
  }

  /** Reads every volume as of the point. Durable when it settles. Errors of the views. */
  async make(order: DigestOrder): Promise<PointDigest> {
    const { group, point, time } = order;
    const known = await this.of(point, order.volumes);
    if (known !== undefined) return known;
    const totalBytes = order.volumes.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    const startMs = this.#clock.monotonicMs();
    let doneBytes = 0;
    const volumes = [];
    let view: DigestView | undefined;
    try {
      for (const { number, name, sizeBytes } of order.volumes.toSorted((a, b) => a.number - b.number)) {
        const before: DigestView | undefined = view;
        // Opened before the one before it is closed: the point is held without a gap.
        view = await order.openView(number);
        await before?.close();
        const digester = new VolumeDigester(sizeBytes);
        while (digester.nextBytes > 0) {
          const bytes = digester.nextBytes;
          digester.add(await view.read(digester.offset, bytes));
          doneBytes += bytes;
          order.onProgress(doneBytes, totalBytes);
          const dueMs = startMs + (doneBytes * 1_000) / (order.bytesPerSecond ?? Number.POSITIVE_INFINITY);
          await this.#rest(dueMs - this.#clock.monotonicMs());
        }
        volumes.push({ number, name, sizeBytes, digest: digester.end() });
      }
    } finally {
      await view?.close();
    }
    const content = {
      ...{ group, lineage: this.#lineage, sequence: point.sequence, time },
      ...{ chain: bytesToHex(point.chain), volumes },
    };
    const made: PointDigest = { ...content, digest: pointDigest(content) };
    await this.#keep(made, order.oldest);
    return made;
  }

  /** Also without a pace others get a turn: a chunk takes the main thread a millisecond. */
  #rest(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      if (delayMs <= 0) setImmediate(resolve);
      else this.#clock.after(delayMs, resolve);
    });
  }

  #keep(made: PointDigest, oldest: Sequence): Promise<void> {
    return this.#turns.take(async () => {
      const there = this.#kept.filter(({ sequence }) => sequence >= oldest);
      const gone = this.#kept.filter(({ sequence }) => sequence < oldest);
      this.#kept = [made, ...there, ...gone].slice(0, digestsMax);
      await writeDocument(this.#disk, this.#path, { version: 1, digests: this.#kept });
    });
  }

  /** Settles when nothing is written any more. */
  async idle(): Promise<void> {
    await Promise.all([this.#loaded, this.#turns.settled()]);
  }
}

function isSameTable(a: readonly VolumeEntry[], b: readonly VolumeEntry[]): boolean {
  const isIn = ({ number, sizeBytes }: VolumeEntry): boolean =>
    b.some((each) => each.number === number && each.sizeBytes === sizeBytes);
  return a.length === b.length && a.every(isIn);
}

function parseKept(value: unknown): PointDigest[] {
  const { version, digests } = fieldsOf(value, "digests");
  if (version !== 1) malformed("version");
  if (!Array.isArray(digests) || digests.length > digestsMax) return malformed("digests");
  return digests.map(parsePointDigest);
}
