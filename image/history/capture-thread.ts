/**
 * The thread that makes chunks of what the page cache holds: reads the blocks, packs, compresses, digests. It never waits for a
 * disk, so that one group's slow image does not hold up the captures of another, and never writes. Started by
 * capture-queue.ts; runs nowhere else.
 */
import { readCached } from "../../block/libc.ts";
import { blockBytes } from "../../protocol/ids.ts";
import { serveCalls } from "../../runtime/thread-calls.ts";
import type { CaptureAnswer, CaptureOrder } from "./capture-orders.ts";
import { ChunkRoom } from "./chunk-room.ts";
import { packGroup } from "./pack.ts";

function perform({ fd, volumeBytes, pieces, memory, head }: CaptureOrder): CaptureAnswer {
  const room = new ChunkRoom(memory);
  let used = 0;
  for (const { first, blocks } of pieces) {
    const offset = first * blockBytes;
    const end = used + blocks * blockBytes;
    const length = Math.min(blocks * blockBytes, volumeBytes - offset);
    if (readCached(fd, offset, room.blocks.subarray(used, used + length)) !== length) return null;
    room.blocks.fill(0, used + length, end);
    used = end;
  }
  const { runs, rawBytes } = packGroup(pieces, room.blocks);
  const { byteOffset, byteLength } = room.seal({ ...head, runs }, rawBytes);
  return { runs, byteOffset, byteLength };
}

serveCalls(perform);
