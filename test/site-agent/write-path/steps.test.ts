/**
 * What must have happened before what on the write path, with each step held back by hand: no answer before its frame
 * is in the journal or synced, nothing in the image that is not synced, nothing forgotten before the image holds it,
 * nothing trimmed before the checkpoint says so. A kill or a power loss would need luck to hit these moments.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { genesisChain } from "../../../protocol/chain.ts";
import type { Clock } from "../../../runtime/clock.ts";
import { systemClock } from "../../../runtime/clock.ts";
import { DurableGate } from "../../../site-agent/write-path/durable-gate.ts";
import { Engine } from "../../../site-agent/write-path/engine.ts";
import { PendingWrites } from "../../../site-agent/write-path/pending-writes.ts";
import { HeldImage, HeldLog, newDoors } from "./held-parts.ts";

const sizeBytes = 256 * 1024;
const lineage = new Uint8Array(16).fill(3);

/** Everything that can happen without a door being opened has happened: a few turns of the event loop are enough. */
async function settled(): Promise<void> {
  for (let turn = 0; turn < 20; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

/** Timers fire within the turn, so that paces and intervals do not have to be waited for. */
const hastyClock = {
  ...systemClock,
  after: (_: number, run: () => void) => {
    const soon = setImmediate(run);
    return { cancel: () => clearImmediate(soon) };
  },
};

/** Timers never fire: what happens was begun by somebody. */
const patientClock = { ...systemClock, after: () => ({ cancel: () => {} }) };

class Rig {
  readonly doors = newDoors();
  readonly steps: string[] = [];
  readonly log: HeldLog;
  readonly image: HeldImage;
  readonly engine: Engine;
  readonly answered: string[] = [];
  readonly shipped: number[] = [];
  failed: (error: unknown) => void = (error) => assert.fail(String(error));
  readonly #pending = new PendingWrites();

  constructor(durability: "flush" | "write", clock: Clock = hastyClock) {
    const chain = genesisChain(lineage, [{ number: 0, name: "data", sizeBytes }]);
    this.log = new HeldLog({ sequence: 0, chain, dataBytesTotal: 0, closedAtMs: 0 }, this.doors, this.steps);
    const origin = { sequence: 0, chain, dataBytesTotal: 0, timeMs: 0 };
    this.image = new HeldImage(origin, sizeBytes, this.doors, this.steps);
    this.engine = new Engine({
      log: this.log.asLog(),
      image: this.image.asImage(),
      past: undefined,
      lineage,
      pending: this.#pending,
      gate: new DurableGate(),
      clock,
      durability,
      unappliedBytesMax: 1024 * 1024,
      dropBehind: null,
      releasedByStandby: () => Number.POSITIVE_INFINITY,
      listener: {
        durable: (position) => this.shipped.push(position.sequence),
        answered: () => {},
        trimmed: () => {},
        held: () => {},
        failed: (error) => this.failed(error),
      },
    });
  }

  write(name: string, offset: number, fill: number, durable = false): void {
    const data = Buffer.alloc(4096, fill);
    const request = {
      durable,
      resolve: () => void this.answered.push(name),
      reject: (error: Error) => assert.fail(error.message),
    };
    this.#pending.add([{ kind: "write", volume: 0, offset, length: 4096, data }], request, 1);
    this.engine.kick();
  }

  flush(name: string): void {
    this.engine.flush({
      resolve: () => void this.answered.push(name),
      reject: (error) => assert.fail(error.message),
    });
  }

  async byteAt(offset: number): Promise<number | undefined> {
    return (await this.engine.read(0, offset, 4096))[0];
  }
}

test("a write is answered when its frame is in the journal, and not before", async () => {
  const rig = new Rig("flush");
  rig.doors.append.close();
  rig.write("a", 0, 1);
  await settled();
  assert.deepEqual(rig.answered, []);
  assert.equal(rig.doors.append.waiting, 1);
  rig.doors.append.open();
  await settled();
  assert.deepEqual(rig.answered, ["a"]);
  await rig.engine.close("abandon");
});

test("a journal that fails behind the writers is noticed while nobody writes", async () => {
  const rig = new Rig("flush", patientClock);
  const noticed: unknown[] = [];
  rig.failed = (error) => noticed.push(error);
  rig.write("a", 0, 1);
  await settled();
  const error = new Error("a put that failed");
  rig.log.poison(error);
  await settled();
  assert.deepEqual([rig.answered, noticed], [["a"], [error]]);
  await rig.engine.close("abandon");
});

test("FLUSH, FUA and every write of durability write wait for a sync that began after their frame", async () => {
  const rig = new Rig("flush");
  rig.doors.sync.close();
  rig.write("a", 0, 1);
  await settled();
  assert.deepEqual(rig.answered, ["a"]);
  rig.flush("flush of a");
  rig.write("fua", 4096, 2, true);
  await settled();
  assert.deepEqual(rig.answered, ["a"], "the sync has not ended");
  assert.deepEqual(rig.shipped, [], "nor may anything be shipped");
  rig.doors.sync.open();
  await settled();
  assert.deepEqual(new Set(rig.answered), new Set(["a", "flush of a", "fua"]));
  await rig.engine.close("abandon");

  const strict = new Rig("write");
  strict.doors.sync.close();
  strict.write("b", 0, 1);
  await settled();
  assert.deepEqual(strict.answered, []);
  strict.doors.sync.open();
  await settled();
  assert.deepEqual(strict.answered, ["b"]);
  await strict.engine.close("abandon");
});

test("where each write was followed by its FLUSH, the next sync begins with the write; the FLUSH still waits for it", async () => {
  const rig = new Rig("flush", patientClock);
  const syncs = () => rig.steps.filter((step) => step.startsWith("sync")).length;
  for (let commit = 0; commit < 8; commit += 1) {
    rig.write(`write ${commit}`, commit * 4096, 1);
    await settled();
    rig.flush(`flush ${commit}`);
    await settled();
    assert.equal(rig.answered.at(-1), `flush ${commit}`);
  }
  const before = syncs();
  rig.doors.sync.close();
  rig.write("write", 0, 2);
  await settled();
  assert.equal(rig.doors.sync.waiting, 1, "the sync is under way");
  assert.equal(rig.answered.at(-1), "write");
  rig.flush("flush");
  await settled();
  assert.equal(rig.answered.at(-1), "write", "the sync has not ended");
  rig.doors.sync.open();
  await settled();
  assert.equal(rig.answered.at(-1), "flush");
  assert.equal(syncs(), before + 1, "one sync for both");
  await rig.engine.close("abandon");
});

test("writes that no FLUSH follows are left to the pace of the sync loop", async () => {
  const rig = new Rig("flush", patientClock);
  for (let commit = 0; commit < 8; commit += 1) {
    for (const part of [0, 1]) {
      rig.write(`write ${commit}.${part}`, part * 4096, 1);
      await settled();
    }
    rig.flush(`flush ${commit}`);
    await settled();
  }
  const syncs = rig.steps.filter((step) => step.startsWith("sync"));
  assert.equal(syncs.length, 8, "one a FLUSH");
  await rig.engine.close("abandon");
});

test("a frame that was appended while a sync ran is not durable by it", async () => {
  const rig = new Rig("flush");
  rig.doors.sync.close();
  rig.write("first", 0, 1, true);
  await settled();
  assert.equal(rig.doors.sync.waiting, 1, "the sync of the first frame is under way");
  rig.write("second", 4096, 2, true);
  await settled();
  assert.equal(rig.log.tail.sequence, 2);
  // The first sync ends, the next one is held again.
  rig.doors.sync.open();
  rig.doors.sync.close();
  await settled();
  assert.deepEqual(rig.answered, ["first"]);
  assert.deepEqual(rig.shipped, [1]);
  rig.doors.sync.open();
  await settled();
  assert.deepEqual(rig.answered, ["first", "second"]);
  await rig.engine.close("abandon");
});

test("nothing reaches the image that is not synced, and reads see it all the same", async () => {
  const rig = new Rig("flush");
  rig.doors.sync.close();
  rig.write("a", 0, 7);
  await settled();
  assert.equal(await rig.byteAt(0), 7);
  assert.ok(!rig.steps.some((step) => step.startsWith("apply")), rig.steps.join(", "));
  rig.doors.sync.open();
  await settled();
  assert.deepEqual(rig.steps.slice(0, 3), ["append 1", "sync 1", "apply 1"]);
  await rig.engine.close("abandon");
});

test("what is durable and on its way into the image is read from memory until the image holds it", async () => {
  const rig = new Rig("flush");
  rig.doors.apply.close();
  rig.write("a", 0, 7, true);
  await settled();
  assert.deepEqual(rig.answered, ["a"]);
  assert.equal(rig.doors.apply.waiting, 1);
  assert.equal(await rig.byteAt(0), 7, "the image does not hold it yet");
  rig.doors.apply.open();
  await settled();
  assert.equal(rig.image.content[0], 7);
  assert.equal(await rig.byteAt(0), 7);
  await rig.engine.close("abandon");
});

test("the journal gives frames up only behind a checkpoint that is durable behind a sync of the image", async () => {
  for (const held of ["imageSync", "commit"] as const) {
    const rig = new Rig("flush");
    rig.doors[held].close();
    rig.write("a", 0, 7, true);
    await settled();
    assert.equal(rig.doors[held].waiting, 1);
    assert.equal(rig.log.head.sequence, 0, `nothing is trimmed before ${held}`);
    rig.doors[held].open();
    await settled();
    assert.deepEqual(rig.steps, ["append 1", "sync 1", "apply 1", "image sync 1", "commit 1", "trim 1"]);
    await rig.engine.close("abandon");
  }
});
