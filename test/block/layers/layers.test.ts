/** Layers change only what they say they change. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { BlockErrno, BlockError } from "../../../block/device.ts";
import type { FileDevice } from "../../../block/file-device.ts";
import { openFileDevice } from "../../../block/file-device.ts";
import { DelayDevice } from "../../../block/layers/delay.ts";
import { FaultDevice, failAfter, failNth } from "../../../block/layers/fault.ts";
import { ReadOnlyDevice } from "../../../block/layers/read-only.ts";
import type { Clock } from "../../../runtime/clock.ts";

let folder = "";
let inner: FileDevice;
const data = Buffer.alloc(4096, 3);
const plain = { fua: false };

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "splitsite-layers-"));
  inner = await openFileDevice({ path: join(folder, "inner.img"), sizeBytes: 65536, create: "sparse" });
});
after(async () => {
  await inner.close();
  await rm(folder, { recursive: true, force: true });
});

function errno(expected: BlockErrno): (error: unknown) => boolean {
  return (error) => error instanceof BlockError && error.errno === expected;
}

test("a read-only layer says so, reads, and refuses every change", async () => {
  await inner.write(0, data, plain);
  const device = new ReadOnlyDevice(inner);
  assert.deepEqual(
    [device.can.write, device.can.trim, device.can.zero, device.can.fua],
    [false, false, false, false],
  );
  assert(data.equals(await device.read(0, 4096)));
  await assert.rejects(device.write(), errno(BlockErrno.EPERM));
  await assert.rejects(device.trim(), errno(BlockErrno.EPERM));
  await assert.rejects(device.zero(), errno(BlockErrno.EPERM));
  await device.flush();
  assert.deepEqual([device.sizeBytes, device.blockSize], [inner.sizeBytes, inner.blockSize]);
});

test("the n-th call fails once and changes nothing", async () => {
  const device = new FaultDevice(inner, failNth("write", 2, BlockErrno.ENOSPC));
  await device.write(8192, data, plain);
  await assert.rejects(device.write(12288, data, plain), errno(BlockErrno.ENOSPC));
  assert((await device.read(12288, 4096)).every((byte) => byte === 0));
  await device.write(12288, data, plain);
  assert(data.equals(await device.read(12288, 4096)));
});

test("after its condition a fault stays", async () => {
  const device = new FaultDevice(
    inner,
    failAfter(["flush", "read"], (call) => call.operation === "write" && call.offset === 0),
  );
  await device.flush();
  await device.write(0, data, plain);
  await assert.rejects(device.flush(), errno(BlockErrno.EIO));
  await assert.rejects(device.read(0, 512), errno(BlockErrno.EIO));
  await device.write(0, data, plain);
});

test("a delayed request reaches the device when the clock says so", async () => {
  const waiting: { delayMs: number; run: () => void }[] = [];
  const clock: Clock = {
    monotonicMs: () => 0,
    wallMs: () => 0,
    after(delayMs, run) {
      waiting.push({ delayMs, run });
      return { cancel: () => undefined };
    },
  };
  const device = new DelayDevice(inner, clock, { readMs: 0, writeMs: 7, flushMs: 9 });
  const writing = device.write(32768, data, plain);
  assert((await device.read(32768, 4096)).every((byte) => byte === 0));
  assert.deepEqual(
    waiting.map(({ delayMs }) => delayMs),
    [7],
  );
  waiting[0]!.run();
  await writing;
  assert(data.equals(await device.read(32768, 4096)));
});
