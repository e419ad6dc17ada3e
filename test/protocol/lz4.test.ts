/** LZ4 blocks: the length in front is compared before anything is allocated for it, and again afterwards (F91). */
import assert from "node:assert/strict";
import { test } from "node:test";
import { lz4Compress, lz4Decompress } from "../../protocol/lz4.ts";

const raw = Buffer.alloc(64 * 1024, "splitsite ");

/** The block with another length in front. */
function declaring(length: number): Buffer {
  const block = Buffer.from(lz4Compress(raw));
  block.writeUInt32LE(length, 0);
  return block;
}

test("a block comes back", () => {
  assert.equal(Buffer.compare(lz4Decompress(lz4Compress(raw), raw.length), raw), 0);
});

test("a block that declares another length than its frame does is refused, even where its content has that of the frame", () => {
  for (const length of [0, 1, raw.length - 1, raw.length + 1, 2 * raw.length, 2 ** 31, 2 ** 32 - 1]) {
    assert.throws(() => lz4Decompress(declaring(length), raw.length), { code: "LZ4_LENGTH" }, `${length}`);
  }
});

test("a block that declares what its frame does and holds another length is refused", () => {
  for (const length of [raw.length - 1, raw.length + 1, 2 * raw.length]) {
    assert.throws(
      () => lz4Decompress(declaring(length), length),
      { name: "RemoteProtocolError" },
      `${length}`,
    );
  }
  for (let cut = 0; cut < 8; cut += 1) {
    assert.throws(() => lz4Decompress(lz4Compress(raw).subarray(0, cut), raw.length), {
      name: "RemoteProtocolError",
    });
  }
});
