/** Frames: round trip, agreement with the naive twin, and refusal of everything that is not one (F90-F93). */
import assert from "node:assert/strict";
import { test } from "node:test";
import { crc32 } from "node:zlib";
import fc from "fast-check";
import type { Frame } from "../../protocol/frame.ts";
import {
  buildFrame,
  buildGapFrame,
  decodeFrame,
  encodedFrameLength,
  encodeFrame,
  frameBodyBytesMax,
  frameHeaderBytes,
  frameRecordsMax,
  gapOf,
  volumeChangeOf,
} from "../../protocol/frame.ts";
import { sliceFrame, splitFrame } from "../../protocol/frame-split.ts";
import type { BlockRecord } from "../../protocol/record.ts";
import { recordDataBytesMax } from "../../protocol/record.ts";
import { RemoteProtocolError } from "../../protocol/remote-error.ts";
import { arbitraryFrames, naiveFrame } from "./naive/arbitrary.ts";
import * as naive from "./naive/formats.ts";

function plain(frame: Frame) {
  return { ...naiveFrame(frame), body: Buffer.from(frame.body).toString("hex"), last: frame.last };
}

const lineage = new Uint8Array(16).fill(7);
const chain = new Uint8Array(32).fill(3);
const sector = (fill: number): BlockRecord => ({
  kind: "write",
  volume: 1,
  offset: 512,
  length: 512,
  data: new Uint8Array(512).fill(fill),
});

function frameOf(records: readonly BlockRecord[], first = 5): Frame {
  return buildFrame({
    lineage,
    first,
    chainBefore: chain,
    dataBytesBefore: 100,
    openedAtMs: 1,
    closedAtMs: 2,
    records,
  });
}

/** An encoded frame with header fields overwritten and the header's CRC made good again. */
function forged(bytes: Uint8Array, at: number, field: number[]): Uint8Array {
  const copy = Buffer.from(bytes);
  copy.set(field, at);
  copy.writeUInt32BE(crc32(copy.subarray(0, frameHeaderBytes - 4)), frameHeaderBytes - 4);
  return copy;
}

test("frames come back as they were, stored or LZ4", () => {
  fc.assert(
    fc.property(
      arbitraryFrames(1),
      fc.constantFrom("lz4" as const, "none" as const),
      ([frame], compression) => {
        const bytes = encodeFrame(frame!, compression);
        assert.equal(encodedFrameLength(bytes), bytes.byteLength);
        assert.deepEqual(plain(decodeFrame(bytes)), plain(frame!));
        assert.ok(
          bytes.byteLength <= frameHeaderBytes + frame!.body.byteLength,
          "never longer than stored (F93)",
        );
      },
    ),
  );
});

test("the naive twin reads what we write and writes what we read", () => {
  fc.assert(
    fc.property(arbitraryFrames(1), ([frame]) => {
      const read = naive.decodeFrame([...encodeFrame(frame!, "lz4")]);
      assert.deepEqual(read, naiveFrame(frame!));
      assert.equal(naive.lastOf(read), BigInt(frame!.last));
      assert.deepEqual(
        Buffer.from(naive.encodeFrame(naiveFrame(frame!))),
        Buffer.from(encodeFrame(frame!, "none")),
      );
    }),
    { numRuns: 40 },
  );
});

for (const compression of ["none", "lz4"] as const) {
  const bytes = encodeFrame(
    frameOf([sector(1), { kind: "trim", volume: 0, offset: 0, length: 4096 }, sector(2)]),
    compression,
  );

  test(`every flipped bit of a frame is refused or changes nothing, ${compression} (F90)`, () => {
    for (let bit = 0; bit < bytes.byteLength * 8; bit += 1) {
      const flipped = Buffer.from(bytes);
      flipped[bit >> 3]! ^= 1 << (bit & 7);
      let accepted: Frame;
      try {
        accepted = decodeFrame(flipped);
      } catch (error) {
        assert.ok(error instanceof RemoteProtocolError, `bit ${bit}: ${error}`);
        continue;
      }
      // LZ4 can say the same thing in two ways: the distance of a match inside a run of equal bytes. Then the frame
      // is the same to the last bit, and nothing was damaged that anybody reads.
      assert.ok(compression === "lz4" && bit >= frameHeaderBytes * 8, `bit ${bit}`);
      assert.deepEqual(plain(accepted), plain(decodeFrame(bytes)), `bit ${bit}`);
    }
  });

  test(`a frame cut at any byte, or with a byte too many, is refused, ${compression} (F92)`, () => {
    for (let length = 0; length < bytes.byteLength; length += 1) {
      assert.throws(() => decodeFrame(bytes.subarray(0, length)), RemoteProtocolError, `length ${length}`);
    }
    assert.throws(() => decodeFrame(Buffer.concat([bytes, Buffer.alloc(1)])), { code: "FRAME_TRUNCATED" });
  });
}

test("lies about sizes are refused before anything is allocated for them (F91)", () => {
  const bytes = encodeFrame(frameOf([sector(0)]), "lz4");
  const huge = [0xff, 0xff, 0xff, 0xff];
  const before = process.memoryUsage().arrayBuffers;
  assert.throws(() => decodeFrame(forged(bytes, 36, huge)), { code: "FRAME_LIMITS" });
  assert.throws(() => decodeFrame(forged(bytes, 40, huge)), { code: "FRAME_LIMITS" });
  assert.throws(() => decodeFrame(forged(bytes, 32, huge)), { code: "FRAME_LIMITS" });
  assert.throws(() => decodeFrame(forged(bytes, 32, [0, 0, 0, 0])), { code: "FRAME_LIMITS" });
  assert.throws(() => decodeFrame(forged(bytes, 36, naive.number(frameBodyBytesMax, 4))), {
    code: "LZ4_LENGTH",
  });
  // The LZ4 prefix lies along with the header: the block itself ends too early.
  const liar = Buffer.from(forged(bytes, 36, naive.number(frameBodyBytesMax, 4)));
  liar.writeUInt32LE(frameBodyBytesMax, frameHeaderBytes);
  assert.throws(() => decodeFrame(liar), RemoteProtocolError);
  liar.writeUInt32LE(0xffffffff, frameHeaderBytes);
  assert.throws(() => decodeFrame(liar), { code: "LZ4_LENGTH" });
  assert.ok(process.memoryUsage().arrayBuffers - before < 16 * 1024 * 1024);
});

function gapFrame(span = 1000, dataBytes = 4096): Frame {
  return buildGapFrame({
    lineage,
    after: { sequence: 4, chain, dataBytesTotal: 100 },
    to: { sequence: 4 + span, chain: new Uint8Array(32).fill(9), dataBytesTotal: 100 + dataBytes },
    closedAtMs: 2,
  });
}

test("a gap is a frame of one record and many sequences, to which no chain leads", () => {
  const frame = gapFrame();
  assert.deepEqual([frame.first, frame.count, frame.last, frame.dataBytesTotal], [5, 1, 1004, 4196]);
  assert.equal(gapOf(frame)?.span, 1000);
  assert.equal(gapOf(frameOf([sector(1)])), undefined);
  for (const compression of ["none", "lz4"] as const)
    assert.deepEqual(plain(decodeFrame(encodeFrame(frame, compression))), plain(frame));
  assert.throws(() => gapFrame(0), { code: "ERR_ASSERTION" });
  assert.throws(() => gapFrame(1, -1), { code: "ERR_ASSERTION" });
});

test("every flipped bit and every cut of a gap is refused (F90, F92)", () => {
  const bytes = encodeFrame(gapFrame(), "none");
  for (let bit = 0; bit < bytes.byteLength * 8; bit += 1) {
    const flipped = Buffer.from(bytes);
    flipped[bit >> 3]! ^= 1 << (bit & 7);
    assert.throws(() => decodeFrame(flipped), RemoteProtocolError, `bit ${bit}`);
  }
  for (let length = 0; length < bytes.byteLength; length += 1) {
    assert.throws(() => decodeFrame(bytes.subarray(0, length)), RemoteProtocolError, `length ${length}`);
  }
});

test("a gap beside a record, beyond 2^53, or of another chain than its frame, is refused", () => {
  const gap = gapFrame();
  const bytes = encodeFrame(gap, "none");
  // A frame of the gap and a trim, in either order: lengths, CRCs and, where it is looked at, the count are right.
  const trim = frameOf([{ kind: "trim", volume: 0, offset: 0, length: 4096 }]).body;
  for (const body of [Buffer.concat([gap.body, trim]), Buffer.concat([trim, gap.body])]) {
    const head = Buffer.from(bytes.subarray(0, frameHeaderBytes));
    head.writeUInt32BE(2, 32);
    head.writeUInt32BE(body.byteLength, 36);
    head.writeUInt32BE(body.byteLength, 40);
    head.writeUInt32BE(crc32(body), 44);
    const whole = forged(Buffer.concat([head, body]), 0, []);
    assert.throws(() => decodeFrame(whole), { code: "FRAME_GAP" });
  }
  assert.throws(() => decodeFrame(forged(bytes, 24, naive.number(2n ** 53n - 1000n, 8))), {
    code: "FRAME_GAP",
  });
  assert.throws(() => decodeFrame(forged(bytes, 104, [1])), { code: "FRAME_GAP" });
  assert.throws(() => decodeFrame(forged(bytes, 64, naive.number(4_095, 8))), { code: "FRAME_TOTAL" });
  const beside = { ...gap, count: 2, records: [...gap.records, sector(1)] };
  assert.throws(() => encodeFrame(beside, "none"), { code: "ERR_ASSERTION" });
  assert.throws(() => frameOf([gap.records[0]!]), { code: "ERR_ASSERTION" });
});

test("a change of the volume table is a frame of its own, of one sequence, and the chain leads over it", () => {
  const change: BlockRecord = {
    kind: "volumeChange",
    volume: 3,
    offset: 0,
    length: 0,
    sizeBytes: 1024,
    name: "log",
    holdsData: true,
  };
  const frame = frameOf([change]);
  assert.equal(frame.last, frame.first);
  assert.equal(volumeChangeOf(frame), frame.records[0]);
  assert.equal(volumeChangeOf(frameOf([sector(1)])), undefined);
  for (const compression of ["none", "lz4"] as const)
    assert.deepEqual(plain(decodeFrame(encodeFrame(frame, compression))), plain(frame));
  // No data of a client: lag does not grow by it.
  assert.equal(
    frame.dataBytesTotal,
    frameOf([{ kind: "trim", volume: 0, offset: 0, length: 512 }]).dataBytesTotal,
  );
  assert.throws(() => frameOf([change, sector(1)]), { code: "ERR_ASSERTION" });
  const bytes = encodeFrame(frame, "none");
  const trim = frameOf([{ kind: "trim", volume: 0, offset: 0, length: 4096 }]).body;
  for (const body of [Buffer.concat([frame.body, trim]), Buffer.concat([trim, frame.body])]) {
    const head = Buffer.from(bytes.subarray(0, frameHeaderBytes));
    head.writeUInt32BE(2, 32);
    head.writeUInt32BE(body.byteLength, 36);
    head.writeUInt32BE(body.byteLength, 40);
    head.writeUInt32BE(crc32(body), 44);
    const whole = forged(Buffer.concat([head, body]), 0, []);
    assert.throws(() => decodeFrame(whole), { code: "FRAME_VOLUME_CHANGE" });
  }
  const beside = { ...frame, count: 2, records: [...frame.records, sector(1)] };
  assert.throws(() => encodeFrame(beside, "none"), { code: "ERR_ASSERTION" });
});

test("a gap is never cut", () => {
  const gap = gapFrame();
  assert.equal(sliceFrame(gap, 5, 1004), gap);
  assert.equal(splitFrame(gap, 5), gap);
  assert.throws(() => splitFrame(gap, 6), { code: "ERR_ASSERTION" });
  assert.throws(() => sliceFrame(gap, 5, 1003), { code: "ERR_ASSERTION" });
});

test("a later version, codec or flag stops the reader by code", () => {
  const bytes = encodeFrame(frameOf([sector(0)]), "none");
  assert.throws(() => decodeFrame(forged(bytes, 0, [0x53, 0x53, 0x46, 0x51])), { code: "FRAME_MAGIC" });
  assert.throws(() => decodeFrame(forged(bytes, 4, [2])), { code: "FRAME_VERSION" });
  assert.throws(() => decodeFrame(forged(bytes, 5, [2])), { code: "FRAME_CODEC" });
  assert.throws(() => decodeFrame(forged(bytes, 6, [0, 1])), { code: "FRAME_CODEC" });
});

test("a frame whose last sequence is beyond what a number holds is refused", () => {
  const bytes = encodeFrame(frameOf([sector(0), sector(1)]), "none");
  assert.throws(() => decodeFrame(forged(bytes, 24, naive.number(2n ** 53n - 1n, 8))), {
    code: "FRAME_LIMITS",
  });
  assert.throws(() => decodeFrame(forged(bytes, 24, naive.number(0, 8))), { code: "FRAME_LIMITS" });
});

test("a frame that counts fewer data bytes than it carries is refused", () => {
  const bytes = encodeFrame(frameOf([sector(0), sector(1)]), "none");
  assert.throws(() => decodeFrame(forged(bytes, 64, naive.number(1_023, 8))), { code: "FRAME_TOTAL" });
  decodeFrame(forged(bytes, 64, naive.number(1_024, 8)));
});

test("records in another order, or one left out, break the chain", () => {
  const bytes = encodeFrame(frameOf([sector(1), sector(2)]), "none");
  const swapped = Buffer.from(bytes);
  swapped.set(bytes.subarray(frameHeaderBytes + 528), frameHeaderBytes);
  swapped.set(bytes.subarray(frameHeaderBytes, frameHeaderBytes + 528), frameHeaderBytes + 528);
  const sum = naive.number(crc32(swapped.subarray(frameHeaderBytes)), 4);
  assert.throws(() => decodeFrame(forged(swapped, 44, sum)), { code: "FRAME_CHAIN" });
});

test("a body that rots is told from one that lies, wherever it rots", () => {
  for (const frame of [frameOf([sector(1), sector(2)]), gapFrame()]) {
    const bytes = encodeFrame(frame, "none");
    for (let at = frameHeaderBytes; at < bytes.byteLength; at += 1) {
      const rotten = Buffer.from(bytes);
      rotten[at]! ^= 0x10;
      assert.throws(() => decodeFrame(rotten), { code: "FRAME_BODY_CRC" }, `byte ${at}`);
    }
  }
});

test("a frame of the largest size is legal, one record more is our mistake", () => {
  const big: BlockRecord = {
    kind: "write",
    volume: 0,
    offset: 0,
    length: recordDataBytesMax,
    data: new Uint8Array(recordDataBytesMax),
  };
  const frame = frameOf([big, { ...big, length: recordDataBytesMax - 512, data: big.data.subarray(512) }]);
  assert.deepEqual(decodeFrame(encodeFrame(frame, "lz4")).chainAfter, frame.chainAfter);
  assert.throws(() => frameOf([big, big, sector(0)]), { code: "ERR_ASSERTION" });
  assert.throws(() => frameOf([]), { code: "ERR_ASSERTION" });
  assert.ok(frameRecordsMax * 16 >= frameBodyBytesMax);
});

test("what is decoded does not keep or follow the input where it says it copies", () => {
  const bytes = Buffer.from(encodeFrame(frameOf([sector(1)]), "none"));
  const frame = decodeFrame(bytes);
  const after = Buffer.from(frame.chainAfter).toString("hex");
  bytes.fill(0, 0, frameHeaderBytes);
  assert.equal(Buffer.from(frame.chainAfter).toString("hex"), after);
});

test("any bytes at all are a frame or a RemoteProtocolError", () => {
  const valid = encodeFrame(frameOf([sector(1)]), "lz4");
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), fc.nat(300), fc.boolean(), (noise, at, spliced) => {
      const bytes = spliced ? Buffer.concat([valid.subarray(0, at), noise]) : noise;
      try {
        decodeFrame(bytes);
      } catch (error) {
        assert.ok(error instanceof RemoteProtocolError, String(error));
      }
    }),
    { numRuns: 500 },
  );
});
