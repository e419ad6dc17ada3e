/**
 * Hundreds of connections that do nothing, or next to nothing, at a whole running site: those that never finish their
 * handshake are gone by the deadline whatever they dribble, those that did are served like any other, and neither keeps
 * anybody else out or replication from going on.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { after, before, describe, test } from "node:test";
import { nbdServerLimits } from "../../block/nbd-limits.ts";
import type { RawClient } from "../block/nbd-rig.ts";
import * as wire from "../protocol/nbd/wire.ts";
import { CMD, OPT, REP } from "../protocol/nbd/wire.ts";
import { NbdClient } from "../support/nbd-client.ts";
import { TwoSites } from "../support/sites.ts";
import { until } from "../support/wait.ts";
import { connectionsAt, errorsIn, loopback, rawClient } from "./whole-site.ts";

const crowd = 500;
const mebibyte = 1024 * 1024;

describe("crowds at a running site", () => {
  let sites: TwoSites;
  let pid = 0;
  let port = 0;
  let bystander: NbdClient;
  let rounds = 0;

  before(async () => {
    sites = await TwoSites.create({ volumes: { data: 8 * mebibyte } });
    await Promise.all([sites.start("primary"), sites.start("dr")]);
    await sites.waitServing("primary");
    pid = sites.child("primary").pid;
    port = sites.nbdAddress("primary").port;
    bystander = await NbdClient.connect(sites.nbdSocket("primary"), sites.exportOf("data"));
  });
  after(() => sites?.dispose());

  async function round(): Promise<void> {
    rounds += 1;
    const data = Buffer.alloc(512, 1 + (rounds % 255));
    assert.equal((await bystander.write((rounds % 1024) * 512, data)).outcome, "answered");
  }

  /** Sends the bytes of a legal handshake, one a second, until the server has had enough. */
  function dribble(socket: Socket): () => void {
    const bytes = Buffer.concat([
      wire.clientFlags(),
      wire.option(OPT.LIST),
      wire.info(sites.exportOf("data")),
      wire.go(sites.exportOf("data")),
    ]);
    let at = 0;
    const timer = setInterval(() => {
      socket.write(bytes.subarray(at, at + 1));
      at += 1;
    }, 1_000);
    return () => clearInterval(timer);
  }

  test(`F82 ${crowd} clients that never finish their handshake, idle or one byte a second`, async () => {
    const sockets: Socket[] = [];
    const stops: (() => void)[] = [];
    const gone: Promise<unknown>[] = [];
    let greeted = 0;
    let cutByDeadline = 0;
    for (let index = 0; index < crowd; index += 1) {
      const socket = connect({ host: "127.0.0.1", port, localAddress: loopback(20, index) });
      socket.on("error", () => undefined);
      gone.push(
        new Promise<void>((resolve) =>
          socket.once("close", () => {
            if (socket.bytesRead > 0) cutByDeadline += 1;
            resolve();
          }),
        ),
      );
      socket.once("data", () => {
        greeted += 1;
        socket.resume();
        if (index % 2 === 1) stops.push(dribble(socket));
      });
      sockets.push(socket);
    }
    let over = false;
    const everybody = Promise.all(gone).then(() => {
      over = true;
    });
    let served = 0;
    let fewest = crowd;
    while (!over) {
      await round();
      served += 1;
      // Accepting and turning away are two steps, so a single look may see more.
      fewest = Math.min(fewest, connectionsAt(pid, port));
      await Promise.race([everybody, new Promise((resolve) => setTimeout(resolve, 50))]);
    }
    for (const stop of stops) stop();
    assert.ok(greeted >= nbdServerLimits.negotiatingMax, `${greeted} were greeted`);
    assert.ok(greeted < crowd, "some were turned away at the door");
    assert.ok(fewest <= nbdServerLimits.negotiatingMax);
    assert.equal(cutByDeadline, greeted);
    assert.ok(served >= 20, `${served} rounds of the bystander`);
    await until("their sockets to be closed", () => (connectionsAt(pid, port) === 0 ? true : undefined));
    const fresh = await NbdClient.connect(sites.nbdAddress("primary"), sites.exportOf("data"));
    assert.equal((await fresh.flush()).outcome, "answered");
    await fresh.close();
  });

  test("F82 a crowd from one address keeps nobody at another out", async () => {
    const greedy: Socket[] = [];
    for (let index = 0; index < 64; index += 1) {
      const socket = connect({ host: "127.0.0.1", port, localAddress: loopback(21, 0) });
      socket.on("error", () => undefined);
      socket.resume();
      await once(socket, "connect");
      greedy.push(socket);
    }
    for (let index = 0; index < 20; index += 1) {
      const legal = await rawClient(sites, "primary", loopback(21, 1 + index));
      assert.equal(await legal.go(sites.exportOf("data")), REP.ACK);
      assert.equal((await legal.request({ command: CMD.FLUSH }))?.error, 0);
      legal.destroy();
    }
    for (const socket of greedy) socket.destroy();
    await until("the crowd to be gone", () => (connectionsAt(pid, port) === 0 ? true : undefined));
  });

  test(`F82 ${crowd} clients in transmission that ask for nothing are kept and served`, async () => {
    const clients: RawClient[] = [];
    for (let index = 0; index < crowd; index += 1) {
      const client = await rawClient(sites, "primary", loopback(22, index));
      assert.equal(await client.go(sites.exportOf("data")), REP.ACK);
      clients.push(client);
      if (index % 50 === 0) await round();
    }
    assert.equal(connectionsAt(pid, port), crowd);
    for (const client of clients) {
      assert.equal((await client.request({ command: CMD.READ, length: 512 }, 512))?.error, 0);
    }
    for (const client of clients) client.destroy();
    await until("them to be gone", () => (connectionsAt(pid, port) === 0 ? true : undefined));
    assert.deepEqual(errorsIn(sites.log("primary")), []);
    await sites.waitIdle("primary", "dr");
  });

  test("F82 silent and dribbling connections at the line's port: replication goes on, all are gone in time", async () => {
    const gateway = sites.gatewayAddress("dr");
    const standbyPid = sites.child("dr").pid;
    const before = connectionsAt(standbyPid, gateway.port);
    const timers: NodeJS.Timeout[] = [];
    const sockets: Socket[] = [];
    let cut = 0;
    for (let index = 0; index < crowd; index += 1) {
      const socket = connect({ ...gateway, localAddress: loopback(23, index) });
      socket.on("error", () => undefined);
      socket.on("close", () => {
        cut += 1;
      });
      socket.resume();
      sockets.push(socket);
      // One after the other: what overflows the kernel's queue of connections never reaches the site.
      await once(socket, "connect");
      // The start of a TLS record, then its bytes one by one.
      if (index % 2 === 1) {
        let first = true;
        timers.push(
          setInterval(() => {
            socket.write(Uint8Array.of(first ? 0x16 : 0x03));
            first = false;
          }, 1_000),
        );
      }
    }
    const { written } = (await sites.owner("primary")).position;
    for (let index = 0; index < 50; index += 1) await round();
    await until("the standby to acknowledge under the crowd", async () =>
      (await sites.owner("primary")).position.acknowledged >= written + 50 ? true : undefined,
    );
    await until("the crowd to be gone, at both ends", () =>
      connectionsAt(standbyPid, gateway.port) <= before + 8 && cut === crowd ? true : undefined,
    );
    for (const timer of timers) clearInterval(timer);
    for (const socket of sockets) socket.destroy();
    assert.deepEqual(errorsIn(sites.log("dr")), []);
    await bystander.close();
    await sites.stop("primary");
    await sites.stop("dr");
  });
});
