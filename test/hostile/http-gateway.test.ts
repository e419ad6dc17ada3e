/**
 * A gateway gone bad against our HTTP client: whatever it answers, the request ends with a code within the caller's own
 * deadline, memory stays under the bound of an answer, and nothing it adds is taken for the answer to a later request.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type Socket } from "node:net";
import { describe, type TestContext, test } from "node:test";
import { gzipSync } from "node:zlib";
import { errorCode } from "../../runtime/errors.ts";
import { createHttpClient, type HttpClient } from "../../runtime/http-client.ts";

const mebibyte = 1024 * 1024;
const request = {
  method: "GET",
  path: "/v1/groups/erp",
  headersTimeoutMs: 0,
  answerBytesMax: 65_536,
} as const;

/** A server that does `answer` with each connection once a request head has come, and a client of it. */
async function against(
  t: TestContext,
  answer: (socket: Socket, index: number) => void,
): Promise<{ client: HttpClient; sent: () => number }> {
  let index = 0;
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => undefined);
    socket.on("data", () => answer(socket, index++));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const bound = server.address();
  assert.ok(bound !== null && typeof bound === "object");
  const client = createHttpClient({ origin: `http://127.0.0.1:${bound.port}`, connections: 1 });
  t.after(async () => {
    await client.destroy();
    for (const socket of sockets) socket.destroy();
    server.close();
    await once(server, "close");
  });
  return {
    client,
    sent: () => [...sockets].reduce((sum, socket) => sum + socket.bytesWritten, 0),
  };
}

/** Writes the same again and again as the other end takes it. */
function pour(socket: Socket, piece: Buffer): void {
  while (!socket.destroyed && socket.write(piece));
  if (!socket.destroyed) socket.once("drain", () => pour(socket, piece));
}

/** One piece at a time, for ever. */
function drip(socket: Socket, text: string): void {
  let at = 0;
  const timer = setInterval(() => {
    socket.write(text[at % text.length] ?? "");
    at += 1;
  }, 20);
  socket.once("close", () => clearInterval(timer));
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return "answered";
  } catch (error) {
    return errorCode(error);
  }
}

const ok = "HTTP/1.1 200 OK\r\n";

describe("a hostile gateway", () => {
  const endless: Readonly<Record<string, { head: string; piece: string; codes: readonly string[] }>> = {
    "one endless header": { head: `${ok}X-A: `, piece: "a".repeat(65_536), codes: ["HTTP_MALFORMED"] },
    "endless headers": { head: ok, piece: `X-A: ${"a".repeat(1_000)}\r\n`, codes: ["HTTP_MALFORMED"] },
    "an endless chunked body": {
      head: `${ok}Transfer-Encoding: chunked\r\n\r\n`,
      piece: `10000\r\n${"a".repeat(65_536)}\r\n`,
      codes: ["ANSWER_TOO_LARGE"],
    },
    "a body of declared petabytes": {
      head: `${ok}Content-Length: 1000000000000000\r\n\r\n`,
      piece: "a".repeat(65_536),
      codes: ["ANSWER_TOO_LARGE"],
    },
    "a body without length or end": {
      head: `${ok}\r\n`,
      piece: "a".repeat(65_536),
      codes: ["ANSWER_TOO_LARGE"],
    },
  };
  for (const [name, { head, piece, codes }] of Object.entries(endless)) {
    test(`HTTP ${name} is refused early`, async (t) => {
      const { client, sent } = await against(t, (socket) => {
        socket.write(head);
        pour(socket, Buffer.from(piece));
      });
      const signal = AbortSignal.timeout(20_000);
      const code = await codeOf(client.request({ ...request, signal }));
      assert.ok(codes.includes(code), code);
      assert.ok(sent() < 32 * mebibyte, `${sent()} bytes were taken`);
    });
  }

  const slow: Readonly<Record<string, { head: string; text: string }>> = {
    "a head byte by byte": { head: "", text: `${ok}${"X-A: b\r\n".repeat(1_000)}` },
    "a body byte by byte": { head: `${ok}Content-Length: 60000\r\n\r\n`, text: "a" },
    "interim answers without end": { head: "", text: "HTTP/1.1 103 Early Hints\r\n\r\n" },
    nothing: { head: "", text: "" },
  };
  for (const [name, { head, text }] of Object.entries(slow)) {
    test(`HTTP ${name} ends with the caller's deadline`, async (t) => {
      const { client } = await against(t, (socket) => {
        socket.write(head);
        drip(socket, text);
      });
      const signal = AbortSignal.timeout(500);
      assert.equal(await codeOf(client.request({ ...request, signal })), "REQUEST_ABORTED");
    });
  }

  test("HTTP a flood of interim answers is refused or ends with the deadline", async (t) => {
    for (const status of ["100 Continue", "103 Early Hints", "102 Processing"]) {
      const { client } = await against(t, (socket) =>
        pour(socket, Buffer.from(`HTTP/1.1 ${status}\r\n\r\n`.repeat(100))),
      );
      const code = await codeOf(client.request({ ...request, signal: AbortSignal.timeout(500) }));
      assert.ok(["REQUEST_ABORTED", "PEER_CLOSED", "HTTP_MALFORMED"].includes(code), `${status}: ${code}`);
    }
  });

  test("HTTP an endless status line takes no memory, and ends with the deadline", async (t) => {
    const { client, sent } = await against(t, (socket) => {
      socket.write("HTTP/1.1 200 ");
      pour(socket, Buffer.alloc(65_536, "a"));
    });
    const before = process.memoryUsage().rss;
    const code = await codeOf(client.request({ ...request, signal: AbortSignal.timeout(1_000) }));
    assert.equal(code, "REQUEST_ABORTED");
    assert.ok(sent() > mebibyte);
    const grown = process.memoryUsage().rss - before;
    assert.ok(grown < 128 * mebibyte, `grew by ${grown} bytes for ${sent()} sent`);
  });

  test("HTTP a redirect is an answer like any other, and is not followed", async (t) => {
    let requests = 0;
    const { client } = await against(t, (socket) => {
      requests += 1;
      socket.write("HTTP/1.1 307 Temporary Redirect\r\nLocation: /v1/elsewhere\r\nContent-Length: 0\r\n\r\n");
    });
    const reply = await client.request(request);
    assert.equal(reply.status, 307);
    assert.equal(requests, 1);
  });

  test("HTTP a packed bomb stays packed", async (t) => {
    const bomb = gzipSync(Buffer.alloc(32 * mebibyte));
    assert.ok(bomb.length < 65_536);
    const { client } = await against(t, (socket) => {
      const encoding = "gzip, ".repeat(100).slice(0, -2);
      socket.write(`${ok}Content-Encoding: ${encoding}\r\nContent-Length: ${bomb.length}\r\n\r\n`);
      socket.write(bomb);
    });
    assert.equal((await client.request(request)).body.byteLength, bomb.length);
  });

  const malformed: Readonly<Record<string, string>> = {
    "two lengths": `${ok}Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc`,
    "length and chunked": `${ok}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n`,
    "no HTTP at all": "SSH-2.0-OpenSSH_9.2\r\n",
    "a chunk size beyond 64 bits": `${ok}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\na`,
    "another protocol":
      "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "an end inside the head": "HTTP/1.1 200 O",
    "an end inside the body": `${ok}Content-Length: 100\r\n\r\nabc`,
  };
  for (const [name, bytes] of Object.entries(malformed)) {
    test(`HTTP ${name} is a code, never an answer`, async (t) => {
      const { client } = await against(t, (socket) => socket.end(bytes));
      const code = await codeOf(client.request({ ...request, signal: AbortSignal.timeout(5_000) }));
      assert.ok(["HTTP_MALFORMED", "PEER_CLOSED"].includes(code), code);
    });
  }

  test("HTTP an answer nobody asked for is never taken for the next request's", async (t) => {
    const { client } = await against(t, (socket, index) => {
      const body = index === 0 ? "first" : "later";
      const answer = `${ok}Content-Length: 5\r\n\r\n${body}`;
      socket.write(index === 0 ? `${answer}${ok}Content-Length: 5\r\n\r\nfalse` : answer);
    });
    assert.equal(Buffer.from((await client.request(request)).body).toString(), "first");
    for (let round = 0; round < 5; round += 1) {
      const next = await client.request(request).then(
        ({ body }) => Buffer.from(body).toString(),
        (error: unknown) => errorCode(error),
      );
      assert.ok(next === "later" || next === "PEER_CLOSED" || next === "HTTP_MALFORMED", next);
    }
  });
});
