/**
 * H28: a client may leave after any byte of a whole session, politely or not, with or without TLS, and the server
 * neither falls nor forgets anything. 200 cut points, FIN and RST, plain and TLS: 800 sessions.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { describe, test } from "node:test";
import type { Address } from "../../runtime/settings/types.ts";
import * as wire from "../protocol/nbd/wire.ts";
import { CMD, REP } from "../protocol/nbd/wire.ts";
import { type TestIdentity, testAuthority } from "../support/certificates.ts";
import { mebibyte, memoryExport, RawClient, type Rig, startRig } from "./nbd-rig.ts";

const cutPoints = 200;
/** Sessions at once; below the server's bound of negotiating connections from one address. */
const atOnce = 6;

type Leave = "fin" | "rst";

/** A relay that passes a number of bytes from the client on, then ends its side towards the server. */
async function cutAfter(
  target: Address,
  bytes: number,
  leave: Leave,
): Promise<{ address: Address; seen: () => number; done: Promise<void> }> {
  assert.ok(target.kind === "tcp");
  let passed = 0;
  let finished: () => void = () => undefined;
  const done = new Promise<void>((resolve) => {
    finished = resolve;
  });
  const relay = createServer((client: Socket) => {
    const server = connect({ host: target.host, port: target.port, noDelay: true });
    const quiet = (): void => undefined;
    client.on("error", quiet);
    server.on("error", quiet);
    server.on("data", (chunk: Buffer) => client.write(chunk));
    server.on("close", () => {
      client.destroy();
      relay.close();
      finished();
    });
    client.on("data", (chunk: Buffer) => {
      const part = chunk.subarray(0, Math.max(0, bytes - passed));
      passed += part.length;
      if (part.length > 0) server.write(part);
      if (passed < bytes) return;
      if (leave === "fin") {
        server.end();
        server.resume();
      } else {
        server.resetAndDestroy();
      }
    });
    client.on("close", () => server.destroy());
  });
  relay.listen(0, "127.0.0.1");
  await once(relay, "listening");
  const bound = relay.address();
  assert.ok(bound !== null && typeof bound === "object");
  return { address: { kind: "tcp", host: "127.0.0.1", port: bound.port }, seen: () => passed, done };
}

/** The whole session: handshake, one WRITE, one READ, DISC. Ends early without complaint when the connection does. */
async function fullSession(client: RawClient, identity: TestIdentity | null): Promise<boolean> {
  if (identity !== null) {
    if (!(await client.startTls(identity))) return false;
  } else {
    await client.greet();
  }
  if ((await client.go("vol", { greeted: true, meta: true })) !== REP.ACK) return false;
  const write = await client.request({ command: CMD.WRITE, offset: 0, data: Buffer.alloc(512, 1) });
  const read = await client.request({ command: CMD.READ, offset: 0, length: 512 });
  client.send(wire.request({ command: CMD.DISC }));
  await client.end();
  return write?.error === 0 && read?.error === 0;
}

async function cutEverywhere(rig: Rig, identity: TestIdentity | null): Promise<number> {
  // One whole session tells how many bytes there are to cut at.
  const whole = await cutAfter(rig.address, Number.MAX_SAFE_INTEGER, "fin");
  const complete = await RawClient.connect(whole.address);
  assert.equal(await fullSession(complete, identity), true);
  complete.destroy();
  await whole.done;
  const total = whole.seen();

  let sessions = 0;
  const cuts: { bytes: number; leave: Leave }[] = [];
  for (let index = 0; index < cutPoints; index += 1) {
    const bytes = Math.max(1, Math.round(((index + 1) * total) / cutPoints));
    cuts.push({ bytes, leave: "fin" }, { bytes, leave: "rst" });
  }
  const worker = async (): Promise<void> => {
    for (let cut = cuts.shift(); cut !== undefined; cut = cuts.shift()) {
      const relay = await cutAfter(rig.address, cut.bytes, cut.leave);
      const client = await RawClient.connect(relay.address);
      await fullSession(client, identity);
      client.destroy();
      await relay.done;
      sessions += 1;
    }
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
  return sessions;
}

describe("H28 disconnects at every stage", () => {
  for (const secure of [false, true]) {
    test(`H28 ${secure ? "TLS" : "plain"}: ${cutPoints} cut points, FIN and RST`, async () => {
      const authority = await testAuthority();
      const server = await authority.issue({ commonName: "server" });
      const identity = secure ? await authority.issue({ commonName: "host-a" }) : null;
      const rig = await startRig(
        { vol: memoryExport(mebibyte) },
        secure
          ? { tls: { ca: authority.ca, cert: server.cert, key: server.key, requireClientCertificate: true } }
          : {},
      );
      try {
        assert.equal(await cutEverywhere(rig, identity), cutPoints * 2);
        await rig.drained();
        assert.equal(rig.catalog.opened, rig.catalog.closed);
        assert.ok(rig.catalog.opened > 10, "some sessions got as far as requests");
        assert.equal(rig.server.stats.requestMemoryBytes, 0);
        assert.equal(rig.server.stats.negotiating, 0);
        const fresh = await rig.connect();
        assert.equal(await fullSession(fresh, identity), true);
        fresh.destroy();
        await rig.drained();
      } finally {
        await rig.server.close(0);
      }
    });
  }
});
