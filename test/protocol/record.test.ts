/** Records: round trip, naive twin, and every reason to refuse one. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { BlockRecord, VolumeChangeRecord } from "../../protocol/record.ts";
import {
  decodeRecord,
  encodeRecordInto,
  recordBytes,
  recordDataBytes,
  recordDataBytesMax,
  recordHeaderBytes,
  recordRangeBytesMax,
} from "../../protocol/record.ts";
import { RemoteProtocolError } from "../../protocol/remote-error.ts";
import { arbitraryGap, arbitraryRecord, arbitraryVolumeChange, naiveRecord } from "./naive/arbitrary.ts";
import * as naive from "./naive/formats.ts";

function encode(record: BlockRecord): Uint8Array {
  const bytes = new Uint8Array(recordBytes(record));
  assert.equal(encodeRecordInto(record, bytes, new DataView(bytes.buffer), 0), bytes.byteLength);
  return bytes;
}

function decode(bytes: Uint8Array, at = 0) {
  return decodeRecord(bytes, new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), at);
}

test("records come back as they were, and the naive twin agrees both ways", () => {
  fc.assert(
    fc.property(fc.oneof(arbitraryRecord, arbitraryGap, arbitraryVolumeChange), (record) => {
      const bytes = encode(record);
      const { record: back, end } = decode(bytes);
      assert.equal(end, bytes.byteLength);
      assert.deepEqual(naiveRecord(back), naiveRecord(record));
      assert.deepEqual(naive.encodeRecord(naiveRecord(record)), [...bytes]);
      assert.deepEqual(naive.decodeRecords([...bytes], 1), [naiveRecord(record)]);
      const stoodFor = record.kind === "gap" ? record.dataBytes : 0;
      assert.equal(recordDataBytes(record), record.kind === "write" ? record.length : stoodFor);
    }),
  );
});

const header = (kind: number, flags: number, length: number, offset: bigint): Uint8Array =>
  Uint8Array.from([kind, flags, 0, 0, ...naive.number(length, 4), ...naive.number(offset, 8)]);

test("an unknown kind stops the reader by code, reserved ones too", () => {
  for (let kind = 0; kind < 256; kind += 1) {
    if ((kind >= 1 && kind <= 5) || (kind >= 8 && kind <= 10)) continue;
    assert.throws(() => decode(header(kind, 0, 512, 0n)), { code: "RECORD_KIND_UNKNOWN" });
  }
  for (const [kind, flags] of [
    [1, 1],
    [2, 1],
    [3, 1],
    [4, 2],
    [5, 2],
    [8, 2],
    [8, 0x80],
    [9, 1],
    [10, 12],
    [10, 17],
    [10, 19],
    [10, 28],
    [10, 32],
    [10, 48],
    [10, 255],
  ] as const) {
    assert.throws(() => decode(header(kind, flags, 512, 0n)), { code: "RECORD_FLAGS_UNKNOWN" });
  }
});

test("digests of ranges that are no chunks, and marks that name no begin, are refused", () => {
  const mebibyte = 1024 * 1024;
  for (const [kind, flags, length, offset] of [
    [4, 0, 512, 512n],
    [4, 0, 2 ** 32 - 512, 0n],
    [4, 1, mebibyte + 512, 0n],
    [4, 1, 512, 4096n],
    [10, 0, 512, 0n],
    [10, 0, 0, 1n],
    [10, 4, 0, 0n],
    [10, 8, 0, 2n ** 53n],
  ] as const) {
    assert.throws(() => decode(header(kind, flags, length, offset)), { code: "RECORD_RANGE" });
  }
  // One digest more than the body holds.
  const cut = Uint8Array.from([...header(4, 0, mebibyte + 512, 0n), ...new Uint8Array(63)]);
  assert.throws(() => decode(cut), { code: "RECORD_TRUNCATED" });
});

test("a gap has no range, a span, and numbers that we can hold", () => {
  const chain = Array<number>(32).fill(5);
  const gap = (head: Uint8Array, span: bigint, dataBytes: bigint): Uint8Array =>
    Uint8Array.from([...head, ...naive.number(span, 8), ...naive.number(dataBytes, 8), ...chain]);
  const plain = header(9, 0, 0, 0n);
  const most = 2n ** 53n - 1n;
  const { record } = decode(gap(plain, most, most));
  assert.equal(record.kind === "gap" && record.span, Number.MAX_SAFE_INTEGER);
  for (const [span, dataBytes] of [
    [0n, 0n],
    [most + 1n, 0n],
    [1n, most + 1n],
    [2n ** 64n - 1n, 0n],
  ] as const) {
    assert.throws(() => decode(gap(plain, span, dataBytes)), { code: "RECORD_GAP" });
  }
  for (const head of [header(9, 0, 512, 0n), header(9, 0, 0, 512n), plain.with(3, 1)]) {
    assert.throws(() => decode(gap(head, 1n, 0n)), { code: "RECORD_RANGE" });
  }
  const whole = gap(plain, 7n, 8n);
  for (let length = 0; length < whole.byteLength; length += 1) {
    assert.throws(() => decode(whole.slice(0, length)), { code: "RECORD_TRUNCATED" });
  }
});

test("a change of the table has a size in sectors, no length, and a name that fills its field in one way", () => {
  const change = (head: Uint8Array, name: string): Uint8Array =>
    Uint8Array.from([...head, ...Buffer.from(name.padEnd(64, "\0"), "latin1")]);
  const plain = header(8, 0, 0, 4096n);
  const longest = "n".repeat(63);
  const { record, end } = decode(change(plain, longest));
  assert.deepEqual(record.kind === "volumeChange" && [record.name, record.sizeBytes], [longest, 4096]);
  assert.equal(end, 80);
  for (const name of ["", "Data", "a/b", "a..b", "n".repeat(64), "a\0b", "a\0\x01", "\xe9", "-a"]) {
    assert.throws(() => decode(change(plain, name)), { code: "RECORD_NAME" }, JSON.stringify(name));
  }
  for (const [length, sizeBytes] of [
    [512, 4096n],
    [0, 0n],
    [0, 1n],
    [0, 4097n],
    [0, 2n ** 53n],
    [0, 2n ** 64n - 512n],
  ] as const) {
    assert.throws(() => decode(change(header(8, 0, length, sizeBytes), "log")), { code: "RECORD_RANGE" });
  }
  const whole = change(plain, "log");
  for (let length = 0; length < whole.byteLength; length += 1) {
    assert.throws(() => decode(whole.slice(0, length)), { code: "RECORD_TRUNCATED" });
  }
});

test("ranges that are no whole sectors, empty, or beyond 2^53 are refused", () => {
  for (const [length, offset] of [
    [0, 0n],
    [1, 0n],
    [511, 512n],
    [512, 1n],
    [512, 2n ** 53n - 512n],
    [512, 2n ** 53n],
    [512, 2n ** 64n - 512n],
    [0xffffffff, 0n],
  ] as const) {
    assert.throws(
      () => decode(header(2, 0, length, offset)),
      { code: "RECORD_RANGE" },
      `${offset}+${length}`,
    );
  }
  assert.equal(decode(header(3, 0, recordRangeBytesMax, 2n ** 52n)).record.length, recordRangeBytesMax);
});

test("a write that is cut short or too long is refused at every length", () => {
  const bytes = encode({ kind: "write", volume: 0, offset: 0, length: 512, data: new Uint8Array(512) });
  for (let length = 0; length < bytes.byteLength; length += 1) {
    assert.throws(() => decode(bytes.slice(0, length)), { code: "RECORD_TRUNCATED" });
  }
  const long = new Uint8Array(recordHeaderBytes + recordDataBytesMax + 512);
  long.set(header(1, 0, recordDataBytesMax + 512, 0n));
  assert.throws(() => decode(long), { code: "RECORD_TRUNCATED" });
});

test("what no reader would take is never written", () => {
  const data = new Uint8Array(1024);
  const change = (sizeBytes: number, name: string): VolumeChangeRecord => ({
    kind: "volumeChange",
    volume: 0,
    offset: 0,
    length: 0,
    sizeBytes,
    name,
    holdsData: false,
  });
  const wrong: BlockRecord[] = [
    { kind: "write", volume: 0, offset: 0, length: 512, data },
    { kind: "write", volume: 0, offset: 0, length: 2048, data },
    { kind: "write", volume: 0, offset: 1, length: 1024, data },
    { kind: "write", volume: 65_536, offset: 0, length: 1024, data },
    { kind: "write", volume: 0, offset: 0, length: 0, data: data.subarray(0, 0) },
    { kind: "trim", volume: 0, offset: 0, length: 513 },
    { kind: "zeroes", volume: 0, offset: 2 ** 53 - 512, length: 512 },
    { kind: "trim", volume: -1, offset: 0, length: 512 },
    { kind: "trim", volume: 0, offset: -512, length: 1024 },
    { kind: "trim", volume: 0, offset: 0, length: 2 ** 32 },
    { kind: "scanContent", volume: 0, offset: 0, length: 512, data },
    { kind: "scanDigest", volume: 0, offset: 0, length: 512, level: "chunk", digests: data.subarray(0, 16) },
    { kind: "scanDigest", volume: 0, offset: 512, length: 512, level: "leaf", digests: data.subarray(0, 16) },
    { kind: "scanMark", volume: 0, offset: 0, length: 0, mark: "begin", purpose: "verify", begin: 1 },
    { kind: "scanMark", volume: 0, offset: 0, length: 0, mark: "end", purpose: "verify", begin: 0 },
    change(0, "log"),
    change(513, "log"),
    change(2 ** 53, "log"),
    change(512, "Log"),
    change(512, "n".repeat(64)),
    { ...change(512, "log"), length: 512 as 0 },
    { kind: "gap", volume: 0, offset: 0, length: 0, span: 0, dataBytes: 0, chainAfter: data.subarray(0, 32) },
    {
      kind: "gap",
      volume: 0,
      offset: 0,
      length: 0,
      span: 1,
      dataBytes: -1,
      chainAfter: data.subarray(0, 32),
    },
    { kind: "gap", volume: 0, offset: 0, length: 0, span: 1, dataBytes: 0, chainAfter: data.subarray(0, 31) },
  ];
  for (const record of wrong) {
    const target = new Uint8Array(8192);
    assert.throws(() => encodeRecordInto(record, target, new DataView(target.buffer), 0), {
      code: "ERR_ASSERTION",
    });
  }
});

test("any bytes are a record or a RemoteProtocolError", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), fc.nat(70), (bytes, at) => {
      try {
        decode(bytes, at);
      } catch (error) {
        assert.ok(error instanceof RemoteProtocolError, String(error));
      }
    }),
  );
});
