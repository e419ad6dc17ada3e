/**
 * The ship machine: the whole table, typed so that a missing cell does not compile, and random conversations with a
 * model gateway in which the invariants of docs/ship-spec.md must hold after every step.
 */
import { strict as assert } from "node:assert";
import { test } from "node:test";
import fc from "fast-check";
import type { BatchAnswer } from "../../../protocol/control.ts";
import { step, wakeAtMs } from "../../../site-agent/ship/machine.ts";
import type {
  Condition,
  ShipContext,
  ShipEffect,
  ShipEvent,
  ShipEventKind,
  ShipState,
  Step,
} from "../../../site-agent/ship/state.ts";
import { shipStart } from "../../../site-agent/ship/state.ts";
import { backOffMsMax, refusedRetryMs } from "../../../site-agent/ship/turn.ts";

const lineage = "00000000-0000-4000-8000-000000000001";
const token = { epoch: 3, owner: "primary" };
const chainText = (sequence: number) => sequence.toString(16).padStart(64, "0");

const context: ShipContext = {
  lineage,
  token,
  connections: 4,
  collectMs: 60,
  fraction: () => 0.5,
  limitBytesPerSecond: () => null,
  budgetBytes: () => 16 * 1024 * 1024,
};

/** Plays events, one millisecond apart, and collects the orders. */
class Play {
  state: ShipState;
  nowMs = 1_000;
  effects: ShipEffect[] = [];

  constructor(head = 0) {
    this.state = shipStart(head);
  }

  on(event: ShipEvent, afterMs = 1): Step {
    this.nowMs += afterMs;
    const turn = step(this.state, event, this.nowMs, context);
    this.state = turn.state;
    this.effects.push(...turn.effects);
    return turn;
  }

  order<K extends ShipEffect["kind"]>(kind: K): Extract<ShipEffect, { kind: K }> {
    const found = this.effects.findLast((effect) => effect.kind === kind);
    assert.ok(found !== undefined, `no order ${kind}`);
    return found as Extract<ShipEffect, { kind: K }>;
  }

  attach(durable: number, theirs: number): this {
    this.on({ kind: "started" });
    this.hello(durable, theirs);
    return this;
  }

  hello(
    durable: number,
    theirs: number,
    head = 0,
    chain: string | undefined = chainText(theirs),
    floor = head,
  ): Step {
    const { id, create } = this.order("sendHello");
    return this.on({
      kind: "helloAnswered",
      id,
      create,
      answer: {
        kind: "attached",
        durable: { sequence: theirs, chain: chainText(theirs) },
        applied: theirs,
        token,
      },
      durable,
      durableDataBytesTotal: durable * 4096,
      head,
      floor,
      chain,
    });
  }

  /** Sends what the last read ordered, up to `last`. */
  send(last?: number): number {
    const { id, from, through } = this.order("readBatch");
    const end = last ?? through;
    this.on({
      kind: "batchSent",
      id,
      first: from,
      last: end,
      dataBytesTotal: end * 4096,
      rawBytes: 9_000,
      wireBytes: 9_000,
    });
    return id;
  }

  answer(id: number, answer: BatchAnswer): Step {
    return this.on({ kind: "batchAnswered", id, answer });
  }
}

/** A state of each condition, with something at stake in it. */
const samples: { readonly [C in Condition]: () => Play } = {
  disconnected: () => {
    const play = new Play();
    play.on({ kind: "started" });
    play.on({ kind: "helloFailed", id: play.order("sendHello").id, code: "PEER_UNREACHABLE" });
    return play;
  },
  greeting: () => {
    const play = new Play();
    play.on({ kind: "started" });
    return play;
  },
  attached: () => {
    const play = new Play().attach(20, 10);
    play.send(15);
    return play;
  },
  waiting: () => {
    const play = new Play().attach(20, 10);
    play.answer(play.send(), { kind: "refused", code: "INTAKE_DAMAGED", message: "" });
    return play;
  },
  stopped: () => {
    const play = new Play();
    play.on({ kind: "started" });
    play.hello(5, 9);
    return play;
  },
  superseded: () => {
    const play = new Play().attach(20, 10);
    play.answer(play.send(), { kind: "superseded", token: { epoch: 4, owner: "dr" } });
    return play;
  },
  closed: () => {
    const play = new Play();
    play.on({ kind: "closed" });
    return play;
  },
};

/** One event of each kind, fitting the state where it can. */
const events: { readonly [K in ShipEventKind]: (play: Play) => Extract<ShipEvent, { kind: K }> } = {
  started: () => ({ kind: "started" }),
  helloAnswered: (play) => ({
    kind: "helloAnswered",
    id: play.state.helloId,
    create: false,
    answer: { kind: "attached", durable: { sequence: 10, chain: chainText(10) }, applied: 9, token },
    durable: 20,
    durableDataBytesTotal: 1,
    head: 0,
    floor: 0,
    chain: chainText(10),
  }),
  helloFailed: (play) => ({ kind: "helloFailed", id: play.state.helloId, code: "PEER_CLOSED" }),
  batchSent: (play) => ({
    kind: "batchSent",
    id: play.state.reading?.id ?? 999,
    first: play.state.reading?.from ?? 1,
    last: 20,
    dataBytesTotal: 1,
    rawBytes: 1,
    wireBytes: 1,
  }),
  readFailed: (play) => ({
    kind: "readFailed",
    id: play.state.reading?.id ?? 999,
    code: "JOURNAL_TRIMMED",
    message: "",
  }),
  packFailed: (play) => ({
    kind: "packFailed",
    id: play.state.reading?.id ?? 999,
    code: "PACK_FAILED",
    message: "",
  }),
  batchAnswered: (play) => ({
    kind: "batchAnswered",
    id: play.state.inFlight[0]?.id ?? 999,
    answer: { kind: "acknowledged", durable: 15, applied: 12 },
  }),
  batchFailed: (play) => ({
    kind: "batchFailed",
    id: play.state.inFlight[0]?.id ?? 999,
    code: "PEER_CLOSED",
  }),
  heartbeatAnswered: () => ({
    kind: "heartbeatAnswered",
    answer: { kind: "alive", durable: 12, applied: 11, stopped: null },
    roundTripMs: 10,
  }),
  heartbeatFailed: () => ({ kind: "heartbeatFailed", code: "PEER_UNREACHABLE" }),
  silence: () => ({ kind: "silence" }),
  durableAdvanced: () => ({ kind: "durableAdvanced", durable: 30, dataBytesTotal: 1 }),
  pauseOrdered: () => ({ kind: "pauseOrdered", paused: true }),
  woken: () => ({ kind: "woken" }),
  closed: () => ({ kind: "closed" }),
};

const still = (condition: Condition): { readonly [K in ShipEventKind]: Condition } => ({
  started: condition,
  helloAnswered: condition,
  helloFailed: condition,
  batchSent: condition,
  readFailed: condition,
  packFailed: condition,
  batchAnswered: condition,
  batchFailed: condition,
  heartbeatAnswered: condition,
  heartbeatFailed: condition,
  silence: condition,
  durableAdvanced: condition,
  pauseOrdered: condition,
  woken: condition,
  closed: condition,
});

/** Where each event leads from each sample. */
const expected: { readonly [C in Condition]: { readonly [K in ShipEventKind]: Condition } } = {
  disconnected: { ...still("disconnected"), started: "greeting", closed: "closed" },
  greeting: {
    ...still("greeting"),
    helloAnswered: "attached",
    helloFailed: "disconnected",
    silence: "disconnected",
    closed: "closed",
  },
  attached: {
    ...still("attached"),
    readFailed: "stopped",
    packFailed: "disconnected",
    heartbeatFailed: "disconnected",
    silence: "disconnected",
    closed: "closed",
  },
  waiting: { ...still("waiting"), closed: "closed" },
  stopped: { ...still("stopped"), closed: "closed" },
  superseded: { ...still("superseded"), closed: "closed" },
  closed: still("closed"),
};

for (const condition of Object.keys(samples) as Condition[]) {
  for (const kind of Object.keys(events) as ShipEventKind[]) {
    test(`table: ${condition} with ${kind}`, () => {
      const play = samples[condition]();
      assert.equal(play.state.condition, condition, "the sample is what it says");
      if (condition === "attached" && (kind === "readFailed" || kind === "packFailed")) {
        play.on({ kind: "woken" }, context.collectMs + 1);
        assert.ok(play.state.reading !== undefined);
      }
      const before = play.state;
      play.on(events[kind](play));
      assert.equal(play.state.condition, expected[condition][kind]);
      assert.ok(play.state.acknowledged >= before.acknowledged, "SH1");
    });
  }
}

test("a batch that could not be packed is ordered again from where nothing was sent, and the reason shown until then", () => {
  const play = new Play().attach(20, 10);
  play.on({ kind: "woken" }, context.collectMs + 1);
  const read = play.order("readBatch");
  play.on({ kind: "packFailed", id: read.id + 1, code: "PACK_FAILED", message: "" });
  assert.equal(play.state.condition, "attached", "another read's failure is nobody's");
  play.on({ kind: "packFailed", id: read.id, code: "PACK_FAILED", message: "thread ended" });
  assert.deepEqual(play.state.reason, { code: "PACK_FAILED", message: "thread ended" });
  assert.equal(play.order("abortBatch").id, read.id);
  assert.equal(play.state.sendNext, read.from);
});

test("SH12: that a newer token owns the group is reported whatever state its answer finds", () => {
  const token = { epoch: 9, owner: "b" };
  const answer = { kind: "superseded", token } as const;
  for (const condition of Object.keys(samples) as Condition[]) {
    if (condition === "superseded") continue;
    for (const kind of ["helloAnswered", "batchAnswered", "heartbeatAnswered"] as const) {
      const play = samples[condition]();
      const event = { ...events[kind](play), answer };
      // The answer to a request that is not awaited any more.
      play.on("id" in event ? { ...event, id: 12345 } : event);
      assert.deepEqual(play.order("reportSuperseded").token, token, `${condition} ${kind}`);
    }
  }
});

test("SH14: that the standby is gone is reported whatever state the answer finds, and never by an old greeting once attached", () => {
  const lost = (play: Play): boolean => play.effects.some(({ kind }) => kind === "reportLost");
  for (const condition of Object.keys(samples) as Condition[]) {
    if (condition === "superseded") continue;
    for (const kind of ["helloAnswered", "heartbeatAnswered"] as const) {
      const play = samples[condition]();
      const event = { ...events[kind](play), answer: { kind: "unknown" } as const };
      play.on("id" in event ? { ...event, id: 12345 } : event);
      const isOld: boolean = condition === "attached" && kind === "helloAnswered";
      assert.equal(lost(play), !isOld, `${condition} ${kind}`);
    }
  }
  const back = new Play().attach(20, 18);
  back.on({ kind: "silence" });
  back.on({ kind: "woken" }, backOffMsMax);
  assert.ok(!lost(back));
  back.hello(20, 12);
  assert.ok(lost(back), "nothing tells what became of the rest");
  const other = new Play(5);
  other.on({ kind: "started" });
  other.on({ ...events.helloAnswered(other), head: 15, floor: 5, chain: undefined });
  assert.equal(other.state.reason?.code, "STANDBY_LOST");
  assert.ok(lost(other), "nothing of what it holds is proven");
  const ahead = samples.stopped();
  assert.equal(ahead.state.reason?.code, "STANDBY_AHEAD");
  assert.ok(!lost(ahead));
});

test("SH3: the greeting proves the standby's chain: another or an unknown value stops as DIVERGED", () => {
  for (const chain of [chainText(11), undefined]) {
    const play = new Play();
    play.on({ kind: "started" });
    play.hello(20, 10, 0, chain === undefined ? undefined : chain);
    // An omitted argument would take the default, so the unknown chain is given by hand.
    if (chain === undefined) {
      const again = new Play();
      again.on({ kind: "started" });
      const event = events.helloAnswered(again);
      again.on({ ...event, chain: undefined });
      assert.equal(again.state.reason?.code, "DIVERGED");
      continue;
    }
    assert.equal(play.state.condition, "stopped");
    assert.equal(play.state.reason?.code, "DIVERGED");
    assert.equal(play.order("reportStopped").reason.code, "DIVERGED");
  }
});

test("SH4: a standby behind what was trimmed or acknowledged is STANDBY_LOST", () => {
  const trimmed = new Play(15);
  trimmed.on({ kind: "started" });
  trimmed.hello(20, 10, 15);
  assert.equal(trimmed.state.reason?.code, "STANDBY_LOST");
  const back = new Play().attach(20, 18);
  back.on({ kind: "silence" });
  back.on({ kind: "woken" }, backOffMsMax);
  back.hello(20, 12);
  assert.equal(back.state.reason?.code, "STANDBY_LOST");
  assert.equal(back.state.acknowledged, 18);
});

test("SH4: a standby in front of the head is taken up where a waymark proves it, and lost where none does", () => {
  const dropped = new Play(5);
  dropped.on({ kind: "started" });
  dropped.hello(20, 9, 15, chainText(9), 5);
  assert.equal(dropped.state.condition, "attached");
  assert.equal(dropped.state.acknowledged, 9);
  assert.equal(dropped.state.sendNext, 10);

  const unproven = new Play(5);
  unproven.on({ kind: "started" });
  const answered = {
    kind: "attached",
    durable: { sequence: 9, chain: chainText(9) },
    applied: 9,
    token,
  } as const;
  const { id } = unproven.order("sendHello");
  const positions = { durable: 20, durableDataBytesTotal: 1, head: 15, floor: 5, chain: undefined };
  unproven.on({ kind: "helloAnswered", id, create: false, answer: answered, ...positions });
  assert.equal(unproven.state.reason?.code, "STANDBY_LOST");

  const other = new Play(5);
  other.on({ kind: "started" });
  other.hello(20, 9, 15, chainText(8), 5);
  assert.equal(other.state.reason?.code, "DIVERGED");

  const below = new Play(5);
  below.on({ kind: "started" });
  below.hello(20, 4, 15, chainText(4), 5);
  assert.equal(below.state.reason?.code, "STANDBY_LOST");
});

test("SH5: an acknowledgement beyond our journal is STANDBY_AHEAD and not believed", () => {
  const play = new Play().attach(20, 10);
  play.answer(play.send(), { kind: "acknowledged", durable: 21, applied: 0 });
  assert.equal(play.state.reason?.code, "STANDBY_AHEAD");
  assert.equal(play.state.acknowledged, 10);
});

test("SH6: an unknown standby is created only when nothing was trimmed or acknowledged", () => {
  const fresh = new Play();
  fresh.on({ kind: "started" });
  const unknown = (play: Play, head: number) => {
    const { id, create } = play.order("sendHello");
    play.on({
      kind: "helloAnswered",
      id,
      create,
      answer: { kind: "unknown" },
      durable: 20,
      durableDataBytesTotal: 1,
      head,
      floor: head,
      chain: undefined,
    });
  };
  unknown(fresh, 0);
  assert.deepEqual(fresh.order("sendHello"), { kind: "sendHello", id: 2, create: true });
  unknown(fresh, 0);
  assert.equal(fresh.state.condition, "disconnected", "created and still unknown: back off");
  const trimmed = new Play(5);
  trimmed.on({ kind: "started" });
  unknown(trimmed, 5);
  assert.equal(trimmed.state.reason?.code, "STANDBY_LOST");
});

test("wanted inside a batch rewinds the position to send, never below acknowledged", () => {
  const play = new Play().attach(20, 10);
  const id = play.send(20);
  play.answer(id, { kind: "wanted", sequence: 14, applied: 10 });
  assert.equal(play.order("readBatch").from, 14);
  assert.ok(play.effects.some((effect) => effect.kind === "abortBatch" && effect.id === id));
  const lost = new Play().attach(20, 10);
  lost.answer(lost.send(20), { kind: "wanted", sequence: 9, applied: 9 });
  assert.equal(lost.state.condition, "disconnected", "only a greeting can tell what happened");
});

test("wanted for a batch that is still under way puts the later one off", () => {
  const play = new Play().attach(20, 10);
  const first = play.send(12);
  play.on({ kind: "woken" }, context.collectMs + 1);
  const second = play.send(20);
  play.answer(second, { kind: "wanted", sequence: 11, applied: 10 });
  assert.equal(play.state.inFlight.find((batch) => batch.id === second)?.status, "parked");
  assert.equal(play.state.inFlight.find((batch) => batch.id === first)?.status, "sent");
  play.on({ kind: "woken" }, 60);
  assert.equal(play.order("resendBatch").id, second);
});

test("busy holds everything back until its time, then the same bytes go again", () => {
  const play = new Play().attach(20, 10);
  const id = play.send(20);
  play.answer(id, { kind: "busy", code: "INTAKE_FULL", message: "full", retryAfterMs: 500 });
  play.on({ kind: "durableAdvanced", durable: 30, dataBytesTotal: 1 });
  play.on({ kind: "woken" }, 100);
  assert.ok(!play.effects.some((effect) => effect.kind === "resendBatch"));
  play.on({ kind: "woken" }, 500);
  assert.equal(play.order("resendBatch").id, id);
});

test("a refusal is reported, asked again after 15 s, and cleared by attaching", () => {
  const play = samples.waiting();
  assert.equal(play.order("reportStopped").reason.code, "INTAKE_DAMAGED");
  const hellos = () => play.effects.filter((effect) => effect.kind === "sendHello").length;
  play.on({ kind: "woken" }, 1_000);
  assert.equal(hellos(), 1);
  play.on({ kind: "woken" }, refusedRetryMs);
  assert.equal(hellos(), 2);
  play.hello(20, 10);
  assert.equal(play.state.reason, undefined);
  assert.equal(play.effects.filter((effect) => effect.kind === "reportAttached").length, 2);
});

test("SH9: back-off grows to 5 s and starts over only after progress", () => {
  const play = new Play();
  play.on({ kind: "started" });
  const delays: number[] = [];
  for (let round = 0; round < 9; round += 1) {
    play.on({ kind: "helloFailed", id: play.order("sendHello").id, code: "PEER_UNREACHABLE" });
    delays.push(play.state.retryAtMs - play.nowMs);
    play.on({ kind: "woken" }, backOffMsMax);
  }
  assert.deepEqual(delays.slice(0, 3), [75, 150, 300]);
  assert.ok(
    delays.every((delay, index) => index === 0 || delay >= delays[index - 1]!) && delays[8]! <= backOffMsMax,
  );
  play.hello(20, 0);
  assert.ok(play.state.failures > 0);
  play.answer(play.send(), { kind: "acknowledged", durable: 20, applied: 0 });
  assert.equal(play.state.failures, 0);
});

test("a lone record leaves at once, the next ones are collected", () => {
  const play = new Play().attach(20, 20);
  play.on({ kind: "durableAdvanced", durable: 21, dataBytesTotal: 21 * 4096 });
  play.send();
  const reads = () => play.effects.filter((effect) => effect.kind === "readBatch").length;
  play.on({ kind: "durableAdvanced", durable: 22, dataBytesTotal: 22 * 4096 });
  assert.equal(reads(), 1);
  assert.ok((wakeAtMs(play.state, play.nowMs, context) ?? 0) <= play.nowMs + context.collectMs);
  play.on({ kind: "woken" }, context.collectMs + 1);
  assert.equal(reads(), 2);
});

test("sent, answered with nothing, and silent about it: the watchdog greets again", () => {
  const play = new Play().attach(20, 10);
  play.answer(play.send(), { kind: "wanted", sequence: 21, applied: 10 });
  assert.equal(play.state.inFlight.length, 0);
  for (let second = 0; second < 12 && play.state.condition === "attached"; second += 1) {
    play.on({ kind: "woken" }, 1_000);
    if (play.state.heartbeatSentMs !== undefined) {
      play.on({
        kind: "heartbeatAnswered",
        answer: { kind: "alive", durable: 10, applied: 10, stopped: null },
        roundTripMs: 1,
      });
    }
  }
  assert.equal(play.state.condition, "disconnected");
});

/** A number that none of the faults below answers to. */
test("SH13: a pause gives up what is on its way, keeps heartbeats, and resuming goes on behind what is acknowledged", () => {
  const play = new Play().attach(20, 10);
  const id = play.send(15);
  const paused = play.on({ kind: "pauseOrdered", paused: true });
  assert.deepEqual(paused.effects, [{ kind: "abortBatch", id }]);
  assert.deepEqual([play.state.condition, play.state.sendNext], ["attached", 11]);
  const first = { kind: "alive", durable: 10, applied: 10, stopped: null } as const;
  play.on({ kind: "heartbeatAnswered", answer: first, roundTripMs: 1 });
  play.effects = [];
  for (let round = 0; round < 30; round += 1) {
    play.on({ kind: "durableAdvanced", durable: 21 + round, dataBytesTotal: 1 });
    play.on({ kind: "woken" }, 500);
    if (play.effects.some(({ kind }) => kind === "sendHeartbeat")) {
      // All of the batch that was given up had arrived.
      const answer = { kind: "alive", durable: 15, applied: 15, stopped: null } as const;
      play.on({ kind: "heartbeatAnswered", answer, roundTripMs: 1 });
    }
  }
  const kinds = new Set(play.effects.map(({ kind }) => kind));
  assert.deepEqual(kinds, new Set(["sendHeartbeat", "reportAcknowledged"]));
  play.on({ kind: "pauseOrdered", paused: false });
  assert.equal(play.order("readBatch").from, 16);
});

test("SH13: a group that is paused greets, attaches and sends nothing", () => {
  const play = new Play();
  play.on({ kind: "pauseOrdered", paused: true });
  play.attach(20, 10);
  play.on({ kind: "woken" }, context.collectMs + 1);
  assert.equal(play.state.condition, "attached");
  assert.ok(play.effects.every(({ kind }) => kind !== "readBatch"));
});

const noFault = 3;

/**
 * A gateway that keeps contiguous records and forgets undurable ones, and a world that loses, doubles, delays and
 * reorders at will. Goal: whatever happens, the invariants hold and, once the faults stop, everything is acknowledged.
 */
class World {
  readonly play = new Play();
  durable = 0;
  theirs = 0;
  /** Up to here the journal has dropped what it held, whoever had it. */
  head = 0;
  gaps = 0;
  /** Open requests: hellos and batches by id, with the range they carry. */
  readonly hellos: { id: number; create: boolean }[] = [];
  readonly batches = new Map<number, { first: number; last: number }>();
  /** Batches whose bytes the shell still holds. */
  readonly kept = new Set<number>();
  readonly reads: { id: number; from: number; through: number }[] = [];
  heartbeats = 0;
  /** What the gateway said when the heartbeat reached it; batches answered since overtake that. */
  heartbeatDurable = 0;
  reported = 0;
  known = false;

  take(turn: Step): void {
    for (const effect of turn.effects) {
      switch (effect.kind) {
        case "sendHello":
          this.hellos.push({ id: effect.id, create: effect.create });
          break;
        case "readBatch":
          assert.ok(!this.play.state.paused, "SH13: nothing is sent while paused");
          assert.ok(effect.through <= this.durable, "SH2: nothing undurable is sent");
          assert.ok(effect.from > this.play.state.acknowledged, "SH7: nothing acknowledged is sent again");
          this.reads.push({ id: effect.id, from: effect.from, through: effect.through });
          this.kept.add(effect.id);
          break;
        case "resendBatch":
          assert.ok(!this.play.state.paused, "SH13: nothing is sent again while paused");
          assert.ok(this.kept.has(effect.id), "SH8: what is sent again was kept");
          this.open(effect.id);
          break;
        case "abortBatch":
        case "releaseBatch":
          this.batches.delete(effect.id);
          this.kept.delete(effect.id);
          break;
        case "sendHeartbeat":
          this.heartbeats += 1;
          this.heartbeatDurable = this.theirs;
          break;
        case "reportAcknowledged":
          assert.ok(effect.acknowledged >= this.reported, "SH1: reported positions never go back");
          assert.ok(effect.acknowledged <= this.theirs, "SH1: reported is never later than the truth");
          assert.ok(effect.applied <= effect.acknowledged, "SH1");
          this.reported = effect.acknowledged;
          break;
        default:
          break;
      }
    }
    const { state } = this.play;
    assert.ok(state.inFlight.length <= context.connections, "SH10: in flight is bounded");
    let next: number | undefined;
    // One whose answer is overtaken by that to a later one holds nothing that is still to come; its own answer ends it.
    for (const batch of state.inFlight.filter(({ last }) => last > state.acknowledged)) {
      assert.ok(next === undefined || batch.first === next, "SH7: batches in flight are contiguous");
      next = batch.last + 1;
    }
    if (next !== undefined)
      assert.ok(state.sendNext === next || state.sendNext === state.acknowledged + 1, "SH7");
  }

  open(id: number): void {
    const batch = this.play.state.inFlight.find((other) => other.id === id);
    if (batch !== undefined) this.batches.set(id, { first: batch.first, last: batch.last });
  }

  event(event: ShipEvent, afterMs = 1): void {
    this.take(this.play.on(event, afterMs));
  }

  /** The gateway takes a batch and says what a real one would. */
  receive(first: number, last: number): BatchAnswer {
    if (last <= this.theirs) return { kind: "acknowledged", durable: this.theirs, applied: this.theirs };
    if (first !== this.theirs + 1) return { kind: "wanted", sequence: this.theirs + 1, applied: this.theirs };
    this.theirs = last;
    return { kind: "acknowledged", durable: last, applied: first };
  }

  wake(): void {
    const at = wakeAtMs(this.play.state, this.play.nowMs, context);
    if (at !== undefined) this.event({ kind: "woken" }, Math.max(0.1, at - this.play.nowMs));
  }

  /** One thing happens, chosen by `pick`; `fault` spoils it. */
  happen(pick: number, fault: number) {
    const { play } = this;
    const hello = this.hellos[0];
    const read = this.reads[0];
    const ids = [...this.batches.keys()];
    const id = ids[pick % Math.max(1, ids.length)];
    switch (pick % 6) {
      case 0:
        if (fault % 3 === 2) {
          this.head = Math.max(this.head, play.state.durable - (pick % 4));
          return;
        }
        this.durable += 1 + (fault % 5);
        return this.event({
          kind: "durableAdvanced",
          durable: this.durable,
          dataBytesTotal: this.durable * 4096,
        });
      case 1:
        if (hello === undefined) return this.wake();
        this.hellos.shift();
        if (fault % 5 === 0) return this.event({ kind: "helloFailed", id: hello.id, code: "PEER_CLOSED" });
        if (!this.known && !hello.create) return this.helloAnswered(hello, { kind: "unknown" });
        this.known = true;
        return this.helloAnswered(hello, {
          kind: "attached",
          durable: { sequence: this.theirs, chain: chainText(this.theirs) },
          applied: 0,
          token,
        });
      case 2: {
        if (read === undefined) return this.wake();
        this.reads.shift();
        // A gap from there to the head, or records.
        const isGap = read.from <= this.head;
        if (isGap) this.gaps += 1;
        const last = isGap ? this.head : Math.min(read.through, read.from + (fault % 7));
        this.event({
          kind: "batchSent",
          id: read.id,
          first: read.from,
          last,
          dataBytesTotal: last * 4096,
          rawBytes: 4096,
          wireBytes: 100,
        });
        return this.open(read.id);
      }
      case 3: {
        const range = id === undefined ? undefined : this.batches.get(id);
        if (id === undefined || range === undefined) return this.wake();
        this.batches.delete(id);
        if (fault % 6 === 0) return this.event({ kind: "batchFailed", id, code: "PEER_CLOSED" });
        const answer = this.receive(range.first, range.last);
        // The answer is lost after the gateway took it (F51).
        if (fault % 6 === 1) return this.event({ kind: "batchFailed", id, code: "PEER_CLOSED" });
        if (fault % 6 === 2) this.event({ kind: "batchAnswered", id: 10_000, answer });
        if (fault % 13 === 5)
          return this.event({
            kind: "batchAnswered",
            id,
            answer: { kind: "busy", code: "INTAKE_FULL", message: "", retryAfterMs: 100 },
          });
        return this.event({ kind: "batchAnswered", id, answer });
      }
      case 4:
        if (this.heartbeats === 0) return this.wake();
        this.heartbeats -= 1;
        if (fault % 4 === 0)
          return this.event({
            kind: "heartbeatFailed",
            code: fault % 8 === 0 ? "PEER_UNREACHABLE" : "PEER_CLOSED",
          });
        return this.event({
          kind: "heartbeatAnswered",
          answer: {
            kind: "alive",
            durable: fault % 4 === 1 ? this.heartbeatDurable : this.theirs,
            applied: 0,
            stopped: null,
          },
          roundTripMs: 5,
        });
      default:
        if (fault % 11 === 0) return this.event({ kind: "silence" });
        if (fault % 19 === 7) return this.event({ kind: "pauseOrdered", paused: pick % 4 !== 1 });
        if (fault % 17 === 3 && play.state.condition === "greeting")
          return this.event({ kind: "helloFailed", id: 1, code: "OLD" });
        return this.wake();
    }
  }

  helloAnswered(
    hello: { id: number; create: boolean },
    answer: Extract<ShipEvent, { kind: "helloAnswered" }>["answer"],
  ): void {
    this.event({
      kind: "helloAnswered",
      id: hello.id,
      create: hello.create,
      answer,
      durable: this.durable,
      durableDataBytesTotal: this.durable * 4096,
      head: this.head,
      floor: 0,
      chain: answer.kind === "attached" ? answer.durable.chain : undefined,
    });
  }
}

const overtaken: [number, number][] = [
  [619, 1],
  [0, 0],
  [49, 1],
  [554, 0],
  [0, 154],
  [3, 746],
];

test("properties: in any conversation the invariants hold, and when the faults stop everything is acknowledged, whatever was dropped (SH11)", () => {
  let gaps = 0;
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(1_000), fc.nat(1_000)), { maxLength: 400 }), (script) => {
      const world = new World();
      world.event({ kind: "started" });
      for (const [pick, fault] of script) world.happen(pick, fault);
      assert.ok(!["stopped", "superseded", "closed"].includes(world.play.state.condition), "no false alarm");
      world.event({ kind: "pauseOrdered", paused: false });
      // The faults stop: everything that is asked is answered, in a fixed order.
      for (let turn = 0; turn < 2_000 && world.play.state.acknowledged < world.durable; turn += 1) {
        for (const pick of [1, 2, 3, 4]) world.happen(pick, noFault);
      }
      assert.equal(world.play.state.acknowledged, world.durable, `SH11 from ${world.play.state.condition}`);
      gaps += world.gaps;
    }),
    // A batch that was answered `busy` after it had been taken, sent again, and overtaken by the answer to the next one.
    { numRuns: 1_000, examples: [[overtaken]] },
  );
  assert.ok(gaps > 20, `only ${gaps} gaps were sent`);
});
