/**
 * The HTTP server against real sockets on loopback: what must be answered, what must be refused, and that a
 * refused peer never gets a second request interpreted. Raw bytes where a well-behaved client could not misbehave.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { request as plainRequest } from "node:http";
import { request as tlsRequest } from "node:https";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { RemoteProtocolError } from "../../protocol/remote-error.ts";
import { systemClock } from "../../runtime/clock.ts";
import { OperationalError } from "../../runtime/errors.ts";
import type { Route } from "../../runtime/http.ts";
import { createHttpServer, type HttpServer, type HttpServerLimits } from "../../runtime/http-server.ts";
import { silentLog } from "../../runtime/log.ts";
import type { Address, TlsFiles } from "../../runtime/settings/types.ts";
import { testCa } from "../gateway/certificates.ts";

const directory = mkdtempSync(join(tmpdir(), "splitsite-http-"));
const servers: HttpServer[] = [];
let runs = 0;
let tls: TlsFiles;
let foreign: TlsFiles;

before(async () => {
  const ca = await testCa();
  tls = await ca.issue(directory, "primary", ["primary"]);
  foreign = await (await testCa()).issue(directory, "foreign", ["primary"]);
});
after(async () => {
  await Promise.all(servers.map((server) => server.close(0)));
  rmSync(directory, { recursive: true, force: true });
});

let aborted: (() => void) | undefined;
const routes: Route[] = [
  {
    method: "GET",
    pattern: "/v1/status",
    run: async (request) => ({ status: 200, json: { sites: request.sites, q: request.query.get("q") } }),
  },
  {
    method: "GET",
    pattern: "/v1/groups/:group",
    run: async (request) => ({ status: 200, json: { group: request.params["group"] } }),
  },
  {
    method: "POST",
    pattern: "/v1/echo",
    run: async (request) => {
      runs += 1;
      return { status: 200, json: { text: Buffer.from(await request.body(1024)).toString() } };
    },
  },
  {
    method: "POST",
    pattern: "/v1/parts",
    run: async (request) => {
      const head = Buffer.from(await request.take(3)).toString();
      const rest = Buffer.from(await request.take(5)).toString();
      return { status: 200, json: { head, rest } };
    },
  },
  {
    method: "POST",
    pattern: "/v1/early",
    run: async (request) => {
      await request.take(2);
      return { status: 200, json: { early: true }, early: true };
    },
  },
  {
    method: "GET",
    pattern: "/v1/lines",
    run: async () => ({
      status: 200,
      lines: (async function* () {
        yield { n: 1 };
        yield { n: 2 };
        throw new OperationalError({
          code: "TEST_STOPPED",
          message: "stopped",
          reaction: "refuse",
          hint: "wait",
        });
      })(),
    }),
  },
  {
    method: "GET",
    pattern: "/v1/hang",
    run: (request) =>
      new Promise((resolve) => {
        request.signal.addEventListener("abort", () => {
          aborted?.();
          resolve({ status: 200, json: {} });
        });
      }),
  },
  {
    method: "GET",
    pattern: "/v1/bad-peer",
    run: async () => Promise.reject(new RemoteProtocolError("TEST_BAD", "bad")),
  },
  { method: "GET", pattern: "/v1/bug", run: async () => Promise.reject(new TypeError("secret detail")) },
];

async function start(tlsFiles: TlsFiles | null, limits: Partial<HttpServerLimits> = {}): Promise<number> {
  const listen: Address = { kind: "tcp", host: "127.0.0.1", port: 0 };
  const server = createHttpServer({
    listen,
    tls: tlsFiles,
    routes,
    limits,
    log: silentLog,
    clock: systemClock,
  });
  servers.push(server);
  const bound = await server.listen();
  assert.equal(bound.kind, "tcp");
  return bound.kind === "tcp" ? bound.port : 0;
}

interface Reply {
  readonly status: number;
  readonly text: string;
  readonly connection: string | undefined;
}

function send(options: Record<string, unknown>, body?: string): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const make = options["ca"] === undefined ? plainRequest : tlsRequest;
    const outgoing = make({ host: "127.0.0.1", agent: false, ...options }, (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("end", () =>
        resolve({
          status: response.statusCode ?? 0,
          text: Buffer.concat(chunks).toString(),
          connection: response.headers.connection,
        }),
      );
      response.on("error", reject);
    });
    outgoing.on("error", reject);
    outgoing.end(body);
  });
}

/** Sends raw bytes and returns everything that comes back until the server closes. */
async function raw(port: number, bytes: string): Promise<string> {
  const socket = connect(port, "127.0.0.1");
  await once(socket, "connect");
  const chunks: Buffer[] = [];
  socket.on("data", (chunk) => chunks.push(chunk));
  socket.on("error", () => {});
  socket.write(bytes);
  await once(socket, "close");
  return Buffer.concat(chunks).toString();
}

test("routes match exactly, by method, with legal names only", async () => {
  const port = await start(null);
  const get = async (path: string, method = "GET"): Promise<number> =>
    (await send({ port, path, method })).status;
  assert.deepEqual(JSON.parse((await send({ port, path: "/v1/status?q=7" })).text), { sites: [], q: "7" });
  assert.deepEqual(JSON.parse((await send({ port, path: "/v1/groups/erp" })).text), { group: "erp" });
  assert.equal(await get("/v1/status", "POST"), 405);
  assert.equal(await get("/v1/status", "HEAD"), 405);
  for (const path of [
    "/v1/status/",
    "/v1//status",
    "/",
    "/v1/groups/..",
    "/v1/groups/%65rp",
    "/v1/groups/ERP",
    "/v1/groups/a/b",
    "/v1/./status",
  ]) {
    assert.equal(await get(path), 404, path);
  }
});

test("bodies are read in the sizes asked for and never beyond the limit", async () => {
  const port = await start(null);
  const parts = await send({ port, path: "/v1/parts", method: "POST" }, "abcdefgh");
  assert.deepEqual(JSON.parse(parts.text), { head: "abc", rest: "defgh" });
  const short = await send({ port, path: "/v1/parts", method: "POST" }, "abc");
  assert.equal(short.status, 400);
  assert.equal(JSON.parse(short.text).id, "BODY_TRUNCATED");
  const long = await send({ port, path: "/v1/echo", method: "POST" }, "x".repeat(1025));
  assert.equal(JSON.parse(long.text).id, "BODY_TOO_LONG");
  const chunked = await send(
    { port, path: "/v1/echo", method: "POST", headers: { "transfer-encoding": "chunked" } },
    "x".repeat(2000),
  );
  assert.equal(JSON.parse(chunked.text).id, "BODY_TOO_LONG");
});

test("an answer before the body reaches a peer that is still sending, and closes the connection", async () => {
  const port = await start(null, { earlyLingerMs: 2_000 });
  const outgoing = plainRequest({
    host: "127.0.0.1",
    port,
    path: "/v1/early",
    method: "POST",
    headers: { "content-length": 50_000_000 },
  });
  outgoing.on("error", () => {});
  const answered = once(outgoing, "response");
  outgoing.write(Buffer.alloc(1_000_000));
  const [response] = await answered;
  assert.equal(response.statusCode, 200);
  assert.equal(response.headers.connection, "close");
  const [chunk] = await once(response, "data");
  assert.deepEqual(JSON.parse(String(chunk)), { early: true });
  outgoing.destroy();
});

test("errors of routes become answers with stable codes, and an unexpected one tells no detail", async () => {
  const port = await start(null);
  const bad = await send({ port, path: "/v1/bad-peer" });
  assert.deepEqual([bad.status, JSON.parse(bad.text).id], [400, "TEST_BAD"]);
  const bug = await send({ port, path: "/v1/bug" });
  assert.equal(bug.status, 500);
  assert.ok(!bug.text.includes("secret"));
});

test("a stream of lines ends with the error as its last line", async () => {
  const port = await start(null);
  const reply = await send({ port, path: "/v1/lines" });
  const lines = reply.text
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
  assert.deepEqual(lines.slice(0, 2), [{ n: 1 }, { n: 2 }]);
  assert.deepEqual([lines[2].type, lines[2].id, lines[2].code], ["error", "TEST_STOPPED", 6]);
});

test("what is not plain HTTP/1.1 is refused and no second request is interpreted", async () => {
  const port = await start(null);
  const smuggled = "POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nz";
  const head = "POST /v1/echo HTTP/1.1\r\nHost: x\r\n";
  const cases: Record<string, string> = {
    "CL and TE": `${head}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${smuggled}`,
    "TE twice": `${head}Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${smuggled}`,
    "CL twice": `${head}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab${smuggled}`,
    "obsolete folding": `${head}X-A: b\r\n c\r\nContent-Length: 1, 2\r\n\r\na${smuggled}`,
    "HTTP/2 preface": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "absolute target": `GET http://x/v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`,
    "no host": "GET /v1/status HTTP/1.1\r\nConnection: close\r\n\r\n",
    "HTTP/1.0": "GET /v1/status HTTP/1.0\r\n\r\n",
    upgrade: "GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    connect: "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    expect: `${head}Expect: 100-continue\r\nContent-Length: 1\r\n\r\n`,
    "content encoding": `${head}Content-Encoding: gzip\r\nContent-Length: 1\r\nConnection: close\r\n\r\na`,
    "endless header": `GET /v1/status HTTP/1.1\r\nHost: x\r\nX-A: ${"a".repeat(20_000)}\r\n\r\n`,
  };
  const before = runs;
  for (const [name, bytes] of Object.entries(cases)) {
    const reply = await raw(port, bytes);
    assert.ok(!/^HTTP\/1\.1 2/m.test(reply), `${name}: ${reply.slice(0, 100)}`);
  }
  assert.equal(runs, before);
});

test("a pipelined second request closes the connection", async () => {
  const port = await start(null);
  const reply = await raw(
    port,
    "GET /v1/hang HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n",
  );
  assert.equal(reply, "");
});

test("a body that stops coming ends the connection by progress, not by total time", async () => {
  const port = await start(null, { bodySilenceMs: 50 });
  const reply = await raw(port, "POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nab");
  assert.ok(!reply.includes("200"));
});

test("a peer that goes away aborts its request", async () => {
  const port = await start(null);
  const gone = new Promise<void>((resolve) => {
    aborted = resolve;
  });
  const outgoing = plainRequest({ host: "127.0.0.1", port, path: "/v1/hang" });
  outgoing.on("error", () => {});
  outgoing.end();
  await once(outgoing, "socket");
  outgoing.on("finish", () => setImmediate(() => outgoing.destroy()));
  await gone;
});

test("mutual TLS: the certificate names the site; none, or one of another CA, gets nothing", async () => {
  const { readFileSync } = await import("node:fs");
  const port = await start(tls);
  const client = (files: TlsFiles) => ({
    port,
    path: "/v1/status",
    ca: readFileSync(tls.ca),
    cert: readFileSync(files.cert),
    key: readFileSync(files.key),
  });
  const reply = await send(client(tls));
  assert.deepEqual(JSON.parse(reply.text).sites, ["primary"]);
  await assert.rejects(send(client(foreign)));
  await assert.rejects(send({ port, path: "/v1/status", ca: readFileSync(tls.ca) }));
});

test("a Unix socket is private, a stale file is replaced, a live one and any other file are left alone", async () => {
  const path = join(directory, "admin.sock");
  const listen: Address = { kind: "unix", path };
  const make = (): HttpServer =>
    createHttpServer({ listen, tls: null, routes, log: silentLog, clock: systemClock });
  const first = make();
  servers.push(first);
  await first.listen();
  assert.equal(statSync(path).mode & 0o777, 0o600);
  await assert.rejects(make().listen(), { code: "ADDRESS_IN_USE" });
  assert.equal((await send({ socketPath: path, path: "/v1/status" })).status, 200);

  const { spawnSync } = await import("node:child_process");
  const stale = join(directory, "stale.sock");
  spawnSync(process.execPath, [
    "-e",
    `require("net").createServer().listen(${JSON.stringify(stale)}, () => process.kill(process.pid, "SIGKILL"))`,
  ]);
  assert.ok(existsSync(stale));
  const second = createHttpServer({
    listen: { kind: "unix", path: stale },
    tls: null,
    routes,
    log: silentLog,
    clock: systemClock,
  });
  servers.push(second);
  await second.listen();
  assert.equal((await send({ socketPath: stale, path: "/v1/status" })).status, 200);

  const file = join(directory, "not-a-socket");
  writeFileSync(file, "data");
  const third = createHttpServer({
    listen: { kind: "unix", path: file },
    tls: null,
    routes,
    log: silentLog,
    clock: systemClock,
  });
  await assert.rejects(third.listen(), { code: "ADDRESS_IN_USE" });
  assert.ok(existsSync(file));
});

test("closing lets a request under way end, and aborts it when the grace is over", async () => {
  const listen: Address = { kind: "tcp", host: "127.0.0.1", port: 0 };
  const server = createHttpServer({ listen, tls: null, routes, log: silentLog, clock: systemClock });
  const bound = await server.listen();
  const port = bound.kind === "tcp" ? bound.port : 0;
  const hanging = send({ port, path: "/v1/hang" });
  hanging.catch(() => {});
  const gone = new Promise<void>((resolve) => {
    aborted = resolve;
  });
  assert.equal((await send({ port, path: "/v1/status" })).status, 200);
  await server.close(50);
  await gone;
  await assert.rejects(hanging);
});
