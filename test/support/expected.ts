/**
 * The client's own record of what it asked for and what it was told: the ground truth of every oracle. It outlives
 * the processes under test and shares no code with them. It knows real time only as an order of events: each sending
 * and each answer takes the next tick of one counter.
 */

export type MutationKind = "write" | "zeroes" | "trim";

/**
 * `flying`: not answered yet. `answered`: told it was done. `refused`: told it failed (it may exist nevertheless).
 * `unknown`: the connection died first.
 */
export type Outcome = "flying" | "answered" | "refused" | "unknown";

export interface Mutation {
  /** From 0, dense; the index in `mutations`. */
  readonly number: number;
  /** Index of the volume in the group. */
  readonly volume: number;
  readonly kind: MutationKind;
  /** Bytes, whole sectors. */
  readonly offset: number;
  readonly length: number;
  readonly fua: boolean;
  /** Tick just before the request was sent. */
  readonly start: number;
  /** Tick by which it had happened or never will; Infinity while it may still happen. */
  end: number;
  outcome: Outcome;
}

export class ExpectedRecord {
  readonly seed: number;
  /** Bytes of each volume of the group. */
  readonly volumeBytes: readonly number[];
  readonly mutations: Mutation[] = [];
  flushes = 0;
  #tick = 0;
  /** Start tick of the newest answered FLUSH of each volume. */
  readonly #flushedStart: number[];
  /** Numbers of mutations that were seen after a power loss. */
  readonly #survived = new Set<number>();

  constructor(seed: number, volumeBytes: readonly number[]) {
    this.seed = seed;
    this.volumeBytes = volumeBytes;
    this.#flushedStart = volumeBytes.map(() => -1);
  }

  #next(): number {
    this.#tick += 1;
    return this.#tick;
  }

  /** Number that the next mutation will get: a write's data is stamped with it. */
  get nextNumber(): number {
    return this.mutations.length;
  }

  /** Call just before sending. */
  begin(volume: number, kind: MutationKind, offset: number, length: number, fua: boolean): Mutation {
    const mutation: Mutation = {
      number: this.mutations.length,
      volume,
      kind,
      offset,
      length,
      fua,
      start: this.#next(),
      end: Number.POSITIVE_INFINITY,
      outcome: "flying",
    };
    this.mutations.push(mutation);
    return mutation;
  }

  answered(mutation: Mutation): void {
    mutation.outcome = "answered";
    mutation.end = this.#next();
  }

  refused(mutation: Mutation): void {
    mutation.outcome = "refused";
  }

  unknown(mutation: Mutation): void {
    mutation.outcome = "unknown";
  }

  /** Tick of a FLUSH about to be sent; hand it to `flushAnswered`. */
  flushBegin(): number {
    return this.#next();
  }

  /** Everything of `volume` answered before the FLUSH was sent is durable now. */
  flushAnswered(volume: number, start: number): void {
    this.flushes += 1;
    if (start > this.#flushedStart[volume]!) this.#flushedStart[volume] = start;
  }

  /**
   * The process that could still have done the open requests is dead and reaped: what has not happened by now never
   * will. Without this the oracle must allow an unknown write to appear at any later time.
   */
  settle(): void {
    const tick = this.#next();
    for (const mutation of this.mutations) {
      if (mutation.end === Number.POSITIVE_INFINITY) {
        mutation.end = tick;
        if (mutation.outcome === "flying") mutation.outcome = "unknown";
      }
    }
  }

  /**
   * The host lost power and came back with a state that has been judged; `seen` tells which mutations it shows. Those
   * did happen and are durable since: recovery goes on only from what is. What was answered without a promise and does
   * not show may be gone: from now on it is unknown. Call after `settle`.
   */
  powerLost(seen: (mutation: Mutation) => boolean): void {
    for (const mutation of this.mutations) {
      const durable = this.isDurable(mutation);
      if (seen(mutation)) {
        mutation.outcome = "answered";
        this.#survived.add(mutation.number);
      } else if (mutation.outcome === "answered" && !durable) {
        mutation.outcome = "unknown";
      }
    }
  }

  /** True when an answered FLUSH, its own FUA, or having survived one promised that it survives a power loss. */
  isDurable(mutation: Mutation): boolean {
    return (
      mutation.outcome === "answered" &&
      (mutation.fua ||
        mutation.end < this.#flushedStart[mutation.volume]! ||
        this.#survived.has(mutation.number))
    );
  }

  count(outcome: Outcome): number {
    let count = 0;
    for (const mutation of this.mutations) if (mutation.outcome === outcome) count += 1;
    return count;
  }

  /** Data bytes of answered writes; zeroes and trims carry none. */
  answeredBytes(): number {
    let bytes = 0;
    for (const mutation of this.mutations) {
      if (mutation.outcome === "answered" && mutation.kind === "write") bytes += mutation.length;
    }
    return bytes;
  }
}
