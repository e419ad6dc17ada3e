/** Whether a chunk of before-images, read from its segment by a test, holds what was written. */
import {
  chunkBytes,
  chunkHeadBytes,
  decodeChunkBlocks,
  decodeChunkHead,
  runBytes,
} from "../../image/history/chunk.ts";
import { RemoteProtocolError } from "../../protocol/remote-error.ts";

/** `bytes` begin with the chunk. A bit of LZ4 that unpacks to the same blocks all the same is no damage. */
export function isSoundChunk(bytes: Buffer): boolean {
  try {
    const head = decodeChunkHead(bytes);
    const payloadAt = chunkHeadBytes + head.runs.length * runBytes;
    const end = payloadAt + head.storedBytes;
    decodeChunkBlocks(head, bytes.subarray(payloadAt, end));
    return bytes.subarray(end, chunkBytes(head.runs.length, head.storedBytes)).every((byte) => byte === 0);
  } catch (error) {
    if (error instanceof RemoteProtocolError) return false;
    throw error;
  }
}
