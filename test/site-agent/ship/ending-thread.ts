/**
 * A thread that packs batches without the product's own thread, and ends in the middle of one that begins with `endingByte`.
 * Owns nothing; started by compress-aside.test.ts, is no test itself.
 */
import { shorterPayload } from "../../../protocol/batch.ts";
import { lz4Compress } from "../../../protocol/lz4.ts";
import { serveCalls } from "../../../runtime/thread-calls.ts";
import { endingByte } from "./ending-byte.ts";

serveCalls((raw: Uint8Array) => {
  if (raw[0] === endingByte) process.exit();
  return shorterPayload(raw, Uint8Array.from(lz4Compress(raw)));
});
