/**
 * What a hostile input may cost: memory beside the input stays below the declared caps, whatever lengths it names, and the
 * steps taken are bounded by its length. Counted, not timed.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { brotliCompressSync, crc32 } from "node:zlib";
import {
  batchBytesMax,
  batchHeaderBytes,
  batchRawBytesMax,
  decodeBatchHeader,
  decodeBatchPayload,
  encodeBatch,
} from "../../protocol/batch.ts";
import {
  decodeFrame,
  encodeFrame,
  frameBodyBytesMax,
  frameHeaderBytes,
  frameRecordsMax,
} from "../../protocol/frame.ts";
import { lz4Compress } from "../../protocol/lz4.ts";
import { nbdSessionLimits } from "../../protocol/nbd/limits.ts";
import { NbdSession } from "../../protocol/nbd/session.ts";
import { RemoteProtocolError } from "../../protocol/remote-error.ts";
import { sampleFrame, sampleToken } from "../protocol/frozen/samples.ts";
import * as wire from "../protocol/nbd/wire.ts";
import { OPT } from "../protocol/nbd/wire.ts";
import { FuzzSink, fuzzExports } from "./targets/nbd-shell.ts";

const mebibyte = 1024 * 1024;
setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

/** Growth of memory outside the heap while `decode` runs once, bytes; its result is held until it is measured. */
function growth(decode: () => unknown): number {
  collectGarbage();
  const before = process.memoryUsage().arrayBuffers;
  let held: unknown;
  try {
    held = decode();
  } catch (error) {
    if (!(error instanceof RemoteProtocolError)) throw error;
    held = error;
  }
  const grown = process.memoryUsage().arrayBuffers - before;
  assert.ok(held !== undefined);
  return grown;
}

function forgedBatch(head: Uint8Array, codec: number, payload: Uint8Array, rawLength: number): Uint8Array {
  const bytes = Buffer.concat([head.subarray(0, batchHeaderBytes), payload]);
  bytes[5] = codec;
  bytes.writeUInt32BE(rawLength, 116);
  bytes.writeUInt32BE(payload.length, 120);
  bytes.writeUInt32BE(crc32(payload), 124);
  bytes.writeUInt32BE(crc32(bytes.subarray(0, 192)), 192);
  return bytes;
}

function forgedFrame(codec: number, stored: Uint8Array, bodyLength: number, count: number): Uint8Array {
  const bytes = Buffer.concat([encodeFrame(sampleFrame, "none").subarray(0, frameHeaderBytes), stored]);
  bytes[5] = codec;
  bytes.writeUInt32BE(count, 32);
  bytes.writeUInt32BE(bodyLength, 36);
  bytes.writeUInt32BE(stored.length, 40);
  bytes.writeUInt32BE(crc32(bytes.subarray(0, 136)), 136);
  return bytes;
}

const lengths = [
  0,
  1,
  1024,
  frameBodyBytesMax,
  frameBodyBytesMax + 1,
  batchRawBytesMax,
  batchRawBytesMax + 1,
  2 ** 32 - 1,
];

describe("memory beside the input", () => {
  test("a frame costs at most its largest body, whatever it declares (F91)", () => {
    const zeroes = Buffer.alloc(64 * mebibyte);
    const bomb = lz4Compress(zeroes);
    for (const length of lengths) {
      for (const declared of [length, zeroes.length]) {
        const lying = Buffer.from(bomb);
        lying.writeUInt32LE(declared, 0);
        const frame = forgedFrame(1, lying, length, 1);
        const grown = growth(() => decodeFrame(frame));
        assert.ok(grown <= frameBodyBytesMax + 64 * 1024, `${grown} bytes for ${length}, ${declared}`);
      }
    }
  });

  test("a batch costs at most its declared, capped length, whatever it is packed from (F91)", async () => {
    const head = await encodeBatch([sampleFrame], sampleToken, "none");
    const zeroes = Buffer.alloc(64 * mebibyte);
    const nested = brotliCompressSync(brotliCompressSync(zeroes));
    for (const [codec, payload] of [
      [1, lz4Compress(zeroes)],
      [2, brotliCompressSync(zeroes)],
      [2, nested],
    ] as const) {
      for (const length of lengths) {
        const batch = forgedBatch(head, codec, payload, length);
        const grown = growth(() =>
          decodeBatchPayload(decodeBatchHeader(batch), batch.subarray(batchHeaderBytes)),
        );
        // Brotli's pieces and their join stand side by side for a moment.
        assert.ok(grown <= 2 * batchRawBytesMax + mebibyte, `${grown} bytes for codec ${codec}, ${length}`);
      }
    }
  });

  test("frames packed again inside a batch cost nothing: they are refused unread", async () => {
    const head = await encodeBatch([sampleFrame], sampleToken, "none");
    const inner = forgedFrame(1, lz4Compress(Buffer.alloc(frameBodyBytesMax)), frameBodyBytesMax, 1);
    const payload = Buffer.concat(
      Array.from({ length: Math.floor(batchRawBytesMax / inner.length) }, () => inner),
    );
    assert.ok(payload.length < batchBytesMax);
    const batch = forgedBatch(head, 0, payload, payload.length);
    const decode = () => decodeBatchPayload(decodeBatchHeader(batch), batch.subarray(batchHeaderBytes));
    assert.throws(decode, { code: "BATCH_FRAME_CODEC" });
    assert.ok(growth(decode) < mebibyte);
  });

  test("an NBD session holds one option or one payload it was allowed, and nothing of what it skips", () => {
    const sink = new FuzzSink();
    const part = Buffer.alloc(64 * 1024, 0x41);
    for (const [script, lengthOf] of [
      [wire.optionHeader(OPT.GO, nbdSessionLimits.optionBytesMax), nbdSessionLimits.optionBytesMax],
      [wire.optionHeader(OPT.GO, nbdSessionLimits.optionDrainBytesMax), 0],
      [wire.optionHeader(OPT.LIST, nbdSessionLimits.optionDrainBytesMax), 0],
      [wire.optionHeader(99, nbdSessionLimits.optionDrainBytesMax), 0],
      [wire.optionHeader(OPT.EXPORT_NAME, 4096), 4096],
      [wire.optionHeader(OPT.GO, 2 ** 32 - 1), 0],
    ] as const) {
      const grown = growth(() => {
        const session = new NbdSession({ sink, tls: "off" });
        session.receive(Buffer.concat([wire.clientFlags(), script]));
        session.next();
        // One byte less than the shortest of them needs to be whole.
        session.receive(part.subarray(0, 4095));
        session.next();
        return session;
      });
      assert.ok(grown <= lengthOf + 16 * 1024, `${grown} bytes for ${lengthOf}`);
    }
    const grown = growth(() => {
      const session = new NbdSession({ sink, tls: "off" });
      session.receive(Buffer.concat([wire.clientFlags(), wire.go("vol")]));
      session.next();
      session.answerExport({
        kind: "export",
        params: { ...fuzzExports[0]!, payloadBytesMax: 32 * mebibyte, sizeBytes: 2 ** 40 },
      });
      session.receive(wire.request({ command: wire.CMD.WRITE, length: 32 * mebibyte }));
      assert.equal(session.next()?.kind, "payloadAnnounced");
      // Nothing is taken until the shell agrees.
      assert.equal(session.bufferedBytes, 0);
      return session;
    });
    assert.ok(grown < 64 * 1024, `${grown} bytes before the payload was agreed to`);
  });
});

describe("steps", () => {
  test("a frame takes at most one record for each 16 bytes of its body, a batch one for each 16 of its raw length", () => {
    assert.ok(frameRecordsMax * 16 <= frameBodyBytesMax + 16);
    // Counts that the body cannot hold end at the first record that is not there, not at the count.
    const body = Buffer.alloc(mebibyte);
    for (let at = 0; at < body.length; at += 16) {
      body[at] = 3;
      body.writeUInt32BE(512, at + 4);
    }
    let reads = 0;
    const counted = new Proxy(DataView.prototype.getUint8, {
      apply: (target, self, args) => {
        reads += 1;
        return Reflect.apply(target, self, args);
      },
    });
    const frame = Buffer.from(forgedFrame(0, body, body.length, frameRecordsMax));
    frame.writeUInt32BE(crc32(body), 44);
    frame.writeUInt32BE(crc32(frame.subarray(0, 136)), 136);
    const original = DataView.prototype.getUint8;
    DataView.prototype.getUint8 = counted;
    try {
      assert.throws(() => decodeFrame(frame), { code: "RECORD_TRUNCATED" });
    } finally {
      DataView.prototype.getUint8 = original;
    }
    // Kind and flags of each record, and the two bytes of the frame's header.
    assert.ok(reads >= 2 * (body.length / 16) && reads <= 2 * (body.length / 16) + 16, `${reads} reads`);
  });

  test("a session takes at most one event for each option or request in 1 MiB of the smallest", () => {
    const session = new NbdSession({ sink: new FuzzSink(), tls: "off" });
    const requests = Buffer.concat(
      Array.from({ length: Math.floor(mebibyte / 28) }, () => wire.request({ command: 3 })),
    );
    session.receive(Buffer.concat([wire.clientFlags(), wire.go("vol")]));
    session.next();
    session.answerExport({ kind: "export", params: fuzzExports[0]! });
    let events = 0;
    for (let at = 0; at < requests.length; at += 1460) {
      session.receive(requests.subarray(at, at + 1460));
      for (let event = session.next(); event !== null; event = session.next()) events += 1;
    }
    assert.equal(events, Math.floor(mebibyte / 28));
  });
});
