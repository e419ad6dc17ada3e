/**
 * Runs the requests of one connection on its device, all at once and in no order, and encodes each reply when its
 * promise settles. It holds no queue: what is in flight is bounded by the connection that feeds it. A device's refusal
 * becomes its errno; anything unexpected becomes EIO and a log line, never a crash and never a success.
 */
import { NbdCommand, NbdCommandFlag, NbdErrno } from "../protocol/nbd/constants.ts";
import type { NbdRequest } from "../protocol/nbd/events.ts";
import {
  type NbdReadPiece,
  type NbdReplyEncoder,
  nbdStatusExtentsMax,
} from "../protocol/nbd/reply-encoder.ts";
import type { Log } from "../runtime/log.ts";
import { type BlockDevice, BlockError, type Extent } from "./device.ts";

/** READs up to this length are answered in one piece without asking for extents, bytes. */
const plainReadBytesMax = 64 * 1024;
/** Zero runs shorter than this travel as data, bytes: a chunk costs the client more than they do. */
const holeBytesMin = 32 * 1024;
/** Pieces of one READ; what is left after that many is one piece of data. Also bounds its device reads. */
const piecesMax = 64;
/** Memory charged to a BLOCK_STATUS, bytes: its reply and the extents it is made of. */
const statusBytes = 64 * 1024;

/** Requests and bytes since the start; shared by all connections of a server. */
export interface NbdCounters {
  reads: number;
  writes: number;
  flushes: number;
  trims: number;
  zeroes: number;
  others: number;
  errors: number;
  readBytes: number;
  writtenBytes: number;
}

export function emptyNbdCounters(): NbdCounters {
  return {
    reads: 0,
    writes: 0,
    flushes: 0,
    trims: 0,
    zeroes: 0,
    others: 0,
    errors: 0,
    readBytes: 0,
    writtenBytes: 0,
  };
}

/** Payload memory a request takes from its start to its reply, bytes. */
export function requestCost(request: NbdRequest): number {
  if (request.command === NbdCommand.read || request.data !== null) return request.length;
  return request.command === NbdCommand.blockStatus ? statusBytes : 0;
}

export interface NbdDispatcherOptions {
  readonly device: BlockDevice;
  readonly replies: NbdReplyEncoder;
  readonly counters: NbdCounters;
  readonly log: Log;
  /** The request is over, its reply encoded; `replyBytes` of its cost now wait in the reply queue. */
  readonly settled: (request: NbdRequest, replyBytes: number) => void;
}

export class NbdDispatcher {
  readonly #device: BlockDevice;
  readonly #replies: NbdReplyEncoder;
  readonly #counters: NbdCounters;
  readonly #log: Log;
  readonly #settled: (request: NbdRequest, replyBytes: number) => void;
  #muted = false;

  constructor(options: NbdDispatcherOptions) {
    this.#device = options.device;
    this.#replies = options.replies;
    this.#counters = options.counters;
    this.#log = options.log;
    this.#settled = options.settled;
  }

  /** The client is gone: requests still run to their end, replies are dropped. */
  mute(): void {
    this.#muted = true;
  }

  /** Starts a checked request. `settled` follows, never before this returns unless the length is 0. */
  run(request: NbdRequest): void {
    const device = this.#device;
    const { offset, length, flags } = request;
    try {
      switch (request.command) {
        case NbdCommand.read:
          this.#counters.reads += 1;
          if (length === 0) break;
          if (length > plainReadBytesMax && this.#mayUseHoles(flags)) {
            this.#readSparse(request).then(undefined, (error: unknown) => this.#failed(request, error));
          } else {
            device.read(offset, length).then(
              (data) => this.#readDone(request, data),
              (error: unknown) => this.#failed(request, error),
            );
          }
          return;
        case NbdCommand.write: {
          this.#counters.writes += 1;
          const data = request.data;
          if (data === null || length === 0) break;
          this.#counters.writtenBytes += length;
          device.write(offset, data, (flags & NbdCommandFlag.fua) === 0 ? plain : fua).then(
            () => this.#done(request),
            (error: unknown) => this.#failed(request, error),
          );
          return;
        }
        case NbdCommand.flush:
          this.#counters.flushes += 1;
          this.#await(request, device.flush());
          return;
        case NbdCommand.trim:
          this.#counters.trims += 1;
          if (length === 0) break;
          this.#await(request, device.trim(offset, length, (flags & NbdCommandFlag.fua) === 0 ? plain : fua));
          return;
        case NbdCommand.writeZeroes:
          this.#counters.zeroes += 1;
          if (length === 0) break;
          this.#await(
            request,
            device.zero(offset, length, {
              fua: (flags & NbdCommandFlag.fua) !== 0,
              mayTrim: (flags & NbdCommandFlag.noHole) === 0,
              fast: (flags & NbdCommandFlag.fastZero) !== 0,
            }),
          );
          return;
        case NbdCommand.cache:
          this.#counters.others += 1;
          if (length === 0) break;
          this.#await(request, device.cache(offset, length));
          return;
        default:
          this.#counters.others += 1;
          device.extents(offset, length).then(
            (extents) => this.#statusDone(request, extents),
            (error: unknown) => this.#failed(request, error),
          );
          return;
      }
    } catch (error) {
      this.#failed(request, error);
      return;
    }
    // A request of no bytes succeeds without the device ever seeing it (T08).
    this.#done(request);
  }

  #await(request: NbdRequest, outcome: Promise<void>): void {
    outcome.then(
      () => this.#done(request),
      (error: unknown) => this.#failed(request, error),
    );
  }

  #done(request: NbdRequest): void {
    if (!this.#muted) this.#replies.done(request);
    this.#settled(request, 0);
  }

  #readDone(request: NbdRequest, data: Uint8Array): void {
    if (data.length !== request.length) {
      this.#failed(
        request,
        new Error(`device returned ${data.length} bytes for a read of ${request.length}`),
      );
      return;
    }
    this.#counters.readBytes += data.length;
    if (!this.#muted) this.#replies.data(request, request.offset, data);
    this.#settled(request, data.length);
  }

  #failed(request: NbdRequest, error: unknown): void {
    this.#counters.errors += 1;
    let errno: number = NbdErrno.EIO;
    if (error instanceof BlockError) {
      errno = error.errno;
      // ENOTSUP means "slower than writing" and only that; anywhere else a client could not make sense of it.
      const fast =
        request.command === NbdCommand.writeZeroes && (request.flags & NbdCommandFlag.fastZero) !== 0;
      if (errno === NbdErrno.ENOTSUP && !fast) errno = NbdErrno.EINVAL;
    } else {
      this.#log.error("NBD_REQUEST_FAILED", "a request failed for an unexpected reason", error, {
        command: request.command,
        offset: request.offset,
        length: request.length,
      });
    }
    if (!this.#muted) this.#replies.error(request, errno, "");
    this.#settled(request, 0);
  }

  #mayUseHoles(flags: number): boolean {
    return this.#replies.structured && this.#device.can.extents && (flags & NbdCommandFlag.df) === 0;
  }

  async #readSparse(request: NbdRequest): Promise<void> {
    const runs = planReadRuns(await this.#device.extents(request.offset, request.length), request.length);
    const reads: Promise<NbdReadPiece>[] = [];
    let offset = request.offset;
    let dataBytes = 0;
    for (const run of runs) {
      if (run.zero) reads.push(Promise.resolve({ kind: "hole", length: run.length }));
      else {
        reads.push(this.#readPiece(offset, run.length));
        dataBytes += run.length;
      }
      offset += run.length;
    }
    // All pieces are at hand before the first header, so that an error never has to follow data. All are awaited
    // even when one fails: a device must not be closed under a read that still runs.
    const outcomes = await Promise.allSettled(reads);
    const pieces: NbdReadPiece[] = [];
    for (const outcome of outcomes) {
      if (outcome.status === "rejected") throw outcome.reason;
      pieces.push(outcome.value);
    }
    this.#counters.readBytes += request.length;
    if (!this.#muted) this.#replies.pieces(request, request.offset, pieces);
    this.#settled(request, dataBytes);
  }

  async #readPiece(offset: number, length: number): Promise<NbdReadPiece> {
    const data = await this.#device.read(offset, length);
    if (data.length !== length)
      throw new Error(`device returned ${data.length} bytes for a read of ${length}`);
    return { kind: "data", data };
  }

  #statusDone(request: NbdRequest, extents: readonly Extent[]): void {
    const one = (request.flags & NbdCommandFlag.reqOne) !== 0;
    const merged = mergeStatus(extents, request.length, one ? 1 : nbdStatusExtentsMax);
    if (merged.length === 0) {
      this.#failed(request, new Error("device reported no extent"));
      return;
    }
    if (!this.#muted) this.#replies.status(request, merged);
    this.#settled(request, 0);
  }
}

const plain = { fua: false } as const;
const fua = { fua: true } as const;

/** Run of a READ's range; `zero` runs need no data. */
export interface ReadRun {
  readonly length: number;
  readonly zero: boolean;
}

/**
 * Cuts a READ of `length` bytes into at most `piecesMax` runs that cover it exactly: short zero runs and whatever the
 * extents leave out count as data. Pure.
 */
export function planReadRuns(extents: readonly Extent[], length: number): ReadRun[] {
  const runs: { length: number; zero: boolean }[] = [];
  let covered = 0;
  const add = (bytes: number, zero: boolean): void => {
    const last = runs[runs.length - 1];
    if (last !== undefined && last.zero === zero) last.length += bytes;
    else runs.push({ length: bytes, zero });
    covered += bytes;
  };
  // Neighbouring zero extents are joined before their length is judged.
  let zeroes = 0;
  for (const extent of extents) {
    const bytes = Math.min(extent.length, length - covered - zeroes);
    if (extent.zero) {
      zeroes += bytes;
      continue;
    }
    if (zeroes > 0) add(zeroes, zeroes >= holeBytesMin && runs.length < piecesMax - 2);
    zeroes = 0;
    if (bytes > 0) add(bytes, false);
  }
  if (zeroes > 0) add(zeroes, zeroes >= holeBytesMin && runs.length < piecesMax - 1);
  if (covered < length) add(length - covered, false);
  return runs;
}

/** At most `countMax` extents of together at most `length` bytes, neighbours of one state joined. Pure. */
export function mergeStatus(extents: readonly Extent[], length: number, countMax: number): Extent[] {
  const merged: { length: number; hole: boolean; zero: boolean }[] = [];
  let left = length;
  for (const extent of extents) {
    const bytes = Math.min(extent.length, left);
    if (bytes <= 0) break;
    const last = merged[merged.length - 1];
    if (last !== undefined && last.hole === extent.hole && last.zero === extent.zero) last.length += bytes;
    else if (merged.length === countMax) break;
    else merged.push({ length: bytes, hole: extent.hole, zero: extent.zero });
    left -= bytes;
  }
  return merged;
}
