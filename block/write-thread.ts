/**
 * The thread that makes the write system calls of all file devices of the process: pwrite of what stands in a
 * shared slot, punching and zeroing of ranges. It knows descriptors and bytes, nothing of devices or images, and
 * never syncs, so that a slow flush of one image does not hold up the writes of another. Started by
 * write-queue.ts; runs nowhere else.
 */
import { writeSync } from "node:fs";
import { workerData } from "node:worker_threads";
import { serveCalls } from "../runtime/thread-calls.ts";
import { punchHole, zeroRange } from "./libc.ts";
import type { ThreadOrder, ThreadSetup } from "./write-orders.ts";
import { slotDataBytes } from "./write-orders.ts";

/** Zeroes written per system call where a range can be neither punched nor zeroed by the file system. */
const zeroes = new Uint8Array(1024 * 1024);

function writeAll(fd: number, bytes: Uint8Array, at: number, length: number, offset: number): void {
  let done = 0;
  while (done < length) {
    const written = writeSync(fd, bytes, at + done, length - done, offset + done);
    if (written === 0) throw Object.assign(new Error("write made no progress"), { code: "EIO" });
    done += written;
  }
}

function zero(fd: number, offset: number, length: number, mayFree: boolean, fast: boolean): void {
  if (mayFree && punchHole(fd, offset, length)) return;
  if (zeroRange(fd, offset, length)) return;
  if (fast) throw Object.assign(new Error("zeroing would be as slow as writing"), { code: "ENOTSUP" });
  for (let done = 0; done < length; done += zeroes.byteLength) {
    writeAll(fd, zeroes, 0, Math.min(zeroes.byteLength, length - done), offset + done);
  }
}

function perform(order: ThreadOrder, slots: ThreadSetup["slots"]): void {
  if (order.kind === "zero") {
    zero(order.fd, order.offset, order.length, order.mayFree, order.fast);
    return;
  }
  const slot = slots[order.slot]!;
  const data = new Uint8Array(slot, 0, slotDataBytes);
  const runs = new Float64Array(slot, slotDataBytes, order.runs * 2);
  let at = 0;
  for (let index = 0; index < runs.length; index += 2) {
    const length = runs[index + 1]!;
    if (length < 0) {
      zero(order.fd, runs[index]!, -length, true, false);
      continue;
    }
    writeAll(order.fd, data, at, length, runs[index]!);
    at += length;
  }
}

const { slots } = workerData as ThreadSetup;
serveCalls((order: ThreadOrder) => perform(order, slots));
