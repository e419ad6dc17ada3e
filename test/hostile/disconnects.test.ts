/**
 * A client may leave at any byte of a session with a whole running site, politely or not, in step with the replies or
 * far ahead of them. Complete requests then count as sent, incomplete ones never happened: the owner's count of records
 * and the content of every sector say so. 800 sessions and more.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { RawClient } from "../block/nbd-rig.ts";
import * as wire from "../protocol/nbd/wire.ts";
import { CMD, FLAG, OPT, REP } from "../protocol/nbd/wire.ts";
import { noteEvidence } from "../support/evidence.ts";
import { NbdClient } from "../support/nbd-client.ts";
import { residentBytes, TwoSites } from "../support/sites.ts";
import { until } from "../support/wait.ts";
import { connectionsAt, errorsIn, loopback, rawClient } from "./whole-site.ts";

const mebibyte = 1024 * 1024;
/** Sessions at once. Each comes from its own address, so only the bound of all negotiating ones (100) counts. */
const atOnce = 16;
const slotBytes = 4096;
const volumeBytes = 16 * mebibyte;

type Leave = "fin" | "rst";
type Pace = "ahead" | "in step";

interface Message {
  readonly name: string;
  readonly bytes: Buffer;
  /** Offset in the slot and length that a complete one changes. */
  readonly changes?: { readonly at: number; readonly length: number; readonly zero: boolean };
  /** Takes the replies to it; false when the connection ended first. */
  readonly replied?: (client: RawClient) => Promise<boolean>;
}

const optionReplied = async (client: RawClient): Promise<boolean> => {
  for (;;) {
    const reply = await client.optionReply();
    if (reply === undefined) return false;
    if (reply.type === REP.ACK || reply.type >= 0x80000000) return true;
  }
};
const requestReplied = async (client: RawClient): Promise<boolean> => (await client.reply()) !== undefined;

/** The bytes of one session that owns slot `slot` of the volume. */
function session(slot: number, exportName: string): readonly Message[] {
  const offset = slot * slotBytes;
  const write = (at: number, length: number, flags = 0): Message => ({
    name: "WRITE",
    bytes: wire.request({
      command: CMD.WRITE,
      flags,
      cookie: 10 + at,
      offset: offset + at,
      data: Buffer.alloc(length, 1 + (slot % 255)),
    }),
    changes: { at, length, zero: false },
    replied: requestReplied,
  });
  const plain = (name: string, command: number, at: number, length: number, changes = false): Message => ({
    name,
    bytes: wire.request({
      command,
      cookie: command,
      offset: command === CMD.FLUSH ? 0 : offset + at,
      length,
    }),
    ...(changes ? { changes: { at, length, zero: true } } : {}),
    replied: requestReplied,
  });
  return [
    { name: "client flags", bytes: wire.clientFlags() },
    { name: "LIST", bytes: wire.option(OPT.LIST), replied: optionReplied },
    { name: "STRUCTURED_REPLY", bytes: wire.option(OPT.STRUCTURED), replied: optionReplied },
    {
      name: "SET_META_CONTEXT",
      bytes: wire.option(OPT.SET_META, wire.metaData(exportName, ["base:allocation"])),
      replied: optionReplied,
    },
    { name: "GO", bytes: wire.go(exportName, [3]), replied: optionReplied },
    write(0, 512),
    plain("FLUSH", CMD.FLUSH, 0, 0),
    plain("READ", CMD.READ, 0, 512),
    plain("WRITE_ZEROES", CMD.ZEROES, 512, 512, true),
    plain("TRIM", CMD.TRIM, 1024, 512, true),
    plain("CACHE", CMD.CACHE, 0, 4096),
    plain("BLOCK_STATUS", CMD.STATUS, 0, 4096),
    write(2048, 1024, FLAG.FUA),
    { name: "DISC", bytes: wire.request({ command: CMD.DISC }) },
  ];
}

interface Cut {
  readonly at: number;
  readonly leave: Leave;
  readonly pace: Pace;
}

/** Positions worth a session of their own: every byte of headers and options, and some of payloads. */
function cutPoints(messages: readonly Message[]): number[] {
  const points: number[] = [0];
  let start = 0;
  for (const { bytes } of messages) {
    for (let at = 1; at <= bytes.length; at += 1) {
      const inPayload = at > 28 && bytes.length > 128 && at < bytes.length - 1;
      if (!inPayload || at % 64 === 0) points.push(start + at);
    }
    start += bytes.length;
  }
  return points;
}

/** The points by name: before, inside and after each message. */
function namedPoints(messages: readonly Message[]): { name: string; at: number }[] {
  const points: { name: string; at: number }[] = [];
  let start = 0;
  for (const { name, bytes } of messages) {
    points.push({ name: `before ${name}`, at: start });
    points.push({ name: `inside ${name}`, at: start + Math.min(8, bytes.length - 1) });
    if (bytes.length > 128) points.push({ name: `inside the payload of ${name}`, at: start + 28 + 100 });
    points.push({ name: `after ${name}`, at: start + bytes.length });
    start += bytes.length;
  }
  return points;
}

/** Runs one session up to its cut; returns when the server has let go. */
async function runCut(client: RawClient, messages: readonly Message[], cut: Cut): Promise<void> {
  let left = cut.at;
  if (cut.pace === "ahead") {
    const all = Buffer.concat(messages.map((message) => message.bytes)).subarray(0, left);
    await new Promise<void>((resolve) => client.socket.write(all, () => resolve()));
  } else {
    await client.greeting();
    for (const message of messages) {
      const part = message.bytes.subarray(0, left);
      left -= part.length;
      client.send(part);
      if (part.length < message.bytes.length) break;
      if (message.replied !== undefined && !(await message.replied(client))) break;
    }
  }
  if (cut.leave === "rst") {
    client.socket.resetAndDestroy();
    return;
  }
  client.socket.end();
  await client.end();
  client.destroy();
}

describe("clients that leave a running site", () => {
  let sites: TwoSites;
  let watcher: NbdClient;
  let slot = 0;
  const slots: { cut: Cut; slot: number }[] = [];

  before(async () => {
    sites = await TwoSites.create({ volumes: { data: volumeBytes } });
    await Promise.all([sites.start("primary"), sites.start("dr")]);
    await sites.waitServing("primary");
    watcher = await NbdClient.connect(sites.nbdSocket("primary"), sites.exportOf("data"));
  });
  after(() => sites?.dispose());

  /** Runs the cuts, then requires that the site is as it was: sockets, and nothing waiting. */
  async function runAll(cuts: readonly Cut[]): Promise<void> {
    const pid = sites.child("primary").pid;
    const { port } = sites.nbdAddress("primary");
    const queue = cuts.map((cut) => ({ cut, slot: slot++ }));
    slots.push(...queue);
    let done = 0;
    const worker = async (): Promise<void> => {
      for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
        const client = await rawClient(sites, "primary", loopback(10, next.slot));
        await runCut(client, session(next.slot, sites.exportOf("data")), next.cut);
        done += 1;
      }
    };
    await Promise.all(Array.from({ length: atOnce }, worker));
    assert.equal(done, cuts.length);
    await until("the site's sockets to be closed", () => (connectionsAt(pid, port) === 0 ? true : undefined));
    assert.equal(sites.child("primary").running, true);
    assert.equal((await watcher.flush()).outcome, "answered", "an old client is served");
    const fresh = await NbdClient.connect(sites.nbdAddress("primary"), sites.exportOf("data"));
    assert.equal((await fresh.read(0, 4096)).outcome, "answered", "a fresh client is served");
    await fresh.close();
  }

  const completeChanges = (cut: Cut, messages: readonly Message[]): Message[] => {
    const complete: Message[] = [];
    let end = 0;
    for (const message of messages) {
      end += message.bytes.length;
      if (message.changes !== undefined && end <= cut.at) complete.push(message);
    }
    return complete;
  };

  test("H28 T22 FIN at every byte, far ahead of the replies: complete requests happened, no other", async () => {
    const messages = session(0, sites.exportOf("data"));
    const cuts = cutPoints(messages).map((at): Cut => ({ at, leave: "fin", pace: "ahead" }));
    assert.ok(cuts.length >= 350, `${cuts.length} sessions`);
    const before = (await sites.owner("primary")).position.written;
    await runAll(cuts);
    const expected = cuts.reduce((sum, cut) => sum + completeChanges(cut, messages).length, 0);
    assert.ok(expected > 200);
    const written = (await sites.owner("primary")).position.written - before;
    assert.equal(written, expected, "records of complete requests, each once");
  });

  test("H28 T22 RST at every byte, far ahead of the replies", async () => {
    const messages = session(0, sites.exportOf("data"));
    const cuts = cutPoints(messages).map((at): Cut => ({ at, leave: "rst", pace: "ahead" }));
    const before = (await sites.owner("primary")).position.written;
    const resident = residentBytes(sites.child("primary").pid);
    await runAll(cuts);
    const most = cuts.reduce((sum, cut) => sum + completeChanges(cut, messages).length, 0);
    const written = (await sites.owner("primary")).position.written - before;
    assert.ok(written <= most, `${written} records, at most ${most} requests were complete`);
    const grown = residentBytes(sites.child("primary").pid) - resident;
    assert.ok(grown < 96 * mebibyte, `grew by ${grown} bytes`);
  });

  test("H28 before, inside and after each message, in step with the replies", async () => {
    const messages = session(0, sites.exportOf("data"));
    const named = namedPoints(messages);
    assert.ok(named.length >= 27);
    const cuts = named.flatMap(({ at }): Cut[] => [
      { at, leave: "fin", pace: "in step" },
      { at, leave: "rst", pace: "in step" },
    ]);
    await runAll(cuts);
    assert.ok(slots.length >= 800, `${slots.length} sessions in all`);
  });

  test("T25 what one connection was answered all others read, and a FLUSH on any covers it", async () => {
    const canMultiConn = 1 << 8;
    const clients: NbdClient[] = [];
    for (let index = 0; index < 4; index += 1)
      clients.push(await NbdClient.connect(sites.nbdAddress("primary"), sites.exportOf("data")));
    const base = volumeBytes - mebibyte;
    for (let round = 0; round < 100; round += 1) {
      const writer = clients[round % 4]!;
      assert.notEqual(writer.flags & canMultiConn, 0);
      const data = Buffer.alloc(4096, 1 + (round % 255));
      assert.equal((await writer.write(base + (round % 200) * 4096, data)).outcome, "answered");
      for (const reader of clients) {
        const back = await reader.read(base + (round % 200) * 4096, 4096);
        assert.ok(back.outcome === "answered" && back.data.equals(data));
      }
      assert.equal((await clients[(round + 1) % 4]!.flush()).outcome, "answered");
    }
    const { written } = (await sites.owner("primary")).position;
    for (const client of clients) await client.destroy();
    await until("the flushed writes to be at the standby", async () =>
      (await sites.owner("primary")).position.acknowledged >= written ? true : undefined,
    );
  });

  test("T22 every sector shows a complete request or none", async () => {
    const content = await watcher.read(0, slots.length * slotBytes);
    assert.ok(content.outcome === "answered");
    let written = 0;
    for (const { cut, slot: index } of slots) {
      const messages = session(index, sites.exportOf("data"));
      const complete = new Set(completeChanges(cut, messages).map((message) => message.changes));
      const own = content.data.subarray(index * slotBytes, (index + 1) * slotBytes);
      for (const { changes } of messages) {
        if (changes === undefined || changes.zero) continue;
        const bytes = own.subarray(changes.at, changes.at + changes.length);
        const full = bytes.equals(Buffer.alloc(changes.length, 1 + (index % 255)));
        const empty = bytes.equals(Buffer.alloc(changes.length));
        const where = `slot ${index} at ${changes.at}, ${JSON.stringify(cut)}`;
        assert.ok(full || empty, `torn: ${where}`);
        if (!complete.has(changes)) assert.ok(empty, `an incomplete write happened: ${where}`);
        // In step, the reply to everything before the last message was seen before leaving.
        else if (cut.leave === "fin") assert.ok(full, `a complete write is missing: ${where}`);
        if (full) written += 1;
      }
    }
    assert.ok(written > 100, `${written} writes`);
    assert.deepEqual(errorsIn(sites.log("primary")), []);
    noteEvidence("hostile clients", { sessions: slots.length, "complete writes found": written });
    await sites.waitIdle("primary", "dr");
    await watcher.close();
    await sites.stop("primary");
    await sites.stop("dr");
  });
});
