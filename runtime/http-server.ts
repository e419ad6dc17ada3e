/**
 * A hardened HTTP/1.1 server over Node's core: exact routes, mutual TLS or a private Unix socket, every limit
 * explicit. It owns sockets, limits and the mapping of errors to answers; what a request means is the routes'
 * business. It never follows an upgrade, never decodes a content encoding and never serves two requests of one
 * connection at once, so no smuggled second request is ever interpreted.
 */
import { once } from "node:events";
import { chmod, lstat, readFile, unlink } from "node:fs/promises";
import type { IncomingMessage, Server, ServerOptions, ServerResponse } from "node:http";
import { createServer as createPlainServer } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { connect, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import { TLSSocket } from "node:tls";
import { type AdminError, ExitCode } from "../protocol/admin.ts";
import { isName } from "../protocol/ids.ts";
import { RemoteProtocolError } from "../protocol/remote-error.ts";
import type { Clock } from "./clock.ts";
import { errorCode, OperationalError, type Reaction } from "./errors.ts";
import type { HttpAnswer, HttpRequest, Route } from "./http.ts";
import { RequestBody } from "./http-body.ts";
import type { Log } from "./log.ts";
import { sitesInAltNames } from "./peer-identity.ts";
import type { Address, TlsFiles } from "./settings/types.ts";

export interface HttpServerLimits {
  /**
   * Sockets open at once, handshakes included. 256: two dozen groups with four connections each and some tools;
   * at one request each and 64 KiB read ahead that is 16 MiB of socket buffers.
   */
  readonly connectionsMax: number;
  /** No byte of a body that a route waits for: the connection is closed, ms. */
  readonly bodySilenceMs: number;
  /** After an answer that came before the body: how long the peer may take to notice, ms. */
  readonly earlyLingerMs: number;
}

const defaultLimits: HttpServerLimits = { connectionsMax: 256, bodySilenceMs: 30_000, earlyLingerMs: 5_000 };

/** Handshake and headers must be there within this, ms. */
const openingMs = 10_000;
/** Longer than any client of ours keeps an idle connection, so that it is the client who closes, ms. */
const keepAliveMs = 65_000;
/**
 * Connections whose TLS handshake is not over: half of all. One more costs the oldest of them its place, so that a crowd
 * without certificates keeps out neither those that have one nor those about to show it.
 */
const handshakesMax = (connectionsMax: number): number => Math.max(1, Math.floor(connectionsMax / 2));
const headerBytesMax = 16 * 1024;
const headersMax = 64;
const requestsPerSocketMax = 10_000;
/** `sun_path` holds 108 bytes with the closing zero. */
const unixPathBytesMax = 107;

export interface HttpServerOptions {
  readonly listen: Address;
  /** Files are read when `listen` is called. null: plain HTTP, only for a Unix socket or loopback tests. */
  readonly tls: TlsFiles | null;
  readonly routes: readonly Route[];
  readonly limits?: Partial<HttpServerLimits>;
  readonly log: Log;
  readonly clock: Clock;
}

export interface HttpServer {
  /** Settles with the bound address (a kernel-chosen port filled in). OperationalError `ADDRESS_*`, `TLS_FILES`. */
  listen(): Promise<Address>;
  /** Stops accepting, lets requests under way end for `graceMs`, then aborts them. Idempotent. */
  close(graceMs: number): Promise<void>;
}

/** Error body of every refused request, the same shape as the admin endpoint's. */
export function errorBody(code: ExitCode, id: string, message: string, tryNext = ""): AdminError {
  return { type: "error", code, id, message, try: tryNext };
}

const statusOfReaction: Readonly<Record<Reaction, { status: number; code: ExitCode }>> = {
  refuse: { status: 409, code: ExitCode.refused },
  retry: { status: 503, code: ExitCode.failed },
  reconnect: { status: 503, code: ExitCode.failed },
  reopen: { status: 503, code: ExitCode.failed },
  resync: { status: 409, code: ExitCode.failed },
  stop: { status: 500, code: ExitCode.failed },
};

/** What a thrown error is answered with; undefined for one that is nobody's expected failure. */
export function answerOfError(error: unknown): { status: number; json: AdminError } | undefined {
  if (error instanceof RemoteProtocolError) {
    return { status: 400, json: errorBody(ExitCode.failed, error.code, error.message) };
  }
  if (error instanceof OperationalError) {
    const { status, code } = statusOfReaction[error.reaction];
    return { status, json: errorBody(code, error.code, error.message, error.hint) };
  }
  return undefined;
}

export function createHttpServer(options: HttpServerOptions): HttpServer {
  return new NodeHttpServer(options);
}

interface CompiledRoute {
  readonly route: Route;
  readonly parts: readonly string[];
}

class NodeHttpServer implements HttpServer {
  readonly #options: HttpServerOptions;
  readonly #limits: HttpServerLimits;
  readonly #routes: readonly CompiledRoute[];
  readonly #sockets = new Set<Socket>();
  /** Connections with a request under way. */
  readonly #busy = new Set<Duplex>();
  /** Connections that sent something refused: whatever follows on them is never taken for a request. */
  readonly #refused = new WeakSet<Duplex>();
  readonly #aborts = new Set<AbortController>();
  /** TLS handshakes under way, oldest first, by the connection's addresses. */
  readonly #handshakes = new Map<string, Socket>();
  #server: Server | undefined;
  #closing: Promise<void> | undefined;

  constructor(options: HttpServerOptions) {
    this.#options = options;
    this.#limits = { ...defaultLimits, ...options.limits };
    this.#routes = options.routes.map((route) => ({ route, parts: route.pattern.split("/") }));
  }

  async listen(): Promise<Address> {
    const server = await this.#createServer();
    this.#server = server;
    const { listen } = this.#options;
    if (listen.kind === "unix") {
      await listenOnUnixSocket(server, listen.path);
      return listen;
    }
    server.listen({ host: listen.host, port: listen.port, backlog: 128 });
    try {
      await once(server, "listening");
    } catch (cause) {
      throw new OperationalError({
        code: "ADDRESS_IN_USE",
        message: `cannot listen on ${listen.host}:${listen.port}`,
        reaction: "stop",
        hint: "Stop the program that holds the address, or change it in the configuration.",
        cause,
      });
    }
    const bound = server.address();
    return { ...listen, port: typeof bound === "object" && bound !== null ? bound.port : listen.port };
  }

  async #createServer(): Promise<Server> {
    const { tls, log } = this.#options;
    const common: ServerOptions = {
      headersTimeout: openingMs,
      // A body over a throttled line may rightly take minutes; RequestBody watches its progress instead.
      requestTimeout: 0,
      connectionsCheckingInterval: 1_000,
      keepAliveTimeout: keepAliveMs,
      maxHeaderSize: headerBytesMax,
      insecureHTTPParser: false,
      // Looked at in `refuseHeaders`: Node would answer it by itself and then take the next request all the same.
      requireHostHeader: false,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: 10_000,
    };
    const server =
      tls === null
        ? createPlainServer(common)
        : createTlsServer({
            ...common,
            ...(await readTlsFiles(tls)),
            requestCert: true,
            rejectUnauthorized: true,
            minVersion: "TLSv1.2",
            handshakeTimeout: openingMs,
          });
    server.maxConnections = this.#limits.connectionsMax;
    server.maxHeadersCount = headersMax;
    server.maxRequestsPerSocket = requestsPerSocketMax;
    server.on("connection", (socket: Socket) => {
      this.#sockets.add(socket);
      socket.once("close", () => this.#sockets.delete(socket));
      // Errors of a connection end in "close"; without a listener they would end the process.
      socket.on("error", () => socket.destroy());
      if (tls !== null) this.#watchHandshake(socket);
    });
    server.on("secureConnection", (socket: TLSSocket) => this.#handshakes.delete(peerKey(socket)));
    server.on("drop", () => log.warn("HTTP_CONNECTIONS_FULL", "connection refused: too many are open"));
    server.on("tlsClientError", (error, socket) => {
      log.warn("TLS_REFUSED", "TLS handshake refused", { why: errorCode(error), peer: socket.remoteAddress });
      socket.destroy();
    });
    server.on("clientError", (error: Error, socket) => this.#refuseBytes(error, socket));
    server.on("upgrade", (_request: IncomingMessage, socket: Duplex) =>
      this.#refuseRaw(socket, "400 Bad Request"),
    );
    server.on("connect", (_request: IncomingMessage, socket: Duplex) =>
      this.#refuseRaw(socket, "405 Method Not Allowed"),
    );
    const refuseExpectation = (request: IncomingMessage, response: ServerResponse): void => {
      this.#refused.add(request.socket);
      response.writeHead(417, { connection: "close", "content-length": 0 });
      response.end();
    };
    server.on("checkContinue", refuseExpectation);
    server.on("checkExpectation", refuseExpectation);
    server.on("request", (request, response) => {
      this.#serve(request, response).catch((error: unknown) => {
        log.error("HTTP_UNEXPECTED", "request failed outside its route", error);
        request.socket.destroy();
      });
    });
    return server;
  }

  #watchHandshake(socket: Socket): void {
    const key = peerKey(socket);
    this.#handshakes.set(key, socket);
    socket.once("close", () => this.#handshakes.delete(key));
    if (this.#handshakes.size <= handshakesMax(this.#limits.connectionsMax)) return;
    for (const [oldestKey, oldest] of this.#handshakes) {
      this.#options.log.warn("HTTP_HANDSHAKES_FULL", "the oldest TLS handshake gave way to a newer one");
      this.#handshakes.delete(oldestKey);
      oldest.destroy();
      return;
    }
  }

  #refuseBytes(error: Error, socket: Duplex): void {
    // Its end is under way already, and one answer is enough.
    if (this.#refused.has(socket)) return;
    const code = errorCode(error);
    this.#options.log.warn("HTTP_REFUSED", "connection sent no legal HTTP", { why: code });
    if (!socket.writable || code === "ECONNRESET") {
      socket.destroy();
      return;
    }
    const status =
      code === "HPE_HEADER_OVERFLOW"
        ? "431 Request Header Fields Too Large"
        : code === "ERR_HTTP_REQUEST_TIMEOUT"
          ? "408 Request Timeout"
          : "400 Bad Request";
    this.#refuseRaw(socket, status);
  }

  /** What the parser may still make of the bytes behind is not for any route, so the connection is marked. */
  #refuseRaw(socket: Duplex, status: string): void {
    this.#refused.add(socket);
    socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
  }

  async #serve(message: IncomingMessage, response: ServerResponse): Promise<void> {
    const { socket } = message;
    if (this.#busy.has(socket) || this.#refused.has(socket)) {
      // Pipelining: no client of ours does it, and it is how smuggled requests look.
      this.#options.log.warn("HTTP_PIPELINED", "second request before the first was answered");
      socket.destroy();
      return;
    }
    this.#busy.add(socket);
    const abort = new AbortController();
    this.#aborts.add(abort);
    const gone = (): void => abort.abort();
    socket.once("close", gone);
    const body = new RequestBody(message, this.#options.clock, this.#limits.bodySilenceMs);
    try {
      const answer = await this.#answer(message, body, abort.signal);
      await this.#send(message, response, body, answer);
    } finally {
      socket.off("close", gone);
      this.#aborts.delete(abort);
      this.#busy.delete(socket);
    }
  }

  async #answer(message: IncomingMessage, body: RequestBody, signal: AbortSignal): Promise<HttpAnswer> {
    const refused = refuseHeaders(message);
    if (refused !== undefined) {
      this.#refused.add(message.socket);
      return refused;
    }
    const url = message.url ?? "";
    const queryAt = url.indexOf("?");
    const path = queryAt < 0 ? url : url.slice(0, queryAt);
    const found = this.#find(message.method ?? "", path);
    if ("status" in found) return found;
    const request: HttpRequest = {
      method: found.route.method,
      path,
      params: found.params,
      query: new URLSearchParams(queryAt < 0 ? "" : url.slice(queryAt + 1)),
      sites: peerSites(message.socket),
      contentLength: body.contentLength,
      take: (length) => body.take(length),
      body: (bytesMax) => body.all(bytesMax),
      signal,
    };
    try {
      return await found.route.run(request);
    } catch (error) {
      const expected = answerOfError(error);
      if (expected !== undefined) {
        this.#options.log.warn(expected.json.id, `request refused: ${expected.json.message}`, { path });
        return expected;
      }
      this.#options.log.error("HTTP_UNEXPECTED", "route failed", error, { path });
      return { status: 500, json: errorBody(ExitCode.failed, "UNEXPECTED", "internal error, see the log") };
    }
  }

  #find(
    method: string,
    path: string,
  ): HttpAnswer | { route: Route; params: Readonly<Record<string, string>> } {
    const parts = path.split("/");
    const allowed: string[] = [];
    for (const { route, parts: pattern } of this.#routes) {
      const params = matchParts(pattern, parts);
      if (params === undefined) continue;
      if (route.method === method) return { route, params };
      allowed.push(route.method);
    }
    if (allowed.length > 0) {
      return { status: 405, json: errorBody(ExitCode.usage, "METHOD", `allowed: ${allowed.join(", ")}`) };
    }
    return { status: 404, json: errorBody(ExitCode.usage, "NOT_FOUND", "no such route") };
  }

  async #send(
    message: IncomingMessage,
    response: ServerResponse,
    body: RequestBody,
    answer: HttpAnswer,
  ): Promise<void> {
    if (message.socket.destroyed) return;
    if ("lines" in answer) {
      await this.#sendLines(message, response, answer.status, answer.lines);
      return;
    }
    const bytes = Buffer.from(JSON.stringify(answer.json));
    const early = !body.finished;
    const closing = early || this.#closing !== undefined || this.#refused.has(message.socket);
    response.writeHead(answer.status, {
      "content-type": "application/json",
      "content-length": bytes.byteLength,
      "cache-control": "no-store",
      ...(closing ? { connection: "close" } : {}),
    });
    if (!early) {
      // Before the bytes leave: the peer's next request cannot come earlier than its answer.
      this.#busy.delete(message.socket);
      response.end(bytes);
      return;
    }
    // The rest of the body is still under way. Closing now would reset the connection and could take the answer
    // with it, so what still comes is thrown away until the peer has noticed and closes.
    response.write(bytes);
    await body.discard(this.#limits.earlyLingerMs);
    response.end();
    message.socket.destroySoon();
  }

  async #sendLines(
    message: IncomingMessage,
    response: ServerResponse,
    status: number,
    lines: AsyncIterable<unknown>,
  ): Promise<void> {
    const { socket } = message;
    response.writeHead(status, {
      "content-type": "application/x-ndjson",
      "cache-control": "no-store",
      connection: "close",
    });
    response.flushHeaders();
    try {
      for await (const line of lines) {
        if (socket.destroyed) return;
        if (!response.write(`${JSON.stringify(line)}\n`)) await drained(response, socket);
      }
    } catch (error) {
      const expected = answerOfError(error);
      if (expected === undefined) this.#options.log.error("HTTP_UNEXPECTED", "stream of lines failed", error);
      const line = expected?.json ?? errorBody(ExitCode.failed, "UNEXPECTED", "internal error, see the log");
      response.write(`${JSON.stringify(line)}\n`);
    }
    response.end();
  }

  close(graceMs: number): Promise<void> {
    this.#closing ??= this.#close(graceMs);
    return this.#closing;
  }

  async #close(graceMs: number): Promise<void> {
    const server = this.#server;
    if (server === undefined || !server.listening) return;
    const closed = once(server, "close");
    server.close();
    server.closeIdleConnections();
    const timer = this.#options.clock.after(graceMs, () => {
      for (const abort of this.#aborts) abort.abort();
      for (const socket of this.#sockets) socket.destroy();
    });
    await closed;
    timer.cancel();
  }
}

/** Refuses what this server does not speak, before any route sees it. */
function refuseHeaders(message: IncomingMessage): HttpAnswer | undefined {
  const { headers } = message;
  const refuse = (status: number, id: string, text: string): HttpAnswer => ({
    status,
    json: errorBody(ExitCode.usage, id, text),
  });
  if (message.httpVersion !== "1.1") return refuse(505, "HTTP_VERSION", "HTTP/1.1 only");
  if (headers.host === undefined) return refuse(400, "HOST", "no host named");
  // Node drops what is beyond its bound and says nothing, so at the bound nothing can be believed any more.
  if (message.rawHeaders.length >= 2 * headersMax) return refuse(431, "HEADERS", "too many headers");
  if (headers.upgrade !== undefined) return refuse(400, "UPGRADE", "no upgrade");
  if (headers["content-encoding"] !== undefined)
    return refuse(415, "CONTENT_ENCODING", "no content encoding");
  const transfer = headers["transfer-encoding"];
  if (transfer !== undefined && transfer !== "chunked")
    return refuse(501, "TRANSFER_ENCODING", "chunked only");
  if (!(message.url ?? "").startsWith("/")) return refuse(400, "TARGET", "request target must be a path");
  return undefined;
}

/** Values of the pattern's names, or undefined. Literal comparison: no decoding, no normalising. */
function matchParts(
  pattern: readonly string[],
  parts: readonly string[],
): Record<string, string> | undefined {
  if (pattern.length !== parts.length) return undefined;
  const params: Record<string, string> = Object.create(null);
  for (const [index, expected] of pattern.entries()) {
    const part = parts[index]!;
    if (expected.startsWith(":")) {
      if (!isName(part)) return undefined;
      params[expected.slice(1)] = part;
    } else if (expected !== part) return undefined;
  }
  return params;
}

/** Site names the peer's certificate vouches for. */
function peerSites(socket: Socket): string[] {
  if (!(socket instanceof TLSSocket) || !socket.authorized) return [];
  return sitesInAltNames(socket.getPeerX509Certificate()?.subjectAltName).filter(isName);
}

async function readTlsFiles(files: TlsFiles): Promise<{ ca: Buffer; cert: Buffer; key: Buffer }> {
  try {
    const [ca, cert, key] = await Promise.all([
      readFile(files.ca),
      readFile(files.cert),
      readFile(files.key),
    ]);
    return { ca, cert, key };
  } catch (cause) {
    throw new OperationalError({
      code: "TLS_FILES",
      message: "cannot read the certificate files",
      reaction: "stop",
      hint: "Check tls.ca, tls.cert and tls.key of this site in the configuration.",
      cause,
    });
  }
}

/** Binds with mode 0600 from the first instant; a file left by a dead process is replaced, a live one never. */
async function listenOnUnixSocket(server: Server, path: string): Promise<void> {
  if (Buffer.byteLength(path) > unixPathBytesMax) {
    throw new OperationalError({
      code: "ADDRESS_PATH_TOO_LONG",
      message: `socket path is longer than ${unixPathBytesMax} bytes: ${path}`,
      reaction: "stop",
      hint: "Choose a shorter path for the socket.",
    });
  }
  try {
    await bindUnixSocket(server, path);
  } catch (cause) {
    if (errorCode(cause) !== "EADDRINUSE" || !(await isStaleSocket(path))) {
      throw new OperationalError({
        code: "ADDRESS_IN_USE",
        message: `cannot listen on unix:${path}`,
        reaction: "stop",
        hint: "Stop the process that listens there, or check the path.",
        cause,
      });
    }
    await unlink(path);
    await bindUnixSocket(server, path);
  }
  await chmod(path, 0o600);
}

async function bindUnixSocket(server: Server, path: string): Promise<void> {
  // `listen` makes the file before it returns, so nobody sees it with a wider mode and no other file is touched.
  const before = process.umask(0o177);
  try {
    server.listen({ path });
  } finally {
    process.umask(before);
  }
  await once(server, "listening");
}

async function isStaleSocket(path: string): Promise<boolean> {
  if (!(await lstat(path)).isSocket()) return false;
  const probe = connect({ path });
  try {
    await once(probe, "connect");
    return false;
  } catch (error) {
    return errorCode(error) === "ECONNREFUSED";
  } finally {
    probe.destroy();
  }
}

/** Names a connection while it lives; a TLS socket and the TCP socket below it give the same. */
function peerKey(socket: Socket): string {
  return `${socket.remoteAddress} ${socket.remotePort}`;
}

function drained(response: ServerResponse, socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      response.off("drain", done);
      socket.off("close", done);
      resolve();
    };
    response.on("drain", done);
    socket.on("close", done);
    if (socket.destroyed) done();
  });
}
