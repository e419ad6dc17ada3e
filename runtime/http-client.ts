/**
 * HTTP/1.1 client for the WAN and the admin endpoint; the only importer of undici. It keeps a bounded number of
 * connections to one peer, one request at a time on each, with every timeout explicit, and translates undici's errors
 * once. It never retries, never follows a redirect, never unpacks a body: whether to send again is the caller's
 * decision, and all our requests are idempotent.
 */
import type { PeerCertificate } from "node:tls";
import { Pool } from "undici";
import { RemoteProtocolError } from "../protocol/remote-error.ts";
import { errorCode, OperationalError } from "./errors.ts";
import type { HttpReply } from "./http.ts";
import { sitesInAltNames } from "./peer-identity.ts";

/** A connection (TCP and TLS) must stand within this, ms: several round trips of the longest line on earth. */
const connectTimeoutMsDefault = 5_000;
/** Idle connections are given up after this, ms: below the server's 65 s, so that it never closes under a request. */
const keepAliveMs = 30_000;
/** Bytes of an answer's head. */
const headBytesMax = 16 * 1024;

/** PEM contents, not paths. `serverSite`: the site that must be at the other end; without it the chain is enough. */
export interface ClientTls {
  readonly ca: string | Buffer;
  readonly cert: string | Buffer;
  readonly key: string | Buffer;
  readonly serverSite?: string;
}

export interface HttpClientOptions {
  /** `https://host:port`, or `http://host:port` without `tls`. Give this or `socketPath`. */
  readonly origin?: string;
  /** Unix socket of the admin endpoint; plain HTTP, guarded by the socket's file mode. */
  readonly socketPath?: string;
  readonly tls?: ClientTls;
  /** Connections at most; further requests wait inside. */
  readonly connections: number;
  readonly connectTimeoutMs?: number;
}

export interface ClientRequest {
  readonly method: "GET" | "POST" | "PUT" | "DELETE";
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** An iterable is pulled as the connection takes it; it must end by itself when `signal` aborts. */
  readonly body?: Uint8Array | AsyncIterable<Uint8Array>;
  /** Needed with an iterable body: exactly this many bytes will come. */
  readonly contentLength?: number;
  readonly signal?: AbortSignal;
  /** From the request's last byte to the answer's head, and between parts of the answer; 0: no limit. */
  readonly headersTimeoutMs: number;
  /** Whole answers longer than this are `ANSWER_TOO_LARGE`. */
  readonly answerBytesMax: number;
}

export interface LinesRequest extends Omit<ClientRequest, "answerBytesMax"> {
  /** Longest line of the answer, bytes; longer is `ANSWER_TOO_LARGE`. */
  readonly lineBytesMax: number;
  /** Between two parts of the answer; 0: no limit, since long work may have nothing to say. */
  readonly idleTimeoutMs: number;
}

export interface HttpClient {
  /**
   * Sends one request and collects the answer, whatever its status. An answer that arrives before the body is sent is
   * delivered; the rest of the body is not pulled. OperationalError `PEER_UNREACHABLE`, `PEER_CERTIFICATE`,
   * `PEER_TIMEOUT`, `PEER_CLOSED`, `ANSWER_TOO_LARGE`, `REQUEST_ABORTED`, `CLIENT_CLOSED`;
   * RemoteProtocolError `HTTP_MALFORMED`.
   */
  request(request: ClientRequest): Promise<HttpReply>;
  /** The same for an NDJSON answer: parsed lines as they come. Leaving the iteration early drops the connection. */
  lines(request: LinesRequest): Promise<{ readonly status: number; readonly lines: AsyncIterable<unknown> }>;
  /** Waits for requests in flight, then closes. */
  close(): Promise<void>;
  /** Ends requests in flight with `CLIENT_CLOSED` or `PEER_CLOSED` and closes at once. */
  destroy(): Promise<void>;
}

/** Creates a client; nothing is connected until the first request. */
export function createHttpClient(options: HttpClientOptions): HttpClient {
  return new UndiciClient(options);
}

class UndiciClient implements HttpClient {
  readonly #pool: Pool;

  constructor(options: HttpClientOptions) {
    const { tls } = options;
    const origin = options.origin ?? "http://localhost";
    this.#pool = new Pool(origin, {
      connections: options.connections,
      pipelining: 1,
      connectTimeout: options.connectTimeoutMs ?? connectTimeoutMsDefault,
      keepAliveTimeout: keepAliveMs,
      keepAliveMaxTimeout: keepAliveMs,
      maxHeaderSize: headBytesMax,
      strictContentLength: true,
      allowH2: false,
      ...(options.socketPath === undefined ? {} : { socketPath: options.socketPath }),
      connect: {
        timeout: options.connectTimeoutMs ?? connectTimeoutMsDefault,
        // A resumed session skips the check of the server's identity, so none is kept.
        maxCachedSessions: 0,
        ...(tls === undefined
          ? {}
          : {
              ca: tls.ca,
              cert: tls.cert,
              key: tls.key,
              minVersion: "TLSv1.3" as const,
              rejectUnauthorized: true,
              checkServerIdentity: (_host: string, certificate: PeerCertificate) =>
                siteMismatch(certificate.subjectaltname, tls.serverSite),
            }),
      },
    });
  }

  async request(request: ClientRequest): Promise<HttpReply> {
    try {
      const answer = await this.#send(request, request.headersTimeoutMs);
      const parts: Buffer[] = [];
      let length = 0;
      for await (const part of answer.body) {
        const bytes: Buffer = part;
        length += bytes.byteLength;
        if (length > request.answerBytesMax) throw answerTooLarge(request.answerBytesMax);
        parts.push(bytes);
      }
      return { status: answer.statusCode, body: parts.length === 1 ? parts[0]! : Buffer.concat(parts) };
    } catch (cause) {
      throw translate(cause, request);
    }
  }

  async lines(request: LinesRequest) {
    try {
      const answer = await this.#send(request, request.idleTimeoutMs);
      return { status: answer.statusCode, lines: parseLines(answer.body, request) };
    } catch (cause) {
      throw translate(cause, request);
    }
  }

  #send(request: Omit<ClientRequest, "answerBytesMax">, bodyTimeoutMs: number) {
    const headers: Record<string, string> = { ...request.headers };
    if (request.contentLength !== undefined) headers["content-length"] = String(request.contentLength);
    return this.#pool.request({
      method: request.method,
      path: request.path,
      headers,
      headersTimeout: request.headersTimeoutMs,
      bodyTimeout: bodyTimeoutMs,
      ...(request.body === undefined ? {} : { body: asBody(request.body) }),
      ...(request.signal === undefined ? {} : { signal: request.signal }),
    });
  }

  async close(): Promise<void> {
    if (!this.#pool.destroyed) await this.#pool.close();
  }

  async destroy(): Promise<void> {
    if (!this.#pool.destroyed) await this.#pool.destroy();
  }
}

/** undici takes any async iterable, but its types know only Readable. */
function asBody(body: Uint8Array | AsyncIterable<Uint8Array>) {
  return body as Uint8Array;
}

/** The chain is verified by TLS; this says whose certificate it must be. */
function siteMismatch(altNames: string | undefined, serverSite: string | undefined): Error | undefined {
  if (serverSite === undefined || sitesInAltNames(altNames).includes(serverSite)) return undefined;
  return new OperationalError({
    code: "PEER_CERTIFICATE",
    message: `the certificate at the other end is not that of site ${serverSite}`,
    reaction: "reconnect",
    hint: "Check that the gateway's url leads to that site, and the certificates with `splitsite certs show`.",
    details: { expected: serverSite, found: altNames ?? null },
  });
}

function answerTooLarge(bytesMax: number): OperationalError {
  return new OperationalError({
    code: "ANSWER_TOO_LARGE",
    message: `the answer is longer than ${bytesMax} bytes`,
    reaction: "refuse",
  });
}

async function* parseLines(body: AsyncIterable<Buffer>, request: LinesRequest): AsyncGenerator<unknown> {
  let rest: Buffer[] = [];
  let restBytes = 0;
  try {
    for await (const part of body) {
      let start = 0;
      for (let end = part.indexOf(0x0a); end !== -1; end = part.indexOf(0x0a, start)) {
        if (restBytes + end - start > request.lineBytesMax) throw answerTooLarge(request.lineBytesMax);
        rest.push(part.subarray(start, end));
        start = end + 1;
        const line = rest.length === 1 ? rest[0]! : Buffer.concat(rest);
        rest = [];
        restBytes = 0;
        if (line.byteLength > 0) yield parseLine(line);
      }
      restBytes += part.byteLength - start;
      if (restBytes > request.lineBytesMax) throw answerTooLarge(request.lineBytesMax);
      if (start < part.byteLength) rest.push(part.subarray(start));
    }
    if (restBytes > 0) yield parseLine(Buffer.concat(rest));
  } catch (cause) {
    throw translate(cause, request);
  }
}

function parseLine(line: Buffer): unknown {
  try {
    return JSON.parse(line.toString("utf8"));
  } catch (cause) {
    throw new RemoteProtocolError("HTTP_MALFORMED", "a line of the answer is not JSON", {
      cause: String(cause),
    });
  }
}

/** One table for everything undici, TLS and the socket layer may throw. */
const codes: Readonly<Record<string, string>> = {
  UND_ERR_CONNECT_TIMEOUT: "PEER_UNREACHABLE",
  ECONNREFUSED: "PEER_UNREACHABLE",
  ENOTFOUND: "PEER_UNREACHABLE",
  EAI_AGAIN: "PEER_UNREACHABLE",
  EHOSTUNREACH: "PEER_UNREACHABLE",
  ENETUNREACH: "PEER_UNREACHABLE",
  EADDRNOTAVAIL: "PEER_UNREACHABLE",
  ETIMEDOUT: "PEER_UNREACHABLE",
  ENOENT: "PEER_UNREACHABLE",
  EACCES: "PEER_UNREACHABLE",
  UND_ERR_HEADERS_TIMEOUT: "PEER_TIMEOUT",
  UND_ERR_BODY_TIMEOUT: "PEER_TIMEOUT",
  UND_ERR_RES_EXCEEDED_MAX_SIZE: "ANSWER_TOO_LARGE",
  UND_ERR_DESTROYED: "CLIENT_CLOSED",
  UND_ERR_CLOSED: "CLIENT_CLOSED",
  EPROTO: "PEER_CERTIFICATE",
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: "PEER_CERTIFICATE",
  UNABLE_TO_GET_ISSUER_CERT: "PEER_CERTIFICATE",
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: "PEER_CERTIFICATE",
  SELF_SIGNED_CERT_IN_CHAIN: "PEER_CERTIFICATE",
  DEPTH_ZERO_SELF_SIGNED_CERT: "PEER_CERTIFICATE",
  INVALID_CA: "PEER_CERTIFICATE",
  INVALID_PURPOSE: "PEER_CERTIFICATE",
};

const hints: Readonly<Record<string, string>> = {
  PEER_UNREACHABLE: "Check that the service runs there and that the address and the firewall let it through.",
  PEER_CERTIFICATE: "Check the certificates of both sites with `splitsite certs show`.",
  // A server that wants a client certificate and gets none just closes, exactly like a cut line.
  PEER_CLOSED:
    "If this repeats at once, the other side may not accept this site's certificate; look at its log.",
};

function translate(
  cause: unknown,
  request: { readonly method: string; readonly path: string; readonly signal?: AbortSignal },
): Error {
  if (cause instanceof RemoteProtocolError || cause instanceof OperationalError) return cause;
  const raw = errorCode(cause);
  const what = `${request.method} ${request.path}`;
  if (
    raw.startsWith("HPE_") ||
    raw === "UND_ERR_HEADERS_OVERFLOW" ||
    raw === "UND_ERR_RES_CONTENT_LENGTH_MISMATCH"
  ) {
    return new RemoteProtocolError("HTTP_MALFORMED", `${what}: the answer is not HTTP as agreed`, { raw });
  }
  const code =
    request.signal?.aborted === true
      ? "REQUEST_ABORTED"
      : (codes[raw] ??
        (raw.startsWith("CERT_") || raw.startsWith("ERR_SSL_") || raw.startsWith("ERR_TLS_")
          ? "PEER_CERTIFICATE"
          : "PEER_CLOSED"));
  const hint = hints[code];
  return new OperationalError({
    code,
    message: `${what} failed`,
    reaction:
      code === "REQUEST_ABORTED" || code === "CLIENT_CLOSED" || code === "ANSWER_TOO_LARGE"
        ? "refuse"
        : "reconnect",
    ...(hint === undefined ? {} : { hint }),
    cause,
    details: { raw },
  });
}
