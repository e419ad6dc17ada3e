/**
 * Reply bytes on their way to one socket. Small pieces are copied side by side into an arena, large payloads are
 * referred to; everything that one turn of the event loop produced goes out in one write. At most one batch of 1 MiB is
 * with the socket at a time, so that its completion is a measure of progress whatever the size of a reply.
 */
import type { Writable } from "node:stream";
import type { ReplySink } from "../protocol/nbd/reply-sink.ts";

/** 32 replies of 4 KiB and their headers take half of it. */
const arenaBytes = 256 * 1024;
/** Longest piece that is copied: up to here copying is cheaper than one more element in a vectored write. */
const copiedBytesMax = 16 * 1024;
/** One batch; a client that takes less than this in the stall time is taken for dead: 17 KiB/s. */
const batchBytesMax = 1024 * 1024;
/** Arenas kept for reuse: as many as connections are likely to be busy at once; 4 MiB. */
const arenasKeptMax = 16;

/** Free arenas of one server. */
export class NbdArenaPool {
  readonly #free: Uint8Array[] = [];

  take(): Uint8Array {
    return this.#free.pop() ?? Buffer.allocUnsafeSlow(arenaBytes);
  }

  give(arena: Uint8Array): void {
    if (this.#free.length < arenasKeptMax) this.#free.push(arena);
  }
}

const noArena = new Uint8Array(0);

export interface NbdReplyQueueOptions {
  readonly arenas: NbdArenaPool;
  /** Asks for a `flush` at the end of this turn; called at most once between two flushes. */
  readonly schedule: (queue: NbdReplyQueue) => void;
  /** Bytes were taken by the socket: `unsentBytes` shrank. */
  readonly progressed: (bytes: number) => void;
}

export class NbdReplyQueue implements ReplySink {
  bytes: Uint8Array = noArena;
  readonly #options: NbdReplyQueueOptions;
  readonly #socket: Writable;
  #at = 0;
  /** Start of what the arena holds beyond the last sealed segment. */
  #sealedTo = 0;
  #segments: Uint8Array[] = [];
  #segmentIndex = 0;
  #unsentBytes = 0;
  #batchBytes = 0;
  #scheduled = false;
  #closed = false;
  /** An error needs no answer here: the socket's own error and close events follow it. */
  readonly #written = (error?: Error | null): void => {
    if (error === undefined || error === null) this.#batchWritten();
  };

  constructor(socket: Writable, options: NbdReplyQueueOptions) {
    this.#socket = socket;
    this.#options = options;
  }

  /** Bytes claimed or queued and not yet taken by the socket. */
  get unsentBytes(): number {
    return this.#unsentBytes;
  }

  claim(length: number): number {
    if (this.bytes.length - this.#at < length) this.#nextArena();
    const at = this.#at;
    this.#at = at + length;
    this.#unsentBytes += length;
    if (!this.#scheduled) this.#schedule();
    return at;
  }

  payload(data: Uint8Array): void {
    const length = data.length;
    if (length <= copiedBytesMax) {
      const at = this.claim(length);
      this.bytes.set(data, at);
      return;
    }
    this.#seal();
    this.#segments.push(data);
    this.#unsentBytes += length;
    if (!this.#scheduled) this.#schedule();
  }

  #schedule(): void {
    this.#scheduled = true;
    this.#options.schedule(this);
  }

  #seal(): void {
    if (this.#at > this.#sealedTo) {
      this.#segments.push(this.bytes.subarray(this.#sealedTo, this.#at));
      this.#sealedTo = this.#at;
    }
  }

  #nextArena(): void {
    this.#seal();
    // The full arena stays alive through its segments and is collected with them.
    this.bytes = this.#options.arenas.take();
    this.#at = 0;
    this.#sealedTo = 0;
  }

  /** Hands the next batch to the socket, unless one is there already. */
  flush(): void {
    this.#scheduled = false;
    if (this.#batchBytes > 0 || this.#closed) return;
    this.#seal();
    const segments = this.#segments;
    const first = segments[this.#segmentIndex];
    if (first === undefined) return;
    if (segments.length - this.#segmentIndex === 1 && first.length <= batchBytesMax) {
      this.#batchBytes = first.length;
      this.#dropSegments();
      this.#socket.write(first, this.#written);
      return;
    }
    const socket = this.#socket;
    let batch = 0;
    let last: Uint8Array | null = null;
    socket.cork();
    while (batch < batchBytesMax) {
      const segment = segments[this.#segmentIndex];
      if (segment === undefined) break;
      if (last !== null) socket.write(last);
      const room = batchBytesMax - batch;
      if (segment.length > room) {
        last = segment.subarray(0, room);
        segments[this.#segmentIndex] = segment.subarray(room);
      } else {
        last = segment;
        this.#segmentIndex += 1;
      }
      batch += last.length;
    }
    if (this.#segmentIndex === segments.length) this.#dropSegments();
    this.#batchBytes = batch;
    if (last !== null) socket.write(last, this.#written);
    socket.uncork();
  }

  #dropSegments(): void {
    this.#segments = [];
    this.#segmentIndex = 0;
  }

  #batchWritten(): void {
    if (this.#closed) return;
    const bytes = this.#batchBytes;
    this.#batchBytes = 0;
    this.#unsentBytes -= bytes;
    if (this.#unsentBytes === 0) {
      // Nothing refers to the arena any more: the socket has copied or sent it all.
      if (this.bytes !== noArena) this.#options.arenas.give(this.bytes);
      this.bytes = noArena;
      this.#at = 0;
      this.#sealedTo = 0;
    } else if (!this.#scheduled) {
      this.flush();
    }
    this.#options.progressed(bytes);
  }

  /** Forgets everything; later writes are dropped by not being flushed. */
  close(): void {
    this.#closed = true;
    this.#segments = [];
    this.#segmentIndex = 0;
    this.#unsentBytes = 0;
    this.bytes = noArena;
    this.#at = 0;
    this.#sealedTo = 0;
  }
}
