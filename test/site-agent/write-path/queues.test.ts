/** The queues of the write path: order, byte counts, and that every request is settled exactly once. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { BlockRecord } from "../../../protocol/record.ts";
import { recordBytes } from "../../../protocol/record.ts";
import { DurableGate } from "../../../site-agent/write-path/durable-gate.ts";
import type { PendingRecord, WriteRequest } from "../../../site-agent/write-path/pending-writes.ts";
import { PendingWrites } from "../../../site-agent/write-path/pending-writes.ts";

function write(offset: number, length: number): BlockRecord {
  return { kind: "write", volume: 0, offset, length, data: new Uint8Array(length) };
}

function request(settled: string[], name: string): WriteRequest {
  return {
    durable: false,
    resolve: () => settled.push(`ok ${name}`),
    reject: () => settled.push(`no ${name}`),
  };
}

test("records leave in arrival order whatever is taken and put back in between", () => {
  const action = fc.oneof(
    fc.record({ add: fc.array(fc.constantFrom(512, 1024, 4096), { minLength: 1, maxLength: 4 }) }),
    fc.record({ take: fc.integer({ min: 1, max: 12_000 }) }),
    fc.constant("putBack" as const),
  );
  fc.assert(
    fc.property(fc.array(action, { maxLength: 60 }), (actions) => {
      const queue = new PendingWrites();
      let arrived = 0;
      let left = 0;
      let held: PendingRecord[] = [];
      for (const step of actions) {
        if (step === "putBack") {
          queue.putBack(held);
          left -= held.length;
          held = [];
        } else if ("add" in step) {
          const records = step.add.map((length) => write(arrived++ * 4096, length));
          queue.add(records, request([], ""), 0);
        } else if (queue.count > 0) {
          held = queue.take(step.take);
          assert(held.length > 0);
          for (const item of held) assert.equal(item.record.offset, left++ * 4096);
        }
        assert.equal(queue.count, arrived - left);
      }
      const rest = queue.count === 0 ? [] : queue.take(Number.POSITIVE_INFINITY);
      for (const item of rest) assert.equal(item.record.offset, left++ * 4096);
      assert.equal(left, arrived);
      assert.equal(queue.bytes, 0);
    }),
  );
});

test("a request stands on the last of its records only", () => {
  const queue = new PendingWrites();
  queue.add([write(0, 512), write(512, 512)], request([], "a"), 5);
  const items = queue.take(1);
  assert.equal(items.length, 1);
  assert.equal(items[0]?.request, null);
  assert.notEqual(queue.take(1)[0]?.request, null);
});

test("the bytes counted are the encoded bytes of what waits", () => {
  const queue = new PendingWrites();
  const records = [write(0, 4096), write(4096, 512)];
  queue.add(records, request([], "a"), 0);
  assert.equal(queue.bytes, recordBytes(records[0]!) + recordBytes(records[1]!));
  queue.take(1);
  assert.equal(queue.bytes, recordBytes(records[1]!));
});

test("rejectAll refuses every request that still waits, once", () => {
  const queue = new PendingWrites();
  const settled: string[] = [];
  queue.add([write(0, 512)], request(settled, "a"), 0);
  queue.add([write(512, 512)], request(settled, "b"), 0);
  queue.take(1);
  queue.rejectAll(new Error("stopped"));
  queue.rejectAll(new Error("stopped"));
  assert.deepEqual(settled, ["no b"]);
});

test("the gate answers whose target is durable, in order, and nobody twice", () => {
  const gate = new DurableGate();
  const settled: string[] = [];
  for (const target of [3, 3, 5, 9]) gate.add(target, request(settled, String(target)));
  gate.release(2);
  assert.deepEqual(settled, []);
  gate.release(5);
  assert.deepEqual(settled, ["ok 3", "ok 3", "ok 5"]);
  gate.rejectAll(new Error("stopped"));
  gate.release(9);
  assert.deepEqual(settled, ["ok 3", "ok 3", "ok 5", "no 9"]);
});

test("a barrier settles when all that came before it is journalled, whatever came back in between, and not earlier", async () => {
  const queue = new PendingWrites();
  const settled: string[] = [];
  const barrier = (name: string) =>
    void queue.whenJournalled().then(
      () => settled.push(name),
      () => settled.push(`no ${name}`),
    );
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  barrier("empty");
  await turn();
  assert.deepEqual(settled, ["empty"]);
  queue.add([write(0, 512), write(512, 512)], request([], "a"), 0);
  barrier("two");
  const items = queue.take(Number.POSITIVE_INFINITY);
  queue.add([write(1024, 512)], request([], "b"), 0);
  barrier("three");
  queue.putBack(items);
  await turn();
  assert.deepEqual(settled, ["empty"]);
  queue.settled(queue.take(1).length);
  await turn();
  assert.deepEqual(settled, ["empty"], "half of a request is not enough");
  queue.settled(queue.take(1).length);
  await turn();
  assert.deepEqual(settled, ["empty", "two"]);
  queue.rejectAll(new Error("stopped"));
  await turn();
  assert.deepEqual(settled, ["empty", "two", "no three"]);
  barrier("empty again");
  await turn();
  assert.deepEqual(settled, ["empty", "two", "no three", "empty again"]);
});
