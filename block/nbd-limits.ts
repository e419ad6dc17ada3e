/** Bounds of an NBD server, each with its arithmetic. */
import { type NbdSessionLimits, nbdSessionLimits } from "../protocol/nbd/limits.ts";

export interface NbdServerLimits {
  /** Accept to transmission, TLS included. */
  readonly handshakeMs: number;
  /** Connections in all, each a descriptor: journal and images need theirs whatever clients do (F34). */
  readonly connectionsMax: number;
  /** Connections not yet in transmission, in all. */
  readonly negotiatingMax: number;
  /** The same from one TCP source address; a Unix socket's clients are one user's and count only in all. */
  readonly negotiatingPerSourceMax: number;
  /** Requests of one connection on the device at once; then it is not read from. */
  readonly requestsInFlightMax: number;
  /** Payload of those, bytes: two of the longest requests. One request always passes. */
  readonly bytesInFlightMax: number;
  /** Reply bytes the client has not taken, per connection; then it is not read from. */
  readonly unsentBytesMax: number;
  /** No reply bytes taken, or no byte of a begun request, for this long: the connection is closed. */
  readonly stallMs: number;
  /** From our end of stream to the client's; then the connection is cut. */
  readonly lingerMs: number;
  readonly session: NbdSessionLimits;
}

export const nbdServerLimits: NbdServerLimits = {
  handshakeMs: 10_000,
  connectionsMax: 1024,
  negotiatingMax: 100,
  negotiatingPerSourceMax: 8,
  requestsInFlightMax: 1024,
  bytesInFlightMax: 64 * 1024 * 1024,
  unsentBytesMax: 16 * 1024 * 1024,
  stallMs: 60_000,
  lingerMs: 2_000,
  session: nbdSessionLimits,
};

/** Payload memory of all connections of a process, bytes: eight connections at their own bound. */
export const nbdRequestMemoryBytesMax = 512 * 1024 * 1024;
