/** The HTTP client against Node's own servers: identity, limits, early answers, lines, and the translation of failures. */
import { strict as assert } from "node:assert";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import type { RequestListener, Server } from "node:http";
import { createServer as createPlainServer } from "node:http";
import { createServer } from "node:https";
import type { AddressInfo } from "node:net";
import { createServer as createTcpServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { after, before, test } from "node:test";
import type { ClientTls, HttpClient } from "../../runtime/http-client.ts";
import { createHttpClient } from "../../runtime/http-client.ts";
import { sitesInAltNames } from "../../runtime/peer-identity.ts";
import type { TlsFiles } from "../../runtime/settings/types.ts";
import { testCa } from "../gateway/certificates.ts";

let directory: string;
let primary: TlsFiles;
let dr: TlsFiles;
let foreign: TlsFiles;

before(async () => {
  directory = await mkdtemp(join(tmpdir(), "splitsite-http-"));
  const ca = await testCa();
  primary = await ca.issue(directory, "primary", ["primary"]);
  dr = await ca.issue(directory, "dr", ["dr"]);
  foreign = await (await testCa()).issue(directory, "foreign", ["dr"]);
});
after(() => rm(directory, { recursive: true, force: true }));

function pem(files: TlsFiles, serverSite?: string): ClientTls {
  const tls = { ca: readFileSync(files.ca), cert: readFileSync(files.cert), key: readFileSync(files.key) };
  return serverSite === undefined ? tls : { ...tls, serverSite };
}

async function serve(t: TestContext, files: TlsFiles, listener: RequestListener): Promise<string> {
  const { ca, cert, key } = pem(files);
  const server = createServer({ ca, cert, key, requestCert: true, rejectUnauthorized: true }, listener);
  await listen(t, server);
  return `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

async function listen(t: TestContext, server: Server, path?: string): Promise<void> {
  server.listen(path === undefined ? { port: 0, host: "127.0.0.1" } : { path });
  await once(server, "listening");
  t.after(async () => {
    server.closeAllConnections();
    server.close();
    await once(server, "close");
  });
}

function client(t: TestContext, options: Parameters<typeof createHttpClient>[0]): HttpClient {
  const made = createHttpClient(options);
  t.after(() => made.destroy());
  return made;
}

const get = { method: "GET", path: "/x", headersTimeoutMs: 5_000, answerBytesMax: 1_000 } as const;

test("an answer, whatever its status, with mutual TLS and the expected site", async (t) => {
  const origin = await serve(t, dr, (request, response) => {
    response.statusCode = 418;
    request.pipe(response);
  });
  const http = client(t, { origin, connections: 2, tls: pem(primary, "dr") });
  const reply = await http.request({ ...get, method: "POST", body: Buffer.from("hello") });
  assert.equal(reply.status, 418);
  assert.equal(Buffer.from(reply.body).toString(), "hello");
});

test("another site of the same CA, and the right name of another CA, are PEER_CERTIFICATE", async (t) => {
  const origin = await serve(t, primary, (_request, response) => response.end());
  await assert.rejects(client(t, { origin, connections: 1, tls: pem(primary, "dr") }).request(get), {
    code: "PEER_CERTIFICATE",
  });
  const other = await serve(t, foreign, (_request, response) => response.end());
  await assert.rejects(client(t, { origin: other, connections: 1, tls: pem(primary, "dr") }).request(get), {
    code: "PEER_CERTIFICATE",
  });
});

test("a client certificate that the server does not take fails as a code, never as success (U6)", async (t) => {
  const origin = await serve(t, dr, (_request, response) => response.end("secret"));
  const { cert, key } = pem(foreign);
  const tls = { ...pem(primary, "dr"), cert, key };
  await assert.rejects(client(t, { origin, connections: 1, tls }).request(get), (error: { code?: string }) =>
    ["PEER_CLOSED", "PEER_CERTIFICATE"].includes(error.code ?? ""),
  );
});

test("nobody there, a peer that closes, a peer that never answers, a caller that gives up", async (t) => {
  const closed = createTcpServer();
  closed.listen(0, "127.0.0.1");
  await once(closed, "listening");
  const { port } = closed.address() as AddressInfo;
  closed.close();
  await once(closed, "close");
  await assert.rejects(client(t, { origin: `http://127.0.0.1:${port}`, connections: 1 }).request(get), {
    code: "PEER_UNREACHABLE",
  });
  const server = createPlainServer((request) => {
    if (request.url === "/close") request.socket.destroy();
  });
  await listen(t, server);
  const http = client(t, {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    connections: 2,
  });
  await assert.rejects(http.request({ ...get, path: "/close" }), { code: "PEER_CLOSED" });
  await assert.rejects(http.request({ ...get, headersTimeoutMs: 200 }), { code: "PEER_TIMEOUT" });
  const abort = new AbortController();
  const waiting = http.request({ ...get, signal: abort.signal });
  abort.abort();
  await assert.rejects(waiting, { code: "REQUEST_ABORTED" });
});

test("answers beyond the limit are refused", async (t) => {
  const server = createPlainServer((_request, response) => response.end(Buffer.alloc(1_001)));
  await listen(t, server);
  const http = client(t, {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    connections: 1,
  });
  await assert.rejects(http.request(get), { code: "ANSWER_TOO_LARGE" });
});

test("an early answer arrives while the body still waits, and the body is not pulled further (U7)", async (t) => {
  const server = createPlainServer((_request, response) => {
    response.setHeader("connection", "close");
    response.end("enough");
  });
  await listen(t, server);
  const http = client(t, {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    connections: 1,
  });
  const abort = new AbortController();
  let ended = false;
  async function* body() {
    try {
      yield Buffer.alloc(1_000);
      await once(abort.signal, "abort");
    } finally {
      ended = true;
    }
  }
  const reply = await http.request({ ...get, method: "POST", body: body(), contentLength: 1_000_000 });
  assert.equal(Buffer.from(reply.body).toString(), "enough");
  abort.abort();
  await new Promise((resolve) => setImmediate(resolve));
  assert.ok(ended);
});

test("a long body in pieces, one connection per request at most (U4)", async (t) => {
  let connections = 0;
  const origin = await serve(t, dr, (request, response) => {
    let bytes = 0;
    request.on("data", (part: Buffer) => {
      bytes += part.byteLength;
    });
    request.on("end", () => response.end(String(bytes)));
    request.socket.setMaxListeners(50);
    request.socket.once("newRequest", () => undefined);
    connections = Math.max(connections, request.socket.listenerCount("newRequest"));
  });
  const http = client(t, { origin, connections: 2, tls: pem(primary, "dr") });
  async function* body() {
    for (let part = 0; part < 20; part += 1) yield Buffer.alloc(50_000);
  }
  const replies = await Promise.all(
    Array.from({ length: 8 }, () =>
      http.request({ ...get, method: "POST", body: body(), contentLength: 1_000_000 }),
    ),
  );
  for (const reply of replies) assert.equal(Buffer.from(reply.body).toString(), "1000000");
  assert.ok(connections >= 2, "connections are reused");
});

test("lines come one by one over a Unix socket, and a long one is refused", async (t) => {
  const server = createPlainServer((request, response) => {
    if (request.url === "/long") response.end(`${"x".repeat(200)}\n`);
    else if (request.url === "/bad") response.end("{]\n");
    else {
      response.write('{"a":1}\n{"b"');
      setImmediate(() => response.end(':2}\n\n{"c":3}'));
    }
  });
  const socketPath = join(directory, "admin.sock");
  await listen(t, server, socketPath);
  const http = client(t, { socketPath, connections: 1 });
  const request = {
    method: "GET",
    path: "/",
    headersTimeoutMs: 5_000,
    lineBytesMax: 100,
    idleTimeoutMs: 0,
  } as const;
  const answer = await http.lines(request);
  const lines: unknown[] = [];
  for await (const line of answer.lines) lines.push(line);
  assert.deepEqual(lines, [{ a: 1 }, { b: 2 }, { c: 3 }]);
  const all = async (path: string) => {
    for await (const line of (await http.lines({ ...request, path })).lines) assert.ok(line);
  };
  await assert.rejects(all("/long"), { code: "ANSWER_TOO_LARGE" });
  await assert.rejects(all("/bad"), { code: "HTTP_MALFORMED" });
});

test("a crafted name cannot imitate a second entry", () => {
  assert.deepEqual(sitesInAltNames("DNS:x, URI:splitsite:site:dr, IP Address:127.0.0.1"), ["dr"]);
  assert.deepEqual(sitesInAltNames('URI:"x, URI:splitsite:site:dr, y", DNS:z'), []);
  assert.deepEqual(sitesInAltNames(undefined), []);
});
