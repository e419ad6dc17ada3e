/**
 * The receive lane of one group: carries out what the intake machine orders. It owns the requests under way, the
 * waits and the writing side of the intake log. It must never answer a batch by itself except to say that the body
 * was broken; every other answer is the machine's.
 */
import { frameDataBytes } from "../../journal/continuity.ts";
import type { FrameLog } from "../../journal/frame-log.ts";
import { journalRefuses } from "../../journal/journal-errors.ts";
import type { BatchHeader } from "../../protocol/batch.ts";
import { batchHeaderBytes, decodeBatchPayload } from "../../protocol/batch.ts";
import type { BatchAnswer } from "../../protocol/control.ts";
import type { Frame } from "../../protocol/frame.ts";
import type { Sequence, Token } from "../../protocol/ids.ts";
import { RemoteProtocolError } from "../../protocol/remote-error.ts";
import type { Clock, Timer } from "../../runtime/clock.ts";
import { errorCode, errorText } from "../../runtime/errors.ts";
import type { HttpAnswer, HttpRequest } from "../../runtime/http.ts";
import type { Log } from "../../runtime/log.ts";
import type { Halt, IntakeEffect, IntakeEvent, IntakeState } from "./machine.ts";
import { isDrained, step } from "./machine.ts";

/** How long an offer may wait for one that should come before it and has not even begun, ms. */
const laneWaitMs = 10_000;

export interface ReceiverOptions {
  readonly initial: IntakeState;
  readonly intake: FrameLog;
  readonly clock: Clock;
  readonly log: Log;
  /** In the log, in order; not durable yet. */
  readonly onAppended: (frame: Frame) => void;
  /** New frames are durable. */
  readonly onDurable: () => void;
  /** The intake log failed; the group must be opened again from disk. */
  readonly onBroken: (error: unknown) => void;
  /** Why apply does not make room, for the sender; null when it is at work. */
  readonly stallReason: () => string | null;
  /** Frames were refused for want of room. */
  readonly onRoomShort: () => void;
}

interface Pending {
  readonly request: HttpRequest;
  readonly header: BatchHeader;
  readonly resolve: (answer: HttpAnswer) => void;
  readonly reject: (error: unknown) => void;
  wait: Timer | undefined;
}

export class Receiver {
  readonly #options: ReceiverOptions;
  readonly #pending = new Map<number, Pending>();
  readonly #drainWaiters: (() => void)[] = [];
  #state: IntakeState;
  #nextId = 1;
  /** The appends of the turn under way; the log must not be closed inside them. */
  #appending: Promise<void> = Promise.resolve();

  constructor(options: ReceiverOptions) {
    this.#options = options;
    this.#state = options.initial;
  }

  get state(): IntakeState {
    return this.#state;
  }

  /** Takes in one batch whose header has been read; settles with the answer to send. */
  offer(request: HttpRequest, header: BatchHeader): Promise<HttpAnswer> {
    if (
      request.contentLength !== undefined &&
      request.contentLength !== batchHeaderBytes + header.payloadLength
    ) {
      throw new RemoteProtocolError("BATCH_LENGTH", "the request is not as long as its batch");
    }
    const id = this.#nextId;
    this.#nextId += 1;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { request, header, resolve, reject, wait: undefined });
      request.signal.addEventListener("abort", () => this.#forget(id), { once: true });
      this.#dispatch({
        kind: "offered",
        offer: {
          id,
          lineage: header.lineage,
          token: header.token,
          first: header.first,
          last: header.last,
          payloadBytes: header.payloadLength,
          chainBefore: header.chainBefore,
          chainAfter: header.chainAfter,
        },
      });
    });
  }

  appliedThrough(sequence: Sequence): void {
    this.#dispatch({ kind: "appliedThrough", sequence });
  }

  /** Refuses everything from now on; the state is not used again. */
  halt(halt: Halt): void {
    this.#dispatch({ kind: "halted", halt });
  }

  /** To be called when the higher token is durable. Settles when no frame can be appended any more. */
  async fence(token: Token): Promise<void> {
    this.#dispatch({ kind: "fenced", token });
    await this.drained();
  }

  /** Settles when no batch is being appended. */
  async drained(): Promise<void> {
    if (isDrained(this.#state)) return;
    await new Promise<void>((resolve) => {
      this.#drainWaiters.push(resolve);
    });
  }

  /** After `halt`: settles when the log is not being written any more. */
  async appendEnded(): Promise<void> {
    await this.#appending;
  }

  #dispatch(event: IntakeEvent): void {
    const { state, effects } = step(this.#state, event);
    this.#state = state;
    for (const effect of effects) this.#perform(effect);
    if (isDrained(this.#state)) {
      for (const resolve of this.#drainWaiters.splice(0)) resolve();
    }
  }

  #perform(effect: IntakeEffect): void {
    switch (effect.kind) {
      case "answer":
        this.#answer(effect.id, effect.answer);
        return;
      case "take":
        void this.#take(effect.id);
        return;
      case "abandon":
        // The answer that was ordered with it makes the server close this connection; its body read then fails.
        return;
      case "look":
        void this.#look(effect.id, effect.sequence);
        return;
      case "sync":
        void this.#sync();
        return;
      case "wait":
        this.#wait(effect.id);
        return;
    }
  }

  #answer(id: number, answer: BatchAnswer): void {
    const pending = this.#settle(id);
    if (pending === undefined) return;
    if (answer.kind === "diverged" || answer.kind === "conflict") {
      this.#options.log.error("BATCH_REFUSED", `batch refused: ${answer.kind}`, undefined, {
        first: pending.header.first,
        last: pending.header.last,
        epoch: pending.header.token.epoch,
      });
    }
    pending.resolve({ status: 200, json: answer, early: answer.kind !== "acknowledged" });
  }

  #settle(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    pending?.wait?.cancel();
    this.#pending.delete(id);
    return pending;
  }

  /** The peer is gone. A batch whose turn it is ends by itself: its body breaks off, or it is appended unanswered. */
  #forget(id: number): void {
    if (!this.#pending.has(id) || this.#state.turn?.offer.id === id) return;
    this.#dispatch({ kind: "gone", id });
    this.#settle(id)?.resolve({ status: 499, json: {} });
  }

  #wait(id: number): void {
    const pending = this.#pending.get(id);
    if (pending === undefined) return;
    pending.wait?.cancel();
    pending.wait = this.#options.clock.after(laneWaitMs, () => this.#dispatch({ kind: "waitExpired", id }));
  }

  async #take(id: number): Promise<void> {
    const pending = this.#pending.get(id);
    if (pending === undefined) return;
    pending.wait?.cancel();
    const { request, header } = pending;
    const room = this.#options.intake.roomFor(header.rawLength);
    if (room !== "ok") {
      this.#roomShort(id, journalRefuses(room, {}));
      return;
    }
    let frames: Frame[];
    try {
      const payload = await request.take(header.payloadLength);
      // Given up meanwhile for a newer attempt, the fence or a halt: nothing of it may be appended.
      if (this.#state.turn?.offer.id !== id) return;
      frames = decodeBatchPayload(header, payload);
      this.#requireTotal(frames[0]);
    } catch (error) {
      const asked = this.#settle(id);
      this.#dispatch({ kind: "bodyFailed", id });
      asked?.reject(error);
      return;
    }
    this.#dispatch({ kind: "bodyRead", id });
    this.#appending = this.#append(id, frames);
    await this.#appending;
  }

  /** Within a batch the totals were checked; that the first one continues ours only this log can tell. */
  #requireTotal(first: Frame | undefined): void {
    const { tail } = this.#options.intake;
    if (first === undefined || first.first !== tail.sequence + 1) return;
    if (first.dataBytesTotal === tail.dataBytesTotal + frameDataBytes(first)) return;
    throw new RemoteProtocolError("FRAME_TOTAL", "the batch miscounts the data bytes before it", {
      first: first.first,
      total: first.dataBytesTotal,
    });
  }

  async #append(id: number, frames: readonly Frame[]): Promise<void> {
    const { intake } = this.#options;
    try {
      for (const frame of frames) {
        await intake.append(frame);
        this.#options.onAppended(frame);
      }
    } catch (error) {
      const code = errorCode(error);
      if (code === "JOURNAL_FULL" || code === "JOURNAL_RESERVE") this.#roomShort(id, error);
      else this.#options.onBroken(error);
      return;
    }
    this.#dispatch({ kind: "appended", id, tail: intake.tail });
  }

  #roomShort(id: number, refusal: unknown): void {
    const { intake, stallReason, onRoomShort, log } = this.#options;
    const why = stallReason();
    const message = `the intake log takes no more: ${errorText(refusal)}${why === null ? "" : `; ${why}`}`;
    log.warn("INTAKE_FULL", message);
    onRoomShort();
    this.#dispatch({ kind: "roomShort", id, tail: intake.tail, code: "INTAKE_FULL", message });
  }

  async #look(id: number, sequence: Sequence): Promise<void> {
    try {
      this.#dispatch({ kind: "looked", id, chain: await this.#options.intake.chainAt(sequence) });
    } catch (error) {
      this.#options.onBroken(error);
    }
  }

  async #sync(): Promise<void> {
    try {
      const durable = await this.#options.intake.sync();
      this.#dispatch({ kind: "synced", durable });
      this.#options.onDurable();
    } catch (error) {
      this.#options.onBroken(error);
    }
  }
}
