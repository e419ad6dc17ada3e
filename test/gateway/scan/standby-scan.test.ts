/**
 * A standby under scans of an owner driven by hand, in random interleavings with writes, restarts and kills: damage that was
 * planted is found, sound images are never reported, a first sync makes the images equal, and a failover waits for its end.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { closeSync, mkdirSync, openSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { wanRoutes } from "../../../protocol/control.ts";
import { blockBytes, lineageToText } from "../../../protocol/ids.ts";
import type { ScanPurpose } from "../../../protocol/record.ts";
import { SeededRandom, seedFromEnvironment } from "../../support/seeded.ts";
import { StandbySite, volumes } from "../standby-site.ts";
import { bitsOf, type Chunk, chunks, HandOwner, unlessGone } from "./hand-owner.ts";

const seed = seedFromEnvironment();
let site: StandbySite;
let random: SeededRandom;
beforeEach(async () => {
  site = await StandbySite.make();
  random = new SeededRandom(seed);
});
afterEach(async () => site.remove());

const emptyDisks = (): Buffer[] => volumes.map(({ sizeBytes }) => Buffer.alloc(sizeBytes));

/** Disks with some blocks of data here and there, and long runs of zeroes. */
function drawDisks(blocks = 60): Buffer[] {
  const disks = emptyDisks();
  for (let index = 0; index < blocks; index += 1) {
    const disk = random.pick(disks);
    const at = blockBytes * random.below(disk.byteLength / blockBytes);
    disk.fill(1 + random.below(255), at, at + blockBytes);
  }
  return disks;
}

/** The same disks, copied while they were changing. */
function spoilt(disks: readonly Buffer[]): Buffer[] {
  const copy = disks.map((disk) => Buffer.from(disk));
  for (const disk of copy)
    for (let index = 0; index < 4; index += 1)
      disk.writeUInt32BE(random.uint32(), 512 * random.below(disk.byteLength / 512));
  return copy;
}

function carryImages(disks: readonly Buffer[]): void {
  for (const [index, { name }] of volumes.entries()) {
    mkdirSync(dirname(site.paths.image(name)), { recursive: true });
    writeFileSync(site.paths.image(name), disks[index]!);
  }
}

/** A bit of the images turns over while nothing is being applied; the model knows. */
async function flip(owner: HandOwner): Promise<void> {
  await owner.applied(site);
  const volume = random.below(volumes.length);
  const held = owner.standby[volume]!;
  const at = random.below(held.byteLength);
  held[at]! ^= 1 << random.below(8);
  const file = openSync(site.paths.image(volumes[volume]!.name), "r+");
  writeSync(file, held, at, 1, at);
  closeSync(file);
}

const restart = async (owner: HandOwner): Promise<void> => {
  await site.stop();
  await site.start();
  assert.equal((await owner.greet(site)).kind, "attached");
};

/** A digest, sent among writes, until the standby says what it shows. */
async function compare(
  owner: HandOwner,
  chunk: Chunk,
  level: "chunk" | "leaf",
  disturb: () => Promise<void>,
): Promise<string> {
  for (;;) {
    owner.write(random.below(4));
    if (random.chance(0.3)) owner.cut();
    const sequence = owner.digest(chunk, level);
    owner.write(random.below(4));
    await owner.send(site);
    await disturb();
    const bits = await owner.learn(site, sequence);
    if (bits !== undefined) return bits;
  }
}

/** One scan over everything, from begin to end; content of what differs where the purpose has it. */
async function scan(owner: HandOwner, purpose: ScanPurpose, disturb: () => Promise<void>): Promise<Chunk[]> {
  const found: Chunk[] = [];
  const begin = owner.mark("begin", purpose);
  for (const chunk of chunks) {
    if ((await compare(owner, chunk, "chunk", disturb)) === "") continue;
    const leaves = bitsOf(await compare(owner, chunk, "leaf", disturb));
    for (const leaf of leaves) {
      const offset = chunk.offset + leaf * blockBytes;
      found.push({ volume: chunk.volume, offset, length: blockBytes });
      if (purpose !== "verify") owner.content(chunk.volume, offset, blockBytes);
      if (random.chance(0.5)) owner.write(1);
    }
  }
  owner.mark("end", purpose, begin);
  await owner.send(site);
  return found;
}

const calm = async (): Promise<void> => {};

async function requireEqualImages(owner: HandOwner): Promise<void> {
  await owner.applied(site);
  assert.deepEqual(site.images(), owner.standby, "the images are what the model says");
  assert.deepEqual(owner.standby, owner.disks, "and that is what the owner has");
}

test(`verify finds what was planted and nothing else, among writes and restarts (SEED=${seed})`, async () => {
  const owner = new HandOwner(seed, emptyDisks(), emptyDisks());
  await site.start();
  assert.equal((await site.hello(owner.source)).json.lacks, undefined);
  owner.write(40);
  await owner.send(site);
  await scan(owner, "verify", async () => {
    if (random.chance(0.3)) await restart(owner);
  });
  assert.equal(owner.differed, 0, "sound images are not reported");
  for (let round = 0; round < 3; round += 1) {
    await flip(owner);
    await scan(owner, "verify", async () => {
      if (random.chance(0.1)) await restart(owner);
      else if (random.chance(0.2)) await flip(owner);
    });
  }
  assert.ok(owner.differed > 0, "a flip at rest is found, unless a write of the round heals it");
  await scan(owner, "repair", calm);
  await requireEqualImages(owner);
  const status = site.role!.statuses()[0]!;
  assert.equal(status.consistent?.sequence, owner.source.last, "verify and repair leave it recoverable");
});

for (const start of ["made empty", "carried there"] as const) {
  test(`a first sync to images ${start}: equal at its end, no failover before it, none refused after (SEED=${seed})`, async () => {
    const disks = drawDisks();
    const before = start === "made empty" ? emptyDisks() : spoilt(disks);
    if (start === "carried there") carryImages(before);
    const owner = new HandOwner(seed, disks, before);
    await site.start();
    if (start === "carried there") {
      const { json } = await site.hello(owner.source);
      assert.deepEqual(
        [json.kind, json.code],
        ["refused", "IMAGE_HOLDS_DATA"],
        "data is not taken for zeroes",
      );
    }
    const lacks = start === "made empty" ? "empty" : "unknown";
    assert.equal((await owner.greet(site)).lacks, lacks);
    owner.write(20);
    await owner.send(site);
    await owner.applied(site);
    const requireRefused = async (): Promise<void> => {
      await assert.rejects(site.failover(), { code: "NOT_CONSISTENT" });
      await site.heartbeat(owner.source);
      const status = site.role!.statuses()[0]!;
      assert.deepEqual([status.state, status.reason?.code], ["catching-up", "FIRST_SYNC"]);
      assert.deepEqual([status.consistent, status.history.points], [null, 0]);
      assert.match(status.reason?.message ?? "", /^not recoverable yet: /);
    };
    await requireRefused();
    // A first one is given up, and so is a resync in its midst: neither makes it complete.
    const given = owner.mark("begin", "first-sync");
    owner.write(3);
    owner.mark("given-up", "first-sync", given);
    await owner.send(site);
    await restart(owner);
    assert.equal((await owner.greet(site)).lacks, lacks);
    await requireRefused();
    if (start === "made empty") {
      const begin = owner.mark("begin", "first-sync");
      for (const { volume, offset, length } of chunks) {
        // Allocated extents only, as the owner would find them.
        for (let at = offset; at < offset + length; at += blockBytes) {
          if (owner.disks[volume]!.subarray(at, at + blockBytes).every((byte) => byte === 0)) continue;
          owner.content(volume, at, blockBytes);
          if (random.chance(0.2)) owner.write(1);
          if (random.chance(0.1)) owner.cut();
        }
        await owner.send(site);
        if (random.chance(0.5)) await restart(owner);
        await requireRefused();
      }
      owner.mark("end", "first-sync", begin);
      await owner.send(site);
    } else {
      const found = await scan(owner, "first-sync", async () => {
        if (random.chance(0.1)) await restart(owner);
        if (random.chance(0.3)) await requireRefused();
      });
      assert.ok(found.length > 0);
    }
    assert.equal((await owner.greet(site)).lacks, undefined);
    owner.write(2);
    await owner.send(site);
    await requireEqualImages(owner);
    assert.equal(site.role!.statuses()[0]!.consistent?.sequence, owner.source.last);
    await restart(owner);
    assert.equal((await site.failover()).at(-1)?.type, "result");
    assert.deepEqual(site.images(), owner.disks);
    const { lineage, token } = owner.source;
    const ask = { lineage: lineageToText(lineage), token, after: 0 };
    assert.equal((await site.send(wanRoutes.scan("erp"), ask)).json.kind, "superseded");
  });
}

test(`a standby that lacks dropped frames is opened before them until its resync has ended (SEED=${seed})`, async () => {
  const owner = new HandOwner(seed, emptyDisks(), emptyDisks());
  await site.start();
  await site.hello(owner.source);
  owner.write(20);
  await owner.send(site);
  await requireEqualImages(owner);
  // Writes that the owner dropped: nothing of them is in the order.
  owner.disks[0]!.fill(9, 8_192, 8_192 + 3 * blockBytes);
  const point = owner.source.last;
  const found = await scan(owner, "resync", async () => {
    await owner.applied(site);
    await site.heartbeat(owner.source);
    const status = site.role!.statuses()[0]!;
    assert.deepEqual([status.state, status.reason?.code], ["catching-up", "RESYNC"]);
    assert.equal(status.consistent?.sequence, point);
    assert.equal((await owner.greet(site)).lacks, "resync", "no first sync is asked for");
  });
  assert.ok(found.length >= 1);
  await requireEqualImages(owner);
  assert.equal((await site.failover()).at(-1)?.type, "result");
});

test(`images carried there anew do not take the end of a first sync that was for others as theirs (SEED=${seed})`, async () => {
  const disks = drawDisks();
  const before = spoilt(disks);
  carryImages(before);
  const owner = new HandOwner(seed, disks, before);
  await site.start();
  assert.equal((await owner.greet(site)).lacks, "unknown");
  await scan(owner, "first-sync", calm);
  await requireEqualImages(owner);
  assert.equal(site.role!.statuses()[0]!.consistent?.sequence, owner.source.last);
  // The folder is lost, and the owner still has every frame.
  await site.stop();
  rmSync(site.paths.directory, { recursive: true });
  carryImages(spoilt(disks));
  await site.start();
  assert.equal((await owner.greet(site)).lacks, "unknown");
  await owner.send(site);
  await owner.applied(site);
  assert.equal(site.role!.statuses()[0]!.consistent, null);
  await assert.rejects(site.failover(), { code: "NOT_CONSISTENT" });
  assert.equal((await owner.greet(site)).lacks, "unknown", "a first sync of its own is asked for");
});

test(`killed at random under a scan: no false alarm, nothing agreed that was not compared (SEED=${seed})`, async () => {
  const disks = drawDisks();
  const before = spoilt(disks);
  carryImages(before);
  const owner = new HandOwner(seed, disks, before);
  let child = await site.startChild();
  assert.equal((await owner.greet(site)).lacks, "unknown");
  let kills = 0;
  /** Goes on until the child has lived through it, with a new one whenever it was killed; the first is always killed. */
  const alive = async (work: () => Promise<void>): Promise<void> => {
    for (;;) {
      const exited = once(child, "exit");
      const timer =
        kills === 0 || random.chance(kills < 12 ? 0.4 : 0)
          ? setTimeout(() => child.kill("SIGKILL"), random.below(25))
          : undefined;
      const whole = await unlessGone(work);
      if (timer === undefined) {
        assert.ok(whole, "nobody killed it");
        return;
      }
      await exited;
      kills += 1;
      await site.client?.destroy();
      child = await site.startChild();
      assert.equal((await owner.greet(site)).kind, "attached");
      if (whole) return;
    }
  };
  const told = async (chunk: Chunk, level: "chunk" | "leaf"): Promise<string> => {
    let bits: string | undefined;
    while (bits === undefined) {
      owner.write(random.below(30), 64 * 1024);
      const sequence = owner.digest(chunk, level);
      owner.write(random.below(30), 64 * 1024);
      await alive(async () => {
        await owner.send(site);
        bits = await owner.learn(site, sequence);
      });
    }
    return bits;
  };
  const begin = owner.mark("begin", "first-sync");
  for (const chunk of chunks) {
    if ((await told(chunk, "chunk")) === "") continue;
    for (const leaf of bitsOf(await told(chunk, "leaf")))
      owner.content(chunk.volume, chunk.offset + leaf * blockBytes, blockBytes);
  }
  owner.mark("end", "first-sync", begin);
  await alive(() => owner.send(site));
  await owner.applied(site);
  const exited = once(child, "exit");
  child.kill("SIGKILL");
  await exited;
  await site.client?.destroy();
  await site.start();
  await owner.greet(site);
  await requireEqualImages(owner);
  assert.equal((await site.failover()).at(-1)?.type, "result");
  assert.ok(kills > 0 && owner.told > 0);
});

test("only the owner's site, with its own token and history, learns what digests have shown", async () => {
  const owner = new HandOwner(seed, emptyDisks(), emptyDisks());
  const route = wanRoutes.scan("erp");
  const { lineage, token } = owner.source;
  const ask = { lineage: lineageToText(lineage), token, after: 0 };
  await site.start();
  assert.equal((await site.send(route, ask)).json.kind, "unknown");
  await owner.greet(site);
  assert.equal((await site.send(route, ask)).json.kind, "findings");
  const third = site.connect("third");
  assert.equal((await site.send(route, ask, third)).json.id, "SITE_FOREIGN");
  await third.destroy();
  const foreign = { ...ask, token: { ...token, owner: "dr" } };
  assert.equal((await site.send(route, foreign)).json.id, "OWNER_FOREIGN");
  const other = { ...ask, lineage: "00000000-0000-4000-8000-000000000000" };
  assert.deepEqual((await site.send(route, other)).json.code, "LINEAGE_FOREIGN");
  assert.equal((await site.send(route, { ...ask, token: { ...token, epoch: 9 } })).json.kind, "refused");
  assert.ok((await site.send(route, { ...ask, after: -1 })).status >= 400);
});
