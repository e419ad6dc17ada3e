/**
 * Decides what the owner's side sends, when, and what it may believe: the machine behind shipping one group. Pure:
 * `step(state, event, nowMs)` gives the next state and the orders for the shell. docs/ship-spec.md holds the invariants
 * (SH1..SH14) and the reason why each retry ends. It never moves `acknowledged` back and never believes a position that
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
import type { HeartbeatAnswer, HelloAnswer } from "../../protocol/control.ts";
import type { Sequence } from "../../protocol/ids.ts";
import type { Condition, InFlight, ShipContext, ShipEvent, ShipEventKind, ShipState, Step } from "./state.ts";
import { backOffMs, Turn } from "./turn.ts";
import { markSend, noteDelivered, notePacked, noteRoundTrip, noteSilence } from "./window.ts";

/** A batch that fails this often in a row without an answer sends us back to the greeting. */
export const batchTriesMax = 4;
/** A batch whose predecessor is under way is sent again after this, ms. */
const orderRetryMs = 50;
/** A batch is put off for its predecessor at most this often; then the greeting finds out what is wrong. */
const orderTriesMax = 40;
/** The gateway's own `retryAfterMs` counts within these bounds, ms. */
const busyMsMin = 50;
const busyMsMax = 30_000;

type EventOf<K extends ShipEventKind> = Extract<ShipEvent, { readonly kind: K }>;
type Cell<K extends ShipEventKind> = (turn: Turn, event: EventOf<K>) => void;
type Row = { readonly [K in ShipEventKind]: Cell<K> };

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

const ignore = (): void => undefined;

/**
 * An answer that nobody waits for any more may still say that a newer token owns the group, or that the standby is gone: that
 * is never missed.
 */
function answeredAside(
  turn: Turn,
  { answer }: EventOf<"helloAnswered"> | EventOf<"batchAnswered"> | EventOf<"heartbeatAnswered">,
): void {
  if (answer.kind === "superseded") turn.supersede(answer.token);
  if (answer.kind === "unknown") turn.lost();
}

/** Once attached, an older greeting's answer tells nothing of the standby that there is now. */
function helloAnsweredLate(turn: Turn, { answer }: EventOf<"helloAnswered">): void {
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
  if (event.answer.kind === "unknown") turn.lost();
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
    turn.lost();
    return turn.stop(
      "STANDBY_LOST",
      `the standby went back to ${theirs.sequence} (chain ${theirs.chain}); it had acknowledged ${floor}`,
    );
  }
  if (event.chain === undefined && theirs.sequence < event.head) {
    turn.lost();
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

/** Nothing was lost, nor sent: from the acknowledged position on, after a while, as after a failure of the line. */
function packFailed(turn: Turn, event: EventOf<"packFailed">) {
  if (turn.state.reading?.id !== event.id) return;
  turn.backOff({ code: event.code, message: event.message });
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

/** Answers that forbid going on hold in every state that sends heartbeats; so does that the standby is gone. */
function heartbeatForbids(turn: Turn, answer: HeartbeatAnswer): boolean {
  if (answer.kind === "unknown") turn.lost();
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
  packFailed: ignore,
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
    packFailed: ignore,
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
    packFailed: ignore,
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
    helloAnswered: helloAnsweredLate,
    helloFailed: ignore,
    batchSent,
    readFailed,
    packFailed,
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
    packFailed: ignore,
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
    packFailed: ignore,
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
