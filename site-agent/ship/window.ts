/**
 * How much may be on the line and how long a batch is. Pure. The estimate of the line comes from what was delivered
 * between sending a batch and its answer, so whatever buffers stand on the way, the window is what the line carries in
 * about a second and one round trip: long enough to keep it busy, short enough that answers come back.
 *
 * It never waits, sends or measures time by itself; the caller gives every time.
 */
import { batchRawBytesTarget } from "../../protocol/batch.ts";

/** In flight at least this, bytes: 8 s (the peer's silence) at 8 KiB/s, the slowest line that is of any use. */
export const inFlightBytesMin = 64 * 1024;
/** Seconds of line that may be in flight besides one round trip. */
const lineSeconds = 1;
/** A batch takes about this long on the line, s: half the window, so that the next is there when one is answered. */
const batchSeconds = 0.5;
const batchWireBytesMin = 64 * 1024;
/** Longest batch while the round trip is short, bytes; a long fat line needs more (see `batchWireBytes`). */
const batchWireBytesUsual = 1024 * 1024;
/** All connections together hold this many round trips of line, where the round trip is what counts. */
const coverRoundTrips = 4;
/** The best sample of this long counts, ms: BBR's length, long enough to outlive a pause of the writer. */
const sampleAgeMs = 10_000;
/** Buckets that the samples are kept in: bounds memory and work, whatever the number of batches. */
const bucketMs = 1_000;

interface Bucket {
  readonly startedMs: number;
  readonly bytesPerSecond: number;
}

export interface WindowState {
  /** Best rate per bucket, oldest first; at most sampleAgeMs / bucketMs + 1. */
  readonly rates: readonly Bucket[];
  /** Bytes answered since the start. */
  readonly deliveredBytes: number;
  /** Smallest recent round trip, ms; undefined before the first. */
  readonly roundTripMs: number | undefined;
  readonly roundTripAtMs: number;
  /** Raw bytes for each byte on the line, smoothed; 1 before the first batch. */
  readonly ratio: number;
}

/** What a batch carries from its sending to its answer. */
export interface SendMark {
  readonly sentAtMs: number;
  readonly deliveredBytes: number;
}

export const windowStart: WindowState = {
  rates: [],
  deliveredBytes: 0,
  roundTripMs: undefined,
  roundTripAtMs: 0,
  ratio: 1,
};

export function markSend(state: WindowState, nowMs: number): SendMark {
  return { sentAtMs: nowMs, deliveredBytes: state.deliveredBytes };
}

/** A batch of `wireBytes` was answered. */
export function noteDelivered(
  state: WindowState,
  mark: SendMark,
  wireBytes: number,
  nowMs: number,
): WindowState {
  const deliveredBytes = state.deliveredBytes + wireBytes;
  const seconds = Math.max(0.5, nowMs - mark.sentAtMs) / 1000;
  const bytesPerSecond = (deliveredBytes - mark.deliveredBytes) / seconds;
  const fresh = state.rates.filter((bucket) => nowMs - bucket.startedMs < sampleAgeMs);
  const newest = fresh[fresh.length - 1];
  const rates =
    newest !== undefined && nowMs - newest.startedMs < bucketMs
      ? [
          ...fresh.slice(0, -1),
          { startedMs: newest.startedMs, bytesPerSecond: Math.max(newest.bytesPerSecond, bytesPerSecond) },
        ]
      : [...fresh, { startedMs: nowMs, bytesPerSecond }];
  return { ...state, rates, deliveredBytes };
}

/** A heartbeat came back after `roundTripMs`. The smallest of the last 10 s counts: the rest is queueing. */
export function noteRoundTrip(state: WindowState, roundTripMs: number, nowMs: number): WindowState {
  const stale = state.roundTripMs === undefined || nowMs - state.roundTripAtMs > sampleAgeMs;
  if (!stale && state.roundTripMs !== undefined && roundTripMs > state.roundTripMs) return state;
  return { ...state, roundTripMs, roundTripAtMs: nowMs };
}

/** A batch was packed: `rawBytes` became `wireBytes`. */
export function notePacked(state: WindowState, rawBytes: number, wireBytes: number): WindowState {
  const ratio = Math.max(1, rawBytes / Math.max(1, wireBytes));
  return { ...state, ratio: state.ratio + (ratio - state.ratio) / 4 };
}

/** The peer fell silent: the line carries far less than we thought, or nothing. */
export function noteSilence(state: WindowState): WindowState {
  const rates = state.rates.map((bucket) => ({ ...bucket, bytesPerSecond: bucket.bytesPerSecond / 4 }));
  return { ...state, rates };
}

/** Bytes a second that the line has shown, at most the limit; undefined before the first answer. */
export function lineBytesPerSecond(
  state: WindowState,
  limitBytesPerSecond: number | null,
): number | undefined {
  let best: number | undefined;
  for (const bucket of state.rates) best = Math.max(best ?? 0, bucket.bytesPerSecond);
  if (best === undefined) return limitBytesPerSecond ?? undefined;
  return limitBytesPerSecond === null ? best : Math.min(best, limitBytesPerSecond);
}

/** Bytes that may be in flight: a second of line and a round trip, at least 64 KiB, at most `budgetBytes`. */
export function inFlightBytesMax(
  state: WindowState,
  limitBytesPerSecond: number | null,
  budgetBytes: number,
): number {
  const measured = state.rates.length === 0 ? undefined : lineBytesPerSecond(state, limitBytesPerSecond);
  if (measured === undefined) return Math.min(inFlightBytesMin, budgetBytes);
  const seconds = lineSeconds + (state.roundTripMs ?? 0) / 1000;
  return Math.min(budgetBytes, Math.max(inFlightBytesMin, measured * seconds));
}

/**
 * Length of a batch on the line, bytes. Half a second of line, 64 KiB to 1 MiB; longer only where `connections` batches
 * of that length could not cover the round trip (1 Gbit/s x 100 ms = 12.5 MB against 4 x 1 MiB), four times over: the
 * estimate of the line is itself what such batches carried, and grows only while that is well below what they could.
 */
export function batchWireBytes(
  state: WindowState,
  limitBytesPerSecond: number | null,
  connections: number,
): number {
  const line = lineBytesPerSecond(state, limitBytesPerSecond);
  if (line === undefined) return batchWireBytesMin;
  const usual = Math.min(batchWireBytesUsual, Math.max(batchWireBytesMin, line * batchSeconds));
  const cover = Math.min(
    line * batchSeconds,
    (coverRoundTrips * line * (state.roundTripMs ?? 0)) / 1000 / connections,
  );
  return Math.min(batchRawBytesTarget, Math.max(usual, cover));
}

/** Raw bytes to collect for one batch: the wire length times the ratio seen, 64 KiB to 4 MiB. */
export function batchRawBytes(
  state: WindowState,
  limitBytesPerSecond: number | null,
  connections: number,
): number {
  const raw = batchWireBytes(state, limitBytesPerSecond, connections) * state.ratio;
  return Math.min(batchRawBytesTarget, Math.max(batchWireBytesMin, Math.floor(raw)));
}
