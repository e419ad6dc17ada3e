/**
 * The plan of a scan in random conversations: with a standby that compares at its own pace, forgets its findings when it
 * restarts and answers in parts, and with an owner that is killed and goes on from what it had saved. Invariants SC1..SC7.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { blockBytes } from "../../../protocol/ids.ts";
import type { DigestLevel, ScanMark } from "../../../protocol/record.ts";
import { scanChunkBytes } from "../../../protocol/scan-digest.ts";
import type {
  PlanContext,
  PlanEffect,
  PlanEvent,
  PlanPlace,
  PlanState,
  Walk,
} from "../../../site-agent/scan/plan.ts";
import {
  doneBytes,
  findingsAfter,
  planStart,
  step,
  totalBytes,
  windowChunks,
} from "../../../site-agent/scan/plan.ts";
import { SeededRandom, seedFromEnvironment } from "../../support/seeded.ts";

const volumes = [
  { number: 3, sizeBytes: 300 * scanChunkBytes + 5 * blockBytes },
  { number: 1, sizeBytes: 512 },
];
const leavesMax = scanChunkBytes / blockBytes;

type Entry =
  | { readonly kind: "digest"; level: DigestLevel; volume: number; chunk: number; count: number }
  | { readonly kind: "content"; volume: number; chunk: number; leaves: readonly number[] }
  | { readonly kind: "mark"; mark: ScanMark };

const key = (volume: number, chunk: number, leaf: number): string => `${volume} ${chunk} ${leaf}`;

function leavesOf(volume: number, chunk: number): number {
  const { sizeBytes } = volumes.find(({ number }) => number === volume)!;
  return Math.ceil(Math.min(scanChunkBytes, sizeBytes - chunk * scanChunkBytes) / blockBytes);
}

/** Blocks in which the standby differs, and what it has compared: it takes the order record by record. */
class Standby {
  readonly order: Entry[] = [];
  readonly differing = new Set<string>();
  acknowledged = 0;
  applied = 0;
  since = 0;
  found: { sequence: number; bits: string }[] = [];

  apply(): void {
    this.applied += 1;
    const entry = this.order[this.applied - 1]!;
    if (entry.kind === "content") {
      for (const leaf of entry.leaves) this.differing.delete(key(entry.volume, entry.chunk, leaf));
    } else if (entry.kind === "digest") {
      const bits = this.#compare(entry);
      if (bits.some((byte) => byte !== 0))
        this.found.push({ sequence: this.applied, bits: Buffer.from(bits).toString("hex") });
    }
  }

  #compare({ level, volume, chunk, count }: Extract<Entry, { kind: "digest" }>): Uint8Array {
    const leafBits = (of: number) =>
      Array.from({ length: leavesOf(volume, of) }, (_, leaf) => this.differing.has(key(volume, of, leaf)));
    const bits =
      level === "leaf"
        ? leafBits(chunk)
        : Array.from({ length: count }, (_, index) => leafBits(chunk + index).includes(true));
    const bytes = new Uint8Array(Math.ceil(bits.length / 8));
    bits.forEach((bit, index) => {
      if (bit) bytes[index >> 3]! |= 1 << (index & 7);
    });
    return bytes;
  }

  /** Killed: findings are gone, and what was applied since the last point is applied again without being compared. */
  restart(): void {
    this.found = [];
    this.since = this.applied;
  }
}

class Conversation {
  readonly random: SeededRandom;
  readonly context: PlanContext;
  readonly standby = new Standby();
  /** What the order was found to have wrong, by the plan. */
  readonly reported = new Set<string>();
  state!: PlanState;
  work: PlanEffect[] = [];
  saved: { begin: number | null; place: PlanPlace } = { begin: null, place: { volume: 0, window: 0 } };
  outcome: "done" | "given-up" | null = null;
  begins = 0;

  constructor(random: SeededRandom, walk: Walk, only: PlanContext["only"] = null) {
    this.random = random;
    this.context = { volumes, walk, only };
    this.start();
  }

  /** A new process: all but what was saved is forgotten. */
  start(): void {
    this.work = [];
    this.state = planStart(this.saved.begin, this.saved.place);
    this.say({ kind: "started" });
    this.heard();
  }

  say(event: PlanEvent): void {
    const { state, effects } = step(this.state, event, this.context);
    this.state = state;
    for (const effect of effects) {
      this.#check(effect);
      // Counted at once, as what is saved next stands on it.
      if (effect.kind !== "differs") this.work.push(effect);
      else
        for (const leaf of marked(effect.leaves)) this.reported.add(key(effect.volume, effect.chunk, leaf));
    }
    assert(this.work.length <= windowChunks + 2, "SC5: one window's work at a time");
    assert(doneBytes(state, this.context) <= totalBytes(this.context));
  }

  heard(): void {
    const { acknowledged, applied } = this.standby;
    this.say({ kind: "standbyAdvanced", acknowledged, applied });
  }

  #check(effect: PlanEffect): void {
    const { walk } = this.context;
    if (effect.kind === "content" && walk.kind === "compare")
      assert(walk.mend, "SC3: a verify sends no content");
    if (effect.kind === "save") this.#confirmed(effect.place);
    if (effect.kind === "putMark" && effect.mark === "end")
      this.#confirmed({ volume: volumes.length, window: 0 });
    if (effect.kind !== "over") return;
    assert.equal(this.outcome, null);
    this.outcome = effect.how;
    const mark = this.standby.order[this.standby.applied - 1];
    if (effect.how === "done") {
      const ends = this.standby.order.slice(0, this.standby.applied).filter(isEnd);
      assert(ends.length > 0, `SC7: the standby has applied an end, not ${JSON.stringify(mark)}`);
    }
  }

  /** SC1, SC2: everything before `place` is equal, or known to differ, once what is acknowledged is applied. */
  #confirmed(place: PlanPlace): void {
    const { walk } = this.context;
    const wrong = new Set(this.standby.differing);
    for (const entry of this.standby.order.slice(this.standby.applied, this.standby.acknowledged))
      if (entry.kind === "content")
        for (const leaf of entry.leaves) wrong.delete(key(entry.volume, entry.chunk, leaf));
    for (const name of wrong) {
      const [volume, chunk] = name.split(" ").map(Number) as [number, number];
      const index = volumes.findIndex(({ number }) => number === volume);
      const { only } = this.context;
      const at = only === null ? chunk : only[index]!.indexOf(chunk);
      assert(at >= 0, `${name} is walked`);
      const before =
        index < place.volume || (index === place.volume && Math.floor(at / windowChunks) < place.window);
      if (!before) continue;
      if (walk.kind === "compare" && !walk.mend) assert(this.reported.has(name), `${name} is reported`);
      else assert.fail(`${name} was confirmed and is wrong`);
    }
  }

  /** Performs one order, any of those that wait but a save, which comes in its turn. */
  perform() {
    const { random } = this;
    const index = random.below(this.work.length);
    const [effect] = this.work.splice(index, 1);
    switch (effect?.kind) {
      case "putMark": {
        const sequence = this.standby.order.push({ kind: "mark", mark: effect.mark });
        if (effect.mark === "begin") this.begins += 1;
        return this.say({ kind: "markPlaced", mark: effect.mark, sequence });
      }
      case "save":
        this.saved = { begin: this.state.begin, place: effect.place };
        return this.say({ kind: "saved" });
      case "digest":
        return this.#digest(effect);
      case "content":
        return this.#content(effect);
      default:
        return undefined;
    }
  }

  /** Neighbours that wait too may share its record. */
  #digest({ level, volume, chunk }: Extract<PlanEffect, { kind: "digest" }>): void {
    let count = 1;
    while (level === "chunk" && this.random.chance(0.97)) {
      const next = this.work.findIndex(
        (other) => other.kind === "digest" && other.level === "chunk" && other.chunk === chunk + count,
      );
      if (next < 0) break;
      this.work.splice(next, 1);
      count += 1;
    }
    const sequence = this.standby.order.push({ kind: "digest", level, volume, chunk, count });
    this.say({ kind: "digestsPlaced", level, chunk, count, sequence });
  }

  #content({ volume, chunk, leaves }: Extract<PlanEffect, { kind: "content" }>) {
    // Without bits: of what is allocated, which may be nothing where nothing can differ.
    const all =
      leaves === null
        ? Array.from({ length: leavesOf(volume, chunk) }, (_, leaf) => leaf).filter(
            (leaf) => this.standby.differing.has(key(volume, chunk, leaf)) || this.random.chance(0.01),
          )
        : marked(leaves);
    if (all.length === 0) return this.say({ kind: "contentPlaced", chunk, sequence: null });
    const sequence = this.standby.order.push({ kind: "content", volume, chunk, leaves: all });
    this.say({ kind: "contentPlaced", chunk, sequence });
  }

  ask() {
    const after = findingsAfter(this.state);
    if (after === null) return;
    const { since, applied, found } = this.standby;
    const rows = found.filter(({ sequence }) => sequence > after);
    const differing = rows.slice(0, 1 + this.random.below(3));
    const more = differing.length < rows.length;
    this.say({ kind: "findings", since, through: applied, differing, more });
  }

  /** Something happens. Faults only while `faulty`. */
  happen(faulty: boolean) {
    const { random, standby } = this;
    const fault = faulty ? random.below(400) : 400;
    if (fault === 0) return standby.restart();
    if (fault === 1) return this.start();
    switch (random.below(4)) {
      case 0:
        standby.acknowledged += random.below(standby.order.length - standby.acknowledged + 1);
        return this.heard();
      case 1: {
        const count = random.below(standby.acknowledged - standby.applied + 1);
        for (let index = 0; index < count; index += 1) standby.apply();
        return this.heard();
      }
      case 2:
        return this.ask();
      default:
        for (let count = random.below(40); count >= 0 && this.work.length > 0; count -= 1) this.perform();
    }
  }
}

function isEnd(entry: Entry): boolean {
  return entry.kind === "mark" && entry.mark === "end";
}

function marked(leaves: Uint8Array | null): number[] {
  if (leaves === null) return [];
  return Array.from({ length: leaves.byteLength * 8 }, (_, leaf) => leaf).filter(
    (leaf) => (leaves[leaf >> 3]! & (1 << (leaf & 7))) !== 0,
  );
}

function plant(random: SeededRandom, differing: Set<string>): Set<string> {
  for (let count = random.below(60); count > 0; count -= 1) {
    const { number, sizeBytes } = random.pick(volumes);
    const chunk = random.below(Math.ceil(sizeBytes / scanChunkBytes));
    differing.add(key(number, chunk, random.below(leavesOf(number, chunk))));
  }
  return new Set(differing);
}

const seed = seedFromEnvironment();
console.log(`SEED=${seed}`);

function converse(
  stream: number,
  walkOf: (planted: Set<string>) => Walk,
  onlyOf: (planted: Set<string>, random: SeededRandom) => PlanContext["only"] = () => null,
) {
  const random = new SeededRandom(seed, stream);
  const planted = plant(random, new Set());
  const talk = new Conversation(random, walkOf(planted), onlyOf(planted, random));
  for (const name of planted) talk.standby.differing.add(name);
  let steps = 0;
  for (; talk.outcome === null; steps += 1) {
    assert(steps < 20_000, "the scan ends");
    talk.happen(steps < 4_000);
  }
  return { talk, planted };
}

test("a verify finds exactly what differs, sends nothing, and ends", () => {
  for (let stream = 0; stream < 25; stream += 1) {
    const { talk, planted } = converse(stream, () => ({ kind: "compare", mend: false }));
    assert.equal(talk.outcome, "done");
    assert.deepEqual(talk.reported, planted);
    assert(!talk.standby.order.some(({ kind }) => kind === "content"));
  }
});

test("a scan that mends leaves no difference behind, whoever is killed meanwhile", () => {
  for (let stream = 100; stream < 125; stream += 1) {
    const { talk } = converse(stream, () => ({ kind: "compare", mend: true }));
    assert.equal(talk.outcome, "done");
    assert.equal(talk.standby.differing.size, 0);
  }
});

test("a resync mends everything that differs in dirty chunks and looks at no other, whoever is killed meanwhile", () => {
  for (let stream = 500; stream < 530; stream += 1) {
    const dirty = (planted: Set<string>, random: SeededRandom) => {
      const share = random.pick([0, 0.02, 0.9]);
      return volumes.map(({ number, sizeBytes }) => {
        const chunks = Array.from({ length: Math.ceil(sizeBytes / scanChunkBytes) }, (_, chunk) => chunk);
        return Uint32Array.from(
          chunks.filter(
            (chunk) =>
              random.chance(share) || [...planted].some((name) => name.startsWith(`${number} ${chunk} `)),
          ),
        );
      });
    };
    const { talk } = converse(stream, () => ({ kind: "compare", mend: true }), dirty);
    assert.equal(talk.outcome, "done");
    assert.equal(talk.standby.differing.size, 0);
    const { only } = talk.context;
    let bytes = 0;
    for (const [index, { sizeBytes }] of volumes.entries())
      for (const chunk of only![index]!)
        bytes += Math.min(scanChunkBytes, sizeBytes - chunk * scanChunkBytes);
    assert.equal(totalBytes(talk.context), bytes);
    assert.equal(doneBytes(talk.state, talk.context), bytes);
    for (const entry of talk.standby.order) {
      if (entry.kind !== "digest" && entry.kind !== "content") continue;
      const index = volumes.findIndex(({ number }) => number === entry.volume);
      const count = entry.kind === "digest" ? entry.count : 1;
      for (let chunk = entry.chunk; chunk < entry.chunk + count; chunk += 1)
        assert(only![index]!.includes(chunk), `chunk ${chunk} is clean`);
    }
  }
});

test("a first sync to a standby made from nothing sends what is allocated, without digests", () => {
  for (let stream = 200; stream < 220; stream += 1) {
    const { talk } = converse(stream, () => ({ kind: "allocated" }));
    assert.equal(talk.outcome, "done");
    assert.equal(talk.standby.differing.size, 0);
    assert(!talk.standby.order.some(({ kind }) => kind === "digest"));
  }
});

test("a repair sends the listed leaves and nothing else", () => {
  for (let stream = 300; stream < 320; stream += 1) {
    const listed = (planted: Set<string>): Walk => ({
      kind: "listed",
      leaves: (volume, chunk) => {
        const bits = new Uint8Array(leavesMax / 8);
        for (let leaf = 0; leaf < leavesMax; leaf += 1)
          if (planted.has(key(volume, chunk, leaf))) bits[leaf >> 3]! |= 1 << (leaf & 7);
        return bits.some((byte) => byte !== 0) ? bits : null;
      },
    });
    const { talk, planted } = converse(stream, listed);
    assert.equal(talk.standby.differing.size, 0);
    const sent = new Set<string>();
    for (const entry of talk.standby.order)
      if (entry.kind === "content")
        for (const leaf of entry.leaves) sent.add(key(entry.volume, entry.chunk, leaf));
    assert.deepEqual(sent, planted);
  }
});

test("a scan that is given up says so in the order, whenever it is given up, and orders nothing more", () => {
  for (let stream = 400; stream < 440; stream += 1) {
    const random = new SeededRandom(seed, stream);
    const talk = new Conversation(random, { kind: "compare", mend: true });
    plant(random, talk.standby.differing);
    for (let count = random.below(60); count > 0 && talk.outcome === null; count -= 1) talk.happen(false);
    talk.say({ kind: "givenUp" });
    talk.work = talk.work.filter(({ kind }) => kind === "putMark" || kind === "over");
    for (let count = 0; talk.outcome === null && count < 2_000; count += 1) talk.happen(false);
    const last = talk.standby.order.filter((entry) => entry.kind === "mark").at(-1);
    assert.equal(last?.mark, talk.outcome === "done" ? "end" : "given-up");
  }
});

test("digests that this opening of the standby has not compared are ordered again, and believed only then", () => {
  const context: PlanContext = {
    volumes: [{ number: 0, sizeBytes: 2 * scanChunkBytes }],
    walk: { kind: "compare", mend: false },
    only: null,
  };
  let state = planStart(7, { volume: 0, window: 0 });
  const say = (event: PlanEvent) => {
    const next = step(state, event, context);
    state = next.state;
    return next.effects;
  };
  say({ kind: "started" });
  say({ kind: "digestsPlaced", level: "chunk", chunk: 0, count: 2, sequence: 8 });
  say({ kind: "standbyAdvanced", acknowledged: 9, applied: 9 });
  const again = say({ kind: "findings", since: 8, through: 9, differing: [], more: false });
  assert.deepEqual(
    again.map((effect) => effect.kind === "digest" && effect.chunk),
    [0, 1],
  );
  say({ kind: "digestsPlaced", level: "chunk", chunk: 0, count: 1, sequence: 10 });
  say({ kind: "digestsPlaced", level: "chunk", chunk: 1, count: 1, sequence: 12 });
  say({ kind: "standbyAdvanced", acknowledged: 12, applied: 12 });
  const row = { sequence: 10, bits: "01" };
  const first = say({ kind: "findings", since: 8, through: 12, differing: [row], more: true });
  assert.deepEqual(first, [{ kind: "digest", level: "leaf", volume: 0, chunk: 0 }]);
  assert.equal(findingsAfter(state), 11, "behind the last row nothing is believed yet");
});
