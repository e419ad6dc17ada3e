/** The one error a decoder of foreign bytes may throw. Pure. */

/** A peer, or a file a peer or a disk gave us, broke its format. `code` is stable, upper snake case. */
export class RemoteProtocolError extends Error {
  readonly code: string;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: string, message: string, details: Readonly<Record<string, unknown>> = {}) {
    super(message);
    this.name = "RemoteProtocolError";
    this.code = code;
    this.details = details;
  }
}
