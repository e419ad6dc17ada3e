/**
 * What the machine behind shipping one group remembers, hears and orders: its state, its events, its effects. Pure types, and
 * the state at the start. What each may do to the other is in `machine.ts`.
 */
import type { BatchAnswer, HeartbeatAnswer, HelloAnswer, StandbyLack } from "../../protocol/control.ts";
import type { Lineage, Sequence, Token, VolumeNumber } from "../../protocol/ids.ts";
import type { SendMark, WindowState } from "./window.ts";
import { windowStart } from "./window.ts";

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
  /** The records of a read could not be packed for the line: they are where they were. */
  | { readonly kind: "packFailed"; readonly id: number; readonly code: string; readonly message: string }
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
   * Read from `from` to `through` at most, about `rawBytes`, pack and send; answer with `batchSent`, `readFailed` or
   * `packFailed`. Where `from` is not behind the head, a gap to the head, alone, takes the place of what was dropped.
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
  /** Nothing of what was acknowledged is there, or nothing that is proven to be ours (SH14). */
  | { readonly kind: "reportLost" }
  | { readonly kind: "reportStopped"; readonly reason: StopReason };

export interface Step {
  readonly state: ShipState;
  readonly effects: readonly ShipEffect[];
}

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
