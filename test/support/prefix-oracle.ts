/**
 * Oracle O1: is this state of all volumes of a group the result of one prefix of its write order? Imports nothing of
 * the product and replays nothing. See docs/testing.md for the reasoning and for what it cannot see.
 *
 * The write order is decided by the product; the client only knows that a write answered before another was sent came
 * first. So the question is: does an order exist that agrees with what the client knows, and a prefix P of it, such
 * that every sector of every volume shows the last member of P that covers it? With f the write found in a sector:
 *
 *   1. f is in P, and so is every answered write that ended before a member of P was sent.
 *   2. every other member of P that covers the sector came before f.
 *   3. a sector of zeroes was never written in P, or a member of P that zeroes it came after all writes in P.
 *
 * More members only add demands, so the smallest P is tried; rule 3 may leave a choice between zeroing requests, which
 * is searched. Such an order exists exactly when the demands together with the known order have no cycle.
 */
import type { ExpectedRecord, Mutation } from "./expected.ts";
import { stampBytes } from "./stamp.ts";
import type { VolumeState } from "./state-reader.ts";
import { foundForeign, foundZero } from "./state-reader.ts";

export interface PrefixQuestion {
  readonly record: ExpectedRecord;
  /** One per volume, in the order of the record's volumes. */
  readonly state: readonly VolumeState[];
  /** Writes that the state must contain, e.g. all answered ones; default none. */
  readonly required?: (mutation: Mutation) => boolean;
  /**
   * Number of records that the product says the state contains. Only for a group whose whole history is in `record`
   * and whose requests are one record each (1 MiB at most).
   */
  readonly sequence?: number;
}

export type PrefixVerdict =
  | {
      readonly consistent: true;
      /** Bounds on the number of mutations in the prefix, from the state alone. */
      readonly recordsMin: number;
      readonly recordsMax: number;
      /** Bounds on how many answered mutations are not in the prefix, from the state alone. */
      readonly missingMin: number;
      readonly missingMax: number;
    }
  | { readonly consistent: false; readonly problems: readonly string[] };

/** Passes over the state that the search of rule 3 may take; beyond, the oracle says that it does not know. */
const passesMax = 4_000;
const problemsMax = 20;

/** Which mutations cover each sector of a volume, oldest sending first, in one flat array. */
interface Coverage {
  readonly starts: Int32Array;
  readonly entries: Int32Array;
}

function coverageOf(mutations: readonly Mutation[], volume: number, sectors: number): Coverage {
  const starts = new Int32Array(sectors + 1);
  const own = mutations.filter((mutation) => mutation.volume === volume);
  for (const { offset, length } of own) {
    for (let sector = offset / stampBytes; sector < (offset + length) / stampBytes; sector += 1) {
      starts[sector + 1] = starts[sector + 1]! + 1;
    }
  }
  for (let sector = 0; sector < sectors; sector += 1)
    starts[sector + 1] = starts[sector + 1]! + starts[sector]!;
  const entries = new Int32Array(starts[sectors]!);
  const filled = starts.slice(0, sectors);
  for (const { number, offset, length } of own) {
    for (let sector = offset / stampBytes; sector < (offset + length) / stampBytes; sector += 1) {
      entries[filled[sector]!] = number;
      filled[sector] = filled[sector]! + 1;
    }
  }
  return { starts, entries };
}

/** Rule 3 for one set of sectors: one of `candidates` must come after all of `writes`. */
interface Choice {
  readonly key: string;
  readonly writes: readonly number[];
  readonly candidates: readonly number[];
}

type Attempt =
  | { readonly kind: "consistent" }
  | { readonly kind: "impossible"; readonly problems: readonly string[] }
  | { readonly kind: "choose"; readonly open: ReadonlyMap<string, Choice> };

class PrefixJudge {
  readonly #mutations: readonly Mutation[];
  readonly #state: readonly VolumeState[];
  readonly #coverage: readonly Coverage[];
  #passes = 0;

  constructor(record: ExpectedRecord, state: readonly VolumeState[]) {
    this.#mutations = record.mutations;
    this.#state = state;
    this.#coverage = state.map((volume, index) => coverageOf(record.mutations, index, volume.found.length));
  }

  /** Sectors that cannot belong to any run of these mutations, and the set of mutations that are seen. */
  seen(): { readonly problems: string[]; readonly members: Uint8Array } {
    const problems: string[] = [];
    const members = new Uint8Array(this.#mutations.length);
    for (const [volume, { found, foreign }] of this.#state.entries()) {
      problems.push(...foreign);
      for (const [sector, number] of found.entries()) {
        if (number === foundZero || number === foundForeign) continue;
        const mutation = this.#mutations[number];
        const at = sector * stampBytes;
        if (mutation === undefined || mutation.kind !== "write" || mutation.volume !== volume) {
          problems.push(`volume ${volume} sector ${sector}: shows write ${number}, which was never sent`);
        } else if (at < mutation.offset || at >= mutation.offset + mutation.length) {
          problems.push(`volume ${volume} sector ${sector}: shows write ${number}, which does not cover it`);
        } else {
          members[number] = 1;
        }
        if (problems.length >= problemsMax) return { problems, members };
      }
    }
    return { problems, members };
  }

  /** Rule 1: the smallest set that holds `seeds` and what must have come before one of them. */
  closure(seeds: Uint8Array): Uint8Array {
    let newestStart = -1;
    for (const mutation of this.#mutations) {
      if (seeds[mutation.number] === 1 && mutation.start > newestStart) newestStart = mutation.start;
    }
    const members = seeds.slice();
    for (const mutation of this.#mutations) {
      if (mutation.outcome === "answered" && mutation.end < newestStart) members[mutation.number] = 1;
    }
    return members;
  }

  /**
   * Searches an order for the smallest prefix that holds `seeds`. First by taking the likeliest candidate of every open
   * choice at once, which nearly always succeeds at once; only if that fails, by trying everything.
   */
  solve(seeds: Uint8Array): Attempt {
    let members = seeds;
    let choices: ReadonlyMap<string, number> = new Map();
    for (;;) {
      const attempt = this.#attempt(members, choices);
      if (attempt.kind === "consistent") return attempt;
      if (attempt.kind === "impossible") break;
      const more = members.slice();
      const taken = new Map(choices);
      for (const { key, candidates } of attempt.open.values()) {
        const candidate = candidates.find((number) => more[number] === 1) ?? candidates[0]!;
        more[candidate] = 1;
        taken.set(key, candidate);
      }
      members = more;
      choices = taken;
    }
    return this.#search(seeds, new Map());
  }

  #search(seeds: Uint8Array, choices: ReadonlyMap<string, number>): Attempt {
    const attempt = this.#attempt(seeds, choices);
    if (attempt.kind !== "choose") return attempt;
    const [choice] = attempt.open.values();
    let last: Attempt = { kind: "impossible", problems: ["no zeroing request explains a sector of zeroes"] };
    for (const candidate of choice!.candidates) {
      const more = seeds.slice();
      more[candidate] = 1;
      last = this.#search(more, new Map(choices).set(choice!.key, candidate));
      if (last.kind === "consistent") return last;
    }
    return last;
  }

  /** Rules 2 and 3 for one prefix. */
  #attempt(seeds: Uint8Array, choices: ReadonlyMap<string, number>): Attempt {
    this.#passes += 1;
    if (this.#passes > passesMax) throw new Error(`prefix oracle undecided after ${passesMax} passes`);
    const members = this.closure(seeds);
    /** Demand "key before value", beyond what the client knows. */
    const before = new Map<number, Set<number>>();
    const problems: string[] = [];
    const open = new Map<string, Choice>();
    for (const [volume, { found }] of this.#state.entries()) {
      const { starts, entries } = this.#coverage[volume]!;
      for (let sector = 0; sector < found.length; sector += 1) {
        const first = starts[sector]!;
        const end = starts[sector + 1]!;
        if (first === end) continue;
        const covering = entries.subarray(first, end);
        const number = found[sector]!;
        if (number >= 0) {
          const late = this.#demandNewest(number, covering, members, before);
          if (late !== undefined)
            problems.push(`volume ${volume} sector ${sector}: shows write ${number}, but ${late}`);
        } else {
          const choice = this.#demandZero(covering, members);
          if (choice === undefined) continue;
          const chosen = choices.get(choice.key);
          if (choice.candidates.length === 0) {
            problems.push(
              `volume ${volume} sector ${sector}: is zero, but write ${choice.writes.at(-1)} is in the prefix`,
            );
          } else if (chosen !== undefined) {
            for (const write of choice.writes) demand(before, write, chosen);
          } else {
            open.set(choice.key, choice);
          }
        }
        if (problems.length >= problemsMax) return { kind: "impossible", problems };
      }
    }
    if (problems.length > 0) return { kind: "impossible", problems };
    const cycle = findCycle(this.#mutations, members, before);
    if (cycle !== undefined) {
      return {
        kind: "impossible",
        problems: [`no order of the requests ${cycle.join(", ")} gives this state`],
      };
    }
    return open.size === 0 ? { kind: "consistent" } : { kind: "choose", open };
  }

  /** Rule 2; a text when it cannot hold. */
  #demandNewest(
    number: number,
    covering: Int32Array,
    members: Uint8Array,
    before: Map<number, Set<number>>,
  ): string | undefined {
    const shown = this.#mutations[number]!;
    for (const other of covering) {
      if (other === number || members[other] !== 1) continue;
      const mutation = this.#mutations[other]!;
      if (mutation.end < shown.start) continue;
      if (shown.end < mutation.start) return `${mutation.kind} ${other} came later and is in the prefix`;
      demand(before, other, number);
    }
    return undefined;
  }

  /** Rule 3; undefined when it holds whatever the order of concurrent requests. */
  #demandZero(covering: Int32Array, members: Uint8Array): Choice | undefined {
    const writes: number[] = [];
    let newestStart = -1;
    let newestEnd = -1;
    for (const number of covering) {
      const mutation = this.#mutations[number]!;
      if (mutation.kind !== "write" || members[number] !== 1) continue;
      writes.push(number);
      newestStart = Math.max(newestStart, mutation.start);
      newestEnd = Math.max(newestEnd, mutation.end);
    }
    if (writes.length === 0) return undefined;
    const zeroing: number[] = [];
    const inside: number[] = [];
    const outside: number[] = [];
    for (const number of covering) {
      const mutation = this.#mutations[number]!;
      if (mutation.kind === "write") continue;
      zeroing.push(number);
      if (mutation.end < newestStart) continue;
      if (members[number] !== 1) outside.push(number);
      else if (mutation.start > newestEnd) return undefined;
      else inside.push(number);
    }
    // Of two zeroing members, one known to be later explains whatever the earlier one explains.
    const candidates = inside.filter(
      (one) => !inside.some((other) => this.#mutations[one]!.end < this.#mutations[other]!.start),
    );
    candidates.push(...outside);
    return { key: `${writes.join(",")}|${zeroing.join(",")}`, writes, candidates };
  }

  /** Mutations that no prefix with this state can hold. */
  excluded(): Uint8Array {
    const out = new Uint8Array(this.#mutations.length);
    for (const [volume, { found }] of this.#state.entries()) {
      const { starts, entries } = this.#coverage[volume]!;
      for (let sector = 0; sector < found.length; sector += 1) {
        const covering = entries.subarray(starts[sector], starts[sector + 1]);
        const number = found[sector]!;
        const shown = number >= 0 ? this.#mutations[number]! : undefined;
        for (const other of covering) {
          const mutation = this.#mutations[other]!;
          if (shown !== undefined) {
            if (other !== number && shown.end < mutation.start) out[other] = 1;
          } else if (mutation.kind === "write") {
            const explained = covering.some(
              (zeroing) =>
                this.#mutations[zeroing]!.kind !== "write" && this.#mutations[zeroing]!.end > mutation.start,
            );
            if (!explained) out[other] = 1;
          }
        }
      }
    }
    let oldestEnd = Number.POSITIVE_INFINITY;
    for (const mutation of this.#mutations) {
      if (out[mutation.number] === 1 && mutation.outcome === "answered")
        oldestEnd = Math.min(oldestEnd, mutation.end);
    }
    for (const mutation of this.#mutations) if (mutation.start > oldestEnd) out[mutation.number] = 1;
    return out;
  }
}

function demand(before: Map<number, Set<number>>, earlier: number, later: number): void {
  const set = before.get(earlier);
  if (set === undefined) before.set(earlier, new Set([later]));
  else set.add(later);
}

/**
 * A cycle in: known order of the members, plus the demands. The known order is dense, so it goes through one node per
 * tick: a mutation leads to the tick of its end, each tick to the next, and the tick of its start to a mutation.
 */
function findCycle(
  mutations: readonly Mutation[],
  members: Uint8Array,
  before: ReadonlyMap<number, ReadonlySet<number>>,
): number[] | undefined {
  if (before.size === 0) return undefined;
  const count = mutations.length;
  let ticks = 0;
  for (const { start, end } of mutations) ticks = Math.max(ticks, start, Number.isFinite(end) ? end : 0);
  const startsAt = new Int32Array(ticks + 1).fill(-1);
  for (const { number, start } of mutations) if (members[number] === 1) startsAt[start] = number;
  function* after(node: number): Generator<number> {
    if (node >= count) {
      const tick = node - count;
      if (tick < ticks) yield node + 1;
      if (startsAt[tick]! >= 0) yield startsAt[tick]!;
      return;
    }
    const end = mutations[node]!.end;
    if (Number.isFinite(end)) yield count + end;
    for (const later of before.get(node) ?? []) yield later;
  }
  /** 0 new, 1 on the path, 2 done. */
  const mark = new Uint8Array(count + ticks + 1);
  for (const root of before.keys()) {
    if (mark[root] !== 0) continue;
    const path: { readonly node: number; readonly next: Generator<number> }[] = [
      { node: root, next: after(root) },
    ];
    mark[root] = 1;
    while (path.length > 0) {
      const top = path.at(-1)!;
      const step = top.next.next();
      if (step.done === true) {
        mark[top.node] = 2;
        path.pop();
      } else if (mark[step.value] === 1) {
        const from = path.findIndex((entry) => entry.node === step.value);
        return path
          .slice(from)
          .map((entry) => entry.node)
          .filter((node) => node < count);
      } else if (mark[step.value] === 0) {
        mark[step.value] = 1;
        path.push({ node: step.value, next: after(step.value) });
      }
    }
  }
  return undefined;
}

/** Judges a state. Throws only when the search for an order is given up, which counts as a failure, never as a pass. */
export function judgePrefix(question: PrefixQuestion): PrefixVerdict {
  const { record, state, required, sequence } = question;
  const judge = new PrefixJudge(record, state);
  const { problems, members } = judge.seen();
  if (problems.length > 0) return { consistent: false, problems };
  if (required !== undefined) {
    for (const mutation of record.mutations) if (required(mutation)) members[mutation.number] = 1;
  }
  const attempt = judge.solve(members);
  if (attempt.kind !== "consistent") {
    return { consistent: false, problems: attempt.kind === "impossible" ? attempt.problems : [] };
  }
  const least = judge.closure(members);
  const excluded = judge.excluded();
  let recordsMin = 0;
  let recordsMax = 0;
  let missingMin = 0;
  let missingMax = 0;
  for (const { number, outcome } of record.mutations) {
    if (least[number] === 1) recordsMin += 1;
    else if (outcome === "answered") missingMax += 1;
    if (excluded[number] !== 1) recordsMax += 1;
    else if (outcome === "answered") missingMin += 1;
  }
  if (sequence !== undefined && (sequence < recordsMin || sequence > recordsMax)) {
    return {
      consistent: false,
      problems: [
        `said to contain ${sequence} records, but contains ${recordsMin} at least and ${recordsMax} at most`,
      ],
    };
  }
  return { consistent: true, recordsMin, recordsMax, missingMin, missingMax };
}
