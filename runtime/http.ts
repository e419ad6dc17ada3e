/** HTTP as the product sees it, both ends: what `http-server.ts` serves and `http-client.ts` sends. Types only. */

/** One request that matched a route. */
export interface HttpRequest {
  readonly method: string;
  readonly path: string;
  /** Values of the route's `:name` parts, each already a legal name (`isName`). */
  readonly params: Readonly<Record<string, string>>;
  readonly query: URLSearchParams;
  /** Site names in the client certificate's SAN URIs (`splitsite:site:NAME`); empty without TLS. */
  readonly sites: readonly string[];
  readonly contentLength: number | undefined;
  /** Reads exactly `length` bytes of the body; throws when the body is shorter. */
  readonly take: (length: number) => Promise<Uint8Array>;
  /** Reads the whole body, refusing more than `bytesMax`. */
  readonly body: (bytesMax: number) => Promise<Uint8Array>;
  /** Aborted when the peer goes away or the server closes. */
  readonly signal: AbortSignal;
}

export type HttpAnswer =
  | {
      readonly status: number;
      readonly json: unknown /** Answered before the body was read: close the connection. */;
      readonly early?: boolean;
    }
  | { readonly status: number; readonly lines: AsyncIterable<unknown> };

/** Path pattern `/v1/groups/:group/hello`; the first match wins; exact, no trailing slash. */
export interface Route {
  readonly method: "GET" | "POST" | "PUT" | "DELETE";
  readonly pattern: string;
  readonly run: (request: HttpRequest) => Promise<HttpAnswer>;
}

export interface HttpReply {
  readonly status: number;
  readonly body: Uint8Array;
}
