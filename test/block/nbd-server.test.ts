/** The NBD server over real sockets: the catalogue's cases (H.., T.., F80) that are about connections, not bytes. */
import assert from "node:assert/strict";
import { existsSync, statSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { BlockError } from "../../block/device.ts";
import { nbdServerLimits } from "../../block/nbd-limits.ts";
import { NbdRequestMemory } from "../../block/nbd-request-memory.ts";
import { NbdServer } from "../../block/nbd-server.ts";
import { systemClock } from "../../runtime/clock.ts";
import { silentLog } from "../../runtime/log.ts";
import * as wire from "../protocol/nbd/wire.ts";
import { CMD, ERR, FLAG, OPT, REP } from "../protocol/nbd/wire.ts";
import { HandClock, mebibyte, memoryExport, RawClient, type Rig, startRig, TestCatalog } from "./nbd-rig.ts";

const kib64 = 64 * 1024;

/** Runs with a server and proves afterwards that a fresh client is served, nothing leaked and nothing lingers. */
async function withRig(
  exports: Parameters<typeof startRig>[0],
  options: Parameters<typeof startRig>[1],
  run: (rig: Rig) => Promise<void>,
): Promise<void> {
  const rig = await startRig(exports, options);
  try {
    await run(rig);
    const fresh = await rig.connect();
    const [name] = rig.catalog.exports.keys();
    assert.equal(await fresh.go(name ?? ""), REP.ACK, "a fresh client is served");
    fresh.send(wire.request({ command: CMD.DISC }));
    await fresh.end();
    fresh.destroy();
    await rig.drained();
    assert.equal(rig.catalog.opened, rig.catalog.closed, "every device handle was closed");
    assert.equal(rig.server.stats.requestMemoryBytes, 0, "all memory was given back");
    assert.equal(rig.server.stats.negotiating, 0);
    assert.equal(rig.server.stats.inFlight, 0);
  } finally {
    await rig.server.close(0);
  }
}

/** A promise to be settled by hand. */
function latch(): { promise: Promise<void>; open: () => void } {
  let open: () => void = () => undefined;
  const promise = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { promise, open };
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

async function untilTrue(condition: () => boolean): Promise<void> {
  while (!condition()) await turn();
}

describe("NBD server", () => {
  test("reads, writes, flushes, zeroes and trims through a socket", async () => {
    const vol = memoryExport();
    await withRig({ vol }, {}, async (rig) => {
      const client = await rig.connect();
      assert.equal(await client.go("vol", { meta: true }), REP.ACK);
      const data = Buffer.alloc(300 * 1024, 0x5a);
      assert.equal((await client.request({ command: CMD.WRITE, offset: 4096, data }))?.error, 0);
      const back = await client.request({
        command: CMD.READ,
        flags: FLAG.DF,
        offset: 4096,
        length: data.length,
      });
      assert.ok(back?.data.subarray(8).equals(data));
      assert.equal((await client.request({ command: CMD.FLUSH }))?.error, 0);
      assert.equal((await client.request({ command: CMD.ZEROES, offset: 4096, length: 4096 }))?.error, 0);
      assert.equal((await client.request({ command: CMD.TRIM, offset: 0, length: mebibyte }))?.error, 0);
      assert.equal((await client.request({ command: CMD.CACHE, offset: 0, length: mebibyte }))?.error, 0);
      const status = await client.request({ command: CMD.STATUS, length: 2 * mebibyte });
      assert.deepEqual(status?.data, Buffer.concat([wire.u32(1), wire.u32(2 * mebibyte), wire.u32(3)]));
      client.send(wire.request({ command: CMD.DISC }));
      await client.end();
      client.destroy();
    });
  });

  test("a structured READ of a sparse range sends holes, its chunks cover it exactly, DONE last", async () => {
    const vol = memoryExport();
    await vol.device.write(128 * 1024, Buffer.alloc(kib64, 1), { fua: false });
    await vol.device.write(512 * 1024, Buffer.alloc(512, 2), { fua: false });
    await withRig({ vol }, {}, async (rig) => {
      const client = await rig.connect();
      await client.go("vol", { structured: true });
      client.send(wire.request({ command: CMD.READ, offset: 0, length: mebibyte }));
      const content = Buffer.alloc(mebibyte, 0xff);
      let at = 0;
      let holes = 0;
      for (;;) {
        const chunk = await client.reply();
        assert.ok(chunk !== undefined);
        assert.equal(Number(chunk.data.readBigUInt64BE(0)), at);
        if (chunk.type === 2) {
          const length = chunk.data.readUInt32BE(8);
          content.fill(0, at, at + length);
          at += length;
          holes += 1;
        } else {
          assert.equal(chunk.type, 1);
          content.set(chunk.data.subarray(8), at);
          at += chunk.data.length - 8;
        }
        if ((chunk.flags & 1) !== 0) break;
      }
      assert.equal(at, mebibyte);
      assert.equal(holes, 3);
      assert.ok(content.equals(await vol.device.read(0, mebibyte)));
      client.destroy();
    });
  });

  test("H29 clients that do not speak NBD are disconnected with one log line each", async () => {
    await withRig({ vol: memoryExport() }, {}, async (rig) => {
      const noise = Buffer.alloc(mebibyte, 0x9c);
      const openings = [
        Buffer.from("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        Buffer.from("160301", "hex"),
        noise,
      ];
      for (const opening of openings) {
        const client = await rig.connect();
        client.send(opening);
        client.socket.end();
        await client.end();
        client.destroy();
      }
      const scan = await rig.connect();
      scan.destroy();
      await rig.drained();
      assert.ok(rig.log.count("NBD_CLIENT_REFUSED") <= openings.length);
      assert.ok(rig.log.count("NBD_CLIENT_REFUSED") >= 2);
    });
  });

  test("H31 a server stops while clients sit in negotiation", async () => {
    const held = latch();
    const rig = await startRig({ vol: memoryExport() });
    rig.catalog.gate = held.promise;
    const silent = await rig.connect();
    const greeted = await rig.connect();
    await greeted.greet();
    const asking = await rig.connect();
    await asking.greet();
    asking.send(wire.go("vol"));
    await untilTrue(() => rig.server.stats.connections === 3);
    await greeted.option(wire.option(OPT.LIST));
    const closed = rig.server.close(10_000);
    await Promise.all([silent.end(), greeted.end(), asking.end()]);
    // The look-up that was under way opens the device only now; its handle must not be forgotten.
    held.open();
    await closed;
    await rig.drained();
    assert.equal(rig.catalog.opened, rig.catalog.closed);
  });

  test("H32 no device is opened before GO passes", async () => {
    await withRig({ vol: memoryExport() }, {}, async (rig) => {
      const client = await rig.connect();
      await client.greet();
      await client.option(wire.option(OPT.LIST));
      await client.option(wire.info("vol", [3]));
      await client.option(wire.option(OPT.STRUCTURED));
      await client.option(wire.option(OPT.SET_META, wire.metaData("vol", ["base:allocation"])));
      await client.option(wire.go("nope"));
      assert.equal(rig.catalog.opened, 0);
      await client.option(wire.option(OPT.ABORT));
      await client.end();
      assert.equal(rig.catalog.opened, 0);
      client.destroy();
    });
  });

  test("a silent client is closed at the handshake deadline, one in transmission is not", async () => {
    const clock = new HandClock();
    await withRig({ vol: memoryExport() }, { clock }, async (rig) => {
      const idle = await rig.connect();
      await idle.go("vol");
      const silent = await rig.connect();
      await silent.greeting();
      clock.advance(9_999);
      assert.equal(rig.server.stats.connections, 2);
      clock.advance(2);
      await silent.end();
      clock.advance(24 * 3_600_000);
      assert.equal((await idle.request({ command: CMD.FLUSH }))?.error, 0);
      assert.equal(rig.server.stats.connections, 1);
      idle.destroy();
      silent.destroy();
    });
  });

  test("negotiating connections are bounded per source and in all; transmission frees the place", async () => {
    const limits = { negotiatingPerSourceMax: 3 };
    await withRig({ vol: memoryExport() }, { limits }, async (rig) => {
      const clients: RawClient[] = [];
      for (let index = 0; index < 3; index += 1) {
        const client = await rig.connect();
        await client.greeting();
        clients.push(client);
      }
      const fourth = await rig.connect();
      assert.equal(await fourth.greeting(), undefined);
      assert.equal(rig.server.stats.refusedConnections, 1);
      clients[0]!.send(wire.clientFlags());
      await clients[0]!.go("vol", { greeted: true });
      const fifth = await rig.connect();
      assert.ok((await fifth.greeting()) !== undefined);
      for (const client of [...clients, fourth, fifth]) client.destroy();
      await rig.drained();
    });
    await withRig({ vol: memoryExport() }, { limits: { negotiatingMax: 2 } }, async (rig) => {
      const first = await rig.connect();
      await first.greeting();
      const second = await rig.connect();
      await second.greeting();
      const third = await rig.connect();
      assert.equal(await third.greeting(), undefined);
      first.destroy();
      second.destroy();
      third.destroy();
      await rig.drained();
    });
  });

  test("T18 every request gets exactly one final reply, whatever the device does", async () => {
    let calls = 0;
    const vol = memoryExport();
    const hooks = {
      read: (offset: number, length: number) => {
        calls += 1;
        if (calls % 4 === 0) return Promise.reject(new BlockError(ERR.EIO, "planted"));
        if (calls % 7 === 0)
          return new Promise<Uint8Array>((resolve) => setImmediate(() => resolve(Buffer.alloc(length))));
        return vol.device.read(offset, length);
      },
    };
    await withRig({ vol: { ...vol, hooks } }, {}, async (rig) => {
      for (const structured of [true, false]) {
        const client = await rig.connect();
        await client.go("vol", { structured });
        const requests: Buffer[] = [];
        for (let cookie = 1; cookie <= 500; cookie += 1) {
          const length = cookie % 5 === 0 ? 200 * 1024 : 4096;
          requests.push(wire.request({ command: CMD.READ, cookie, offset: 0, length }));
        }
        client.send(...requests);
        const finals = new Set<number>();
        while (finals.size < 500) {
          const reply = await client.until(() =>
            client.stream.reply((cookie) => (Number(cookie) % 5 === 0 ? 200 * 1024 : 4096)),
          );
          assert.ok(reply !== undefined);
          assert.equal(reply.kind, structured ? "chunk" : "simple");
          if ((reply.flags & 1) === 0) continue;
          assert.ok(!finals.has(Number(reply.cookie)));
          finals.add(Number(reply.cookie));
        }
        assert.equal(client.stream.bytes.length, 0);
        client.destroy();
      }
    });
  });

  test("T19 a READ that fails or comes back short is an error, never a broken-off reply", async () => {
    const vol = memoryExport();
    let answer: () => Promise<Uint8Array> = () => Promise.resolve(Buffer.alloc(1));
    await withRig({ vol: { ...vol, hooks: { read: () => answer() } } }, {}, async (rig) => {
      for (const structured of [false, true]) {
        const client = await rig.connect();
        await client.go("vol", { structured });
        const failures: (() => Promise<Uint8Array>)[] = [
          () => Promise.resolve(Buffer.alloc(1)),
          () => Promise.reject(new Error("unexpected")),
          () => {
            throw new Error("thrown at once");
          },
          () => Promise.reject(new BlockError(ERR.ENOTSUP, "meaningless for a read")),
        ];
        const seen: (number | undefined)[] = [];
        for (const failure of failures) {
          answer = failure;
          seen.push((await client.request({ command: CMD.READ, length: 512 }))?.error);
        }
        assert.deepEqual(seen, [ERR.EIO, ERR.EIO, ERR.EIO, ERR.EINVAL]);
        client.destroy();
      }
      assert.equal(rig.log.count("NBD_REQUEST_FAILED"), 6);
    });
  });

  test("T20 DISC with requests in flight: they finish and answer, then the connection closes", async () => {
    const vol = memoryExport();
    const held = latch();
    const written: number[] = [];
    const hooks = {
      write: async (offset: number) => {
        await held.promise;
        written.push(offset);
      },
    };
    await withRig({ vol: { ...vol, hooks } }, {}, async (rig) => {
      const client = await rig.connect();
      await client.go("vol");
      const data = Buffer.alloc(512);
      client.send(
        wire.request({ command: CMD.WRITE, cookie: 1, offset: 0, data }),
        wire.request({ command: CMD.WRITE, cookie: 2, offset: 512, data }),
        wire.request({ command: CMD.DISC }),
        wire.request({ command: CMD.WRITE, cookie: 3, offset: 1024, data }),
      );
      await untilTrue(() => rig.server.stats.inFlight === 2);
      assert.equal(rig.catalog.closed, 0);
      held.open();
      assert.equal((await client.reply())?.cookie, 1n);
      assert.equal((await client.reply())?.cookie, 2n);
      await client.end();
      assert.deepEqual(written, [0, 512]);
      client.destroy();
    });
  });

  test("a client that leaves with requests in flight: the device finishes them before it is closed", async () => {
    const vol = memoryExport();
    const held = latch();
    const hooks = { write: () => held.promise, read: () => held.promise.then(() => Buffer.alloc(512)) };
    await withRig({ vol: { ...vol, hooks } }, {}, async (rig) => {
      const client = await rig.connect();
      await client.go("vol");
      client.send(
        wire.request({ command: CMD.WRITE, cookie: 1, data: Buffer.alloc(512) }),
        wire.request({ command: CMD.READ, cookie: 2, length: 512 }),
      );
      await untilTrue(() => rig.server.stats.inFlight === 2);
      client.socket.resetAndDestroy();
      // The reset was sent before the next client's session began, so the server has seen it by its end.
      const next = await rig.connect();
      await next.go("vol");
      next.send(wire.request({ command: CMD.DISC }));
      await next.end();
      next.destroy();
      await untilTrue(() => rig.catalog.closed === 1);
      assert.equal(rig.server.stats.connections, 1);
      assert.equal(rig.server.stats.inFlight, 2);
      held.open();
      await rig.drained();
    });
  });

  test("a client that half-closes gets the replies it is owed", async () => {
    await withRig({ vol: memoryExport() }, {}, async (rig) => {
      const client = await rig.connect();
      await client.go("vol");
      client.send(...[1, 2, 3].map((cookie) => wire.request({ command: CMD.READ, cookie, length: 512 })));
      client.socket.end();
      for (const cookie of [1n, 2n, 3n]) assert.equal((await client.reply(512))?.cookie, cookie);
      await client.end();
    });
  });

  test("T22 half a payload then FIN, RST or silence never writes", async () => {
    const vol = memoryExport();
    let writes = 0;
    const hooks = {
      write: () => {
        writes += 1;
        return Promise.resolve();
      },
    };
    const clock = new HandClock();
    await withRig({ vol: { ...vol, hooks } }, { clock }, async (rig) => {
      const whole = wire.request({ command: CMD.WRITE, data: Buffer.alloc(mebibyte, 1) });
      const half = whole.subarray(0, whole.length / 2);
      for (const leave of ["fin", "rst", "silence"]) {
        const client = await rig.connect();
        await client.go("vol");
        client.send(half);
        await untilTrue(() => rig.server.stats.requestMemoryBytes === mebibyte);
        if (leave === "fin") client.socket.end();
        if (leave === "rst") client.socket.resetAndDestroy();
        if (leave === "silence") {
          // Bytes still arriving count as progress; only then the silence begins.
          for (let sweep = 0; sweep < 20 && !client.ended; sweep += 1) {
            clock.advance(nbdServerLimits.stallMs / 6);
            await turn();
          }
        }
        await client.end();
        client.destroy();
        await rig.drained();
      }
      assert.equal(writes, 0);
      assert.equal(rig.log.count("NBD_CLIENT_STALLED"), 1);
    });
  });

  test("T23 F80 a client that pipelines 10,000 READs and reads nothing is bounded, then cut; others are served", async () => {
    const clock = new HandClock();
    const vol = memoryExport();
    let reads = 0;
    const hooks = {
      read: (offset: number, length: number) => {
        reads += 1;
        return vol.device.read(offset, length);
      },
    };
    await withRig({ vol: { ...vol, hooks } }, { clock }, async (rig) => {
      const greedy = await rig.connect();
      await greedy.go("vol");
      greedy.socket.pause();
      for (let cookie = 0; cookie < 10_000; cookie += 1) {
        greedy.socket.write(wire.request({ command: CMD.READ, cookie, length: kib64 }));
      }
      // Settled: no further read for many turns.
      let before = -1;
      while (before !== reads) {
        before = reads;
        for (let index = 0; index < 50; index += 1) await turn();
      }
      assert.ok(reads < 10_000);
      const bound = nbdServerLimits.unsentBytesMax + nbdServerLimits.bytesInFlightMax;
      assert.ok(rig.server.stats.requestMemoryBytes <= bound, `${rig.server.stats.requestMemoryBytes}`);
      const other = await rig.connect();
      await other.go("vol");
      assert.equal((await other.request({ command: CMD.READ, length: 512 }, 512))?.error, 0);
      for (let sweep = 0; sweep < 8; sweep += 1) {
        clock.advance(nbdServerLimits.stallMs / 6);
        await turn();
      }
      await untilTrue(() => rig.server.stats.connections === 1);
      assert.equal((await other.request({ command: CMD.READ, length: 512 }, 512))?.error, 0);
      greedy.destroy();
      other.destroy();
    });
  });

  test("T23 a client that pipelines READs and closes at once harms nobody", async () => {
    await withRig({ vol: memoryExport() }, {}, async (rig) => {
      for (let round = 0; round < 5; round += 1) {
        const client = await rig.connect();
        await client.go("vol");
        const many = Array.from({ length: 300 }, (_, cookie) =>
          wire.request({ command: CMD.READ, cookie, length: kib64 }),
        );
        client.send(...many);
        if (round % 2 === 0) client.socket.resetAndDestroy();
        else client.destroy();
      }
      await rig.drained();
    });
  });

  test("T24 an export fenced in mid-session answers ESHUTDOWN", async () => {
    const vol = memoryExport();
    let fenced = false;
    const hooks = {
      write: () => (fenced ? Promise.reject(new BlockError(ERR.ESHUTDOWN, "fenced")) : Promise.resolve()),
    };
    await withRig({ vol: { ...vol, hooks }, ro: { ...memoryExport(), readOnly: true } }, {}, async (rig) => {
      const client = await rig.connect();
      await client.go("vol", { structured: true });
      const write = { command: CMD.WRITE, data: Buffer.alloc(512) };
      assert.equal((await client.request(write))?.error, ERR.OK);
      fenced = true;
      assert.equal((await client.request(write))?.error, ERR.ESHUTDOWN);
      const reader = await rig.connect();
      await reader.go("ro");
      assert.equal((await reader.request(write))?.error, ERR.EPERM);
      client.destroy();
      reader.destroy();
    });
  });

  test("a FLUSH on one connection waits for what another one wrote", async () => {
    const vol = memoryExport();
    let written = 0;
    let flushed = 0;
    const held = latch();
    const hooks = {
      write: async () => {
        written += 1;
      },
      flush: async () => {
        flushed += 1;
        await held.promise;
      },
    };
    await withRig({ vol: { ...vol, hooks } }, {}, async (rig) => {
      const writer = await rig.connect();
      const flusher = await rig.connect();
      await writer.go("vol");
      await flusher.go("vol");
      await writer.request({ command: CMD.WRITE, data: Buffer.alloc(512) });
      assert.equal(written, 1);
      flusher.send(
        wire.request({ command: CMD.FLUSH, cookie: 1 }),
        wire.request({ command: CMD.READ, cookie: 2, length: 512 }),
      );
      assert.equal((await flusher.reply(512))?.cookie, 2n, "the FLUSH is not answered yet");
      assert.equal(flushed, 1);
      held.open();
      assert.equal((await flusher.reply())?.cookie, 1n);
      writer.destroy();
      flusher.destroy();
    });
  });

  test("T28 requests run at once: a slow one does not hold up the next", async () => {
    const vol = memoryExport();
    const held = latch();
    const hooks = { flush: () => held.promise };
    await withRig({ vol: { ...vol, hooks } }, {}, async (rig) => {
      const client = await rig.connect();
      await client.go("vol");
      client.send(
        wire.request({ command: CMD.FLUSH, cookie: 1 }),
        wire.request({ command: CMD.READ, cookie: 2, length: 512 }),
      );
      assert.equal((await client.reply(512))?.cookie, 2n);
      held.open();
      assert.equal((await client.reply())?.cookie, 1n);
      client.destroy();
    });
  });

  test("T29 stopping with requests in flight lets them answer, and cuts them when the grace is over", async () => {
    for (const patient of [true, false]) {
      const held = latch();
      const vol = memoryExport();
      const clock = new HandClock();
      const rig = await startRig({ vol: { ...vol, hooks: { write: () => held.promise } } }, { clock });
      const client = await rig.connect();
      await client.go("vol");
      client.send(wire.request({ command: CMD.WRITE, cookie: 9, data: Buffer.alloc(512) }));
      await untilTrue(() => rig.server.stats.inFlight === 1);
      const closed = rig.server.close(5_000);
      await assert.rejects(RawClient.connect(rig.address));
      if (patient) {
        held.open();
        assert.equal((await client.reply())?.cookie, 9n);
      } else {
        clock.advance(5_001);
        assert.equal(await client.reply(), undefined);
      }
      await client.end();
      client.destroy();
      await closed;
      held.open();
      await rig.drained();
      assert.equal(rig.catalog.opened, rig.catalog.closed);
    }
  });

  test("T31 floods of FLUSH, CACHE, TRIM and ZEROES are bounded in flight", async () => {
    const vol = memoryExport(64 * mebibyte);
    let running = 0;
    let most = 0;
    const slow = (): Promise<void> => {
      running += 1;
      most = Math.max(most, running);
      return new Promise((resolve) =>
        setImmediate(() => {
          running -= 1;
          resolve();
        }),
      );
    };
    const hooks = { flush: slow, cache: slow, trim: slow, zero: slow };
    await withRig({ vol: { ...vol, hooks } }, {}, async (rig) => {
      const client = await rig.connect();
      await client.go("vol");
      let answered = 0;
      client.socket.on("data", () => undefined);
      for (const command of [CMD.FLUSH, CMD.CACHE, CMD.TRIM, CMD.ZEROES]) {
        const length = command === CMD.FLUSH ? 0 : 64 * mebibyte;
        const one = wire.request({ command, length });
        client.send(...Array.from({ length: 25_000 }, () => one));
        for (let got = 0; got < 25_000; got += 1) {
          const reply = client.stream.take(16) ?? (await client.until(() => client.stream.take(16)));
          assert.ok(reply !== undefined);
          answered += 1;
        }
      }
      assert.equal(answered, 100_000);
      assert.ok(most <= nbdServerLimits.requestsInFlightMax, `${most}`);
      client.destroy();
    });
  });

  test("payload memory is one budget for all connections, and waiting ones are served in turn", async () => {
    const memory = new NbdRequestMemory(3 * mebibyte);
    const vol = memoryExport(16 * mebibyte);
    let inUse = 0;
    let most = 0;
    const hooks = {
      write: async (_offset: number, data: Uint8Array) => {
        inUse += data.length;
        most = Math.max(most, inUse);
        await turn();
        inUse -= data.length;
      },
    };
    await withRig({ vol: { ...vol, hooks } }, { memory }, async (rig) => {
      const payload = Buffer.alloc(mebibyte, 7);
      const clients = await Promise.all([1, 2, 3, 4].map(() => rig.connect()));
      await Promise.all(
        clients.map(async (client) => {
          await client.go("vol");
          const requests = Array.from({ length: 6 }, (_, cookie) =>
            wire.request({ command: CMD.WRITE, cookie, data: payload }),
          );
          client.send(...requests);
          for (let got = 0; got < 6; got += 1) assert.equal((await client.reply())?.error, 0);
          client.destroy();
        }),
      );
      assert.ok(most <= 3 * mebibyte, `${most}`);
      assert.equal(memory.waiting, 0);
    });
    assert.equal(memory.usedBytes, 0);
  });

  test("disconnect cuts the clients of one export and no other", async () => {
    await withRig({ vol: memoryExport(), other: memoryExport() }, {}, async (rig) => {
      const one = await rig.connect();
      await one.go("vol");
      const two = await rig.connect();
      await two.go("other");
      assert.equal(
        rig.server.disconnect((name) => name === "vol"),
        1,
      );
      await one.end();
      assert.equal((await two.request({ command: CMD.FLUSH }))?.error, 0);
      one.destroy();
      two.destroy();
    });
  });

  test("a catalog that fails refuses the option and keeps the connection", async () => {
    await withRig({ vol: memoryExport() }, {}, async (rig) => {
      rig.catalog.gate = Promise.reject(new Error("planted"));
      rig.catalog.gate.catch(() => undefined);
      const client = await rig.connect();
      assert.equal(await client.go("vol"), REP.POLICY);
      rig.catalog.gate = Promise.resolve();
      assert.equal(await client.go("vol", { greeted: true }), REP.ACK);
      client.destroy();
    });
  });
});

describe("NBD server on a Unix socket", async () => {
  const folder = await mkdtemp(join(tmpdir(), "splitsite-nbd-"));
  after(() => rm(folder, { recursive: true, force: true }));
  const path = join(folder, "nbd.sock");
  const listen = { kind: "unix", path } as const;

  test("serves, is private to its owner, and removes its file", async () => {
    await withRig({ vol: memoryExport() }, { listen }, async (rig) => {
      assert.equal(statSync(path).mode & 0o777, 0o600);
      const client = await rig.connect();
      await client.go("vol");
      assert.equal(rig.catalog.clients[0]?.transport, "unix");
      client.destroy();
    });
    assert.equal(existsSync(path), false);
  });

  test("replaces a stale socket file, but not one in use and no other file", async () => {
    const options = { listen, tls: null, catalog: new TestCatalog({}), clock: systemClock, log: silentLog };
    // A listener that goes away without unlinking leaves what a killed process leaves.
    const stale = createServer();
    await new Promise<void>((resolve) => stale.listen(join(folder, "other.sock"), resolve));
    const { renameSync } = await import("node:fs");
    renameSync(join(folder, "other.sock"), path);
    await new Promise<void>((resolve) => stale.close(() => resolve()));
    assert.equal(existsSync(path), true);
    const first = new NbdServer(options);
    await first.listen();
    await assert.rejects(new NbdServer(options).listen(), { code: "NBD_ADDRESS_IN_USE" });
    const probe = connect(path);
    await new Promise<void>((resolve) => probe.once("connect", () => resolve()));
    probe.destroy();
    await first.close(0);
    writeFileSync(path, "precious");
    await assert.rejects(new NbdServer(options).listen(), { code: "NBD_LISTEN_FAILED" });
    assert.equal(existsSync(path), true);
  });
});
