/**
 * The shipper and its link against a gateway in memory over real HTTPS on loopback: whatever is lost, doubled, cut or
 * refused on the way, the gateway ends with exactly the source's records, or shipping says why not.
 */
import { strict as assert } from "node:assert";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { after, before, test } from "node:test";
import type { CompressBatch } from "../../../protocol/batch.ts";
import type { Sequence, Token } from "../../../protocol/ids.ts";
import { bytesEqual } from "../../../protocol/ids.ts";
import { systemClock } from "../../../runtime/clock.ts";
import { OperationalError } from "../../../runtime/errors.ts";
import { silentLog } from "../../../runtime/log.ts";
import { systemRandom } from "../../../runtime/random.ts";
import type { LinkSettings, SiteSettings, TlsFiles } from "../../../runtime/settings/types.ts";
import { compressAside } from "../../../site-agent/ship/compress-aside.ts";
import { Link } from "../../../site-agent/ship/link.ts";
import { Shipper } from "../../../site-agent/ship/shipper.ts";
import { testCa } from "../../gateway/certificates.ts";
import { startRelay } from "../../support/relay.ts";
import { until } from "../../support/wait.ts";
import { FakeGateway } from "./fake-gateway.ts";
import { MemorySource } from "./memory-source.ts";

let directory: string;
let primary: TlsFiles;
let dr: TlsFiles;
let stranger: TlsFiles;

before(async () => {
  directory = await mkdtemp(join(tmpdir(), "splitsite-ship-"));
  const ca = await testCa();
  primary = await ca.issue(directory, "primary", ["primary"]);
  dr = await ca.issue(directory, "dr", ["dr"]);
  stranger = await ca.issue(directory, "stranger", ["other"]);
});
after(() => rm(directory, { recursive: true, force: true }));

const lineSettings: LinkSettings = {
  between: ["primary", "dr"],
  limitBytesPerSecond: null,
  windows: [],
  connections: 4,
  collectMs: 60,
  codec: "auto",
};

function site(name: string, tls: TlsFiles, url: string | null): SiteSettings {
  return {
    name,
    dataDir: directory,
    tls,
    admin: { kind: "unix", path: "unused" },
    agent: null,
    gateway:
      url === null
        ? null
        : {
            listen: { kind: "tcp", host: "127.0.0.1", port: 0 },
            url,
            intake: { maxBytes: 1, reserveBytes: 0 },
          },
  };
}

class Heard {
  acknowledged: Sequence = 0;
  readonly all: Sequence[] = [];
  supersededBy: Token | undefined;
  readonly stops: string[] = [];
  attachments = 0;
  losses = 0;
  readonly link: boolean[] = [];
}

async function rig(
  t: TestContext,
  settings: Partial<LinkSettings> = {},
  through?: { delayMs?: number; rateBytesPerSecond?: number; resetPerMebibyte?: number },
  compress: CompressBatch = compressAside,
) {
  const gateway = new FakeGateway();
  const port = await gateway.listen(dr);
  const relay =
    through === undefined
      ? undefined
      : await startRelay({ listenPort: 0, target: { host: "127.0.0.1", port }, seed: 4, ...through });
  const source = new MemorySource();
  const heard = new Heard();
  const link = new Link({
    self: site("primary", primary, null),
    peer: site("dr", dr, `https://127.0.0.1:${port}`),
    settings: { ...lineSettings, ...settings },
    clock: systemClock,
    random: systemRandom,
    log: silentLog,
    ...(relay === undefined ? {} : { connectOverride: { host: relay.host, port: relay.port } }),
  });
  const shipper = new Shipper({
    source,
    link,
    compress,
    clock: systemClock,
    random: systemRandom,
    log: silentLog,
    listener: {
      acknowledged(durable, applied) {
        assert.ok(durable >= heard.acknowledged, "SH1: acknowledged never goes back");
        assert.ok(durable <= source.durable().sequence && applied <= durable);
        heard.acknowledged = durable;
        heard.all.push(durable);
      },
      superseded: (token) => {
        heard.supersededBy = token;
      },
      stopped: (code) => heard.stops.push(code),
      attached: () => {
        heard.attachments += 1;
      },
      lost: () => {
        heard.losses += 1;
      },
      linkChanged: (up) => heard.link.push(up),
    },
  });
  t.after(async () => {
    await shipper.close();
    await link.close();
    await relay?.close();
    await gateway.close();
  });
  return { gateway, source, heard, link, shipper, relay };
}

type Rig = Awaited<ReturnType<typeof rig>>;

async function caughtUp({ source, heard }: Rig): Promise<void> {
  await until("everything acknowledged", () =>
    heard.acknowledged === source.durable().sequence ? true : undefined,
  );
}

function sameHistory({ gateway, source }: Rig): void {
  assert.equal(gateway.durable, source.durable().sequence);
  assert.ok(bytesEqual(gateway.chain, source.durable().chain));
}

test("a new standby is created and gets every record, while more come", async (t) => {
  const all = await rig(t);
  for (let index = 0; index < 50; index += 1) all.source.append(10, 4096);
  all.shipper.start();
  for (let round = 0; round < 50; round += 1) {
    all.source.append(3, 4096);
    all.shipper.durableAdvanced();
    await new Promise((resolve) => setImmediate(resolve));
  }
  await caughtUp(all);
  sameHistory(all);
  assert.equal(all.heard.attachments, 1);
  assert.deepEqual(all.heard.link, [true]);
  const { link, state, shipped } = all.shipper.status();
  assert.equal(state, "attached");
  assert.equal(shipped, all.source.durable().sequence);
  assert.ok(link.up && link.wireBytes > 0 && link.rawBytes >= all.source.durable().dataBytesTotal);
});

test("an idle line sends a lone record at once", async (t) => {
  const all = await rig(t);
  all.shipper.start();
  await until("attached", () => (all.heard.attachments === 1 ? true : undefined));
  all.source.append(1, 512);
  all.shipper.durableAdvanced();
  await caughtUp(all);
  assert.equal(all.gateway.batches, 1);
});

test("lost answers, lost batches and cut connections change nothing (F42, F47, F51)", async (t) => {
  const all = await rig(t);
  let count = 0;
  all.gateway.faults.batch = () => {
    count += 1;
    if (count % 7 === 3) return "drop";
    if (count % 7 === 5) return "dropAnswer";
    if (count % 11 === 0) all.gateway.cutAll();
    return undefined;
  };
  all.shipper.start();
  for (let round = 0; round < 60; round += 1) {
    for (let index = 0; index < 4; index += 1) all.source.append(16, 4096, () => systemNoise());
    all.shipper.durableAdvanced();
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  await caughtUp(all);
  sameHistory(all);
  assert.ok(count > 10);
});

function systemNoise(): Uint8Array {
  return new Uint8Array(
    Buffer.concat(Array.from({ length: 256 }, () => Buffer.from(systemRandom.uuidBytes()))),
  );
}

test("a gateway that forgot unsynced frames gets them again from inside a frame", async (t) => {
  const all = await rig(t);
  const first = all.source.append(100, 4096);
  let asked = false;
  all.gateway.faults.batch = (from) => {
    if (asked || from !== 1) return undefined;
    asked = true;
    return { kind: "wanted", sequence: 1, applied: 0 };
  };
  all.shipper.start();
  await caughtUp(all);
  sameHistory(all);
  // It now stands inside a frame of ours: positions need not be borders of frames.
  assert.equal(all.gateway.durable, first.last);
});

test("a standby that stopped inside a frame is continued from there", async (t) => {
  const all = await rig(t);
  const frame = all.source.append(10, 4096);
  const { splitFrame, sliceFrame } = await import("../../../protocol/frame-split.ts");
  const part = sliceFrame(frame, 1, 4);
  all.gateway.known = true;
  all.gateway.genesis = all.source.genesis;
  all.gateway.frames.push(part);
  all.source.chains.set(4, part.chainAfter);
  all.shipper.start();
  await caughtUp(all);
  sameHistory(all);
  assert.equal(splitFrame(frame, 5).first, 5);
});

test("busy is obeyed and then goes on", async (t) => {
  const all = await rig(t);
  let busy = 3;
  all.gateway.faults.batch = () => {
    if (busy === 0) return undefined;
    busy -= 1;
    return { kind: "busy", code: "INTAKE_FULL", message: "full", retryAfterMs: 60 };
  };
  all.source.append(5, 4096);
  all.shipper.start();
  await caughtUp(all);
  sameHistory(all);
  assert.equal(all.shipper.status().reason, null);
});

test("a heartbeat tells what was answered, however little of it is acknowledged: a loss is stated from it", async (t) => {
  const all = await rig(t);
  all.gateway.faults.batch = () => "hang";
  all.source.append(10, 4096);
  all.shipper.start();
  await until("attached", () => (all.heard.attachments === 1 ? true : undefined));
  const answered = all.source.append(5, 4096).last;
  all.shipper.durableAdvanced();
  const before = all.gateway.heartbeats;
  await until("two heartbeats", () => (all.gateway.heartbeats >= before + 2 ? true : undefined));
  assert.equal(all.gateway.heard, answered);
  assert.equal(all.heard.acknowledged, 0);
});

test("superseded ends shipping and names the token", async (t) => {
  const all = await rig(t);
  all.gateway.faults.batch = () => ({ kind: "superseded", token: { epoch: 2, owner: "dr" } });
  all.source.append(5, 4096);
  all.shipper.start();
  await until("superseded", () => all.heard.supersededBy);
  assert.deepEqual(all.heard.supersededBy, { epoch: 2, owner: "dr" });
  assert.equal(all.shipper.status().state, "superseded");
  assert.equal(all.heard.acknowledged, 0);
});

test("SH12: the answer to a question about the volume table names the newer token as well", async (t) => {
  const all = await rig(t);
  all.source.append(5, 4096);
  all.shipper.start();
  await caughtUp(all);
  all.gateway.faults.heartbeat = () => "hang";
  all.gateway.faults.hello = () => ({ kind: "superseded", token: { epoch: 2, owner: "dr" } });
  assert.equal(await all.shipper.askForTable([{ number: 0, name: "data", sizeBytes: 4096 }]), null);
  assert.deepEqual(all.heard.supersededBy, { epoch: 2, owner: "dr" });
});

test("a standby of another history stops shipping and is not touched (F77)", async (t) => {
  const all = await rig(t);
  all.source.append(5, 4096);
  const other = new MemorySource();
  other.append(5, 4096, () => 99);
  all.gateway.known = true;
  all.gateway.frames.push(...other.allFrames);
  all.shipper.start();
  await until("stopped", () => all.heard.stops[0]);
  assert.deepEqual(all.heard.stops, ["DIVERGED"]);
  assert.equal(all.gateway.batches, 0);
});

test("a standby ahead of this site stops shipping (F77)", async (t) => {
  const all = await rig(t);
  const other = new MemorySource();
  other.append(5, 4096);
  all.gateway.known = true;
  all.gateway.frames.push(...other.allFrames);
  all.shipper.start();
  await until("stopped", () => all.heard.stops[0]);
  assert.deepEqual(all.heard.stops, ["STANDBY_AHEAD"]);
});

test("a standby that is gone after trimming is not created anew", async (t) => {
  const gatewayRig = await rig(t);
  gatewayRig.source.append(5, 4096);
  gatewayRig.source.head = 5;
  const { source, link } = gatewayRig;
  const stops: string[] = [];
  const shipper = new Shipper({
    source,
    link,
    compress: compressAside,
    clock: systemClock,
    random: systemRandom,
    log: silentLog,
    listener: {
      acknowledged: () => assert.fail("nothing is acknowledged"),
      superseded: () => assert.fail("not superseded"),
      stopped: (code) => stops.push(code),
      attached: () => assert.fail("not attached"),
      lost: () => stops.push("told"),
      linkChanged: () => undefined,
    },
  });
  t.after(() => shipper.close());
  shipper.start();
  await until("stopped", () => stops[0]);
  assert.deepEqual(stops, ["told", "STANDBY_LOST"]);
});

test("what could not be packed is read and packed again, by whoever packs then", async (t) => {
  let asked = 0;
  const all = await rig(t, { codec: "lz4" }, undefined, (codec, raw) => {
    asked += 1;
    // Gone with the thread that had it.
    if (asked <= 2) structuredClone(raw.buffer, { transfer: [raw.buffer as ArrayBuffer] });
    return asked <= 2 ? Promise.reject(new Error("thread ended")) : compressAside(codec, raw);
  });
  all.source.append(20, 4096);
  all.shipper.start();
  await caughtUp(all);
  assert.ok(asked > 2, "it failed, twice");
  assert.deepEqual(all.heard.stops, []);
  assert.equal(all.shipper.status().reason, null);
  sameHistory(all);
});

test("a standby behind what was dropped is told of a gap, alone in its batch, and gets the rest", async (t) => {
  const all = await rig(t);
  const { source, gateway, shipper } = all;
  for (let count = 0; count < 30; count += 1) source.append(1, 4096);
  gateway.known = true;
  gateway.frames.push(...source.allFrames.slice(0, 5));
  source.floor = 3;
  source.head = 20;
  shipper.start();
  await until("everything acknowledged", () => (all.heard.acknowledged === 30 ? true : undefined));
  assert.deepEqual(source.declared, [[6, 20]]);
  const gap = gateway.frames[5]!;
  assert.deepEqual(
    [gap.first, gap.count, gap.last, gap.dataBytesTotal, gap.records[0]?.kind],
    [6, 1, 20, 20 * 4096, "gap"],
  );
  assert.equal(gateway.frames[6]!.first, 21);
  assert.ok(gateway.batches > 1, "the gap was alone");
});

test("records that are dropped while they are read become part of a gap, and shipping goes on", async (t) => {
  const all = await rig(t);
  const { source, gateway, shipper } = all;
  for (let count = 0; count < 12; count += 1) source.append(1, 4096);
  source.floor = 0;
  const frames = source.frames.bind(source);
  let drops = 0;
  source.frames = async (from, bytesMax) => {
    // Twice the head moves on between the decision to read and the read.
    if (drops < 2 && from > source.head) {
      drops += 1;
      source.head = Math.min(10, from + 3);
      throw new OperationalError({ code: "JOURNAL_TRIMMED", message: "gone", reaction: "resync" });
    }
    return frames(from, bytesMax);
  };
  shipper.start();
  await until("everything acknowledged", () => (all.heard.acknowledged === 12 ? true : undefined));
  assert.deepEqual(all.heard.stops, []);
  assert.equal(drops, 2);
  assert.deepEqual(
    gateway.frames
      .filter(({ records }) => records[0]?.kind === "gap")
      .map(({ first, last }) => [first, last]),
    source.declared,
  );
});

test("a position that nothing tells of any more stops shipping instead of being guessed at", async (t) => {
  const all = await rig(t);
  const { source, gateway, shipper } = all;
  for (let count = 0; count < 12; count += 1) source.append(1, 4096);
  gateway.known = true;
  gateway.frames.push(...source.allFrames.slice(0, 5));
  source.head = 8;
  source.floor = 2;
  source.positionAt = async () => undefined;
  shipper.start();
  await until("stopped", () => all.heard.stops[0]);
  assert.deepEqual(all.heard.stops, ["STANDBY_LOST"]);
  assert.equal(gateway.batches, 0);
});

test("a refusal is reported and shipping goes on when it is mended", async (t) => {
  const all = await rig(t);
  let refused = 0;
  all.gateway.faults.heartbeat = () => {
    refused += 1;
    return refused === 1 ? { kind: "refused", code: "INTAKE_DAMAGED", message: "mend me" } : undefined;
  };
  all.shipper.start();
  await until("stopped", () => all.heard.stops[0]);
  assert.deepEqual(all.heard.stops, ["INTAKE_DAMAGED"]);
  assert.equal(all.shipper.status().state, "waiting");
});

test("the wrong site at the other end gets nothing", async (t) => {
  const gateway = new FakeGateway();
  const port = await gateway.listen(stranger);
  const link = new Link({
    self: site("primary", primary, null),
    peer: site("dr", dr, `https://127.0.0.1:${port}`),
    settings: lineSettings,
    clock: systemClock,
    random: systemRandom,
    log: silentLog,
  });
  t.after(async () => {
    await link.close();
    await gateway.close();
  });
  await assert.rejects(link.knowledge("erp"), { code: "PEER_CERTIFICATE" });
  assert.equal(link.up, false);
});

test("resets on the line cost time, never records (F42)", async (t) => {
  const all = await rig(t, {}, { resetPerMebibyte: 0.3 });
  all.shipper.start();
  for (let index = 0; index < 100; index += 1) all.source.append(32, 4096, () => systemNoise());
  all.shipper.durableAdvanced();
  await caughtUp(all);
  sameHistory(all);
  assert.ok((all.relay?.counters.resets ?? 0) > 0, "the relay reset something");
});

test("a killed gateway is noticed, and shipping resumes when it answers again", async (t) => {
  const all = await rig(t);
  all.shipper.start();
  all.source.append(5, 4096);
  all.shipper.durableAdvanced();
  await caughtUp(all);
  all.gateway.faults.hello = () => ({ kind: "refused", code: "X", message: "x" });
  all.gateway.cutAll();
  delete all.gateway.faults.hello;
  all.source.append(5, 4096);
  all.shipper.durableAdvanced();
  await caughtUp(all);
  sameHistory(all);
});

for (const how of ["cut", "half-open"] as const) {
  test(`a line that goes silent (${how}) is noticed, and shipping resumes when it is back (F40, F41)`, async (t) => {
    const all = await rig(t, {}, { delayMs: 1 });
    all.shipper.start();
    all.source.append(5, 4096);
    all.shipper.durableAdvanced();
    await caughtUp(all);
    if (how === "cut") all.relay?.cut();
    else all.relay?.halfOpen("down");
    all.source.append(50, 4096);
    all.shipper.durableAdvanced();
    if (how === "cut") {
      await until("the link is down", () => (all.link.up ? undefined : true));
      assert.notEqual(all.shipper.status().state, "attached");
      all.relay?.restore();
    } else {
      // New connections are whole again, so the link may be back as soon as it is seen to be down.
      await until("the link was down", () => (all.heard.link.includes(false) ? true : undefined));
    }
    await caughtUp(all);
    sameHistory(all);
    assert.equal(all.heard.link.at(-1), true);
  });
}
