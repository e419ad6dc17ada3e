/**
 * The thread that packs batches with LZ4. What the package hands out is taken from and given back to one heap, this thread's,
 * and is given back before long: the thread collects its own garbage by count, not when the engine would. It keeps nothing of a
 * batch. Started by compress-aside.ts; runs nowhere else.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import type { PackedPayload } from "../../protocol/batch.ts";
import { shorterPayload } from "../../protocol/batch.ts";
import { lz4Compress } from "../../protocol/lz4.ts";
import { serveCalls } from "../../runtime/thread-calls.ts";

/**
 * Collected when this much may lie about, bytes: two of the longest batches with what LZ4 took for them. By itself the engine
 * waits for 64 MiB. Young objects only, since none lives longer than a batch: 1 to 3 ms, where the whole heap takes 15.
 */
const garbageBytesMax = 16 * 1024 * 1024;

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as (options: { readonly type: "minor" }) => void;

let garbageBytes = 0;

function perform(raw: Uint8Array): PackedPayload {
  const packed = lz4Compress(raw);
  const { shrunk } = shorterPayload(raw, packed);
  // LZ4 takes room for the worst case, a little more than `raw`, which stays here unless it goes back.
  garbageBytes += shrunk ? 2 * raw.byteLength : raw.byteLength;
  if (garbageBytes >= garbageBytesMax) {
    garbageBytes = 0;
    // Once the answer is out, and in a turn of its own, in which nothing refers to the batch any more.
    setImmediate(() => collect({ type: "minor" }));
  }
  return { shrunk, bytes: shrunk ? new Uint8Array(packed) : raw };
}

serveCalls(perform, ({ bytes }) => [bytes.buffer as ArrayBuffer]);
