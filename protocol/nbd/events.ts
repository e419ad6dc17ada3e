/** What an NBD session tells its shell. Values only. */

/** A request that passed every check and must now run on the device. One shape, so that the hot path stays fast. */
export interface NbdRequest {
  readonly kind: "request";
  /** An `NbdCommand` other than `disc`. */
  readonly command: number;
  /** `NbdCommandFlag` bits, already legal for the command. */
  readonly flags: number;
  /** The cookie's two halves as signed 32-bit integers: exact, and no allocation for a bigint. */
  readonly cookieHigh: number;
  readonly cookieLow: number;
  /** Byte offset; inside the export. */
  readonly offset: number;
  /** Bytes; may be 0 for every command but BLOCK_STATUS. */
  readonly length: number;
  /** Payload of a WRITE, all of it, maybe a view of a received chunk; null for the others. */
  readonly data: Uint8Array | null;
}

/** A request the session refuses; its payload, if any, has been skipped. The shell sends the error in its turn. */
export interface NbdRejectedRequest {
  readonly kind: "rejected";
  readonly command: number;
  readonly cookieHigh: number;
  readonly cookieLow: number;
  /** An `NbdErrno`. */
  readonly errno: number;
  /** Own words, ASCII, short. */
  readonly message: string;
}

/** A WRITE's payload spans chunks: `bytes` of memory are wanted before it is gathered. Input rests until accepted. */
export interface NbdPayloadAnnounced {
  readonly kind: "payloadAnnounced";
  readonly bytes: number;
}

/** LIST; answer with `answerList`. Input rests until answered. */
export interface NbdListRequested {
  readonly kind: "listRequested";
}

/**
 * An export is asked for; answer with `answerExport`. Input rests until answered. `use: "describe"` must not open
 * anything; `use: "open"` enters transmission when answered with parameters.
 */
export interface NbdExportRequested {
  readonly kind: "exportRequested";
  readonly use: "describe" | "open";
  readonly name: string;
}

/** STARTTLS was acknowledged: send what is in the sink, then go on over TLS with a new session. */
export interface NbdTlsRequested {
  readonly kind: "tlsRequested";
}

/**
 * The session is over: send what is in the sink and what is in flight, then close. `clean`: the client asked for it
 * (ABORT, DISC); otherwise `code` names the violation.
 */
export interface NbdEnded {
  readonly kind: "ended";
  readonly clean: boolean;
  /** Stable, upper snake case. */
  readonly code: string;
}

export type NbdEvent =
  | NbdRequest
  | NbdRejectedRequest
  | NbdPayloadAnnounced
  | NbdListRequested
  | NbdExportRequested
  | NbdTlsRequested
  | NbdEnded;
