/** Batches: round trip, agreement with the naive twin, and refusal of everything that is not one (F90-F93). */
import assert from "node:assert/strict";
import { test } from "node:test";
import { brotliCompressSync, crc32 } from "node:zlib";
import fc from "fast-check";
import {
  batchBytesMax,
  batchCodecs,
  batchHeaderBytes,
  batchRawBytesMax,
  decodeBatchHeader,
  decodeBatchPayload,
  encodeBatch,
  packFrames,
} from "../../protocol/batch.ts";
import type { Frame } from "../../protocol/frame.ts";
import { buildFrame, encodeFrame } from "../../protocol/frame.ts";
import { lz4Compress } from "../../protocol/lz4.ts";
import { RemoteProtocolError } from "../../protocol/remote-error.ts";
import { arbitraryFrames, naiveFrame } from "./naive/arbitrary.ts";
import * as naive from "./naive/formats.ts";

const token = { epoch: 3, owner: "primary" };

function decode(bytes: Uint8Array): Frame[] {
  return decodeBatchPayload(decodeBatchHeader(bytes), bytes.subarray(batchHeaderBytes));
}

/** Three frames that compress. */
function someFrames(): Frame[] {
  const frames: Frame[] = [];
  for (let at = 0; at < 3; at += 1) {
    const before = frames.at(-1);
    frames.push(
      buildFrame({
        lineage: new Uint8Array(16).fill(7),
        first: before === undefined ? 9 : before.last + 1,
        chainBefore: before === undefined ? new Uint8Array(32).fill(1) : before.chainAfter,
        dataBytesBefore: before === undefined ? 4096 : before.dataBytesTotal,
        openedAtMs: 5,
        closedAtMs: 6,
        records: [
          {
            kind: "write",
            volume: 0,
            offset: at * 512,
            length: 512,
            data: new Uint8Array(512).map((_, index) => (index * index * (at + 3)) >> 4),
          },
          { kind: "zeroes", volume: 1, offset: 0, length: 1024 },
        ],
      }),
    );
  }
  return frames;
}

/** A batch with another payload, its lengths and CRCs made good. */
function forged(bytes: Uint8Array, codec: number, payload: Uint8Array, rawLength: number): Uint8Array {
  const head = Buffer.from(bytes.subarray(0, batchHeaderBytes));
  head[5] = codec;
  head.writeUInt32BE(rawLength, 116);
  head.writeUInt32BE(payload.byteLength, 120);
  head.writeUInt32BE(crc32(payload), 124);
  head.writeUInt32BE(crc32(head.subarray(0, 192)), 192);
  return Buffer.concat([head, payload]);
}

/** A batch with a header field overwritten and the header's CRC made good. */
function withField(bytes: Uint8Array, at: number, field: number[]): Uint8Array {
  const copy = Buffer.from(bytes);
  copy.set(field, at);
  copy.writeUInt32BE(crc32(copy.subarray(0, 192)), 192);
  return copy;
}

test("batches come back as they were, with every codec", async () => {
  await fc.assert(
    fc.asyncProperty(arbitraryFrames(4), fc.constantFrom(...batchCodecs), async (frames, codec) => {
      const bytes = await encodeBatch(frames, token, codec);
      const header = decodeBatchHeader(bytes);
      assert.deepEqual(header.token, token);
      assert.deepEqual(
        [header.first, header.last, header.frameCount],
        [frames[0]!.first, frames.at(-1)!.last, frames.length],
      );
      assert.deepEqual(decode(bytes).map(naiveFrame), frames.map(naiveFrame));
      assert.ok(
        bytes.byteLength <= batchHeaderBytes + packFrames(frames).byteLength,
        "never longer than packed raw (F93)",
      );
    }),
    { numRuns: 60 },
  );
});

test("the naive twin reads what we write and writes what we read", async () => {
  await fc.assert(
    fc.asyncProperty(arbitraryFrames(3), fc.constantFrom(...batchCodecs), async (frames, codec) => {
      const read = naive.decodeBatch([...(await encodeBatch(frames, token, codec))]);
      assert.deepEqual(read.frames, frames.map(naiveFrame));
      assert.deepEqual([read.owner, read.epoch, read.first], ["primary", 3n, BigInt(frames[0]!.first)]);
      const written = Buffer.from(naive.encodeBatch(read));
      assert.deepEqual(written, Buffer.from(await encodeBatch(frames, token, "none")));
    }),
    { numRuns: 25 },
  );
});

for (const codec of batchCodecs) {
  test(`every flipped bit and every cut of a batch is refused, ${codec} (F90, F92)`, async () => {
    const bytes = await encodeBatch(someFrames(), token, codec);
    assert.equal(decodeBatchHeader(bytes).codec, codec);
    for (let bit = 0; bit < bytes.byteLength * 8; bit += 1) {
      const flipped = Buffer.from(bytes);
      flipped[bit >> 3]! ^= 1 << (bit & 7);
      assert.throws(() => decode(flipped), RemoteProtocolError, `bit ${bit}`);
    }
    for (let length = 0; length < bytes.byteLength; length += 1) {
      assert.throws(() => decode(bytes.subarray(0, length)), RemoteProtocolError, `length ${length}`);
    }
    assert.throws(() => decode(Buffer.concat([bytes, Buffer.alloc(1)])), { code: "BATCH_TRUNCATED" });
  });
}

test("flips and cuts inside the compressed payload are refused even with a good payload CRC (F90)", async () => {
  for (const codec of ["lz4", "brotli"] as const) {
    const bytes = await encodeBatch(someFrames(), token, codec);
    const { rawLength } = decodeBatchHeader(bytes);
    const payload = bytes.subarray(batchHeaderBytes);
    const good = decode(bytes).map(naiveFrame);
    for (let bit = 0; bit < payload.byteLength * 8; bit += 1) {
      const flipped = Buffer.from(payload);
      flipped[bit >> 3]! ^= 1 << (bit & 7);
      try {
        // A compressor may say the same thing in two ways; then nothing is damaged.
        assert.deepEqual(
          decode(forged(bytes, batchCodecs.indexOf(codec), flipped, rawLength)).map(naiveFrame),
          good,
          `bit ${bit}`,
        );
      } catch (error) {
        assert.ok(error instanceof RemoteProtocolError, String(error));
      }
    }
    for (let length = 0; length < payload.byteLength; length += 1) {
      assert.throws(
        () => decode(forged(bytes, batchCodecs.indexOf(codec), payload.subarray(0, length), rawLength)),
        RemoteProtocolError,
      );
    }
  }
});

test("bytes behind the end of a compressed payload are refused", async () => {
  for (const codec of ["lz4", "brotli"] as const) {
    const bytes = await encodeBatch(someFrames(), token, codec);
    const longer = Buffer.concat([bytes.subarray(batchHeaderBytes), Buffer.from("junk")]);
    const { rawLength } = decodeBatchHeader(bytes);
    assert.throws(
      () => decode(forged(bytes, batchCodecs.indexOf(codec), longer, rawLength)),
      RemoteProtocolError,
      codec,
    );
  }
});

test("bombs and lies about sizes are refused, and cost no memory beyond the limit (F91)", async () => {
  const bytes = await encodeBatch(someFrames(), token, "none");
  const before = process.memoryUsage().arrayBuffers;
  const zeros = Buffer.alloc(64 * 1024 * 1024);
  const brotliBomb = brotliCompressSync(zeros.subarray(0, 32 * 1024 * 1024));
  const lz4Bomb = lz4Compress(zeros);
  assert.throws(() => decode(forged(bytes, 2, brotliBomb, 1024)), { code: "BATCH_BROTLI" });
  assert.throws(() => decode(forged(bytes, 2, brotliBomb, 0)), RemoteProtocolError);
  assert.throws(() => decode(forged(bytes, 2, brotliBomb, 0xffffffff)), { code: "BATCH_LIMITS" });
  assert.throws(() => decode(forged(bytes, 1, lz4Bomb, 1024)), { code: "LZ4_LENGTH" });
  const liar = Buffer.from(lz4Bomb);
  liar.writeUInt32LE(batchRawBytesMax, 0);
  assert.throws(() => decode(forged(bytes, 1, liar, batchRawBytesMax)), RemoteProtocolError);
  assert.throws(() => decode(forged(bytes, 1, Buffer.alloc(0), 0)), { code: "LZ4_LENGTH" });
  assert.throws(() => decode(forged(bytes, 0, Buffer.alloc(0), 0)), RemoteProtocolError);
  assert.throws(() => decode(withField(bytes, 120, [0xff, 0xff, 0xff, 0xff])), { code: "BATCH_LIMITS" });
  assert.throws(() => decode(withField(bytes, 112, [0xff, 0xff, 0xff, 0xff])), { code: "BATCH_LIMITS" });
  assert.ok(process.memoryUsage().arrayBuffers - before - zeros.byteLength < 2 * batchBytesMax);
});

test("a frame packed inside a batch is refused before it is unpacked (F91)", async () => {
  // Each is some 8 KiB long and would take 1 MiB: a legal batch could hold hundreds of them.
  const frame = buildFrame({
    lineage: new Uint8Array(16),
    first: 1,
    chainBefore: new Uint8Array(32),
    dataBytesBefore: 0,
    openedAtMs: 0,
    closedAtMs: 0,
    records: [{ kind: "write", volume: 0, offset: 0, length: 2 ** 20, data: new Uint8Array(2 ** 20) }],
  });
  const packed = encodeFrame(frame, "lz4");
  assert.ok(packed.byteLength < 16 * 1024);
  for (const codec of ["none", "brotli"] as const) {
    const bytes = await encodeBatch([frame], token, codec);
    const payload = codec === "none" ? packed : brotliCompressSync(packed);
    const batch = forged(bytes, batchCodecs.indexOf(codec), payload, packed.byteLength);
    assert.throws(() => decode(batch), { code: "BATCH_FRAME_CODEC" }, codec);
  }
});

test("a batch inside a batch is no frame (F91)", async () => {
  const bytes = await encodeBatch(someFrames(), token, "none");
  assert.throws(() => decode(forged(bytes, 0, bytes, bytes.byteLength)), { code: "FRAME_MAGIC" });
});

test("frames that do not continue each other or the header are refused", async () => {
  const [a, b, c] = someFrames() as [Frame, Frame, Frame];
  const order = async (frames: Frame[]) => {
    const raw = Buffer.concat(frames.map((frame) => encodeFrame(frame, "none")));
    return forged(await encodeBatch([a, b, c], token, "none"), 0, raw, raw.byteLength);
  };
  for (const frames of [
    [a, c, b],
    [a, b],
    [b, c],
    [a, a, c],
  ]) {
    const wrong = await order(frames);
    assert.throws(() => decode(wrong), RemoteProtocolError);
  }
  const trailing = await order([a, b, c, c]);
  assert.throws(() => decode(trailing), { code: "BATCH_ORDER" });
  const foreign = await order([a, { ...b, lineage: new Uint8Array(16) }, c]);
  assert.throws(() => decode(foreign), { code: "BATCH_ORDER" });
});

test("frames whose counters of data bytes do not continue each other are refused", async () => {
  const [a, b, c] = someFrames() as [Frame, Frame, Frame];
  const bytes = await encodeBatch([a, b, c], token, "none");
  const raw = Buffer.concat(
    [a, { ...b, dataBytesTotal: b.dataBytesTotal + 512 }, c].map((frame) => encodeFrame(frame, "none")),
  );
  assert.throws(() => decode(forged(bytes, 0, raw, raw.byteLength)), { code: "BATCH_ORDER" });
});

test("a later version, codec, flag, or a token nobody can hold stops the reader by code", async () => {
  const bytes = await encodeBatch(someFrames(), token, "none");
  assert.throws(() => decode(withField(bytes, 0, [0])), { code: "BATCH_MAGIC" });
  assert.throws(() => decode(withField(bytes, 4, [2])), { code: "BATCH_VERSION" });
  assert.throws(() => decode(withField(bytes, 5, [3])), { code: "BATCH_CODEC" });
  assert.throws(() => decode(withField(bytes, 7, [1])), { code: "BATCH_CODEC" });
  assert.throws(() => decode(withField(bytes, 24, naive.number(0, 8))), { code: "BATCH_LIMITS" });
  for (const owner of ["", "UPPER", "a/b", "..", "a\0b"]) {
    const field = [...Buffer.from(owner, "latin1"), ...new Array<number>(64 - owner.length).fill(0)];
    assert.throws(() => decode(withField(bytes, 32, field)), { code: "BATCH_OWNER" }, owner);
  }
});

test("what no reader would take is never written", async () => {
  const [a, b, c] = someFrames() as [Frame, Frame, Frame];
  await assert.rejects(encodeBatch([], token, "none"), { code: "ERR_ASSERTION" });
  await assert.rejects(encodeBatch([a, c], token, "none"), { code: "ERR_ASSERTION" });
  await assert.rejects(encodeBatch([a, b], { epoch: 0, owner: "x" }, "none"), { code: "ERR_ASSERTION" });
  await assert.rejects(encodeBatch([a, b], { epoch: 1, owner: "Ü" }, "none"), { code: "ERR_ASSERTION" });
});

test("any bytes at all are a batch or a RemoteProtocolError", async () => {
  const valid = await encodeBatch(someFrames(), token, "brotli");
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), fc.nat(400), fc.nat(3), (noise, at, codec) => {
      for (const bytes of [
        noise,
        Buffer.concat([valid.subarray(0, at), noise]),
        forged(valid, codec, noise, noise.byteLength),
      ]) {
        try {
          decode(bytes);
        } catch (error) {
          assert.ok(error instanceof RemoteProtocolError, String(error));
        }
      }
    }),
    { numRuns: 300 },
  );
});
