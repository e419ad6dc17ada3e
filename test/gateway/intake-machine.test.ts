/**
 * The intake machine against random event sequences: invariants N1..N9 of docs/intake-spec.md after every step, with
 * a model shell that appends, syncs, drops, delays and fences in any order. Then single cases that name what they
 * protect.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import fc from "fast-check";
import {
  type IntakeEffect,
  type IntakeEvent,
  type IntakeState,
  isDrained,
  laneBytesMax,
  laneOffersMax,
  type Offer,
  startIntake,
  step,
} from "../../gateway/receive/machine.ts";

const lineage = new Uint8Array(16).fill(1);
const foreignLineage = new Uint8Array(16).fill(2);
const token = { epoch: 3, owner: "primary" };
const raised = { epoch: 4, owner: "dr" };
const chainOf = (sequence: number, history = "ours"): Uint8Array =>
  new Uint8Array(createHash("sha256").update(`${history} ${sequence}`).digest());
const position = (sequence: number) => ({ sequence, chain: chainOf(sequence) });
const start = (sequence = 0): IntakeState =>
  startIntake({ lineage, token, durable: position(sequence), applied: sequence });

function offer(id: number, first: number, last: number, change: Partial<Offer> = {}): Offer {
  const base = { id, lineage, token, first, last, payloadBytes: 1024 * 1024 };
  return { ...base, chainBefore: chainOf(first - 1), chainAfter: chainOf(last), ...change };
}

const answers = (effects: readonly IntakeEffect[]) => effects.filter((effect) => effect.kind === "answer");

/** Plays the shell: keeps what was ordered and turns choices into events that can really happen. */
class World {
  state = start();
  readonly open = new Set<number>();
  readonly acknowledged: number[] = [];
  readonly offers = new Map<number, Offer>();
  fencedAt: number | undefined;
  #nextId = 1;

  send(event: IntakeEvent): void {
    const before = this.state;
    const { state, effects } = step(before, event);
    this.state = state;
    this.#check(before, event, effects);
  }

  offer(made: Partial<Offer> & { first: number; last: number }): void {
    const id = this.#nextId;
    this.#nextId += 1;
    this.open.add(id);
    const complete = offer(id, made.first, made.last, made);
    this.offers.set(id, complete);
    this.send({ kind: "offered", offer: complete });
  }

  #check(before: IntakeState, event: IntakeEvent, effects: readonly IntakeEffect[]): void {
    const { state } = this;
    for (const effect of answers(effects)) {
      assert.ok(this.open.delete(effect.id), `N4: ${effect.id} is answered once`);
      if (effect.answer.kind !== "acknowledged") continue;
      const acked = this.offers.get(effect.id)!;
      assert.ok(acked.last <= state.durable.sequence, "N1: acknowledged is durable");
      assert.equal(effect.answer.durable, state.durable.sequence, "N1: the position told is the durable one");
      assert.equal(state.condition, "accepting", "N3: nothing is acknowledged behind the fence or a halt");
      assert.deepEqual(acked.token, token, "N5: only our owner's batches are acknowledged");
      assert.deepEqual(acked.lineage, lineage, "N5");
      this.acknowledged.push(effect.answer.durable);
    }
    if (state.tail.sequence !== before.tail.sequence) {
      assert.ok(
        before.turn !== null && "id" in event && event.id === before.turn.offer.id,
        "N2: only the turn moves the tail",
      );
      assert.equal(before.tail.sequence + 1, before.turn.offer.first, "N2: the tail grows without a gap");
    }
    assert.ok(state.durable.sequence <= state.tail.sequence || event.kind === "synced", "N7");
    assert.ok(state.durable.sequence >= before.durable.sequence, "N7: durable never goes back");
    assert.ok(state.waiting.length <= laneOffersMax, "N6");
    assert.ok(state.waiting.reduce((sum, each) => sum + each.payloadBytes, 0) <= laneBytesMax, "N6");
    const takes = effects.filter((effect) => effect.kind === "take");
    assert.ok(takes.length <= 1, "N2: one turn at once");
    for (const take of takes) {
      const taken = this.offers.get(take.id)!;
      assert.equal(taken.first, state.tail.sequence + 1, "N8: only the next one is taken");
      assert.deepEqual(taken.chainBefore, state.tail.chain, "N8: and only when it continues our history");
      assert.equal(state.condition, "accepting", "N3");
    }
    const held = [...state.waiting, ...state.syncing, ...state.checking].map((each) => each.id);
    if (state.turn !== null && state.condition === "accepting") held.push(state.turn.offer.id);
    assert.deepEqual(new Set(held), this.open, "N9: who is not answered is held somewhere, exactly once");
    assert.equal(held.length, this.open.size, "N9");
    if (this.fencedAt !== undefined)
      assert.equal(
        effects.some((effect) => effect.kind === "take" || effect.kind === "sync"),
        false,
        "N3",
      );
    if (state.condition === "fenced" && this.fencedAt === undefined) this.fencedAt = state.tail.sequence;
  }

  /** One choice of the environment; impossible ones do nothing. */
  act(choice: number, a: number, b: number): void {
    const { state } = this;
    const turn = state.turn;
    switch (choice) {
      case 0: {
        const first = Math.max(1, state.tail.sequence + 1 + (a % 9) - 4);
        this.offer({ first, last: first + (b % 4), payloadBytes: 1 + b * 4096 });
        return;
      }
      case 1:
        this.offer({ first: state.tail.sequence + 1, last: state.tail.sequence + 1 + (b % 4) });
        return;
      case 2:
        if (turn?.phase === "reading") this.send({ kind: "bodyRead", id: turn.offer.id });
        return;
      case 3:
        if (turn?.phase === "appending")
          this.send({ kind: "appended", id: turn.offer.id, tail: position(turn.offer.last) });
        return;
      case 4:
        this.send({ kind: "synced", durable: state.tail });
        return;
      case 5: {
        const checked = state.checking[a % Math.max(1, state.checking.length)];
        const chain = b % 3 === 0 ? undefined : chainOf(checked?.last ?? 0, b % 7 === 1 ? "theirs" : "ours");
        if (checked !== undefined) this.send({ kind: "looked", id: checked.id, chain });
        return;
      }
      case 6: {
        const waiting = state.waiting[a % Math.max(1, state.waiting.length)];
        if (waiting === undefined) return;
        if (b % 2 === 0) this.send({ kind: "waitExpired", id: waiting.id });
        else {
          this.open.delete(waiting.id);
          this.send({ kind: "gone", id: waiting.id });
        }
        return;
      }
      case 7:
        if (turn?.phase === "reading") {
          // The shell answers a broken body itself.
          if (state.condition === "accepting") this.open.delete(turn.offer.id);
          this.send({ kind: "bodyFailed", id: turn.offer.id });
        }
        return;
      case 8:
        if (turn !== null)
          this.send({
            kind: "roomShort",
            id: turn.offer.id,
            tail: state.tail,
            code: "INTAKE_FULL",
            message: "",
          });
        return;
      case 9:
        this.offer({
          first: state.tail.sequence + 1,
          last: state.tail.sequence + 1,
          ...(b % 4 === 0 ? { lineage: foreignLineage } : {}),
          ...(b % 4 === 1 ? { token: { epoch: 2, owner: "primary" } } : {}),
          ...(b % 4 === 2 ? { token: { epoch: 5, owner: "primary" } } : {}),
          ...(b % 4 === 3 ? { chainBefore: chainOf(state.tail.sequence, "theirs") } : {}),
        });
        return;
      case 10:
        if (a % 12 === 0) this.send({ kind: "fenced", token: raised });
        return;
      case 11:
        if (a % 25 === 0)
          this.send({ kind: "halted", halt: { code: "X", message: "", passing: b % 2 === 0 } });
        return;
      default:
        this.send({ kind: "appliedThrough", sequence: Math.min(a, state.durable.sequence) });
    }
  }
}

test("N1..N9 hold after every step of any course of events", () => {
  const event = fc.tuple(fc.nat(12), fc.nat(100), fc.nat(100));
  fc.assert(
    fc.property(fc.array(event, { maxLength: 120, size: "max" }), (events) => {
      const world = new World();
      for (const [choice, a, b] of events) world.act(choice, a, b);
    }),
    { numRuns: 1_500 },
  );
});

test("with nothing failing, every batch sent in any order is acknowledged in the end (liveness)", () => {
  fc.assert(
    fc.property(fc.shuffledSubarray([1, 2, 3, 4, 5, 6, 7, 8], { minLength: 8 }), (order) => {
      const world = new World();
      for (const first of order) world.offer({ first, last: first });
      for (let round = 0; round < 40; round += 1) for (const choice of [2, 3, 4, 5]) world.act(choice, 0, 2);
      assert.equal(world.state.durable.sequence, 8);
      assert.equal(world.open.size, 0);
      assert.equal(world.acknowledged.length, 8);
    }),
    { numRuns: 200 },
  );
});

test("the token is looked at once more: a batch synced after the token rose is not acknowledged (N3)", () => {
  let { state } = step(start(), { kind: "offered", offer: offer(1, 1, 2) });
  ({ state } = step(state, { kind: "bodyRead", id: 1 }));
  ({ state } = step(state, { kind: "appended", id: 1, tail: position(2) }));
  const fenced = step(state, { kind: "fenced", token: raised });
  assert.deepEqual(answers(fenced.effects), [
    { kind: "answer", id: 1, answer: { kind: "superseded", token: raised } },
  ]);
  assert.deepEqual(step(fenced.state, { kind: "synced", durable: position(2) }).effects, []);
});

test("a batch being appended when the token rises ends inside the drain, one being read is given up (N3)", () => {
  const reading = step(start(), { kind: "offered", offer: offer(1, 1, 2) }).state;
  const given = step(reading, { kind: "fenced", token: raised });
  assert.ok(isDrained(given.state));
  assert.ok(given.effects.some((effect) => effect.kind === "abandon"));
  const appending = step(reading, { kind: "bodyRead", id: 1 }).state;
  const draining = step(appending, { kind: "fenced", token: raised }).state;
  assert.equal(isDrained(draining), false);
  const drained = step(draining, { kind: "appended", id: 1, tail: position(2) });
  assert.ok(isDrained(drained.state));
  assert.equal(drained.state.tail.sequence, 2);
  assert.deepEqual(drained.effects, []);
});

test("a newer attempt at the same batch takes over from one whose connection died (F41)", () => {
  const reading = step(start(), { kind: "offered", offer: offer(1, 1, 2) }).state;
  const { state, effects } = step(reading, { kind: "offered", offer: offer(2, 1, 2) });
  assert.equal(state.turn?.offer.id, 2);
  assert.deepEqual(
    effects.map((effect) => effect.kind),
    ["answer", "abandon", "take"],
  );
  const appending = step(reading, { kind: "bodyRead", id: 1 }).state;
  assert.equal(step(appending, { kind: "offered", offer: offer(2, 1, 2) }).state.turn?.offer.id, 1);
});

test("the lane is bounded in count and bytes; beyond it the sender is told what is wanted (N6)", () => {
  let state = start();
  for (let id = 1; id <= laneOffersMax + 1; id += 1) {
    const next = step(state, { kind: "offered", offer: offer(id, id + 1, id + 1) });
    state = next.state;
    const [effect] = next.effects;
    assert.equal(effect?.kind, id <= laneOffersMax ? "wait" : "answer");
    if (effect?.kind === "answer")
      assert.deepEqual(effect.answer, { kind: "wanted", sequence: 1, applied: 0 });
  }
  const large = step(start(), { kind: "offered", offer: offer(1, 2, 2, { payloadBytes: laneBytesMax + 1 }) });
  assert.equal(large.effects[0]?.kind, "answer");
});
