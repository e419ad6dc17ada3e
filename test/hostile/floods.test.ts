/**
 * Clients that ask and never listen, against a whole running site: whatever they pile up, the site's memory stays under
 * the arithmetic of its bounds, and a bystander goes on writing, flushing and reading. A flood lasts until the bystander
 * has done its rounds, so a site that starves it does not pass.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { after, before, describe, test } from "node:test";
import { nbdServerLimits } from "../../block/nbd-limits.ts";
import type { RawClient } from "../block/nbd-rig.ts";
import * as wire from "../protocol/nbd/wire.ts";
import { CMD, REP } from "../protocol/nbd/wire.ts";
import { NbdClient } from "../support/nbd-client.ts";
import { residentBytes, TwoSites } from "../support/sites.ts";
import { until } from "../support/wait.ts";
import { connectionsAt, errorsIn, forgetPeak, loopback, peakBytes, rawClient } from "./whole-site.ts";

const mebibyte = 1024 * 1024;
const gibibyte = 1024 * mebibyte;
const bigBytes = 8 * gibibyte;
/** The longest aligned length that 32 bits hold: one block short of 4 GiB. */
const lengthMax = 0xffff_fe00;
const floodersPerFlood = 4;
const roundsMin = 30;
/** Journal batches, garbage of V8 not yet collected, and the allocator's slack. */
const slackBytes = 160 * mebibyte;
const boundBytes =
  floodersPerFlood * (nbdServerLimits.bytesInFlightMax + nbdServerLimits.unsentBytesMax) + slackBytes;

interface Flood {
  readonly name: string;
  readonly structured?: boolean;
  /** The same bytes again and again, as often as the server takes them. */
  readonly requests: Buffer;
  /** How many requests those bytes are. */
  readonly count: number;
}

const repeat = (count: number, make: (index: number) => wire.RequestFields): Flood["requests"] =>
  Buffer.concat(Array.from({ length: count }, (_, index) => wire.request({ cookie: index, ...make(index) })));

const flood = (name: string, count: number, make: (index: number) => wire.RequestFields): Flood => ({
  name,
  count,
  requests: repeat(count, make),
});

const floods: readonly Flood[] = [
  flood("READ 64 KiB", 10_000, (index) => ({
    command: CMD.READ,
    offset: (index % 1000) * 65_536,
    length: 65_536,
  })),
  flood("READ 32 MiB", 200, () => ({ command: CMD.READ, length: 32 * mebibyte })),
  flood("FLUSH", 50_000, () => ({ command: CMD.FLUSH })),
  flood("CACHE of all it can name", 50_000, () => ({ command: CMD.CACHE, length: lengthMax })),
  flood("TRIM of all it can name", 2_000, (index) => ({
    command: CMD.TRIM,
    offset: (index % 8) * 512 * mebibyte,
    length: lengthMax,
  })),
  flood("WRITE_ZEROES of all it can name", 2_000, (index) => ({
    command: CMD.ZEROES,
    offset: (index % 8) * 512 * mebibyte,
    length: lengthMax,
  })),
  {
    ...flood("refused requests", 50_000, () => ({ command: CMD.READ, offset: 1, length: 1 })),
    structured: true,
  },
  flood("WRITE 1 MiB", 48, (index) => ({
    command: CMD.WRITE,
    offset: (index % 64) * mebibyte,
    data: Buffer.alloc(mebibyte, index),
  })),
];

describe("clients that never read their replies", () => {
  let sites: TwoSites;
  let pid = 0;
  let port = 0;
  let baseBytes = 0;
  let bystander: NbdClient;
  let sources = 0;

  before(async () => {
    sites = await TwoSites.create({ volumes: { big: bigBytes, small: 4 * mebibyte } });
    await Promise.all([sites.start("primary"), sites.start("dr")]);
    await sites.waitServing("primary");
    pid = sites.child("primary").pid;
    baseBytes = residentBytes(pid);
    port = sites.nbdAddress("primary").port;
    bystander = await NbdClient.connect(sites.nbdSocket("primary"), sites.exportOf("small"));
  });
  after(() => sites?.dispose());

  async function flooder(structured: boolean): Promise<RawClient> {
    const client = await rawClient(sites, "primary", loopback(11, sources++));
    assert.equal(await client.go(sites.exportOf("big"), { structured }), REP.ACK);
    client.socket.pause();
    return client;
  }

  /** One write, FLUSH and read back of the bystander. */
  async function round(index: number): Promise<void> {
    const data = Buffer.alloc(4096, 1 + (index % 255));
    const offset = (index % 1024) * 4096;
    const write = await bystander.write(offset, data);
    assert.equal(write.outcome, "answered", JSON.stringify(write));
    if (index % 4 === 0) assert.equal((await bystander.flush()).outcome, "answered");
    const back = await bystander.read(offset, 4096);
    assert.ok(back.outcome === "answered" && back.data.equals(data), "the bystander reads what it wrote");
  }

  let rounds = 0;
  for (const one of floods) {
    test(`T23 T31 F80 ${one.name}, ${floodersPerFlood} x ${one.count}, no reply taken`, async (t) => {
      forgetPeak(pid);
      const beforeBytes = residentBytes(pid);
      const clients = await Promise.all(
        Array.from({ length: floodersPerFlood }, () => flooder(one.structured === true)),
      );
      try {
        for (const client of clients) client.socket.write(one.requests);
        for (let done = 0; done < roundsMin; done += 1) await round(rounds++);
        const peak = peakBytes(pid);
        t.diagnostic(
          `${Math.round(beforeBytes / mebibyte)} MiB before, ${Math.round(peak / mebibyte)} at the peak`,
        );
        assert.ok(
          peak - beforeBytes < boundBytes,
          `grew from ${beforeBytes} to ${peak}, ${boundBytes} allowed`,
        );
        // What one flood's short blocks leave behind in the allocator need not suit the long ones of the next.
        assert.ok(peak - baseBytes < 2 * boundBytes, `grew from ${baseBytes} to ${peak} in all`);
      } finally {
        for (const [index, client] of clients.entries()) {
          if (index % 2 === 0) client.socket.resetAndDestroy();
          else client.destroy();
        }
      }
      await until("the flooders to be gone", () => (connectionsAt(pid, port) === 0 ? true : undefined));
      for (let done = 0; done < 5; done += 1) await round(rounds++);
    });
  }

  test("T31 the same floods with replies taken: every request is answered once", async () => {
    for (const one of floods.filter(({ count }) => count === 50_000 || count === 2_000)) {
      const client = await flooder(one.structured === true);
      let answers = 0;
      let rest = Buffer.alloc(0);
      client.socket.removeAllListeners("data");
      const all = new Promise<void>((resolve, reject) => {
        client.socket.on("close", () => reject(new Error(`${one.name}: cut after ${answers} answers`)));
        client.socket.on("data", (chunk: Buffer) => {
          rest = Buffer.concat([rest, chunk]);
          for (;;) {
            const chunked = rest.length >= 4 && rest.readUInt32BE(0) === 0x668e33ef;
            const length = !chunked ? 16 : rest.length < 20 ? 20 : 20 + rest.readUInt32BE(16);
            if (rest.length < length) break;
            rest = rest.subarray(length);
            answers += 1;
          }
          if (answers >= one.count) resolve();
        });
      });
      client.socket.resume();
      client.socket.write(one.requests);
      await all;
      assert.equal(answers, one.count, one.name);
      assert.equal(rest.length, 0);
      client.socket.removeAllListeners("close");
      client.destroy();
      await round(rounds++);
    }
  });

  test("T23 pipelined READs and an end at once, as it kills other servers", async () => {
    for (const count of [80, 300, 1_000, 10_000]) {
      for (const how of ["close", "reset", "half"] as const) {
        const client = await flooder(count % 3 === 0);
        client.socket.write(floods[0]!.requests.subarray(0, 28 * count));
        if (how === "close") client.destroy();
        else if (how === "reset") client.socket.resetAndDestroy();
        else {
          client.socket.end();
          await once(client.socket, "finish");
          client.destroy();
        }
        await round(rounds++);
      }
    }
    await until("them to be gone", () => (connectionsAt(pid, port) === 0 ? true : undefined));
  });

  test("F80 what is left: the site runs without an error, and the standby gets everything", async () => {
    assert.deepEqual(errorsIn(sites.log("primary")), []);
    await bystander.close();
    await sites.waitIdle("primary", "dr", 60_000);
    await sites.stop("primary");
    await sites.stop("dr");
  });
});
