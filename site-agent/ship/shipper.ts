/**
 * Ships one group: performs what the machine orders and tells it what came of it. It owns the batches in flight (their
 * bytes are kept until settled) and one timer; it decides nothing. It never sends what the journal has not synced, and
 * never holds more than the machine's window of batches.
 */
import type { CompressBatch } from "../../protocol/batch.ts";
import { batchRawBytesTarget, encodeBatch } from "../../protocol/batch.ts";
import type { Heartbeat, Hello, HelloAnswer, StandbyLack, WantedAnswer } from "../../protocol/control.ts";
import {
  parseBatchAnswer,
  parseHeartbeatAnswer,
  parseHelloAnswer,
  wanRoutes,
} from "../../protocol/control.ts";
import type { Frame } from "../../protocol/frame.ts";
import { buildGapFrame, frameHeaderBytes } from "../../protocol/frame.ts";
import { joinFrames } from "../../protocol/frame-join.ts";
import type { StandingOrder } from "../../protocol/group-life.ts";
import type {
  ChainPosition,
  ChainValue,
  LineageBytes,
  Sequence,
  Token,
  VolumeEntry,
  VolumeNumber,
} from "../../protocol/ids.ts";
import { bytesToHex, lineageToText } from "../../protocol/ids.ts";
import { RemoteProtocolError } from "../../protocol/remote-error.ts";
import type { LinkStatus } from "../../protocol/status.ts";
import type { Clock, Timer } from "../../runtime/clock.ts";
import { errorCode, errorText, OperationalError } from "../../runtime/errors.ts";
import type { HttpReply } from "../../runtime/http.ts";
import type { Log } from "../../runtime/log.ts";
import type { Random } from "../../runtime/random.ts";
import type { LineCodec } from "../../runtime/settings/types.ts";
import type { CodecState } from "./codec-choice.ts";
import { chooseCodec, codecStart, noteCodec, sampleShrinks } from "./codec-choice.ts";
import type { Line } from "./line.ts";
import { step, wakeAtMs } from "./machine.ts";
import { packBatch } from "./packing.ts";
import type { Condition, ShipContext, ShipEffect, ShipEvent, ShipState, StopReason } from "./state.ts";
import { shipStart } from "./state.ts";

/** Position of the journal with the counter that lag is computed from. */
export interface ShipPosition extends ChainPosition {
  readonly dataBytesTotal: number;
}

/** What a greeting says of the volume table, all of one moment. */
export interface ToldTable {
  /** At the durable position: a change that is durable in the journal is in it. */
  readonly volumes: readonly VolumeEntry[];
  /** What the history began with; undefined: `volumes`. */
  readonly founding: readonly VolumeEntry[] | undefined;
  /** Images held data that no record brings: a standby that is made now needs a first sync. */
  readonly imagesHeldData: boolean;
}

/** The journal of a group, as the shipper sees it. */
export interface ShipSource {
  readonly group: string;
  readonly lineage: LineageBytes;
  readonly token: Token;
  /** As of now. */
  table(): ToldTable;
  /** Chain value before the first record of the lineage. */
  readonly genesis: ChainValue;
  /** Newest synced position: nothing beyond it is shipped. */
  durable(): ShipPosition;
  /** Sequence before the first record kept. */
  headSequence(): Sequence;
  /** Oldest position of a standby that could be proven: the head, or before it where records were dropped. */
  floorSequence(): Sequence;
  /** Null: records are shipped. Who asked for something else; `pauseChanged` is called when it changes. */
  pause(): StandingOrder | null;
  /** Newest position of a client's that is answered, shipped or not. */
  answered(): { readonly sequence: Sequence; readonly dataBytesTotal: number };
  /** Consecutive frames from the one that holds `from` on, about `rawBytesMax` bytes, at least one. */
  frames(from: Sequence, rawBytesMax: number): Promise<Frame[]>;
  /** Chain value at a sequence; undefined when unknown. */
  chainAt(sequence: Sequence): Promise<ChainValue | undefined>;
  /** The same with its total of data bytes, also where records were dropped; undefined when unknown. */
  positionAt(sequence: Sequence): Promise<ShipPosition | undefined>;
  /**
   * The end of a gap from `first` on: the head, as it is then. Settles when it is durable that the standby may be told of
   * it; `undefined` where `first` is not behind the head.
   */
  declareGap(first: Sequence): Promise<(ShipPosition & { readonly closedAtMs: number }) | undefined>;
}

/** Who lives with the outcome. Called in the order things happened; may call `close`. */
export interface ShipListener {
  /** Durable and applied at the standby; durable never goes back. */
  acknowledged(durable: Sequence, applied: Sequence): void;
  /** A newer token owns the group: for ever. */
  superseded(token: Token): void;
  /** The standby's site knows nothing of this history, or holds nothing that is proven to be of it, until `attached` says so. */
  lost(): void;
  /** Nothing is shipped until `attached` is called again (a refusal that may be mended), or at all. */
  stopped(code: string, message: string): void;
  /** `held`: how far it is durable. `partial`: volumes that it does not have whole. */
  attached(lacks: StandbyLack | null, held: Sequence, partial: readonly VolumeNumber[]): void;
  linkChanged(up: boolean): void;
}

export interface ShipperOptions {
  readonly source: ShipSource;
  readonly listener: ShipListener;
  readonly link: Line;
  readonly compress: CompressBatch;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  /** The link's setting unless given. */
  readonly codec?: LineCodec;
}

export interface ShipperStatus {
  /** Newest sequence sent, answered or not. */
  readonly shipped: Sequence;
  readonly acknowledged: Sequence;
  readonly applied: Sequence;
  readonly state: Condition;
  readonly reason: StopReason | null;
  readonly link: LinkStatus;
}

interface KeptBatch {
  bytes: Uint8Array;
  abort: AbortController;
}

export class Shipper {
  readonly #options: ShipperOptions;
  readonly #context: ShipContext;
  readonly #codecSetting: LineCodec;
  readonly #kept = new Map<number, KeptBatch>();
  /** Requests and reads under way, for `close`. */
  readonly #tasks = new Set<Promise<void>>();
  readonly #events: ShipEvent[] = [];
  #state: ShipState;
  #stepping = false;
  #leave: (() => void) | undefined;
  #timer: Timer | undefined;
  #timerAtMs = Number.POSITIVE_INFINITY;
  #durableNoted = false;
  #codecState: CodecState = codecStart;
  #codec: LinkStatus["codec"] = null;
  #wireBytes = 0;
  #rawBytes = 0;

  constructor(options: ShipperOptions) {
    const { source, link, random } = options;
    this.#options = options;
    this.#codecSetting = options.codec ?? link.settings.codec;
    this.#state = shipStart(source.floorSequence());
    this.#context = {
      lineage: lineageToText(source.lineage),
      token: source.token,
      connections: link.settings.connections,
      collectMs: link.settings.collectMs,
      fraction: () => random.fraction(),
      limitBytesPerSecond: () => link.status.limitBytesPerSecond,
      budgetBytes: () => link.budgetBytes,
    };
  }

  start(): void {
    if (this.#leave !== undefined) return;
    const { link, listener } = this.#options;
    this.#leave = link.join({
      silence: () => this.#dispatch({ kind: "silence" }),
      linkChanged: (up) => listener.linkChanged(up),
    });
    this.#noteDurable();
    this.pauseChanged();
    this.#dispatch({ kind: "started" });
  }

  /** What `ShipSource.pause` says has changed. */
  pauseChanged(): void {
    this.#dispatch({ kind: "pauseOrdered", paused: this.#options.source.pause() !== null });
  }

  /** The journal's durable position moved. Cheap: calls within one turn of the event loop are one step. */
  durableAdvanced(): void {
    if (this.#durableNoted) return;
    this.#durableNoted = true;
    queueMicrotask(() => this.#noteDurable());
  }

  status(): ShipperStatus {
    const { link } = this.#options;
    const { acknowledged, applied, sendNext, condition, reason, window } = this.#state;
    const line = link.status;
    return {
      shipped: Math.max(acknowledged, sendNext - 1),
      acknowledged,
      applied,
      state: condition,
      reason: reason ?? null,
      link: {
        up: line.up,
        limitBytesPerSecond: line.limitBytesPerSecond,
        wireBytes: this.#wireBytes,
        rawBytes: this.#rawBytes,
        roundTripMs: window.roundTripMs === undefined ? null : Math.round(window.roundTripMs * 10) / 10,
        codec: this.#codec,
        lastContact: line.lastContact,
      },
    };
  }

  /** Ends what is in flight; what was not acknowledged is sent by the next shipper of this journal. */
  async close(): Promise<void> {
    this.#dispatch({ kind: "closed" });
    this.#leave?.();
    this.#timer?.cancel();
    await Promise.all(this.#tasks);
  }

  #noteDurable(): void {
    this.#durableNoted = false;
    if (this.#state.condition === "closed" || this.#state.condition === "superseded") return;
    const { sequence, dataBytesTotal } = this.#options.source.durable();
    if (sequence > this.#state.durable)
      this.#dispatch({ kind: "durableAdvanced", durable: sequence, dataBytesTotal });
  }

  /** Events that come while effects are performed wait for their turn. */
  #dispatch(event: ShipEvent): void {
    this.#events.push(event);
    if (this.#stepping) return;
    this.#stepping = true;
    try {
      for (let next = this.#events.shift(); next !== undefined; next = this.#events.shift()) {
        const before = this.#state.condition;
        const { state, effects } = step(this.#state, next, this.#options.clock.monotonicMs(), this.#context);
        this.#state = state;
        if (state.condition !== before) this.#logCondition(before);
        for (const effect of effects) this.#perform(effect);
      }
    } finally {
      this.#stepping = false;
    }
    this.#arm();
  }

  #arm(): void {
    const { clock } = this.#options;
    const nowMs = clock.monotonicMs();
    const atMs = wakeAtMs(this.#state, nowMs, this.#context) ?? Number.POSITIVE_INFINITY;
    // An earlier timer may fire for nothing; that is cheaper than a new timer for every record.
    if (atMs >= this.#timerAtMs) return;
    this.#timer?.cancel();
    this.#timerAtMs = atMs;
    this.#timer = clock.after(Math.max(1, atMs - nowMs), () => {
      this.#timerAtMs = Number.POSITIVE_INFINITY;
      this.#dispatch({ kind: "woken" });
    });
  }

  #logCondition(before: Condition): void {
    const { log } = this.#options;
    const { condition, acknowledged, reason } = this.#state;
    const fields = { from: before, to: condition, sequence: acknowledged, why: reason?.code ?? null };
    if (condition === "attached")
      log.info("SHIP_ATTACHED", `attached; durable at the standby to ${acknowledged}`, fields);
    else if (condition === "stopped")
      log.error("SHIP_STOPPED", reason?.message ?? "shipping stopped", undefined, fields);
    else if (condition === "waiting")
      log.warn("SHIP_REFUSED", reason?.message ?? "the standby refuses", fields);
    else log.debug("SHIP_STATE", `${before} -> ${condition}`, fields);
  }

  #perform(effect: ShipEffect) {
    const { listener } = this.#options;
    switch (effect.kind) {
      case "sendHello":
        return this.#run(this.#hello(effect.id, effect.create));
      case "readBatch":
        this.#kept.set(effect.id, { bytes: new Uint8Array(0), abort: new AbortController() });
        return this.#run(this.#read(effect));
      case "resendBatch": {
        const batch = this.#kept.get(effect.id);
        if (batch !== undefined) this.#run(this.#post(effect.id, batch));
        return;
      }
      case "releaseBatch":
        this.#kept.delete(effect.id);
        return;
      case "abortBatch":
        this.#kept.get(effect.id)?.abort.abort();
        this.#kept.delete(effect.id);
        return;
      case "sendHeartbeat":
        return this.#run(this.#heartbeat());
      case "reportAttached":
        return listener.attached(effect.lacks, effect.held, effect.partial);
      case "reportAcknowledged":
        return listener.acknowledged(effect.acknowledged, effect.applied);
      case "reportSuperseded":
        return listener.superseded(effect.token);
      case "reportLost":
        return listener.lost();
      case "reportStopped":
        return listener.stopped(effect.reason.code, effect.reason.message);
    }
  }

  #run(task: Promise<void>): void {
    const settled = task
      .catch((error: unknown) =>
        this.#options.log.error("SHIP_UNEXPECTED", "a step of shipping failed", error),
      )
      .finally(() => this.#tasks.delete(settled));
    this.#tasks.add(settled);
  }

  /**
   * What the standby says of a table that the group would like to change to; null: it cannot be asked now. A greeting beside
   * those of the machine, which changes nothing of what is under way. OperationalErrors of the line.
   */
  async askForTable(wanted: readonly VolumeEntry[]): Promise<WantedAnswer | null> {
    const { source, link, listener } = this.#options;
    if (this.#state.condition !== "attached") return null;
    const hello = this.#greeting(false, wanted);
    const reply = await link.control("POST", wanRoutes.hello(source.group), hello);
    const answer = parseReply(reply, parseHelloAnswer);
    // Asked for something else, it counts all the same: no other request may get through for a long time (SH12).
    if (answer.kind === "superseded") listener.superseded(answer.token);
    if (answer.kind === "unknown") listener.lost();
    if (answer.kind === "refused") return { code: answer.code, message: answer.message };
    if (answer.kind !== "attached") return null;
    const notAnswered = {
      code: "STANDBY_TOO_OLD",
      message: "the standby's version does not know of changes of the volume table",
    };
    return answer.wanted ?? notAnswered;
  }

  #greeting(create: boolean, wanted?: readonly VolumeEntry[]): Hello {
    const { source } = this.#options;
    const durable = source.durable();
    const { volumes, founding, imagesHeldData } = source.table();
    return {
      lineage: this.#context.lineage,
      token: source.token,
      volumes,
      durable: { sequence: durable.sequence, chain: bytesToHex(durable.chain) },
      genesis: bytesToHex(source.genesis),
      create,
      ...(imagesHeldData ? { initial: "data" as const } : {}),
      ...(founding === undefined ? {} : { founding }),
      ...(wanted === undefined ? {} : { wanted }),
    };
  }

  async #hello(id: number, create: boolean): Promise<void> {
    const { source, link, log } = this.#options;
    const hello = this.#greeting(create);
    try {
      const answer = parseReply(
        await link.control("POST", wanRoutes.hello(source.group), hello),
        parseHelloAnswer,
      );
      const now = source.durable();
      const chain = await this.#ourChain(answer, now.sequence);
      this.#dispatch({
        kind: "helloAnswered",
        id,
        create,
        answer,
        durable: now.sequence,
        durableDataBytesTotal: now.dataBytesTotal,
        head: source.headSequence(),
        floor: source.floorSequence(),
        chain: chain === undefined ? undefined : bytesToHex(chain),
      });
    } catch (error) {
      log.warn("SHIP_HELLO_FAILED", errorText(error), { reason: errorCode(error) });
      this.#dispatch({ kind: "helloFailed", id, code: errorCode(error) });
      // Renewed certificates take effect with new connections.
      link.renew();
    }
  }

  /** Our chain value where the standby says it is. */
  async #ourChain(answer: HelloAnswer, durable: Sequence): Promise<ChainValue | undefined> {
    const { source } = this.#options;
    if (answer.kind !== "attached" && answer.kind !== "diverged") return undefined;
    const { sequence } = answer.durable;
    if (sequence > durable) return undefined;
    // To go on from there the total is needed as well; to name what differs the chain value is enough.
    return answer.kind === "attached" ? (await source.positionAt(sequence))?.chain : source.chainAt(sequence);
  }

  /** What stands at `from` and behind it, or the gap that takes its place. Records may be dropped while they are read. */
  async #frames(order: Extract<ShipEffect, { kind: "readBatch" }>, signal: AbortSignal): Promise<Frame[]> {
    const { source } = this.#options;
    const { from, through, rawBytes } = order;
    for (;;) {
      if (from <= source.headSequence()) return this.#gap(from, signal);
      try {
        const frames = await source.frames(from, Math.min(rawBytes, batchRawBytesTarget));
        return joinFrames(packBatch(frames, from, through, rawBytes));
      } catch (error) {
        // The head is behind it now: a gap, and no second round.
        if (errorCode(error) !== "JOURNAL_TRIMMED" || from > source.headSequence()) throw error;
      }
    }
  }

  /** Alone in its batch; none when the order was given up meanwhile: nobody is told of it then. */
  async #gap(from: Sequence, signal: AbortSignal): Promise<Frame[]> {
    const { source } = this.#options;
    const after = await source.positionAt(from - 1);
    if (signal.aborted) return [];
    const to = after === undefined ? undefined : await source.declareGap(from);
    if (after === undefined || to === undefined) {
      throw new OperationalError({
        code: "STANDBY_LOST",
        message: `nothing is kept of ${from - 1}, from where the standby would have to be told of a gap`,
        reaction: "resync",
      });
    }
    return [buildGapFrame({ lineage: source.lineage, after, to, closedAtMs: to.closedAtMs })];
  }

  async #read(order: Extract<ShipEffect, { kind: "readBatch" }>): Promise<void> {
    const { source } = this.#options;
    const { id, from, through } = order;
    const batch = this.#kept.get(id);
    if (batch === undefined) return;
    let packed: Frame[];
    try {
      packed = await this.#frames(order, batch.abort.signal);
    } catch (error) {
      if (!batch.abort.signal.aborted)
        this.#dispatch({ kind: "readFailed", id, code: errorCode(error), message: errorText(error) });
      return;
    }
    if (batch.abort.signal.aborted) return;
    const last = packed[packed.length - 1];
    if (last === undefined) {
      const message = `the journal does not give ${from} although it is durable to ${through}`;
      this.#dispatch({ kind: "readFailed", id, code: "JOURNAL_SHORT", message });
      return;
    }
    const raw = packed.reduce((sum, frame) => sum + frameHeaderBytes + frame.body.byteLength, 0);
    const shrinks = (): boolean => sampleShrinks(packed);
    const codec = chooseCodec(this.#codecState, this.#codecSetting, order.lineBytesPerSecond, shrinks);
    try {
      batch.bytes = await encodeBatch(packed, source.token, codec, this.#options.compress);
    } catch (error) {
      this.#options.log.error("SHIP_PACK_FAILED", "a batch could not be packed for the line", error);
      this.#dispatch({ kind: "packFailed", id, code: "PACK_FAILED", message: errorText(error) });
      return;
    }
    if (batch.abort.signal.aborted) return;
    this.#codecState = noteCodec(this.#codecState, codec, raw, batch.bytes.byteLength);
    this.#codec = codec;
    this.#rawBytes += raw;
    this.#dispatch({
      kind: "batchSent",
      id,
      first: from,
      last: last.last,
      dataBytesTotal: last.dataBytesTotal,
      rawBytes: raw,
      wireBytes: batch.bytes.byteLength,
    });
    if (this.#kept.get(id) === batch) await this.#post(id, batch);
  }

  async #post(id: number, batch: KeptBatch): Promise<void> {
    const { source, link, log } = this.#options;
    const { signal } = batch.abort;
    try {
      const reply = await link.upload(wanRoutes.batches(source.group), batch.bytes, signal, (bytes) => {
        this.#wireBytes += bytes;
      });
      this.#dispatch({ kind: "batchAnswered", id, answer: parseReply(reply, parseBatchAnswer) });
    } catch (error) {
      if (signal.aborted) return;
      log.warn("SHIP_BATCH_FAILED", errorText(error), { reason: errorCode(error) });
      this.#dispatch({ kind: "batchFailed", id, code: errorCode(error) });
    }
  }

  async #heartbeat(): Promise<void> {
    const { source, link, clock, log } = this.#options;
    // Taken at the last moment: the gateway states a loss by it.
    const answered = source.answered();
    const paused = source.pause();
    const heartbeat: Heartbeat = {
      lineage: this.#context.lineage,
      token: source.token,
      answered: answered.sequence,
      dataBytesTotal: answered.dataBytesTotal,
      wallMs: Math.max(0, Math.floor(clock.wallMs())),
      ...(paused === null ? {} : { paused }),
    };
    const sentMs = clock.monotonicMs();
    try {
      const reply = await link.control("POST", wanRoutes.heartbeat(source.group), heartbeat);
      const answer = parseReply(reply, parseHeartbeatAnswer);
      this.#dispatch({ kind: "heartbeatAnswered", answer, roundTripMs: clock.monotonicMs() - sentMs });
    } catch (error) {
      log.debug("SHIP_HEARTBEAT_FAILED", errorText(error), { reason: errorCode(error) });
      this.#dispatch({ kind: "heartbeatFailed", code: errorCode(error) });
    }
  }
}

/** Outcomes are answers whatever their status; anything else is the server's refusal of the request itself. */
function parseReply<T>(reply: HttpReply, parse: (body: Uint8Array) => T): T {
  try {
    return parse(reply.body);
  } catch (error) {
    if (reply.status === 200) throw error;
    throw new RemoteProtocolError("PEER_REFUSED", `answered ${reply.status}: ${refusalText(reply.body)}`, {
      status: reply.status,
    });
  }
}

function refusalText(body: Uint8Array): string {
  return Buffer.from(body)
    .toString("utf8")
    .slice(0, 500)
    .replace(/[^\x20-\x7e]/g, " ");
}
