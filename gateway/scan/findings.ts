/**
 * What a scan's digests have shown since the images were opened: which were compared, and which of those differ. Pure.
 * Bounded, and kept in memory only. It must never let anyone take a digest for equal that was not compared: what it
 * cannot vouch for lies at or before `since` or behind `through`. The rules: docs/scan.md, "Findings".
 */
import { strict as assert } from "node:assert";
import type { ScanAnswer, ScanDifference } from "../../protocol/control.ts";
import { scanBitsHexMax, scanDifferencesMax } from "../../protocol/control.ts";
import { bytesToHex, type Sequence } from "../../protocol/ids.ts";

/** Digests with a difference that are kept: at most 512 bytes of bits each (4,095 chunks), 2 MiB together. */
export const findingsMax = 4_096;

export type FindingsAnswer = Extract<ScanAnswer, { kind: "findings" }>;

interface Row {
  readonly sequence: Sequence;
  readonly bits: Uint8Array;
  /** Of them, those that could not be read. */
  readonly unreadable: Uint8Array | undefined;
}

export class Findings {
  #since: Sequence;
  #through: Sequence;
  /** Ascending, all behind `#since`, at most `#rowsMax`. */
  #rows: Row[] = [];
  /** The newest digest that was passed over while rows were still to be collected; from then on all of them are. */
  #missed: Sequence | undefined;
  readonly #rowsMax: number;

  /** `since`: up to here nothing was compared, or it is not known at which content. */
  constructor(since: Sequence, rowsMax = findingsMax) {
    this.#since = since;
    this.#through = since;
    this.#rowsMax = rowsMax;
  }

  /** Whether the next digest can be noted; if not, it need not be compared, and is `missed`. */
  get takes(): boolean {
    return this.#missed === undefined && this.#rows.length < this.#rowsMax;
  }

  /** The digest at `sequence` was compared; `bits` as of `differingBits`. Sequences ascend; only while it `takes`. */
  compared(sequence: Sequence, bits: Uint8Array | undefined, unreadable?: Uint8Array): void {
    assert(this.takes && sequence > this.#through, "digests are noted in order");
    this.#through = sequence;
    if (bits !== undefined) this.#rows.push({ sequence, bits, unreadable });
  }

  /** The digest at `sequence` was passed over: nothing is known of it, ever. */
  missed(sequence: Sequence): void {
    assert(sequence > (this.#missed ?? this.#through), "digests are noted in order");
    this.#missed = sequence;
    this.#resume();
  }

  /** Behind a digest that was passed over it goes on only when nothing from before it is left to be collected. */
  #resume(): void {
    if (this.#missed === undefined || this.#rows.length > 0) return;
    this.#since = this.#missed;
    this.#through = this.#missed;
    this.#missed = undefined;
  }

  /** What is known behind `after`; who asks has what is before, which is freed. */
  collect(after: Sequence): FindingsAnswer {
    this.#since = Math.max(this.#since, Math.min(after, this.#through));
    this.#rows = this.#rows.filter(({ sequence }) => sequence > this.#since);
    this.#resume();
    const differing = this.#asMuchAsFits();
    const more = differing.length < this.#rows.length;
    // What lies behind the last row that fits is told with the rows that are there.
    const through = more ? (differing.at(-1)?.sequence ?? this.#since) : this.#through;
    return { kind: "findings", since: this.#since, through, differing, more };
  }

  #asMuchAsFits(): ScanDifference[] {
    const fitting: ScanDifference[] = [];
    let hexLength = 0;
    for (const { sequence, bits, unreadable } of this.#rows) {
      hexLength += (bits.byteLength + (unreadable?.byteLength ?? 0)) * 2;
      if (hexLength > scanBitsHexMax || fitting.length === scanDifferencesMax) break;
      fitting.push({
        sequence,
        bits: bytesToHex(bits),
        ...(unreadable === undefined ? {} : { unreadable: bytesToHex(unreadable) }),
      });
    }
    return fitting;
  }
}
