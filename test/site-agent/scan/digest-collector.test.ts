/** When collected digests go into the order: together while nobody writes, at once while clients do. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { scanChunkBytes } from "../../../protocol/scan-digest.ts";
import { DigestCollector } from "../../../site-agent/scan/digest-collector.ts";
import { Entrance } from "../../../site-agent/write-path/entrance.ts";
import { PendingWrites } from "../../../site-agent/write-path/pending-writes.ts";

function rig() {
  const entrance = new Entrance(
    new PendingWrites(),
    () => 1,
    () => {},
  );
  const put: number[] = [];
  let ring: () => void = () => assert.fail("no timer");
  const collector = new DigestCollector({
    entrance,
    clock: {
      wallMs: () => 0,
      monotonicMs: () => 0,
      after: (_, run) => {
        ring = run;
        return { cancel: () => {} };
      },
    },
    placed: ({ count }) => put.push(count),
    spoiled: () => assert.fail("nothing was written there"),
  });
  const add = (chunk: number): void => {
    const start = chunk * scanChunkBytes;
    const watch = entrance.watch({ volume: 0, start, end: start + scanChunkBytes }, "spoil");
    const digests = new Uint8Array(32);
    collector.add({ level: "chunk", volume: 0, chunk, length: scanChunkBytes, digests, watch, reads: 1 });
  };
  /** A client's write, far from what is scanned. */
  const write = (): void => {
    const record = { kind: "trim", volume: 1, offset: 0, length: 512 } as const;
    entrance.enter([record], { durable: false, resolve: () => {}, reject: () => {} });
  };
  return { put, add, write, ring: () => ring() };
}

test("neighbours wait for each other while nobody writes", () => {
  const { put, add, ring } = rig();
  for (const chunk of [0, 1, 2]) add(chunk);
  assert.deepEqual(put, []);
  ring();
  assert.deepEqual(put, [3]);
});

test("while clients write a digest is put as soon as it is made, before they spoil it", () => {
  const { put, add, write } = rig();
  write();
  add(0);
  assert.deepEqual(put, [1]);
  add(1);
  assert.deepEqual(put, [1], "nobody wrote since");
  write();
  add(2);
  assert.deepEqual(put, [1, 2]);
});
