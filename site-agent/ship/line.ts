/**
 * The line to one peer site as shippers and groups see it. Types only; `link.ts` is the real one, over HTTP. Whoever
 * ships must expect every call to be lost, late, or to have had its effect although it failed.
 */
import type { GroupKnowledge } from "../../protocol/control.ts";
import type { HttpReply } from "../../runtime/http.ts";
import type { LinkSettings } from "../../runtime/settings/types.ts";

/** A shipper, as its line sees it. */
export interface LinkUser {
  /** The connections are gone; everything in flight has been given up. */
  silence(): void;
  linkChanged(up: boolean): void;
}

export interface LinkState {
  readonly up: boolean;
  /** null: unlimited. */
  readonly limitBytesPerSecond: number | null;
  /** Bytes of all groups on the line, both requests and TLS records; without handshakes and answers. */
  readonly wireBytes: number;
  /** RFC 3339; null: never heard. */
  readonly lastContact: string | null;
}

export interface Line {
  readonly settings: Pick<LinkSettings, "codec" | "connections" | "collectMs">;
  readonly status: LinkState;
  /** Bytes in flight that one group may hold: an equal share of the line's memory. */
  readonly budgetBytes: number;
  /** Tells `user` of silence and changes until the returned function is called. */
  join(user: LinkUser): () => void;
  /** What the peer knows of a group; OperationalError `PEER_*` when it cannot be asked. */
  knowledge(group: string): Promise<GroupKnowledge>;
  /** One control message, outside the limit. Settles within `peerSilenceMs`. OperationalError `PEER_*`. */
  control(method: "GET" | "POST", path: string, message?: unknown): Promise<HttpReply>;
  /**
   * Posts one batch. `bytes` must not change until it settles. `count` is told of bytes on the line as they leave.
   * OperationalError `PEER_*`, or `REQUEST_ABORTED` when `signal` aborts.
   */
  upload(
    path: string,
    bytes: Uint8Array,
    signal: AbortSignal,
    count: (wireBytes: number) => void,
  ): Promise<HttpReply>;
  /** The next request uses new connections, with the certificates of that moment. Requests in flight go on. */
  renew(): void;
}
