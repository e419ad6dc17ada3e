/**
 * The waymarks that a log has stored: which there are, and the oldest one whole. Reads rows of the store; what is put and
 * deleted there is the log's to do, which has one order for all its writes.
 */
import type { Sequence } from "../protocol/ids.ts";
import { RemoteProtocolError } from "../protocol/remote-error.ts";
import type { MarkedPosition } from "./frame-log.ts";
import { journalDamaged } from "./journal-errors.ts";
import type { FrameStore, StoredRow } from "./store.ts";
import { decodeWaymark } from "./waymark.ts";

export class KeptWaymarks {
  readonly #store: Pick<FrameStore, "row">;
  /** Rising. At most `waymarkSpan` an anchor. */
  #sequences: Sequence[];
  #oldest: MarkedPosition | undefined;

  /** `stored`: by rising sequence. */
  constructor(store: Pick<FrameStore, "row">, stored: readonly MarkedPosition[]) {
    this.#store = store;
    this.#sequences = stored.map(({ sequence }) => sequence);
    this.#oldest = stored[0];
  }

  get oldest(): MarkedPosition | undefined {
    return this.#oldest;
  }

  /** JOURNAL_DAMAGED when what is stored is not what it should be. */
  async at(sequence: Sequence): Promise<MarkedPosition | undefined> {
    const value = await this.#store.row("waymark", sequence);
    return value === undefined ? undefined : decodeStoredWaymark({ number: sequence, value });
  }

  /** Those of `marks` that are not stored, rising. */
  unknown(marks: readonly MarkedPosition[]): MarkedPosition[] {
    const known = new Set(this.#sequences);
    return marks.filter(({ sequence }) => !known.has(sequence)).sort((a, b) => a.sequence - b.sequence);
  }

  /** These, rising, are stored from now on. */
  add(fresh: readonly MarkedPosition[]): void {
    const [first] = fresh;
    if (first === undefined) return;
    this.#sequences.push(...fresh.map(({ sequence }) => sequence));
    this.#sequences.sort((a, b) => a - b);
    if (this.#oldest === undefined || first.sequence < this.#oldest.sequence) this.#oldest = first;
  }

  /** Those below `sequence` are believed in no longer, before the first of them is deleted; they are the answer. */
  async forgetBelow(sequence: Sequence): Promise<readonly Sequence[]> {
    let count = 0;
    while (count < this.#sequences.length && this.#sequences[count]! < sequence) count += 1;
    if (count === 0) return [];
    const gone = this.#sequences.slice(0, count);
    const next = this.#sequences[count];
    this.#oldest = next === undefined ? undefined : await this.at(next);
    this.#sequences = this.#sequences.slice(count);
    return gone;
  }
}

/** A waymark as it is stored. JOURNAL_DAMAGED when it is not what it should be. */
export function decodeStoredWaymark({ number, value }: StoredRow): MarkedPosition {
  try {
    return decodeWaymark(number, value);
  } catch (error) {
    if (error instanceof RemoteProtocolError) throw journalDamaged("waymark", number, {}, error);
    throw error;
  }
}
