/**
 * The receiving end over real HTTPS, with real journal and images: what is acknowledged is durable and in order, and
 * what is not ours changes nothing. Fault ids: F42 F46 F47 F48 F51 F66 F76 F77 F90 F91.
 */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { request as httpsRequest } from "node:https";
import { dirname } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { brotliCompressSync, crc32 } from "node:zlib";
import { startGateway } from "../../gateway/main.ts";
import { batchHeaderBytes, encodeBatch } from "../../protocol/batch.ts";
import { wanRoutes } from "../../protocol/control.ts";
import type { Frame } from "../../protocol/frame.ts";
import { lineageToText } from "../../protocol/ids.ts";
import { systemClock } from "../../runtime/clock.ts";
import { silentLog } from "../../runtime/log.ts";
import { agentGroupPaths } from "../../runtime/paths.ts";
import { systemRandom } from "../../runtime/random.ts";
import { Source, StandbySite, volumes } from "./standby-site.ts";

let site: StandbySite;
let source: Source;
beforeEach(async () => {
  site = await StandbySite.make();
  source = new Source(7);
  await site.start();
});
afterEach(async () => site.remove());

/** Sets fields of an encoded batch's header and mends its checksum. */
function withHeader(batch: Uint8Array, change: (view: DataView) => void): Uint8Array {
  const copy = new Uint8Array(batch);
  const view = new DataView(copy.buffer);
  change(view);
  view.setUint32(batchHeaderBytes - 4, crc32(copy.subarray(0, batchHeaderBytes - 4)));
  return copy;
}

test("an unknown group is made by the first greeting, takes batches and applies them byte for byte", async () => {
  assert.deepEqual((await site.send(wanRoutes.group("erp"), undefined)).json, {
    known: false,
    lineage: null,
    token: null,
  });
  assert.equal((await site.hello(source, { create: false })).json.kind, "unknown");
  assert.equal((await site.heartbeat(source)).json.kind, "unknown");
  const attached = (await site.hello(source)).json;
  assert.deepEqual([attached.kind, attached.durable.sequence, attached.applied], ["attached", 0, 0]);
  assert.equal((await site.send(wanRoutes.group("erp"), undefined)).json.known, true);
  for (const codec of ["none", "lz4", "brotli"] as const) {
    const answer = (await site.batch(source, source.write(5), source.token, codec)).json;
    assert.deepEqual([answer.kind, answer.durable], ["acknowledged", source.last]);
  }
  await site.applied(source);
  assert.deepEqual(site.images(), source.contents.at(-1));
  const status = site.role!.statuses()[0]!;
  assert.deepEqual(
    [status.state, status.position.applied, status.consistent?.sequence],
    ["protected", source.last, source.last],
  );
});

test("only the other site's certificate with its own token may speak, and only for its group", async () => {
  const third = site.connect("third");
  const self = site.connect("dr");
  for (const client of [third, self]) {
    for (const path of [wanRoutes.hello("erp"), wanRoutes.heartbeat("erp"), wanRoutes.batches("erp")]) {
      const reply = await site.send(path, source.hello(), client);
      assert.deepEqual([reply.status, reply.json.id], [403, "SITE_FOREIGN"]);
    }
    assert.equal((await site.send(wanRoutes.group("erp"), undefined, client)).status, 403);
    await client.destroy();
  }
  assert.equal((await site.send(wanRoutes.hello("other"), source.hello())).json.id, "GROUP_FOREIGN");
  assert.equal((await site.hello(source, { token: { epoch: 1, owner: "third" } })).json.id, "OWNER_FOREIGN");
  assert.equal(existsSync(site.paths.directory), false);
  await site.hello(source);
  assert.equal(
    (await site.batch(source, source.write(1), { epoch: 1, owner: "third" })).json.id,
    "OWNER_FOREIGN",
  );
});

test("a greeting whose history, table or token does not fit changes nothing and says why (F76, F77)", async () => {
  await site.hello(source);
  await site.batch(source, source.write(4));
  const bigger = volumes.map((volume) => ({ ...volume, sizeBytes: volume.sizeBytes * 2 }));
  const renamed = volumes.map((volume) => ({ ...volume, name: `${volume.name}2` }));
  assert.equal((await site.hello(source, { volumes: bigger })).json.code, "VOLUME_SIZE");
  assert.equal((await site.hello(source, { volumes: renamed })).json.code, "VOLUME_TABLE");
  assert.equal((await site.hello(source, { volumes: volumes.slice(0, 1) })).json.code, "VOLUME_TABLE");
  assert.equal((await site.hello(source, { genesis: "00".repeat(32) })).json.code, "GENESIS");
  assert.equal(
    (await site.hello(source, { token: { epoch: 2, owner: "primary" } })).json.code,
    "TOKEN_UNKNOWN",
  );
  const restored = (await site.hello(source, { durable: { sequence: 3, chain: "00".repeat(32) } })).json;
  assert.deepEqual([restored.kind, restored.durable.sequence], ["diverged", source.last]);
  const other = (await site.hello(source, { durable: { sequence: source.last, chain: "00".repeat(32) } }))
    .json;
  assert.equal(other.kind, "diverged");
  const foreign = new Source(8);
  const answer = (await site.hello(foreign)).json;
  assert.deepEqual([answer.kind, answer.lineage], ["diverged", lineageToText(source.lineage)]);
  assert.equal(site.role!.statuses()[0]!.state, "stopped");
  assert.equal((await site.hello(source)).json.kind, "attached");
});

test("a standby is never made over data, over leftovers, or where this site's agent has a history", async () => {
  mkdirSync(agentGroupPaths(site.dataDir, "erp").directory, { recursive: true });
  writeFileSync(agentGroupPaths(site.dataDir, "erp").state, "{}");
  assert.equal((await site.send(wanRoutes.group("erp"), undefined)).json.known, true);
  assert.equal((await site.hello(source)).json.code, "GROUP_OWNED_HERE");
  rmSync(agentGroupPaths(site.dataDir, "erp").state);
  mkdirSync(dirname(site.paths.image("data")), { recursive: true });
  writeFileSync(site.paths.image("data"), Buffer.alloc(volumes[0]!.sizeBytes, 1));
  assert.equal((await site.hello(source)).json.code, "IMAGE_HOLDS_DATA");
  assert.equal(readFileSync(site.paths.image("data"))[0], 1);
  rmSync(site.paths.image("data"));
  mkdirSync(site.paths.intake, { recursive: true });
  assert.equal((await site.hello(source)).json.code, "STANDBY_LEFTOVERS");
  rmSync(site.paths.intake, { recursive: true });
  assert.equal((await site.hello(source)).json.kind, "attached");
});

test("duplicates are acknowledged by their chain and change nothing; overlaps and gaps are told what is wanted (F47, F51)", async () => {
  await site.hello(source);
  const first = source.write(3);
  const second = source.write(3);
  await site.batch(source, first);
  await site.batch(source, second);
  await site.applied(source);
  for (const frames of [first, second, [...first, ...second], first.slice(0, 1)]) {
    const answer = (await site.batch(source, frames)).json;
    assert.deepEqual([answer.kind, answer.durable], ["acknowledged", source.last]);
  }
  const third = source.write(2);
  assert.deepEqual((await site.batch(source, [...second, ...third])).json.sequence, third[0]!.first);
  await site.batch(source, third);
  await site.applied(source);
  assert.deepEqual(site.images(), source.contents.at(-1));
});

test("a batch of another history is diverged, as the next one and as a duplicate (F66, F77)", async () => {
  await site.hello(source);
  const twin = new Source(9);
  twin.lineage.set(source.lineage);
  await site.batch(source, source.write(2));
  const theirs = twin.write(2);
  const next = twin.write(1);
  assert.equal((await site.batch(twin, theirs)).json.kind, "diverged");
  assert.equal((await site.batch(twin, next)).json.kind, "diverged");
  const foreign = new Source(10);
  assert.equal((await site.batch(foreign, foreign.write(1))).json.kind, "diverged");
  assert.equal(
    (await site.batch(source, source.write(1), { epoch: 9, owner: "primary" })).json.code,
    "TOKEN_UNKNOWN",
  );
  assert.equal(site.role!.statuses()[0]!.position.durable, 6);
});

test("batches in any order over several connections end as one history (F48)", async () => {
  await site.hello(source);
  const batches = Array.from({ length: 24 }, () => source.write(2));
  const order = batches
    .map((frames, index) => ({ frames, key: (index * 7919) % 23 }))
    .sort((a, b) => a.key - b.key);
  const pending = order.map((each) => each.frames);
  let turns = 0;
  while (pending.length > 0) {
    turns += 1;
    assert.ok(turns < 200, "progress");
    const sent = pending.splice(0, 8);
    const answers = await Promise.all(sent.map((frames) => site.batch(source, frames)));
    for (const [index, { json }] of answers.entries()) {
      if (json.kind === "wanted") pending.push(sent[index]!);
      else assert.equal(json.kind, "acknowledged");
    }
    // The sender begins with what is wanted, as a shipper does.
    pending.sort((a, b) => a[0]!.first - b[0]!.first);
  }
  await site.applied(source);
  assert.deepEqual(site.images(), source.contents.at(-1));
});

test("damage, truncation and lies about size are refused before anything is written (F46, F90, F91, F92)", async () => {
  await site.hello(source);
  const frames = source.write(3);
  const good = await encodeBatch(frames, source.token, "brotli");
  const post = (bytes: Uint8Array) => site.send(wanRoutes.batches("erp"), bytes);
  for (let at = 0; at < good.length; at += 97) {
    const flipped = new Uint8Array(good);
    flipped[at]! ^= 1 << (at % 8);
    const reply = await post(flipped);
    assert.ok(reply.status === 400, `flip at ${at}: ${JSON.stringify(reply)}`);
  }
  for (const length of [0, 10, batchHeaderBytes - 1, batchHeaderBytes, good.length - 1]) {
    assert.equal((await post(good.subarray(0, length))).status, 400);
  }
  assert.equal((await post(Buffer.concat([good, Buffer.alloc(10)]))).json.id, "BATCH_LENGTH");
  const bomb = brotliCompressSync(Buffer.alloc(5 * 1024 * 1024));
  const lying = withHeader(Buffer.concat([good.subarray(0, batchHeaderBytes), bomb]), (view) => {
    view.setUint32(120, bomb.length);
    view.setUint32(124, crc32(bomb));
  });
  assert.equal((await post(lying)).json.id, "BATCH_BROTLI");
  assert.equal(
    (await post(withHeader(good, (view) => view.setUint32(116, 2 ** 31)))).json.id,
    "BATCH_LIMITS",
  );
  assert.equal(site.role!.statuses()[0]!.position.received, 0);
  assert.equal((await post(good)).json.kind, "acknowledged");
});

test("a sender that miscounts the history's data bytes is refused, and the right count is taken", async () => {
  await site.hello(source);
  const [frame] = source.write(1);
  const miscounted = { ...frame!, dataBytesTotal: frame!.dataBytesTotal + 4096 };
  const post = async (of: Frame) =>
    (await site.send(wanRoutes.batches("erp"), await encodeBatch([of], source.token, "none"))).json;
  assert.equal((await post(miscounted)).id, "FRAME_TOTAL");
  assert.equal((await post(frame!)).kind, "acknowledged");
});

test("a body that breaks off gives its turn back, and the same batch sent again is taken (F42)", async () => {
  await site.hello(source);
  const batch = await encodeBatch(source.write(3, 3, 256 * 1024), source.token, "none");
  const files = site.tls["primary"]!;
  const address = site.role!.wanAddress;
  for (const cut of [
    1,
    batchHeaderBytes,
    batchHeaderBytes + 1,
    Math.floor(batch.length / 2),
    batch.length - 1,
  ]) {
    const outgoing = httpsRequest({
      host: "127.0.0.1",
      port: address.kind === "tcp" ? address.port : 0,
      path: wanRoutes.batches("erp"),
      method: "POST",
      agent: false,
      ca: readFileSync(files.ca),
      cert: readFileSync(files.cert),
      key: readFileSync(files.key),
      headers: { "content-length": batch.length },
    });
    outgoing.on("error", () => {});
    await new Promise<void>((resolve) => outgoing.write(batch.subarray(0, cut), () => resolve()));
    outgoing.destroy();
  }
  const answer = (await site.send(wanRoutes.batches("erp"), batch)).json;
  assert.deepEqual([answer.kind, answer.durable], ["acknowledged", source.last]);
});

test("restart: the standby goes on where it was, without another greeting", async () => {
  await site.hello(source);
  await site.batch(source, source.write(6));
  await site.stop();
  await site.start();
  const hello = (await site.hello(source)).json;
  assert.deepEqual([hello.kind, hello.durable.sequence], ["attached", source.last]);
  await site.stop();
  await site.start();
  await site.batch(source, source.write(6));
  await site.applied(source);
  assert.deepEqual(site.images(), source.contents.at(-1));
});

test("only one gateway runs on a data folder", async () => {
  const other = site.settings();
  const world = { ...other, clock: systemClock, random: systemRandom, log: silentLog, target: null };
  await assert.rejects(startGateway(world), { code: "ROLE_LOCKED" });
});
