/**
 * The gateway's port on the line under bytes that no client of ours sends, from a peer with the right certificate: each
 * is refused or ends the connection, and a request smuggled behind it is never interpreted. The smuggled one would make
 * the group known here, so its effect could not be missed.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { after, before, beforeEach, describe, test } from "node:test";
import { wanRoutes } from "../../protocol/control.ts";
import { systemClock } from "../../runtime/clock.ts";
import { createHttpServer, type HttpServer } from "../../runtime/http-server.ts";
import { silentLog } from "../../runtime/log.ts";
import { Source, StandbySite } from "../gateway/standby-site.ts";
import { RawHttpPeer, statusesIn } from "./http-peer.ts";

let site: StandbySite;
let identity: { ca: Buffer; cert: Buffer; key: Buffer };
const source = new Source(1);

before(async () => {
  site = await StandbySite.make();
  const files = site.tls["primary"]!;
  identity = { ca: readFileSync(files.ca), cert: readFileSync(files.cert), key: readFileSync(files.key) };
  await site.start();
});
after(() => site?.remove());
beforeEach(() => assert.equal(site.role!.knows("erp").known, false));

async function peer(): Promise<RawHttpPeer> {
  const made = await RawHttpPeer.connect(site.port, identity);
  assert.ok(made !== undefined);
  return made;
}

const hello = JSON.stringify(source.hello());
const target = wanRoutes.hello("erp");
/** A request that would succeed, to be hidden behind others. */
const legal = (path: string): string =>
  `POST ${path} HTTP/1.1\r\nHost: dr\r\nContent-Length: ${hello.length}\r\n\r\n${hello}`;
const smuggled = legal(target);
const post = (...headers: string[]): string =>
  [`POST ${target} HTTP/1.1`, "Host: dr", ...headers, "", ""].join("\r\n");
const get = `GET ${wanRoutes.group("erp")} HTTP/1.1\r\nHost: dr\r\n`;
const chunk = (text: string): string => `${text.length.toString(16)}\r\n${text}\r\n`;

const casesWith = (smuggled: string): Readonly<Record<string, string>> => ({
  "CL and TE": `${post(`Content-Length: ${5}`, "Transfer-Encoding: chunked")}0\r\n\r\n${smuggled}`,
  "TE and CL": `${post("Transfer-Encoding: chunked", "Content-Length: 5")}0\r\n\r\n${smuggled}`,
  "TE and TE": `${post("Transfer-Encoding: gzip", "Transfer-Encoding: chunked")}0\r\n\r\n${smuggled}`,
  "TE that is not chunked": `${post("Transfer-Encoding: gzip")}0\r\n\r\n${smuggled}`,
  "TE chunked twice": `${post("Transfer-Encoding: chunked, chunked")}0\r\n\r\n${smuggled}`,
  "TE chunked before the last": `${post("Transfer-Encoding: chunked, identity")}0\r\n\r\n${smuggled}`,
  "TE misspelt": `${post("Transfer-Encoding: xchunked")}0\r\n\r\n${smuggled}`,
  "space before the colon": `${post("Transfer-Encoding : chunked")}0\r\n\r\n${smuggled}`,
  "CL twice, equal": `${post("Content-Length: 1", "Content-Length: 1")}a${smuggled}`,
  "CL twice, different": `${post("Content-Length: 1", "Content-Length: 2")}ab${smuggled}`,
  "CL as a list": `${post("Content-Length: 1, 1")}a${smuggled}`,
  "CL with a sign": `${post("Content-Length: +1")}a${smuggled}`,
  "CL negative": `${post("Content-Length: -1")}${smuggled}`,
  "CL in hex": `${post("Content-Length: 0x1")}a${smuggled}`,
  "CL beyond all numbers": `${post("Content-Length: 99999999999999999999999")}a${smuggled}`,
  "bare LF": smuggled.replaceAll("\r\n", "\n"),
  "bare LF in the head": `POST ${target} HTTP/1.1\r\nHost: dr\nContent-Length: 1\r\n\r\na${smuggled}`,
  "bare CR": `POST ${target} HTTP/1.1\rHost: dr\rContent-Length: 1\r\ra${smuggled}`,
  "obs-fold": `${post("X-A: b\r\n\tTransfer-Encoding: chunked", "Content-Length: 1, 2")}a${smuggled}`,
  "NUL in a header": `${post("X-A: a\0b", "Content-Length: 1")}a${smuggled}`,
  "chunk extension flood": `${post("Transfer-Encoding: chunked")}1;${"a".repeat(40_000)}\r\nx\r\n0\r\n\r\n${smuggled}`,
  "chunk size beyond 64 bits": `${post("Transfer-Encoding: chunked")}fffffffffffffffff\r\nx\r\n0\r\n\r\n${smuggled}`,
  "chunk size with a sign": `${post("Transfer-Encoding: chunked")}-1\r\nx\r\n0\r\n\r\n${smuggled}`,
  "chunk ended by LF": `${post("Transfer-Encoding: chunked")}1\nx\n0\n\n${smuggled}`,
  "trailer flood": `${post("Transfer-Encoding: chunked")}${chunk("{}")}0\r\n${`X-A: ${"b".repeat(1_000)}\r\n`.repeat(60)}\r\n${smuggled}`,
  "chunked body without end": `${post("Transfer-Encoding: chunked")}${chunk("x".repeat(10_000)).repeat(20)}`,
  "expect 100-continue": `${post("Expect: 100-continue", "Content-Length: 1")}a${smuggled}`,
  "expect something else": `${post("Expect: everything", "Content-Length: 1")}a${smuggled}`,
  "absolute URI": `GET http://dr${wanRoutes.group("erp")} HTTP/1.1\r\nHost: dr\r\nConnection: close\r\n\r\n${smuggled}`,
  asterisk: `OPTIONS * HTTP/1.1\r\nHost: dr\r\nConnection: close\r\n\r\n${smuggled}`,
  "HTTP/2 preface": `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0${smuggled}`,
  "upgrade to h2c": `${get}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n${smuggled}`,
  "upgrade to websocket": `${get}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n${smuggled}`,
  CONNECT: `CONNECT dr:443 HTTP/1.1\r\nHost: dr:443\r\n\r\n${smuggled}`,
  TRACE: `TRACE ${wanRoutes.group("erp")} HTTP/1.1\r\nHost: dr\r\nConnection: close\r\n\r\n${smuggled}`,
  "HTTP/1.0": `GET ${wanRoutes.group("erp")} HTTP/1.0\r\n\r\n${smuggled}`,
  "HTTP/0.9": `GET ${wanRoutes.group("erp")}\r\n\r\n${smuggled}`,
  "no host": `GET ${wanRoutes.group("erp")} HTTP/1.1\r\n\r\n${smuggled}`,
  "content encoding": `${post("Content-Encoding: gzip", "Connection: close", "Content-Length: 1")}a${smuggled}`,
  "head of 20,000 bytes": `${get}X-A: ${"a".repeat(20_000)}\r\n\r\n${smuggled}`,
  "head of 5,000 headers": `${get}${"A: b\r\n".repeat(5_000)}\r\n${smuggled}`,
  "target of 20,000 bytes": `GET /${"a".repeat(20_000)} HTTP/1.1\r\nHost: dr\r\n\r\n${smuggled}`,
  "declared length beyond the bound": `${post("Content-Length: 1000000")}{`,
  "bytes before the request": `\x16\x03\x01${smuggled}`,
});
const cases = casesWith(smuggled);

describe("bytes at the server below it", () => {
  // The same server with routes that only count: here a smuggled request shows at once, however soon the socket closes.
  let runs = 0;
  let server: HttpServer;
  let port = 0;
  const trap = wanRoutes.heartbeat("erp");

  before(async () => {
    server = createHttpServer({
      listen: { kind: "tcp", host: "127.0.0.1", port: 0 },
      tls: site.tls["dr"]!,
      routes: [
        { method: "GET", pattern: wanRoutes.group(":group"), run: async () => ({ status: 200, json: {} }) },
        {
          method: "POST",
          pattern: wanRoutes.hello(":group"),
          run: async (request) => ({ status: 400, json: (await request.body(65_536)).byteLength }),
        },
        {
          method: "POST",
          pattern: wanRoutes.heartbeat(":group"),
          run: async () => {
            runs += 1;
            return { status: 400, json: {} };
          },
        },
      ],
      // A peer that is refused and does not close is let go sooner than in production.
      limits: { earlyLingerMs: 100 },
      log: silentLog,
      clock: systemClock,
    });
    const bound = await server.listen();
    port = bound.kind === "tcp" ? bound.port : 0;
  });
  after(() => server.close(0));

  test("HTTP the trap works", async () => {
    const made = await RawHttpPeer.connect(port, identity);
    made?.socket.end(legal(trap));
    await made?.closed;
    assert.equal(runs, 1);
    runs = 0;
  });

  for (const [name, bytes] of Object.entries(casesWith(legal(trap)))) {
    // These are the request itself, ill-formed; nothing is behind them.
    if (name === "bare LF" || name === "bytes before the request") continue;
    test(`HTTP ${name}: what is behind it never reaches a route`, async () => {
      runs = 0;
      const made = await RawHttpPeer.connect(port, identity);
      // In one piece, and with the smuggled request as a piece of its own.
      await made?.exchange(bytes);
      assert.equal(runs, 0);
      const other = await RawHttpPeer.connect(port, identity);
      const at = bytes.lastIndexOf("POST ");
      other?.socket.write(Buffer.from(bytes.slice(0, at), "latin1"));
      await new Promise((resolve) => setImmediate(resolve));
      await other?.exchange(bytes.slice(at));
      assert.equal(runs, 0, "in two pieces");
    });
  }
});

describe("bytes at the line's port", { concurrency: 8 }, () => {
  for (const [name, bytes] of Object.entries(cases)) {
    test(`HTTP ${name}: refused or cut, nothing smuggled`, async () => {
      const reply = await (await peer()).exchange(bytes);
      const statuses = statusesIn(reply);
      assert.ok(statuses.length <= 1, `${statuses.length} answers: ${reply.slice(0, 500)}`);
      for (const status of statuses) assert.ok(status >= 400, `answered ${status}`);
      assert.equal(site.role!.knows("erp").known, false, "the smuggled request was interpreted");
    });
  }

  test("HTTP the same bytes cut in two at any place are no more convincing", async () => {
    for (const name of ["CL and TE", "TE and TE", "CL twice, different", "chunk ended by LF", "bare LF"]) {
      const bytes = cases[name]!;
      for (let at = 40; at < Math.min(bytes.length, 140); at += 12) {
        const made = await peer();
        made.socket.write(bytes.slice(0, at));
        await new Promise((resolve) => setImmediate(resolve));
        const reply = await made.exchange(bytes.slice(at));
        for (const status of statusesIn(reply)) assert.ok(status >= 400, `${name} cut at ${at}: ${status}`);
        assert.equal(site.role!.knows("erp").known, false, `${name} cut at ${at}`);
      }
    }
  });

  test("HTTP two requests at once: at most the first is looked at", async () => {
    const reply = await (await peer()).exchange(`${get}\r\n${smuggled}`);
    assert.ok(statusesIn(reply).length <= 1);
    assert.equal(site.role!.knows("erp").known, false);
  });

  test("HTTP/2 is not negotiated", async () => {
    const made = await RawHttpPeer.connect(site.port, identity, { ALPNProtocols: ["h2", "http/1.1"] });
    assert.notEqual(made?.socket.alpnProtocol, "h2");
    made?.destroy();
  });

  test("HTTP names are looked up, never joined to a path", async () => {
    const names = [
      "..",
      "%2e%2e",
      "erp%00",
      "ERP",
      "erp.",
      "a/../erp",
      "__proto__",
      "constructor",
      "x".repeat(5000),
    ];
    for (const name of names) {
      const reply = await (await peer()).exchange(
        `GET /v1/groups/${name} HTTP/1.1\r\nHost: dr\r\nConnection: close\r\n\r\n`,
      );
      const [status] = statusesIn(reply);
      assert.ok(status === 404 || status === 403 || status === 400, `${name}: ${reply.slice(0, 100)}`);
    }
  });

  test("HTTP heads that drip, bodies that stop, and idle sockets end by the deadline; others are answered", async () => {
    const slow: RawHttpPeer[] = [];
    const timers: NodeJS.Timeout[] = [];
    for (let index = 0; index < 40; index += 1) {
      const made = await peer();
      slow.push(made);
      if (index % 2 === 0) continue;
      let at = 0;
      const head = `${get}X-Drip: ${"a".repeat(1_000)}`;
      timers.push(
        setInterval(() => {
          made.socket.write(head.slice(at, at + 1));
          at += 1;
        }, 500),
      );
    }
    let over = false;
    const all = Promise.all(slow.map((made) => made.closed)).then(() => {
      over = true;
    });
    let answered = 0;
    while (!over) {
      const { status } = await site.send(wanRoutes.group("erp"), undefined);
      assert.equal(status, 200);
      answered += 1;
      await Promise.race([all, new Promise((resolve) => setTimeout(resolve, 100))]);
    }
    for (const timer of timers) clearInterval(timer);
    assert.ok(answered >= 20);
    for (const made of slow) for (const status of statusesIn(made.received)) assert.equal(status, 408);
  });

  test("HTTP a crowd without certificates takes no place from a peer that has one", async () => {
    const crowd: Socket[] = [];
    for (let index = 0; index < 400; index += 1) {
      const socket = connect({ host: "127.0.0.1", port: site.port });
      socket.on("error", () => undefined);
      socket.resume();
      await once(socket, "connect");
      crowd.push(socket);
    }
    for (let index = 0; index < 20; index += 1) {
      const made = await peer();
      const reply = await made.exchange(`${get}Connection: close\r\n\r\n`);
      assert.deepEqual(statusesIn(reply), [200]);
    }
    for (const socket of crowd) socket.destroy();
  });
});

describe("the line's port after all of it", () => {
  test("HTTP the legal request is served", async () => {
    const { status, json } = await site.hello(source);
    assert.equal(status, 200);
    assert.equal(json.kind, "attached");
  });
});
