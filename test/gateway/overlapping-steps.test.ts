/**
 * Apply steps that overlap: the end of a step, its sync, marker and trim, beside the next one. Real images and marker, with a
 * door before each thing that is waited for; the intake is a list of frames. Faults F08, F20, F22.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { MemoryDevice } from "../../block/memory-device.ts";
import { Applier } from "../../gateway/apply/applier.ts";
import { StepReader } from "../../gateway/apply/step-reader.ts";
import { GroupImage } from "../../image/group-image.ts";
import type { FrameLog } from "../../journal/frame-log.ts";
import type { Frame } from "../../protocol/frame.ts";
import type { Sequence } from "../../protocol/ids.ts";
import type { BlockRecord } from "../../protocol/record.ts";
import { systemClock } from "../../runtime/clock.ts";
import { systemDisk } from "../../runtime/disk.ts";
import { silentLog } from "../../runtime/log.ts";
import { FrameSource, lineage, originOf } from "../image/frames.ts";
import { Door } from "../support/door.ts";
import { until } from "../support/wait.ts";

const blockBytes = 4096;
const blocks = 64;
const volumes = [{ number: 0, name: "data", sizeBytes: blocks * blockBytes }];
const origin = originOf(volumes);
/** One record of a block is a frame; two frames fit into a step. */
const framesOfStep = 2;
const stepBytesMax = framesOfStep * (blockBytes + 64);

/** A standby's images, and an intake that has everything from the beginning. */
class Standby {
  readonly directory = mkdtempSync(join(tmpdir(), "splitsite-steps-"));
  readonly source = new FrameSource(origin);
  readonly frames: Frame[] = [];
  /** In order: w a first write of a step, s a sync that has ended, m a marker, t a trim begun, c images closed. */
  readonly steps: string[] = [];
  /** Before the writes of frames from `heldFrom` on. */
  readonly write = new Door();
  heldFrom = 0;
  readonly sync = new Door();
  readonly trim = new Door();
  trimFailure: Error | undefined;
  syncFailure: Error | undefined;
  readonly broken: unknown[] = [];
  trimmed: Sequence = 0;
  durableLast: Sequence | undefined;
  readonly device: MemoryDevice = new MemoryDevice({ sizeBytes: blocks * blockBytes });
  readonly content = Buffer.alloc(blocks * blockBytes);
  image: GroupImage | undefined;
  beforeStep: (frames: readonly Frame[]) => Promise<void> = async () => {};
  readonly applier: Applier;
  #isMade = false;

  constructor() {
    this.applier = new Applier({
      intake: this.log,
      open: () => this.#open(),
      history: { windowMs: 0, bytesMax: 1 },
      stepBytesMax,
      clock: systemClock,
      log: silentLog,
      incomplete: () => null,
      incompleteAtEnd: () => null,
      beforeStep: (frames) => this.beforeStep(frames),
      changeTable: async () => false,
      isWhole: () => true,
      sealed: undefined,
      onApplied: (sequence) => void this.steps.push(`m${sequence}`),
      onIntakeBroken: (error) => void this.broken.push(error),
    });
  }

  get log(): FrameLog {
    const standby = this;
    const at = (sequence: Sequence) => {
      const frame = standby.frames.find(({ last }) => last === sequence);
      if (frame === undefined) return origin;
      return { sequence, chain: frame.chainAfter, dataBytesTotal: frame.dataBytesTotal, closedAtMs: 0 };
    };
    return {
      get head() {
        return at(standby.trimmed);
      },
      get tail() {
        return at(standby.frames.length);
      },
      get durable() {
        return at(standby.durableLast ?? standby.frames.length);
      },
      chainAt: async (sequence: Sequence) => at(sequence).chain,
      frames: async (from: Sequence, bytesMax: number) => {
        assert.ok(from > standby.trimmed, "nothing is read that may be trimmed");
        const found: Frame[] = [];
        let bytes = 0;
        for (const frame of standby.frames.slice(from - 1)) {
          if (found.length > 0 && bytes + frame.body.byteLength > bytesMax) break;
          found.push(frame);
          bytes += frame.body.byteLength;
        }
        return found;
      },
      trim: async (through: Sequence) => {
        standby.steps.push(`t${through}`);
        await standby.trim.pass();
        if (standby.trimFailure !== undefined) throw standby.trimFailure;
        standby.trimmed = through;
      },
    } as unknown as FrameLog;
  }

  async #open(): Promise<GroupImage> {
    const standby = this;
    const { device } = this;
    // Everything goes to the one device; each opening is told when its own last write is over.
    const opened = new Proxy(device, {
      get(target, name) {
        if (name === "write")
          return async (offset: number, data: Uint8Array) => {
            if (data[0]! >= standby.heldFrom) await standby.write.pass();
            standby.steps.push(`w${data[0]}`);
            await target.write(offset, data, { fua: false });
          };
        if (name === "flush")
          return async () => {
            await standby.sync.pass();
            if (standby.syncFailure !== undefined) throw standby.syncFailure;
            standby.steps.push("s");
          };
        if (name === "close") return async () => void standby.steps.push("c");
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
    const mode = this.#isMade ? "open" : "create";
    this.#isMade = true;
    this.image = await GroupImage.open({
      disk: systemDisk,
      volumes: [{ entry: volumes[0]!, device: opened }],
      markerPath: join(this.directory, "marker"),
      lineage,
      mode,
      origin,
      log: silentLog,
    });
    return this.image;
  }

  /** Frames of one record each: frame n fills block n with n. */
  receive(count: number): void {
    for (let made = 0; made < count; made += 1) {
      const number = this.frames.length + 1;
      this.put({
        kind: "write",
        volume: 0,
        offset: (number % blocks) * blockBytes,
        length: blockBytes,
        data: new Uint8Array(blockBytes).fill(number),
      });
    }
  }

  put(record: BlockRecord): void {
    this.frames.push(this.source.next([record]));
    if (record.kind === "write") this.content.set(record.data, record.offset);
    this.applier.wake();
  }

  /** How far the newest write of the images is. */
  get written(): number {
    return Math.max(
      0,
      ...this.steps.filter((step) => step.startsWith("w")).map((step) => Number(step.slice(1))),
    );
  }

  async writtenUpTo(number: number): Promise<void> {
    await until(`write ${number}`, () => (this.written >= number ? true : undefined));
  }

  async done(step: string): Promise<void> {
    await until(step, () => (this.steps.includes(step) ? true : undefined));
  }

  openDoors(): void {
    this.write.open();
    this.sync.open();
    this.trim.open();
  }

  async applied(sequence: Sequence): Promise<void> {
    await until(`applied ${sequence}`, () => (this.applier.appliedSequence >= sequence ? true : undefined));
  }

  async holdsAll(): Promise<void> {
    assert.ok(this.content.equals(await this.device.read(0, this.content.byteLength)), "the images hold all");
  }
}

let standby: Standby;
beforeEach(() => {
  standby = new Standby();
});
afterEach(async () => {
  standby.openDoors();
  await standby.applier.stop();
  rmSync(standby.directory, { recursive: true, force: true });
});

/** Nothing more happens by itself: every door that is passed has been, and what follows it too. */
async function quiet(): Promise<void> {
  for (let before = -1; before !== standby.steps.length; ) {
    before = standby.steps.length;
    await systemDisk.readFile(join(standby.directory, "marker"));
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

test("the next step is applied beside the sync of the one before, and the marker waits for that; no third one begins", async () => {
  standby.receive(10);
  standby.sync.close();
  await standby.applier.start();
  await standby.writtenUpTo(4);
  await quiet();
  assert.equal(standby.written, 4, standby.steps.join(" "));
  assert.deepEqual([standby.image!.applied.sequence, standby.image!.held.sequence], [0, 4]);
  assert.equal(standby.image!.applyingLast, 4, "both are declared");
  assert.deepEqual([standby.applier.appliedSequence, standby.trimmed], [0, 0]);
  standby.sync.open();
  await standby.applied(10);
  await standby.done("t10");
  // Every marker behind a sync of its own, every trim behind its marker, both in order.
  const ends = standby.steps.filter((step) => !step.startsWith("w"));
  assert.deepEqual(
    ends.filter((step) => step !== "s" && step !== "m0"),
    ["m2", "t2", "m4", "t4", "m6", "t6", "m8", "t8", "m10", "t10"],
  );
  for (const marker of ["m2", "m4", "m6", "m8", "m10"]) {
    const before = ends.slice(0, ends.indexOf(marker));
    assert.ok(before.filter((step) => step === "s").length >= Number(marker.slice(1)) / 2, ends.join(" "));
  }
  await standby.holdsAll();
});

test("a trim that is slow holds apply back two steps later, and no trim begins before the one before has ended", async () => {
  standby.receive(20);
  standby.trim.close();
  await standby.applier.start();
  await standby.done("m4");
  await standby.writtenUpTo(6);
  await quiet();
  assert.equal(standby.written, 6, standby.steps.join(" "));
  assert.deepEqual(
    standby.steps.filter((step) => step.startsWith("t")),
    ["t2"],
  );
  assert.equal(standby.applier.appliedSequence, 4, "marker and position do not wait for it");
  standby.trim.open();
  await standby.applied(20);
  await standby.done("t20");
});

test("a trim that fails beside the next step is a failure of the intake, told when that step is over, once", async () => {
  standby.receive(20);
  standby.trim.close();
  standby.heldFrom = 5;
  standby.write.close();
  await standby.applier.start();
  await standby.done("t2");
  await until("a step under way", () => (standby.write.waiting > 0 ? true : undefined));
  standby.trimFailure = new Error("no such log");
  standby.trim.open();
  await quiet();
  assert.deepEqual([standby.broken, standby.steps.includes("c")], [[], false], "not under a step");
  standby.write.open();
  const isOver = () => standby.broken.length > 0 || standby.applier.appliedSequence === 20;
  await until("the failure", () => (isOver() ? true : undefined));
  assert.deepEqual(standby.broken, [standby.trimFailure]);
  await standby.done("c");
  await quiet();
  assert.equal(standby.broken.length, 1);
  assert.equal(standby.applier.trouble?.code, "INTAKE_FAILED");
  assert.equal(standby.steps.at(-1), "c");
  assert.deepEqual(
    standby.steps.filter((step) => step.startsWith("t")),
    ["t2"],
  );
  assert.deepEqual([standby.trimmed, standby.applier.appliedSequence], [0, 4]);
});

test("the end of apply waits for the last trim, and a failure of it is told even then", async () => {
  standby.receive(2);
  standby.trim.close();
  await standby.applier.start();
  await standby.done("t2");
  let stopped = false;
  const stopping = standby.applier.stop().then(() => {
    stopped = true;
  });
  await quiet();
  assert.equal(stopped, false);
  assert.ok(!standby.steps.includes("c"));
  standby.trimFailure = new Error("no such log");
  standby.trim.open();
  await stopping;
  assert.deepEqual(standby.broken, [standby.trimFailure]);
  assert.equal(standby.steps.at(-1), "c");
});

test("apply ends behind the steps under way: what they have written is in the marker", async () => {
  standby.receive(20);
  standby.sync.close();
  await standby.applier.start();
  await standby.writtenUpTo(4);
  const stopping = standby.applier.stop();
  await quiet();
  standby.sync.open();
  await stopping;
  assert.deepEqual(standby.steps.slice(-2), ["t4", "c"]);
  assert.equal(standby.applier.applied?.sequence, 4);
});

test("whoever holds apply at a position is answered when the end of every step is durable, and none goes beyond it", async () => {
  standby.receive(20);
  standby.sync.close();
  await standby.applier.start();
  await standby.writtenUpTo(4);
  let held = false;
  const holding = standby.applier.holdAt(5).then(() => {
    held = true;
  });
  await quiet();
  assert.equal(held, false);
  standby.sync.open();
  await holding;
  assert.equal(standby.image!.applied.sequence, standby.image!.held.sequence, "nothing is under way");
  const sealed = { sequence: 5, chain: standby.frames[4]!.chainAfter };
  await standby.applier.bringTo(sealed);
  await quiet();
  assert.deepEqual(
    [standby.written, standby.image!.applied.sequence, standby.image!.applyingLast],
    [5, 5, 5],
  );
});

test("a sync that fails beside the next step takes both with it: neither is in the marker, both are applied again", async () => {
  standby.receive(6);
  standby.sync.close();
  await standby.applier.start();
  await standby.writtenUpTo(4);
  await quiet();
  standby.syncFailure = new Error("EIO");
  standby.sync.open();
  await until("the failure", () => (standby.applier.trouble !== null ? true : undefined));
  assert.equal(standby.applier.trouble?.code, "IMAGE_SYNC_FAILED");
  await standby.done("c");
  assert.deepEqual([standby.applier.appliedSequence, standby.trimmed], [0, 0]);
  assert.ok(!standby.steps.some((step) => step.startsWith("t")));
  standby.syncFailure = undefined;
  standby.steps.length = 0;
  // Opened again by itself, after a second.
  await standby.applied(6);
  assert.ok(standby.steps.includes("w1") && standby.steps.includes("w4"), standby.steps.join(" "));
  await standby.holdsAll();
});

test("what is said of the images before a mark of a scan is said when every step before it has ended", async () => {
  standby.receive(4);
  standby.put({
    ...{ kind: "scanMark", volume: 0, offset: 0, length: 0 },
    ...{ mark: "begin", purpose: "verify", begin: 0 },
  } as BlockRecord);
  standby.receive(10);
  const seen: number[][] = [];
  standby.beforeStep = async (frames) => {
    if (!frames.some(({ records }) => records.some(({ kind }) => kind === "scanMark"))) return;
    const { applied, held } = standby.image!;
    seen.push([applied.sequence, held.sequence, standby.trimmed]);
  };
  await standby.applier.start();
  await standby.applied(15);
  // The mark is part of the second step.
  assert.deepEqual(seen, [[2, 2, 2]]);
});

test("with less than a part of a step waiting a step has ended before the next one begins", async () => {
  standby.receive(2);
  standby.sync.close();
  await standby.applier.start();
  await standby.writtenUpTo(2);
  await quiet();
  assert.deepEqual([standby.written, standby.applier.appliedSequence], [2, 0]);
  standby.sync.open();
  await standby.applied(2);
  await standby.done("t2");
});

test("frames are read one step ahead, given to who asks for that position, and thrown away for any other", async () => {
  standby.receive(8);
  const reads: Sequence[] = [];
  const { log } = standby;
  const intake = new Proxy(log, {
    get(target, name) {
      if (name !== "frames") return Reflect.get(target, name, target) as unknown;
      return (from: Sequence, bytesMax: number) => {
        reads.push(from);
        return target.frames(from, bytesMax);
      };
    },
  });
  const reader = new StepReader(intake, stepBytesMax);
  const firsts = (frames: readonly Frame[]) => frames.map(({ first }) => first);
  assert.deepEqual(firsts(await reader.take(1)), [1, 2]);
  reader.readAhead(3);
  reader.readAhead(5);
  assert.deepEqual(reads, [1, 3], "one at most");
  assert.deepEqual(firsts(await reader.take(3)), [3, 4]);
  assert.deepEqual(reads, [1, 3]);
  reader.readAhead(5);
  // A step that ended early, or images that were taken back.
  assert.deepEqual(firsts(await reader.take(4)), [4, 5]);
  assert.deepEqual(firsts(await reader.take(5)), [5, 6]);
  assert.deepEqual(reads, [1, 3, 5, 4, 5]);
  await reader.close();
});

test("what is not synced is not read ahead either; a reading that failed harms only who takes it", async () => {
  standby.receive(8);
  standby.durableLast = 3;
  const reader = new StepReader(standby.log, stepBytesMax);
  reader.readAhead(3);
  assert.deepEqual(
    (await reader.take(3)).map(({ first }) => first),
    [3],
  );
  standby.trimmed = 6;
  standby.durableLast = undefined;
  reader.readAhead(5);
  assert.equal((await reader.take(7))[0]!.first, 7);
  reader.readAhead(5);
  await assert.rejects(reader.take(5), { name: "Error", message: /nothing is read/ });
  await reader.close();
});
