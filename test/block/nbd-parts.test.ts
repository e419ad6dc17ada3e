/** The NBD server's parts by themselves: plans of sparse reads, block status, request memory, reply queue, memory device. */
import assert from "node:assert/strict";
import { Writable } from "node:stream";
import { describe, test } from "node:test";
import fc from "fast-check";
import type { Extent } from "../../block/device.ts";
import { MemoryDevice } from "../../block/memory-device.ts";
import { mergeStatus, planReadRuns } from "../../block/nbd-dispatch.ts";
import { NbdArenaPool, NbdReplyQueue } from "../../block/nbd-reply-queue.ts";
import { NbdRequestMemory } from "../../block/nbd-request-memory.ts";
import { blockDeviceContract, contractSizeBytes } from "../contract/block-device.ts";

blockDeviceContract("memory device", () =>
  Promise.resolve(new MemoryDevice({ sizeBytes: contractSizeBytes })),
);
blockDeviceContract("memory device with blocks of one byte", () =>
  Promise.resolve(
    new MemoryDevice({
      sizeBytes: contractSizeBytes,
      blockSize: { minimum: 1, preferred: 4096, maximum: 32 * 1024 * 1024 },
      can: { fastZero: false, cache: false },
    }),
  ),
);

const anyExtents = fc.array(
  fc.record({
    length: fc.integer({ min: 1, max: 200 }).map((units) => units * 512),
    hole: fc.boolean(),
    zero: fc.boolean(),
  }),
  { minLength: 1, maxLength: 300 },
);

describe("plan of a sparse READ", () => {
  test("covers the range exactly, bounded in pieces, and a hole only where all is zero", () => {
    fc.assert(
      fc.property(anyExtents, fc.integer({ min: 1, max: 40_000 }), (extents: Extent[], units) => {
        const length = units * 512;
        const runs = planReadRuns(extents, length);
        assert.equal(
          runs.reduce((sum, run) => sum + run.length, 0),
          length,
        );
        assert.ok(runs.length <= 64, `${runs.length} pieces`);
        const zeroAt: boolean[] = [];
        for (const extent of extents)
          for (let at = 0; at < extent.length; at += 512) zeroAt.push(extent.zero);
        let at = 0;
        for (const run of runs) {
          assert.ok(run.length > 0);
          if (run.zero) {
            assert.ok(run.length >= 32 * 1024);
            for (let unit = at / 512; unit < (at + run.length) / 512; unit += 1)
              assert.equal(zeroAt[unit], true);
          }
          at += run.length;
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe("block status", () => {
  test("keeps states and order, joins neighbours, stays within length and count", () => {
    fc.assert(
      fc.property(
        anyExtents,
        fc.integer({ min: 1, max: 40_000 }),
        fc.integer({ min: 1, max: 50 }),
        (extents, units, countMax) => {
          const merged = mergeStatus(extents, units * 512, countMax);
          assert.ok(merged.length >= 1 && merged.length <= countMax);
          const flat = (list: readonly Extent[]): string[] =>
            list.flatMap((extent) =>
              Array.from({ length: extent.length / 512 }, () => `${extent.hole}${extent.zero}`),
            );
          const told = flat(merged);
          assert.deepEqual(told, flat(extents).slice(0, told.length));
          assert.ok(told.length <= units);
          for (const [index, extent] of merged.entries()) {
            const before = merged[index - 1];
            assert.ok(before === undefined || before.hole !== extent.hole || before.zero !== extent.zero);
          }
        },
      ),
      { numRuns: 300 },
    );
  });
});

describe("request memory", () => {
  test("never exceeds its bound but for a lone request, serves in order, forgets who left the line", () => {
    const memory = new NbdRequestMemory(100);
    const served: string[] = [];
    assert.equal(memory.tryTake(60), true);
    assert.equal(memory.tryTake(60), false);
    memory.wait(60, () => served.push("first"));
    const leave = memory.wait(90, () => served.push("second"));
    memory.wait(40, () => served.push("third"));
    assert.equal(memory.tryTake(1), false, "nobody passes the line");
    memory.release(60);
    assert.deepEqual(served, ["first"]);
    leave();
    assert.deepEqual(served, ["first", "third"]);
    assert.equal(memory.usedBytes, 100);
    memory.release(60);
    memory.release(40);
    assert.equal(memory.tryTake(1000), true);
    memory.release(1000);
    assert.equal(memory.usedBytes, 0);
  });
});

describe("reply queue", () => {
  /** A writable that completes when told. */
  function slowSocket() {
    const taken: Buffer[] = [];
    const waiting: (() => void)[] = [];
    const socket = new Writable({
      highWaterMark: 1024,
      write(chunk: Buffer, _encoding, done) {
        taken.push(Buffer.from(chunk));
        waiting.push(done);
      },
      writev(chunks, done) {
        for (const { chunk } of chunks) taken.push(Buffer.from(chunk as Buffer));
        waiting.push(done);
      },
    });
    return { socket, taken, waiting };
  }

  test("sends every byte once and in order, whatever is copied or referred to, and counts what is unsent", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.oneof(
            fc.integer({ min: 1, max: 300 }).map((length) => ({ kind: "claim" as const, length })),
            fc.integer({ min: 1, max: 60_000 }).map((length) => ({ kind: "payload" as const, length })),
            fc.constantFrom(1_500_000, 3_000_000).map((length) => ({ kind: "payload" as const, length })),
            fc.constant({ kind: "flush" as const, length: 0 }),
            fc.constant({ kind: "complete" as const, length: 0 }),
          ),
          { maxLength: 40 },
        ),
        async (steps) => {
          const { socket, taken, waiting } = slowSocket();
          let progressed = 0;
          const queue = new NbdReplyQueue(socket, {
            arenas: new NbdArenaPool(),
            schedule: () => undefined,
            progressed: (bytes) => {
              progressed += bytes;
            },
          });
          const expected: Buffer[] = [];
          let total = 0;
          let fill = 0;
          const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
          for (const { kind, length } of steps) {
            fill = (fill + 1) % 251;
            if (kind === "claim") {
              const at = queue.claim(length);
              queue.bytes.fill(fill, at, at + length);
            } else if (kind === "payload") {
              queue.payload(Buffer.alloc(length, fill));
            } else if (kind === "flush") {
              queue.flush();
            } else {
              waiting.shift()?.();
              await turn();
            }
            if (length > 0) expected.push(Buffer.alloc(length, fill));
            total += length;
            assert.equal(queue.unsentBytes, total - progressed);
          }
          queue.flush();
          while (queue.unsentBytes > 0) {
            waiting.shift()?.();
            await turn();
          }
          assert.equal(progressed, total);
          assert.ok(Buffer.concat(taken).equals(Buffer.concat(expected)));
        },
      ),
      { numRuns: 60 },
    );
  });
});
