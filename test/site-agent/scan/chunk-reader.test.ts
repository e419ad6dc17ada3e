/**
 * Reading at a sequence, on the real write path with a journal and images that take their time: whatever is written meanwhile,
 * each digest and each content record that a scan puts into the order is the naive content at exactly its number.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Extent } from "../../../block/device.ts";
import { genesisChain } from "../../../protocol/chain.ts";
import type { Frame } from "../../../protocol/frame.ts";
import { blockBytes } from "../../../protocol/ids.ts";
import type { BlockRecord, ClientRecord } from "../../../protocol/record.ts";
import { isOfScan } from "../../../protocol/record.ts";
import { chunkDigest, leafDigests, scanChunkBytes } from "../../../protocol/scan-digest.ts";
import { systemClock } from "../../../runtime/clock.ts";
import { ChunkReader } from "../../../site-agent/scan/chunk-reader.ts";
import type { Digested } from "../../../site-agent/scan/digest-collector.ts";
import { readsUntilHold } from "../../../site-agent/scan/read-at-sequence.ts";
import { StopSignal } from "../../../site-agent/scan/stop-signal.ts";
import { DurableGate } from "../../../site-agent/write-path/durable-gate.ts";
import { Engine } from "../../../site-agent/write-path/engine.ts";
import { Entrance } from "../../../site-agent/write-path/entrance.ts";
import { PendingWrites } from "../../../site-agent/write-path/pending-writes.ts";
import { Door } from "../../support/door.ts";
import { SeededRandom, seedFromEnvironment } from "../../support/seeded.ts";
import { HeldImage, HeldLog } from "../write-path/held-parts.ts";

/** Two whole chunks and a short one that ends within a leaf. */
const sizeBytes = 2 * scanChunkBytes + 5 * blockBytes + 512;
const chunks = 3;
const lineage = new Uint8Array(16).fill(3);

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

/** Lets everybody pass after a few turns, as chance has it. */
class SlowDoor extends Door {
  readonly #random: SeededRandom;

  constructor(random: SeededRandom) {
    super();
    this.#random = random;
  }

  override async pass(): Promise<void> {
    await super.pass();
    await turns(this.#random.below(4));
  }
}

class SlowImage extends HeldImage {
  random: SeededRandom | null = null;

  override async read(volume: number, offset: number, length: number): Promise<Uint8Array> {
    // Between two halves of a read a step may write: what it writes must have spoiled the watch, or stand in the overlay.
    const half = Math.floor(length / 2 / 512) * 512;
    const out = Buffer.alloc(length);
    out.set((await super.read(volume, offset, length)).subarray(0, half), 0);
    await turns(this.random?.below(4) ?? 0);
    out.set((await super.read(volume, offset, length)).subarray(half), half);
    return out;
  }

  async extents(_volume: number, offset: number, length: number): Promise<Extent[]> {
    await turns(this.random?.below(2) ?? 0);
    const extents: Extent[] = [];
    for (let at = offset; at < offset + length; at += blockBytes) {
      const part = Math.min(blockBytes, offset + length - at);
      const zero = this.content.subarray(at, at + part).every((byte) => byte === 0);
      extents.push({ length: part, hole: zero, zero });
    }
    return extents;
  }
}

class Rig {
  readonly random: SeededRandom;
  readonly entrance: Entrance;
  readonly engine: Engine;
  readonly stop = new StopSignal(systemClock);
  readonly reader: ChunkReader;
  readonly frames: Frame[] = [];
  readonly initial: Buffer;
  readonly redo: Digested[] = [];
  readonly doors;
  /** Digests and content on their way. */
  underWay = 0;
  answered = 0;
  /** Reads are never answered, as by a disk that hangs. */
  hung = false;

  constructor(random: SeededRandom, durability: "flush" | "write" = "flush") {
    this.random = random;
    const door = () => new SlowDoor(random);
    this.doors = { append: door(), sync: door(), apply: door(), imageSync: door(), commit: door() };
    const chain = genesisChain(lineage, [{ number: 0, name: "data", sizeBytes }]);
    const log = new HeldLog({ sequence: 0, chain, dataBytesTotal: 0, closedAtMs: 0 }, this.doors, []);
    const image = new SlowImage(
      { sequence: 0, chain, dataBytesTotal: 0, timeMs: 0 },
      sizeBytes,
      this.doors,
      [],
    );
    image.random = random;
    for (let at = 0; at < sizeBytes; at += 512)
      if (random.chance(0.3)) image.content.fill(1 + random.below(255), at, at + 512);
    this.initial = Buffer.from(image.content);
    const pending = new PendingWrites();
    this.engine = new Engine({
      log: log.asLog(),
      image: image.asImage(),
      past: undefined,
      lineage,
      pending,
      gate: new DurableGate(),
      clock: {
        ...systemClock,
        after: (_, run) => {
          const soon = setImmediate(run);
          return { cancel: () => clearImmediate(soon) };
        },
      },
      durability,
      unappliedBytesMax: 256 * 1024,
      dropBehind: null,
      releasedByStandby: () => Number.POSITIVE_INFINITY,
      listener: {
        durable: () => {},
        answered: (frame) => this.frames.push(frame),
        trimmed: () => {},
        held: () => {},
        failed: (error) => assert.fail(String(error)),
      },
    });
    this.entrance = new Entrance(
      pending,
      () => 1,
      () => this.engine.kick(),
    );
    this.reader = new ChunkReader({
      entrance: this.entrance,
      clock: systemClock,
      stop: this.stop,
      sizeBytes: () => sizeBytes,
      read: (volume, offset, length) =>
        this.hung ? new Promise(() => {}) : this.engine.read(volume, offset, length),
      extents: (volume, offset, length) => this.engine.extents(volume, offset, length),
      digestsPlaced: ({ sequence }) => this.#track(sequence),
      contentPlaced: ({ sequence }) => this.#track(sequence),
      spoiled: (digested) => this.redo.push(digested),
    });
  }

  #track(sequence: Promise<number | null>): void {
    this.underWay += 1;
    void sequence.then(() => {
      this.underWay -= 1;
    });
  }

  enter(record: ClientRecord): Promise<void> {
    return new Promise((resolve, reject) => {
      const durable = this.random.chance(0.1);
      this.entrance.enter([record], {
        durable,
        reject,
        resolve: () => {
          this.answered += 1;
          resolve();
        },
      });
    });
  }

  randomRecord(hotChunk: number | null): ClientRecord {
    const { random } = this;
    const length = 512 * (1 + random.below(24));
    const from = hotChunk === null ? 0 : hotChunk * scanChunkBytes;
    const room = (hotChunk === null ? sizeBytes : Math.min(sizeBytes, from + scanChunkBytes)) - length - from;
    const offset = Math.max(0, Math.floor((from + random.below(Math.max(1, room))) / 512) * 512);
    const kind = random.pick(["write", "write", "write", "zeroes", "trim"] as const);
    if (kind !== "write") return { kind, volume: 0, offset, length };
    return { kind, volume: 0, offset, length, data: Buffer.alloc(length, 1 + random.below(255)) };
  }

  /** Applies all records in order, looking at what each one of a scan claims. Returns how many claims were proven. */
  prove(): { digests: number; content: number } {
    const naive = Buffer.from(this.initial);
    const proven = { digests: 0, content: 0 };
    let expected = 1;
    for (const frame of this.frames) {
      assert.equal(frame.first, expected);
      expected = frame.last + 1;
      for (const record of frame.records) proveRecord(record, naive, proven);
    }
    return proven;
  }
}

function proveRecord(record: BlockRecord, naive: Buffer, proven: { digests: number; content: number }): void {
  const { offset, length } = record;
  const here = naive.subarray(offset, offset + length);
  if (record.kind === "write") naive.set(record.data, offset);
  else if (!isOfScan(record)) naive.fill(0, offset, offset + length);
  else if (record.kind === "scanContent") {
    assert.deepEqual(Buffer.from(record.data ?? Buffer.alloc(length)), Buffer.from(here));
    proven.content += 1;
  } else if (record.kind === "scanDigest") {
    const parts: Uint8Array[] = [];
    for (let at = 0; at < length; at += scanChunkBytes) {
      const leaves = leafDigests(here.subarray(at, Math.min(length, at + scanChunkBytes)));
      parts.push(record.level === "leaf" ? leaves : chunkDigest(leaves));
    }
    assert.deepEqual(Buffer.from(record.digests), Buffer.concat(parts));
    proven.digests += 1;
  }
}

async function job(rig: Rig): Promise<void> {
  const { random, reader } = rig;
  const again = rig.redo.shift();
  if (again !== undefined) return reader.digest(again.level, again, again.reads);
  const place = { volume: 0, chunk: random.below(chunks) };
  switch (random.below(4)) {
    case 0:
      return reader.content(place, null);
    case 1:
      return reader.content(
        place,
        Uint8Array.from({ length: 32 }, () => random.below(256) & random.below(256)),
      );
    case 2:
      return reader.digest("leaf", place, 0);
    default:
      await reader.digest("chunk", place, 0);
      if (random.chance(0.3)) reader.flush();
      return undefined;
  }
}

test("what a scan puts into the order is the content at exactly its number, whatever is written meanwhile", async () => {
  const seed = seedFromEnvironment();
  console.log(`SEED=${seed}`);
  let total = 0;
  for (let stream = 0; stream < 8; stream += 1) {
    const random = new SeededRandom(seed, stream);
    const rig = new Rig(random, stream % 2 === 0 ? "flush" : "write");
    let writing = true;
    let writes = 0;
    const writer = async (): Promise<void> => {
      const hot = random.chance(0.5) ? random.below(chunks) : null;
      while (writing) {
        writes += 1;
        await rig.enter(rig.randomRecord(hot));
        await turns(random.below(6));
      }
    };
    const writers = Array.from({ length: 3 }, writer);
    for (let count = 0; count < 40; count += 1) await job(rig);
    writing = false;
    rig.reader.flush();
    await Promise.all(writers);
    while (rig.underWay > 0) await turns(1);
    assert.equal(rig.answered, writes, "every write was answered");
    const proven = rig.prove();
    total += proven.digests + proven.content;
    await rig.engine.close("abandon");
  }
  assert(total > 100, `claims were proven: ${total}`);
});

test("a chunk that is written all the time is read when its watch holds, and its writers go on", async () => {
  const random = new SeededRandom(1);
  const rig = new Rig(random);
  let writing = true;
  let answered = 0;
  const writer = async (): Promise<void> => {
    while (writing) {
      await rig.enter({ kind: "write", volume: 0, offset: 0, length: 512, data: Buffer.alloc(512, 7) });
      answered += 1;
      await turns(1);
    }
  };
  const running = writer();
  await rig.reader.digest("chunk", { volume: 0, chunk: 0 }, readsUntilHold);
  const before = answered;
  while (answered < before + 5) await turns(1);
  writing = false;
  await running;
  while (rig.underWay > 0) await turns(1);
  assert.equal(rig.prove().digests, 1, "put at once, not collected");
  await rig.engine.close("abandon");
});

test("a stop ends a read that waits for the journal, and lets the writers go that it held back", async () => {
  const rig = new Rig(new SeededRandom(2));
  rig.doors.append.close();
  const first = rig.enter({ kind: "trim", volume: 0, offset: 0, length: 512 });
  const reading = rig.reader.digest("chunk", { volume: 0, chunk: 0 }, readsUntilHold);
  await turns(2);
  const second = rig.enter({ kind: "trim", volume: 0, offset: 512, length: 512 });
  rig.stop.stop();
  await reading;
  rig.doors.append.open();
  await Promise.all([first, second]);
  assert.deepEqual(rig.prove(), { digests: 0, content: 0 });
  await rig.engine.close("abandon");
});

test("a read that hangs while its watch holds lets the writers go, and is begun anew", async () => {
  const rig = new Rig(new SeededRandom(3));
  // The product's timers do not keep a process alive; here nothing else does.
  const alive = setInterval(() => {}, 1_000);
  rig.hung = true;
  const reading = rig.reader.digest("chunk", { volume: 0, chunk: 0 }, readsUntilHold);
  const write = rig.enter({ kind: "trim", volume: 0, offset: 0, length: 512 });
  await turns(20);
  assert.equal(rig.answered, 0, "it holds");
  await write;
  rig.hung = false;
  await reading;
  clearInterval(alive);
  while (rig.underWay > 0) await turns(1);
  assert.equal(rig.prove().digests, 1);
  await rig.engine.close("abandon");
});
