/**
 * F42: the line breaks at any byte of a batch's upload and of its answer. Below TLS the real shipper speaks to the real
 * gateway through a relay that resets the connection at byte n; above TLS a client leaves after byte n of the request.
 * Either way the standby ends with each record exactly once, and in between with a prefix.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { afterEach, beforeEach, test } from "node:test";
import { connect } from "node:tls";
import { encodeBatch } from "../../protocol/batch.ts";
import { wanRoutes } from "../../protocol/control.ts";
import type { Frame } from "../../protocol/frame.ts";
import type { Sequence } from "../../protocol/ids.ts";
import { bytesEqual, bytesToHex } from "../../protocol/ids.ts";
import { systemClock } from "../../runtime/clock.ts";
import { silentLog } from "../../runtime/log.ts";
import { systemRandom } from "../../runtime/random.ts";
import { compressAside } from "../../site-agent/ship/compress-aside.ts";
import { Link } from "../../site-agent/ship/link.ts";
import type { ShipSource } from "../../site-agent/ship/shipper.ts";
import { Shipper } from "../../site-agent/ship/shipper.ts";
import { Source, StandbySite, volumes } from "../gateway/standby-site.ts";
import { noteEvidence } from "../support/evidence.ts";
import type { ConnectionFate, Relay, RelayDirection } from "../support/relay.ts";
import { startRelay } from "../support/relay.ts";
import { SeededRandom, seedFromEnvironment } from "../support/seeded.ts";
import { until } from "../support/wait.ts";
import { lineRounds } from "./rounds.ts";

const seed = seedFromEnvironment();

let site: StandbySite;
let source: Source;
beforeEach(async () => {
  site = await StandbySite.make();
  source = new Source(seed, true);
  await site.start();
});
afterEach(async () => site.remove());

/** The source's frames as a journal that the shipper reads. */
function shipSource(from: Source): ShipSource {
  const durable = () => ({
    sequence: from.last,
    chain: from.chain,
    dataBytesTotal: from.frames.at(-1)?.dataBytesTotal ?? 0,
  });
  const genesis = from.frames[0]?.chainBefore ?? from.chain;
  return {
    group: "erp",
    lineage: from.lineage,
    token: from.token,
    table: () => ({ volumes, founding: undefined, imagesHeldData: false }),
    genesis,
    durable,
    headSequence: () => 0,
    floorSequence: () => 0,
    pause: () => null,
    answered: durable,
    frames: async (first) => from.frames.filter((frame) => frame.last >= first),
    chainAt: async (sequence) =>
      sequence === 0 ? genesis : from.frames.find((frame) => frame.last === sequence)?.chainAfter,
    positionAt: async (sequence) => {
      if (sequence === 0) return { sequence, chain: genesis, dataBytesTotal: 0 };
      const frame = from.frames.find(({ last }) => last === sequence);
      return frame && { sequence, chain: frame.chainAfter, dataBytesTotal: frame.dataBytesTotal };
    },
    declareGap: async () => undefined,
  };
}

/** What the standby holds is the source after some whole frame: exactly that many records, byte for byte. */
function assertPrefix(context: string): Sequence {
  const status = site.role!.statuses()[0]!;
  const frame = source.frames.findIndex(({ last }) => last === status.position.applied);
  assert.ok(status.position.applied === 0 || frame >= 0, `${context}: stands inside a frame`);
  for (const [index, image] of site.images().entries()) {
    assert.ok(image.equals(source.contents[frame + 1]![index]!), `${context}: volume ${index} is no prefix`);
  }
  return status.position.applied;
}

/** One shipper's life: until all is acknowledged, over connections that end as `fate` says. */
async function shipAll(relay: Relay): Promise<void> {
  let acknowledged = 0;
  let stopped: string | undefined;
  const { settings, site: dr } = site.settings();
  const link = new Link({
    self: { ...dr, name: "primary", tls: site.tls["primary"]! },
    peer: dr,
    settings: {
      between: ["primary", "dr"],
      limitBytesPerSecond: null,
      windows: [],
      connections: 1,
      codec: "lz4",
      collectMs: 60,
      ...settings.links[0],
    },
    clock: systemClock,
    random: systemRandom,
    log: silentLog,
    connectOverride: { host: relay.host, port: relay.port },
  });
  const shipper = new Shipper({
    source: shipSource(source),
    link,
    compress: compressAside,
    clock: systemClock,
    random: systemRandom,
    log: silentLog,
    listener: {
      acknowledged: (durable) => {
        assert.ok(durable >= acknowledged && durable <= source.last);
        acknowledged = durable;
      },
      superseded: () => {
        stopped = "superseded";
      },
      stopped: (code) => {
        stopped = code;
      },
      attached: () => undefined,
      lost: () => assert.fail("the standby stays"),
      linkChanged: () => undefined,
    },
  });
  try {
    shipper.start();
    await until("everything acknowledged", () => {
      assert.equal(stopped, undefined);
      return acknowledged === source.last ? true : undefined;
    });
  } finally {
    await shipper.close();
    await link.close();
  }
}

test(`reset below TLS at bytes of a batch's connection, both ways (F42, SEED=${seed})`, async (t) => {
  let fate: ConnectionFate | undefined;
  let nth = 0;
  const longest = { up: 0, down: 0 };
  const taken = (direction: RelayDirection, bytes: number) => {
    longest[direction] = Math.max(longest[direction], bytes);
  };
  const relay = await startRelay({
    listenPort: 0,
    target: { host: "127.0.0.1", port: site.port },
    fate: () => {
      nth += 1;
      // The first connection of a life carries the greeting, the next two the batch and a heartbeat, in any order.
      return fate === undefined ? { taken } : nth === 2 || nth === 3 ? fate : undefined;
    },
  });
  t.after(() => relay.close());
  // A life without a fault shows how many bytes each direction has.
  await site.hello(source);
  source.write(1, 2, 1024);
  nth = 0;
  await shipAll(relay);
  const cuts: { direction: RelayDirection; afterBytes: number }[] = [];
  for (const direction of ["up", "down"] as const) {
    const bytes = longest[direction];
    const random = new SeededRandom(seed, direction === "up" ? 1 : 2);
    const count = lineRounds(25, bytes);
    if (count >= bytes) for (let at = 0; at < bytes; at += 1) cuts.push({ direction, afterBytes: at });
    else for (let at = 0; at < count; at += 1) cuts.push({ direction, afterBytes: random.below(bytes) });
  }
  let resets = 0;
  let frames: readonly Frame[] = [];
  for (const cut of cuts) {
    const context = `SEED=${seed} ${cut.direction} after ${cut.afterBytes}`;
    frames = source.write(1, 2, 1024);
    // The whole history would be kept otherwise: only the newest few can be where the standby is.
    for (let old = source.contents.length - 6; old >= 0 && source.contents[old]!.length > 0; old -= 1) {
      source.contents[old] = [];
    }
    fate = { reset: cut };
    nth = 0;
    const before = relay.counters.resets;
    await shipAll(relay);
    resets += relay.counters.resets > before ? 1 : 0;
    await site.applied(source);
    assert.equal(assertPrefix(context), source.last, context);
  }
  const { json } = await site.hello(source);
  assert.deepEqual(json.durable, { sequence: source.last, chain: bytesToHex(source.chain) });
  assert.ok(bytesEqual(frames.at(-1)!.chainAfter, source.chain));
  t.diagnostic(
    `${cuts.length} cuts, ${resets} of them struck; the connection of ${longest.up} bytes up, ${longest.down} down`,
  );
  assert.ok(resets >= cuts.length / 2, `invalid run: only ${resets} of ${cuts.length} resets struck`);
  noteEvidence("line faults", { cuts: resets, "states not a prefix": 0 });
});

/** Sends `bytes` over TLS as the primary and leaves; resolves when the connection is gone, with what was answered. */
function sendAndLeave(bytes: Buffer, readBytes: number): Promise<Buffer> {
  const files = site.tls["primary"]!;
  return new Promise((resolve, reject) => {
    const socket = connect({
      host: "127.0.0.1",
      port: site.port,
      ca: readFileSync(files.ca),
      cert: readFileSync(files.cert),
      key: readFileSync(files.key),
      checkServerIdentity: () => undefined,
    });
    const got: Buffer[] = [];
    let length = 0;
    const leave = () => socket.destroy();
    socket.once("secureConnect", () => {
      socket.write(bytes, () => {
        if (readBytes === 0) leave();
      });
    });
    socket.on("data", (part: Buffer) => {
      got.push(part);
      length += part.byteLength;
      if (length >= readBytes) leave();
    });
    socket.on("error", reject);
    socket.once("close", () => resolve(Buffer.concat(got)));
  });
}

test(`gone above TLS after any byte of the request, and while the answer is on its way (F42, F51, SEED=${seed})`, async (t) => {
  await site.hello(source);
  const path = wanRoutes.batches("erp");
  const requestOf = async (made: readonly Frame[]) => {
    const batch = await encodeBatch(made, source.token, "lz4");
    const head = `POST ${path} HTTP/1.1\r\nhost: dr\r\ncontent-type: application/octet-stream\r\ncontent-length: ${batch.byteLength}\r\n\r\n`;
    return { batch, bytes: Buffer.concat([Buffer.from(head), batch]), headBytes: head.length };
  };
  let cuts = 0;
  let made = source.write(1, 2, 1024);
  let { batch, bytes, headBytes } = await requestOf(made);
  const random = new SeededRandom(seed, 3);
  const count = lineRounds(80, bytes.length);
  const positions =
    count >= bytes.length
      ? Array.from({ length: bytes.length }, (_, at) => at)
      : [0, 1, headBytes - 1, headBytes, headBytes + 127, headBytes + 128, bytes.length - 1].concat(
          Array.from({ length: count }, () => random.below(bytes.length)),
        );
  for (const at of positions) {
    await sendAndLeave(bytes.subarray(0, at), 0);
    cuts += 1;
    assert.equal(
      site.role!.statuses()[0]!.position.received,
      0,
      `SEED=${seed}: ${at} bytes were taken for a batch`,
    );
  }
  // The whole request, and the connection is gone before, within or after the answer: the effect is there, once.
  for (const answerBytes of [0, 1, 20, 100]) {
    const before = made[0]!.first - 1;
    await sendAndLeave(bytes, answerBytes);
    const again = await site.send(path, batch);
    assert.equal(again.json.kind, "acknowledged", JSON.stringify(again));
    assert.equal(again.json.durable, before + 2);
    assert.equal((await site.send(path, batch)).json.durable, before + 2);
    await site.applied(source);
    assert.equal(assertPrefix(`answer left after ${answerBytes}`), source.last);
    made = source.write(1, 2, 1024);
    ({ batch, bytes, headBytes } = await requestOf(made));
    cuts += 1;
  }
  noteEvidence("line faults", { cuts, "states not a prefix": 0 });
  t.diagnostic(`${cuts} cuts of a request of ${bytes.length} bytes, the batch ${batch.byteLength} of them`);
});
