/**
 * One step of the shipping machine under way: the moves that several events share, from greeting to giving up, and the one
 * place that decides what may go out now. Pure. It never moves `acknowledged` back, and never orders what is not durable here.
 */
import { heartbeatIntervalMs, peerSilenceMs } from "../../protocol/control.ts";
import type { Sequence, Token } from "../../protocol/ids.ts";
import type { InFlight, ShipContext, ShipEffect, ShipState, StopReason } from "./state.ts";
import { batchRawBytes, batchWireBytes, inFlightBytesMax, lineBytesPerSecond, markSend } from "./window.ts";

/** First delay after a failure, ms; doubled each time, with jitter from half to all of it. */
export const backOffMsMin = 100;
export const backOffMsMax = 5_000;
/** A refusal is something the operator may mend: asked again this often, ms. */
export const refusedRetryMs = 15_000;

/** One step under way: the state being made and the orders given. */
export class Turn {
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

  /** Shipping goes by `acknowledged` as before; whoever says what would be lost must not (SH14). */
  lost(): void {
    this.order({ kind: "reportLost" });
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
export function backOffMs(failures: number, context: ShipContext): number {
  const whole = Math.min(backOffMsMax, backOffMsMin * 2 ** Math.min(failures, 10));
  return whole * (0.5 + context.fraction() / 2);
}
