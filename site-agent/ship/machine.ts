/**
 * Decides what the owner's side sends, when, and what it may believe: the machine behind shipping one group. Pure:
 * `step(state, event, nowMs)` gives the next state and the orders for the shell. docs/ship-spec.md holds the invariants
 * (SH1..SH13) and the reason why each retry ends. It never moves `acknowledged` back and never believes a position that
 * the journal cannot prove.
 *
 *                  started                attached
 *   disconnected ──────────► greeting ───────────────► attached ──┐ batches, heartbeats
 *        ▲   ▲   wake          │  │ refused    refused │  │  ▲    │
 *        │   └─────────────────┘  └──────► waiting ◄───┘  │  └────┘
 *        │      hello failed                 │ wake        │
 *        └───────────────────────────────────┼─ silence ───┘
 *                 (greeting again) ◄─────────┘
 *   any ──► stopped (diverged, lost, ahead, conflict, damaged journal)   any ──► superseded   any ──► closed
 */
import { strict as assert } from "node:assert";
import type { BatchAnswer, HeartbeatAnswer, HelloAnswer, StandbyLack } from "../../protocol/control.ts";
import { heartbeatIntervalMs, peerSilenceMs } from "../../protocol/control.ts";
import type { Lineage, Sequence, Token, VolumeNumber } from "../../protocol/ids.ts";
import type { SendMark, WindowState } from "./window.ts";
import {
  batchRawBytes,
  batchWireBytes,
  inFlightBytesMax,
  lineBytesPerSecond,
  markSend,
  noteDelivered,
  notePacked,
  noteRoundTrip,
  noteSilence,
  windowStart,
} from "./window.ts";

/** First delay after a failure, ms; doubled each time, with jitter from half to all of it. */
export const backOffMsMin = 100;
export const backOffMsMax = 5_000;
/** A refusal is something the operator may mend: asked again this often, ms. */
export const refusedRetryMs = 15_000;
/** A batch that fails this often in a row without an answer sends us back to the greeting. */
export const batchTriesMax = 4;
/** A batch whose predecessor is under way is sent again after this, ms. */
const orderRetryMs = 50;
/** A batch is put off for its predecessor at most this often; then the greeting finds out what is wrong. */
const orderTriesMax = 40;
/** The gateway's own `retryAfterMs` counts within these bounds, ms. */
const busyMsMin = 50;
const busyMsMax = 30_000;

export type Condition =
  | "disconnected"
  | "greeting"
  | "attached"
  | "waiting"
  | "stopped"
  | "superseded"
  | "closed";

/** One batch that was ordered and not yet settled. Batches never overlap; together they are contiguous. */
export interface InFlight {
  readonly id: number;
  readonly first: Sequence;
  readonly last: Sequence;
  readonly wireBytes: number;
  /** `parked`: failed or put off; sent again at `retryAtMs`. */
  readonly status: "sent" | "parked";
  readonly mark: SendMark;
  readonly retryAtMs: number;
  /** Failures in a row. */
  readonly tries: number;
  /** Times it was put off because its predecessor was under way. */
  readonly putOff: number;
}

/** A stable code and a sentence. */
export interface StopReason {
  readonly code: string;
  readonly message: string;
}

export interface ShipState {
  readonly condition: Condition;
  /** Durable at the gateway, proven by chain at the last greeting and by answers since. Never goes back (SH1). */
  readonly acknowledged: Sequence;
  /** Applied at the gateway: never above acknowledged. */
  readonly applied: Sequence;
  /** First sequence that no batch in flight and no acknowledged position holds. */
  readonly sendNext: Sequence;
  /** Data bytes of the history before `sendNext`; undefined: not known since a rewind. */
  readonly sentDataBytesTotal: number | undefined;
  /** Our newest durable position: nothing beyond it is sent (SH2). */
  readonly durable: Sequence;
  readonly durableDataBytesTotal: number;
  /** When the newest read was ordered. */
  readonly orderedAtMs: number;
  /** When the first record that waits became durable; undefined: none waits. */
  readonly collectingSinceMs: number | undefined;
  readonly inFlight: readonly InFlight[];
  /** A read was ordered and its batch is not yet on its way. */
  readonly reading: { readonly id: number; readonly from: Sequence } | undefined;
  readonly nextId: number;
  /** Answer to a hello that is awaited; older ones are ignored. */
  readonly helloId: number;
  readonly heartbeatDueMs: number;
  readonly heartbeatSentMs: number | undefined;
  /** Failures in a row that end at the greeting; reset by progress only (SH9). */
  readonly failures: number;
  /** When to try again in `disconnected` and `waiting`. */
  readonly retryAtMs: number;
  /** `busy`: nothing new is sent before. */
  readonly pausedUntilMs: number;
  /** An operator's order: no record is sent (SH13). */
  readonly paused: boolean;
  /** Newest time at which something moved, for the watchdog. */
  readonly progressMs: number;
  /** Why nothing moves, as far as it is known: a refusal, a full intake, a failed greeting. */
  readonly reason: StopReason | undefined;
  readonly window: WindowState;
}

/** What does not change while shipping one history. */
export interface ShipContext {
  readonly lineage: Lineage;
  readonly token: Token;
  /** Batches in flight at most. */
  readonly connections: number;
  /**
   * Records are collected this long before a short batch is sent, ms, unless the line has been quiet for as long: one
   * compressor over many records packs them several times better than one over a few.
   */
  readonly collectMs: number;
  /** Uniform in [0, 1), for jitter. */
  fraction(): number;
  /** Limit of the line now; null: unlimited. */
  limitBytesPerSecond(): number | null;
  /** Bytes in flight at most for this group: memory, not the line. */
  budgetBytes(): number;
}

export type ShipEvent =
  | { readonly kind: "started" }
  /**
   * `durable`, `head`, `floor`: our positions when the answer was looked at; a standby below `floor` cannot be proven, nor be
   * filled up, and one between them only where `chain` is known. `chain`: what our chain says at the answered position; undefined: we cannot say.
   */
  | {
      readonly kind: "helloAnswered";
      readonly id: number;
      readonly create: boolean;
      readonly answer: HelloAnswer;
      readonly durable: Sequence;
      readonly durableDataBytesTotal: number;
      readonly head: Sequence;
      readonly floor: Sequence;
      readonly chain: string | undefined;
    }
  | { readonly kind: "helloFailed"; readonly id: number; readonly code: string }
  /** The ordered read became a batch that is being sent. */
  | {
      readonly kind: "batchSent";
      readonly id: number;
      readonly first: Sequence;
      readonly last: Sequence;
      readonly dataBytesTotal: number;
      readonly rawBytes: number;
      readonly wireBytes: number;
    }
  | { readonly kind: "readFailed"; readonly id: number; readonly code: string; readonly message: string }
  | { readonly kind: "batchAnswered"; readonly id: number; readonly answer: BatchAnswer }
  | { readonly kind: "batchFailed"; readonly id: number; readonly code: string }
  | { readonly kind: "heartbeatAnswered"; readonly answer: HeartbeatAnswer; readonly roundTripMs: number }
  | { readonly kind: "heartbeatFailed"; readonly code: string }
  /** No sign of life from the peer for `peerSilenceMs`; the connections are gone. */
  | { readonly kind: "silence" }
  | { readonly kind: "durableAdvanced"; readonly durable: Sequence; readonly dataBytesTotal: number }
  /** Replication was paused by an operator, or goes on. */
  | { readonly kind: "pauseOrdered"; readonly paused: boolean }
  /** The time that `wakeAtMs` gave has come. */
  | { readonly kind: "woken" }
  | { readonly kind: "closed" };

export type ShipEventKind = ShipEvent["kind"];

export type ShipEffect =
  | { readonly kind: "sendHello"; readonly id: number; readonly create: boolean }
  /**
   * Read from `from` to `through` at most, about `rawBytes`, pack and send; answer with `batchSent` or `readFailed`. Where
   * `from` is not behind the head, a gap to the head, alone, takes the place of what was dropped.
   */
  | {
      readonly kind: "readBatch";
      readonly id: number;
      readonly from: Sequence;
      readonly through: Sequence;
      readonly rawBytes: number;
      readonly lineBytesPerSecond: number | undefined;
    }
  /** Send a kept batch once more. */
  | { readonly kind: "resendBatch"; readonly id: number }
  /** Settled: its bytes may go. */
  | { readonly kind: "releaseBatch"; readonly id: number }
  /** End the request and drop the bytes; no event is wanted any more. */
  | { readonly kind: "abortBatch"; readonly id: number }
  | { readonly kind: "sendHeartbeat" }
  /** `held`: how far the standby is durable. `partial`: volumes whose content it does not have whole. */
  | {
      readonly kind: "reportAttached";
      readonly lacks: StandbyLack | null;
      readonly held: Sequence;
      readonly partial: readonly VolumeNumber[];
    }
  | { readonly kind: "reportAcknowledged"; readonly acknowledged: Sequence; readonly applied: Sequence }
  | { readonly kind: "reportSuperseded"; readonly token: Token }
  | { readonly kind: "reportStopped"; readonly reason: StopReason };

export interface Step {
  readonly state: ShipState;
  readonly effects: readonly ShipEffect[];
}

type EventOf<K extends ShipEventKind> = Extract<ShipEvent, { readonly kind: K }>;
type Cell<K extends ShipEventKind> = (turn: Turn, event: EventOf<K>) => void;
type Row = { readonly [K in ShipEventKind]: Cell<K> };

/** State at the start: everything up to `floor` was acknowledged in an earlier life. */
export function shipStart(floor: Sequence): ShipState {
  return {
    condition: "disconnected",
    acknowledged: floor,
    applied: 0,
    sendNext: floor + 1,
    sentDataBytesTotal: undefined,
    durable: floor,
    durableDataBytesTotal: 0,
    orderedAtMs: Number.NEGATIVE_INFINITY,
    collectingSinceMs: undefined,
    inFlight: [],
    reading: undefined,
    nextId: 1,
    helloId: 0,
    heartbeatDueMs: 0,
    heartbeatSentMs: undefined,
    failures: 0,
    retryAtMs: Number.POSITIVE_INFINITY,
    pausedUntilMs: 0,
    paused: false,
    progressMs: 0,
    reason: undefined,
    window: windowStart,
  };
}

/** One step. Neither `state` nor `event` is changed. */
export function step(state: ShipState, event: ShipEvent, nowMs: number, context: ShipContext): Step {
  const turn = new Turn(state, nowMs, context);
  const row: Row = table[state.condition];
  // The row's cell for this kind takes this event; the compiler cannot follow the pairing through the index.
  (row[event.kind] as Cell<typeof event.kind> as (turn: Turn, event: ShipEvent) => void)(turn, event);
  return { state: turn.state, effects: turn.effects };
}

/** When `woken` is wanted after `nowMs`, on the same clock; undefined: only an event changes anything. */
export function wakeAtMs(
  state: ShipState,
  nowMs: number,
  { collectMs }: Pick<ShipContext, "collectMs">,
): number | undefined {
  let at = Number.POSITIVE_INFINITY;
  switch (state.condition) {
    case "greeting":
    case "superseded":
    case "closed":
      return undefined;
    case "disconnected":
      at = state.retryAtMs;
      break;
    case "waiting":
      at = Math.min(state.retryAtMs, state.heartbeatDueMs);
      break;
    case "stopped":
      at = state.heartbeatDueMs;
      break;
    case "attached":
      at = state.heartbeatDueMs;
      for (const batch of state.inFlight)
        if (batch.status === "parked") at = Math.min(at, Math.max(batch.retryAtMs, state.pausedUntilMs));
      if (state.collectingSinceMs !== undefined) {
        // Once collected, what still waits waits for room, which only an answer makes.
        const collectedMs = Math.max(state.collectingSinceMs + collectMs, state.pausedUntilMs);
        if (collectedMs > nowMs) at = Math.min(at, collectedMs);
      }
      break;
  }
  return Number.isFinite(at) ? at : undefined;
}

/** One step under way: the state being made and the orders given. */
class Turn {
  state: ShipState;
  readonly effects: ShipEffect[] = [];
  readonly nowMs: number;
  readonly context: ShipContext;

  constructor(state: ShipState, nowMs: number, context: ShipContext) {
    this.state = state;
    this.nowMs = nowMs;
    this.context = context;
  }

  set(change: Partial<ShipState>): void {
    this.state = { ...this.state, ...change };
  }

  order(effect: ShipEffect): void {
    this.effects.push(effect);
  }

  batch(id: number): InFlight | undefined {
    return this.state.inFlight.find((batch) => batch.id === id);
  }

  change(id: number, change: Partial<InFlight>): void {
    this.set({
      inFlight: this.state.inFlight.map((batch) => (batch.id === id ? { ...batch, ...change } : batch)),
    });
  }

  /** Gives up everything in flight from `from` on, and the read under way. */
  rewind(from: Sequence): void {
    const kept: InFlight[] = [];
    for (const batch of this.state.inFlight) {
      if (batch.last < from) kept.push(batch);
      else this.order({ kind: "abortBatch", id: batch.id });
    }
    if (this.state.reading !== undefined) this.order({ kind: "abortBatch", id: this.state.reading.id });
    this.set({ inFlight: kept, reading: undefined, sendNext: from, sentDataBytesTotal: undefined });
  }

  abortAll(): void {
    this.rewind(this.state.acknowledged + 1);
    for (const batch of this.state.inFlight) this.order({ kind: "abortBatch", id: batch.id });
    this.set({ inFlight: [], collectingSinceMs: undefined });
  }

  greet(create: boolean): void {
    const helloId = this.state.helloId + 1;
    this.set({ condition: "greeting", helloId, heartbeatSentMs: undefined });
    this.order({ kind: "sendHello", id: helloId, create });
  }

  /** Leaves the peer alone for a while, then greets. */
  backOff(reason?: StopReason): void {
    this.abortAll();
    this.set({
      reason: reason ?? this.state.reason,
      condition: "disconnected",
      failures: this.state.failures + 1,
      retryAtMs: this.nowMs + backOffMs(this.state.failures, this.context),
      heartbeatSentMs: undefined,
    });
  }

  waitFor(reason: StopReason): void {
    this.abortAll();
    this.set({
      condition: "waiting",
      reason,
      retryAtMs: this.nowMs + refusedRetryMs,
      heartbeatSentMs: undefined,
    });
    this.armHeartbeat();
    this.order({ kind: "reportStopped", reason });
  }

  stop(code: string, message: string): void {
    this.abortAll();
    const reason = { code, message };
    this.set({ condition: "stopped", reason, heartbeatSentMs: undefined });
    this.armHeartbeat();
    this.order({ kind: "reportStopped", reason });
  }

  supersede(token: Token): void {
    // Whoever closes this shipper may go on with another one: the news must reach him all the same.
    if (this.state.condition === "closed") {
      this.order({ kind: "reportSuperseded", token });
      return;
    }
    this.abortAll();
    const reason = {
      code: "SUPERSEDED",
      message: `epoch ${token.epoch} of site ${token.owner} has taken over`,
    };
    this.set({ condition: "superseded", reason });
    this.order({ kind: "reportSuperseded", token });
  }

  conflict(token: Token): void {
    const { epoch, owner } = this.context.token;
    this.stop(
      "EPOCH_CONFLICT",
      `epoch ${epoch} is claimed by both ${owner} and ${token.owner}; an operator must decide`,
    );
  }

  diverged(theirs: string, sequence: Sequence, ours: string): void {
    this.stop(
      "DIVERGED",
      `the standby holds ${theirs} at ${sequence}, this site ${ours}: two histories, nothing is overwritten`,
    );
  }

  refuse(refusal: { readonly code: string; readonly message: string }): void {
    this.waitFor({ code: refusal.code, message: refusal.message });
  }

  /** Takes over what the gateway says is durable and applied. False: it cannot be, and shipping has stopped (SH5). */
  acknowledge(durable: Sequence, applied: Sequence): boolean {
    if (durable > this.state.durable) {
      this.stop(
        "STANDBY_AHEAD",
        `the standby is durable to ${durable}, this site only to ${this.state.durable}`,
      );
      return false;
    }
    const before = this.state;
    const acknowledged = Math.max(before.acknowledged, durable);
    const nextApplied = Math.min(acknowledged, Math.max(before.applied, applied));
    if (acknowledged === before.acknowledged && nextApplied === before.applied) return true;
    if (acknowledged > before.acknowledged)
      this.set({ failures: 0, progressMs: this.nowMs, reason: undefined });
    this.set({ acknowledged, applied: nextApplied });
    // Records that a rewound position would send again are durable there already.
    if (this.state.sendNext <= acknowledged) this.rewindForward(acknowledged + 1);
    this.order({ kind: "reportAcknowledged", acknowledged, applied: nextApplied });
    return true;
  }

  /** The position to send moves past what is acknowledged; a read from before it is no longer wanted. */
  rewindForward(sendNext: Sequence): void {
    if (this.state.reading !== undefined) this.order({ kind: "abortBatch", id: this.state.reading.id });
    this.set({ sendNext, sentDataBytesTotal: undefined, reading: undefined });
  }

  armHeartbeat(): void {
    this.set({
      heartbeatDueMs: Math.max(
        this.nowMs,
        Math.min(this.state.heartbeatDueMs, this.nowMs + heartbeatIntervalMs),
      ),
    });
  }

  /** Sends a heartbeat when it is due and none is awaited. */
  heartbeat() {
    if (this.nowMs < this.state.heartbeatDueMs) return;
    const next = this.nowMs + heartbeatIntervalMs;
    if (this.state.heartbeatSentMs !== undefined) {
      this.set({ heartbeatDueMs: next });
      return;
    }
    this.set({ heartbeatDueMs: next, heartbeatSentMs: this.nowMs });
    this.order({ kind: "sendHeartbeat" });
  }

  /** Orders what may go out now: parked batches first, then one read. */
  pump() {
    if (this.state.paused || this.nowMs < this.state.pausedUntilMs) return this.noteWaiting();
    for (const batch of this.state.inFlight) {
      if (batch.status !== "parked" || batch.retryAtMs > this.nowMs) continue;
      this.change(batch.id, { status: "sent", mark: markSend(this.state.window, this.nowMs) });
      this.order({ kind: "resendBatch", id: batch.id });
    }
    this.noteWaiting();
    if (this.state.collectingSinceMs === undefined || this.state.reading !== undefined) return;
    if (this.state.inFlight.length >= this.context.connections) return;
    const limit = this.context.limitBytesPerSecond();
    const { window } = this.state;
    let bytes = 0;
    for (const batch of this.state.inFlight) bytes += batch.wireBytes;
    const budget = this.context.budgetBytes();
    if (this.state.inFlight.length > 0) {
      const room = inFlightBytesMax(window, limit, budget) - bytes;
      const wire = batchWireBytes(window, limit, this.context.connections);
      if (room < Math.min(wire, this.pendingRawBytes() / window.ratio)) return;
    }
    const rawBytes = Math.min(batchRawBytes(window, limit, this.context.connections), Math.max(1, budget));
    const pending = this.pendingRawBytes();
    const { collectMs } = this.context;
    const collected = this.nowMs >= this.state.collectingSinceMs + collectMs;
    const quiet = this.state.inFlight.length === 0 && this.nowMs >= this.state.orderedAtMs + collectMs;
    if (!quiet && !collected && pending < rawBytes) return;
    const id = this.state.nextId;
    this.set({ nextId: id + 1, reading: { id, from: this.state.sendNext }, orderedAtMs: this.nowMs });
    this.order({
      kind: "readBatch",
      id,
      from: this.state.sendNext,
      through: this.state.durable,
      rawBytes,
      // Without a backlog an answer tells of the writer, not of the line.
      lineBytesPerSecond: pending >= rawBytes ? lineBytesPerSecond(window, limit) : (limit ?? undefined),
    });
  }

  /** Data bytes that wait, or more than enough when unknown. */
  pendingRawBytes(): number {
    const sent = this.state.sentDataBytesTotal;
    if (sent === undefined) return Number.POSITIVE_INFINITY;
    return Math.max(0, this.state.durableDataBytesTotal - sent);
  }

  noteWaiting(): void {
    const waits = this.state.durable >= this.state.sendNext;
    if (!waits) this.set({ collectingSinceMs: undefined });
    else if (this.state.collectingSinceMs === undefined) this.set({ collectingSinceMs: this.nowMs });
  }

  /**
   * Everything was sent, nothing is in flight, and yet it is not acknowledged: an answer was lost and the gateway says
   * no more. After the peer's silence the greeting settles it.
   */
  watch(): void {
    const { state } = this;
    if (
      state.inFlight.length > 0 ||
      state.reading !== undefined ||
      state.sendNext <= state.acknowledged + 1
    ) {
      if (state.sendNext <= state.acknowledged + 1) this.set({ progressMs: this.nowMs });
      return;
    }
    if (this.nowMs - state.progressMs > peerSilenceMs) this.backOff();
  }
}

/** Half to all of 100 ms, 200 ms ... 5 s. */
function backOffMs(failures: number, context: ShipContext): number {
  const whole = Math.min(backOffMsMax, backOffMsMin * 2 ** Math.min(failures, 10));
  return whole * (0.5 + context.fraction() / 2);
}

const ignore = (): void => undefined;

/** An answer that nobody waits for any more may still say that a newer token owns the group: that is never missed. */
function answeredAside(
  turn: Turn,
  { answer }: EventOf<"helloAnswered"> | EventOf<"batchAnswered"> | EventOf<"heartbeatAnswered">,
): void {
  if (answer.kind === "superseded") turn.supersede(answer.token);
}

function durableAdvanced(turn: Turn, event: EventOf<"durableAdvanced">): void {
  if (event.durable <= turn.state.durable) return;
  turn.set({ durable: event.durable, durableDataBytesTotal: event.dataBytesTotal });
}

function pauseOrdered(turn: Turn, { paused }: EventOf<"pauseOrdered">): void {
  turn.set({ paused });
}

/** What is on its way is given up: what of it arrived all the same is told by a heartbeat. */
function pauseAttached(turn: Turn, event: EventOf<"pauseOrdered">): void {
  const { acknowledged, paused } = turn.state;
  if (paused === event.paused) return;
  pauseOrdered(turn, event);
  if (event.paused) turn.rewind(acknowledged + 1);
  // What was collected meanwhile has waited long enough.
  turn.pump();
}

function close(turn: Turn): void {
  turn.abortAll();
  turn.set({ condition: "closed" });
}

/** The answer to a batch that nobody waits for may still forbid us to go on. */
function helloAnswered(turn: Turn, event: EventOf<"helloAnswered">) {
  if (event.answer.kind === "superseded") return turn.supersede(event.answer.token);
  if (event.id !== turn.state.helloId) return;
  const { answer } = event;
  if (event.durable > turn.state.durable) {
    turn.set({ durable: event.durable, durableDataBytesTotal: event.durableDataBytesTotal });
  }
  switch (answer.kind) {
    case "conflict":
      return turn.conflict(answer.token);
    case "refused":
      return turn.refuse(answer);
    case "diverged":
      return turn.diverged(
        `lineage ${answer.lineage}, chain ${answer.durable.chain}`,
        answer.durable.sequence,
        `lineage ${turn.context.lineage}, chain ${event.chain ?? "unknown"}`,
      );
    case "unknown":
      if (turn.state.acknowledged > 0 || event.floor > 0) {
        return turn.stop(
          "STANDBY_LOST",
          `the standby knows nothing of this history; it had ${Math.max(turn.state.acknowledged, event.floor)}`,
        );
      }
      // Told to create and still unknown: the configuration there does not have the group yet.
      return event.create
        ? turn.backOff({ code: "STANDBY_UNKNOWN", message: "the other site does not have this group yet" })
        : turn.greet(true);
    case "attached":
      return attach(turn, event, answer);
  }
}

function attach(
  turn: Turn,
  event: EventOf<"helloAnswered">,
  { durable: theirs, applied, lacks, partial = [] }: Extract<HelloAnswer, { kind: "attached" }>,
) {
  const { state } = turn;
  const floor = Math.max(state.acknowledged, event.floor);
  if (theirs.sequence > state.durable) {
    return turn.stop(
      "STANDBY_AHEAD",
      `the standby is durable to ${theirs.sequence} (chain ${theirs.chain}), this site only to ${state.durable}`,
    );
  }
  if (theirs.sequence < floor) {
    return turn.stop(
      "STANDBY_LOST",
      `the standby went back to ${theirs.sequence} (chain ${theirs.chain}); it had acknowledged ${floor}`,
    );
  }
  if (event.chain === undefined && theirs.sequence < event.head) {
    return turn.stop(
      "STANDBY_LOST",
      `the standby is at ${theirs.sequence} (chain ${theirs.chain}), of which this site has kept nothing`,
    );
  }
  if (event.chain !== theirs.chain) {
    return turn.diverged(`chain ${theirs.chain}`, theirs.sequence, `chain ${event.chain ?? "unknown"}`);
  }
  turn.set({
    condition: "attached",
    reason: undefined,
    sendNext: theirs.sequence + 1,
    sentDataBytesTotal: undefined,
    collectingSinceMs: undefined,
    pausedUntilMs: 0,
    progressMs: turn.nowMs,
    // A standby that was moved back in its own epoch could have a lower applied position; durable it is all the same.
    applied: Math.min(theirs.sequence, applied),
    heartbeatDueMs: turn.nowMs,
    heartbeatSentMs: undefined,
  });
  turn.order({ kind: "reportAttached", lacks: lacks ?? null, held: theirs.sequence, partial });
  turn.set({ acknowledged: theirs.sequence });
  if (theirs.sequence > state.acknowledged) turn.set({ failures: 0 });
  turn.order({ kind: "reportAcknowledged", acknowledged: theirs.sequence, applied: turn.state.applied });
  turn.heartbeat();
  turn.pump();
}

function batchSent(turn: Turn, event: EventOf<"batchSent">) {
  const { reading } = turn.state;
  if (reading === undefined || reading.id !== event.id)
    return turn.order({ kind: "abortBatch", id: event.id });
  assert(
    event.first === reading.from && event.last >= event.first && event.last <= turn.state.durable,
    "a batch holds what was ordered",
  );
  const window = notePacked(turn.state.window, event.rawBytes, event.wireBytes);
  const batch: InFlight = {
    id: event.id,
    first: event.first,
    last: event.last,
    wireBytes: event.wireBytes,
    status: "sent",
    mark: markSend(window, turn.nowMs),
    retryAtMs: 0,
    tries: 0,
    putOff: 0,
  };
  turn.set({
    window,
    reading: undefined,
    inFlight: [...turn.state.inFlight, batch],
    sendNext: event.last + 1,
    sentDataBytesTotal: event.dataBytesTotal,
    collectingSinceMs: undefined,
    progressMs: turn.nowMs,
  });
  turn.pump();
}

function readFailed(turn: Turn, event: EventOf<"readFailed">) {
  if (turn.state.reading?.id !== event.id) return;
  turn.stop(event.code, event.message);
}

/** A batch left: its bytes may go. */
function settle(turn: Turn, batch: InFlight): void {
  turn.set({ inFlight: turn.state.inFlight.filter((other) => other.id !== batch.id) });
  turn.order({ kind: "releaseBatch", id: batch.id });
}

function batchAnswered(turn: Turn, event: EventOf<"batchAnswered">) {
  const { answer } = event;
  if (answer.kind === "superseded") return turn.supersede(answer.token);
  const batch = turn.batch(event.id);
  if (batch === undefined) return;
  switch (answer.kind) {
    case "conflict":
      return turn.conflict(answer.token);
    case "diverged":
      return turn.diverged(
        `lineage ${answer.lineage}, chain ${answer.durable.chain}`,
        answer.durable.sequence,
        `lineage ${turn.context.lineage}, batch ${batch.first}..${batch.last}`,
      );
    case "refused":
      return turn.refuse(answer);
    case "busy": {
      const retryAtMs = turn.nowMs + Math.min(busyMsMax, Math.max(busyMsMin, answer.retryAfterMs));
      turn.set({ pausedUntilMs: Math.max(turn.state.pausedUntilMs, retryAtMs), progressMs: turn.nowMs });
      turn.set({ reason: { code: answer.code, message: answer.message } });
      turn.change(batch.id, { status: "parked", retryAtMs, tries: 0 });
      return turn.pump();
    }
    case "acknowledged":
      turn.set({
        window: noteDelivered(turn.state.window, batch.mark, batch.wireBytes, turn.nowMs),
        progressMs: turn.nowMs,
      });
      settle(turn, batch);
      if (turn.acknowledge(answer.durable, answer.applied)) turn.pump();
      return;
    case "wanted":
      return wanted(turn, batch, answer.sequence, answer.applied);
  }
}

function wanted(turn: Turn, batch: InFlight, sequence: Sequence, applied: Sequence) {
  if (sequence > turn.state.durable + 1) {
    return turn.stop(
      "STANDBY_AHEAD",
      `the standby wants ${sequence}, this site is durable to ${turn.state.durable}`,
    );
  }
  if (!turn.acknowledge(turn.state.acknowledged, applied)) return;
  // It wants what it said is durable there: only a greeting can tell what happened (SH1).
  if (sequence <= turn.state.acknowledged) return turn.backOff();
  if (sequence > batch.last) {
    // It has all of this; the acknowledgement comes with a later answer or a heartbeat.
    settle(turn, batch);
    return turn.pump();
  }
  const holder = turn.state.inFlight.find((other) => other.first <= sequence && sequence <= other.last);
  if (holder === undefined || (holder.id === batch.id && sequence > batch.first)) {
    turn.rewind(sequence);
    return turn.pump();
  }
  // The predecessor is still under way (connections overtake each other), or the batch itself must come again.
  if (batch.putOff + 1 > orderTriesMax) return turn.backOff();
  turn.change(batch.id, { status: "parked", retryAtMs: turn.nowMs + orderRetryMs, putOff: batch.putOff + 1 });
  turn.pump();
}

function batchFailed(turn: Turn, event: EventOf<"batchFailed">) {
  const batch = turn.batch(event.id);
  if (batch === undefined) return;
  if (batch.last <= turn.state.acknowledged) {
    settle(turn, batch);
    return turn.pump();
  }
  if (batch.tries + 1 >= batchTriesMax) return turn.backOff();
  const retryAtMs = turn.nowMs + backOffMs(batch.tries, turn.context);
  turn.change(batch.id, { status: "parked", retryAtMs, tries: batch.tries + 1 });
  turn.pump();
}

/** Answers that forbid going on hold in every state that sends heartbeats. */
function heartbeatForbids(turn: Turn, answer: HeartbeatAnswer): boolean {
  if (answer.kind === "superseded") {
    turn.supersede(answer.token);
    return true;
  }
  if (answer.kind === "conflict") {
    if (turn.state.condition !== "stopped") turn.conflict(answer.token);
    return true;
  }
  return false;
}

function heartbeatAnswered(turn: Turn, event: EventOf<"heartbeatAnswered">) {
  const { answer } = event;
  turn.set({
    heartbeatSentMs: undefined,
    window: noteRoundTrip(turn.state.window, event.roundTripMs, turn.nowMs),
  });
  if (heartbeatForbids(turn, answer)) return;
  switch (answer.kind) {
    case "alive":
      if (!turn.acknowledge(answer.durable, answer.applied)) return;
      // Alive and nothing owed: the next failure is a new one (SH9).
      if (turn.state.sendNext === turn.state.acknowledged + 1) turn.set({ failures: 0 });
      return turn.pump();
    case "unknown":
      // It no longer knows the group it was attached to; the greeting says whether it is lost.
      return turn.backOff();
    case "refused":
      return turn.refuse(answer);
  }
}

function heartbeatAnsweredAside(turn: Turn, event: EventOf<"heartbeatAnswered">): void {
  turn.set({ heartbeatSentMs: undefined });
  heartbeatForbids(turn, event.answer);
}

function heartbeatFailed(turn: Turn, event: EventOf<"heartbeatFailed">): void {
  turn.set({ heartbeatSentMs: undefined });
  // Nobody listens there: batches will fare no better.
  if (turn.state.condition === "attached" && event.code === "PEER_UNREACHABLE") turn.backOff();
}

function silent(turn: Turn): void {
  turn.set({ window: noteSilence(turn.state.window) });
  turn.backOff({ code: "PEER_SILENT", message: "the other site gave no sign of life" });
}

const never: Row = {
  started: ignore,
  helloAnswered: ignore,
  helloFailed: ignore,
  batchSent: (turn, event) => turn.order({ kind: "abortBatch", id: event.id }),
  readFailed: ignore,
  batchAnswered: ignore,
  batchFailed: ignore,
  heartbeatAnswered: ignore,
  heartbeatFailed: ignore,
  silence: ignore,
  durableAdvanced: ignore,
  pauseOrdered: ignore,
  woken: ignore,
  closed: ignore,
};

/** Every state with every event: a missing cell does not compile. `ignore` says that nothing is to be done. */
const table: { readonly [C in Condition]: Row } = {
  disconnected: {
    started: (turn) => turn.greet(false),
    helloAnswered: answeredAside,
    helloFailed: ignore,
    batchSent: never.batchSent,
    readFailed: ignore,
    batchAnswered: answeredAside,
    batchFailed: ignore,
    heartbeatAnswered: (turn, event) => void heartbeatForbids(turn, event.answer),
    heartbeatFailed: ignore,
    silence: ignore,
    durableAdvanced,
    pauseOrdered,
    woken: (turn) => {
      if (turn.nowMs >= turn.state.retryAtMs) turn.greet(false);
    },
    closed: close,
  },
  greeting: {
    started: ignore,
    helloAnswered,
    helloFailed: (turn, event) => {
      if (event.id === turn.state.helloId)
        turn.backOff({ code: event.code, message: "the other site did not take the greeting" });
    },
    batchSent: never.batchSent,
    readFailed: ignore,
    batchAnswered: answeredAside,
    batchFailed: ignore,
    heartbeatAnswered: (turn, event) => void heartbeatForbids(turn, event.answer),
    heartbeatFailed: ignore,
    silence: silent,
    durableAdvanced,
    pauseOrdered,
    woken: ignore,
    closed: close,
  },
  attached: {
    started: ignore,
    helloAnswered: answeredAside,
    helloFailed: ignore,
    batchSent,
    readFailed,
    batchAnswered,
    batchFailed,
    heartbeatAnswered,
    heartbeatFailed,
    silence: silent,
    durableAdvanced: (turn, event) => {
      durableAdvanced(turn, event);
      turn.pump();
    },
    pauseOrdered: pauseAttached,
    woken: (turn) => {
      turn.heartbeat();
      turn.pump();
      turn.watch();
    },
    closed: close,
  },
  waiting: {
    started: ignore,
    helloAnswered: answeredAside,
    helloFailed: ignore,
    batchSent: never.batchSent,
    readFailed: ignore,
    batchAnswered: answeredAside,
    batchFailed: ignore,
    heartbeatAnswered: heartbeatAnsweredAside,
    heartbeatFailed,
    silence: ignore,
    durableAdvanced,
    pauseOrdered,
    woken: (turn) => {
      if (turn.nowMs >= turn.state.retryAtMs) turn.greet(false);
      else turn.heartbeat();
    },
    closed: close,
  },
  stopped: {
    started: ignore,
    helloAnswered: answeredAside,
    helloFailed: ignore,
    batchSent: never.batchSent,
    readFailed: ignore,
    batchAnswered: answeredAside,
    batchFailed: ignore,
    heartbeatAnswered: heartbeatAnsweredAside,
    heartbeatFailed,
    silence: ignore,
    durableAdvanced,
    pauseOrdered,
    woken: (turn) => turn.heartbeat(),
    closed: close,
  },
  superseded: { ...never, closed: (turn) => turn.set({ condition: "closed" }) },
  closed: {
    ...never,
    helloAnswered: answeredAside,
    batchAnswered: answeredAside,
    heartbeatAnswered: answeredAside,
  },
};
