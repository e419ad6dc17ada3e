/**
 * What a standby has taken in of one history, gaps and all: where it could be opened at each position, and which entries it
 * lacks. Told by the frames that it hands to its intake. Imports nothing of the product.
 */
import type { History } from "./history.ts";
import { isOp } from "./history.ts";
import type { Journalled, MarkPurpose } from "./journalled.ts";

/** Entries that the standby never gets, both ends included. */
export interface Gap {
  readonly first: number;
  readonly last: number;
}

interface State {
  /** What a failover would open; undefined: nothing. */
  open: number | undefined;
  /** Everything up to here is there. */
  whole: boolean;
  /** What has to end, and the newest begin of one. */
  wanted: MarkPurpose | undefined;
  begun: { readonly purpose: MarkPurpose; readonly at: number } | undefined;
  lacks: Gap[];
}

export class Received {
  /** Images that were made anew for a history whose volumes held data: none of it is there before a first sync has ended. */
  readonly #isMadeForData: boolean;
  /** Newest sequence handed to the intake, whatever became of it. */
  last = 0;
  #gaps: Gap[] = [];

  constructor(isMadeForData = false) {
    this.#isMadeForData = isMadeForData;
  }

  get gapCount(): number {
    return this.#gaps.length;
  }

  /** First entry of the newest gap. */
  get newestGap(): number {
    return this.#gaps.at(-1)?.first ?? 0;
  }

  copy(): Received {
    const copied = new Received(this.#isMadeForData);
    copied.last = this.last;
    copied.#gaps = [...this.#gaps];
    return copied;
  }

  /** A frame goes to the intake; what was there from `first` on has not been kept. */
  took(first: number, records: readonly Journalled[]): void {
    this.#gaps = this.#gaps.filter((gap) => gap.first < first);
    let next = first;
    for (const record of records) {
      const span = record.kind === "gap" ? record.span : 1;
      if (record.kind === "gap") this.#gaps.push({ first: next, last: next + span - 1 });
      next += span;
    }
    this.last = next - 1;
  }

  /** What a failover would open with everything up to `position` received; undefined: nothing. `since`: see `Truth`. */
  openPoint(history: History, position: number, since: number): number | undefined {
    const { whole, open } = this.#at(history, position, since);
    if (!whole) return open;
    // Where nothing was received there never was a point, also where zeroes are all there is to have: a failover is refused,
    // and nothing is called consistent (docs/failover-spec.md). So it is again when a loss of power took the first frames.
    return position > 0 ? position : undefined;
  }

  /** Images that hold everything up to `position`, and nothing behind it, are the source at it. It need not be a point. */
  isWhole(history: History, position: number, since: number): boolean {
    return this.#at(history, position, since).whole;
  }

  /** Gaps that nothing up to `position` has mended, and those behind it. */
  lacking(history: History, position: number): Gap[] {
    return [...this.#at(history, position, 0).lacks, ...this.#gaps.filter(({ last }) => last > position)];
  }

  /**
   * The first entry at which all of a volume's content is there, with everything up to `position` received; undefined: it is
   * not. Where it joined empty that is its change; what it held comes with a volume sync that began behind its newest change,
   * and behind every gap since, or with all else that a standby lacks which is made anew (docs/volumes.md).
   */
  wholeFrom(history: History, volume: number, position: number): number | undefined {
    return this.#contentFrom(history, volume, position, true);
  }

  /**
   * The same where the standby has to know it. Of one that joined when the standby had been made anew it goes by volume syncs
   * alone, though a first sync that began later has brought it all.
   */
  knownWholeFrom(history: History, volume: number, position: number): number | undefined {
    const joined = history.tableChanges(position).find((change) => change.volume === volume)?.sequence ?? 0;
    return this.#contentFrom(history, volume, position, joined <= history.lostAt);
  }

  #contentFrom(history: History, volume: number, position: number, byFirstSync: boolean): number | undefined {
    const changes = history.tableChanges(position).filter((change) => change.volume === volume);
    const joined = changes[0];
    if (history.sizeAt(volume, 0) > 0) return 0;
    if (joined === undefined) return undefined;
    if (!joined.holdsData) return joined.sequence;
    let behind = joined.sequence;
    for (
      let sequence = joined.sequence + 1;
      sequence <= position && sequence <= history.last;
      sequence += 1
    ) {
      const gap = this.#gaps.find(({ first }) => first === sequence);
      if (gap !== undefined && gap.last <= position) {
        behind = gap.last;
        sequence = gap.last;
        continue;
      }
      if (changes.some((change) => change.sequence === sequence)) behind = sequence;
      const entry = history.entries[sequence - 1]!;
      if (isOp(entry) || entry.scan.kind !== "mark" || entry.scan.mark !== "end") continue;
      const { purpose, begin } = entry.scan;
      const isFirst = purpose === "first-sync" && this.#isMadeForData && byFirstSync;
      const brings = purpose === "volume-sync" || isFirst;
      if (brings && begin > behind) return sequence;
    }
    return undefined;
  }

  #at(history: History, position: number, since: number): State {
    const whole = history.held.length === 0 && !this.#isMadeForData;
    const wanted = whole ? undefined : ("first-sync" as const);
    const state: State = { open: undefined, whole, wanted, begun: undefined, lacks: [] };
    for (let sequence = 1; sequence <= position && sequence <= history.last; sequence += 1) {
      const gap = this.#gaps.find(({ first }) => first === sequence);
      if (gap !== undefined && gap.last <= position) {
        this.#broken(state, sequence - 1, "resync");
        state.begun = undefined;
        state.lacks.push(gap);
        sequence = gap.last;
        continue;
      }
      const entry = history.entries[sequence - 1]!;
      if (isOp(entry) || entry.scan.kind !== "mark") continue;
      const { mark, purpose, begin } = entry.scan;
      if (purpose !== "first-sync" && purpose !== "resync") continue;
      if (mark === "begin") {
        this.#broken(state, sequence - 1, purpose);
        state.begun = { purpose, at: sequence };
      } else if (mark === "end" && begin === state.begun?.at && purpose === state.wanted && begin > since) {
        state.whole = true;
        state.wanted = undefined;
        state.open = undefined;
        state.lacks = [];
      }
    }
    return state;
  }

  /** The images are no state of the source from here on; what came before it can still be opened. */
  #broken(state: State, before: number, purpose: MarkPurpose): void {
    if (state.whole) state.open = before > 0 ? before : undefined;
    if (state.whole || purpose === "first-sync") state.wanted = purpose;
    state.whole = false;
  }
}
