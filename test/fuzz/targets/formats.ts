/**
 * The binary formats under fuzz: record, frame, batch, head value, watermark slot, write-ahead half, marker slot. The rule is the same for
 * all: whatever is taken must be exactly what would be written for that value, byte for byte where no codec is between,
 * so that no bit is ignored; everything else is a RemoteProtocolError with a stable code.
 */
import { createHash } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import { crc32 } from "node:zlib";
import { decodeMarkerSlot, encodeMarkerSlot } from "../../../image/marker.ts";
import { decodeHead, encodeHead, headPairsMax } from "../../../journal/head.ts";
import { decodeSlot, encodeSlotInto, slotBytes } from "../../../journal/watermark-slot.ts";
import { aheadRecordBytesMax, encodeAheadInto, scanAhead } from "../../../journal/write-ahead-frames.ts";
import {
  batchCodecs,
  batchHeaderBytes,
  batchRawBytesMax,
  decodeBatchHeader,
  decodeBatchPayload,
  encodeBatch,
  packFrames,
} from "../../../protocol/batch.ts";
import {
  buildFrame,
  decodeFrame,
  encodeFrame,
  type Frame,
  frameBodyBytesMax,
  frameHeaderBytes,
  gapOf,
} from "../../../protocol/frame.ts";
import { lz4Decompress } from "../../../protocol/lz4.ts";
import type { BlockRecord } from "../../../protocol/record.ts";
import { decodeRecord, encodeRecordInto, recordBytes } from "../../../protocol/record.ts";
import { RemoteProtocolError } from "../../../protocol/remote-error.ts";
import {
  sampleFrame,
  sampleGapFrame,
  sampleHead,
  sampleSlot,
  sampleToken,
  sampleVolumeChanges,
  sampleVolumeFrame,
  sampleVolumeSyncEnd,
  sampleWriteFrame,
} from "../../protocol/frozen/samples.ts";
import { naiveFrame } from "../../protocol/naive/arbitrary.ts";
import * as naive from "../../protocol/naive/formats.ts";
import { decodeAhead } from "../../protocol/naive/write-ahead.ts";
import { type FuzzTarget, inputHash, outcomeOf, require } from "../target.ts";

const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;
const viewOf = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

const noise = Uint8Array.from({ length: 2048 }, (_, at) => (at * 167 + (at >> 3) * 31) & 0xff);
const records: readonly BlockRecord[] = [
  { kind: "write", volume: 0, offset: 4096, length: 512, data: noise.subarray(0, 512) },
  { kind: "zeroes", volume: 1, offset: 0, length: 2 ** 32 - 512 },
  { kind: "trim", volume: 0xffff, offset: 2 ** 52, length: 512 },
  { kind: "write", volume: 0, offset: 4096, length: 1024, data: new Uint8Array(1024).fill(7) },
];

function encodeRecords(list: readonly BlockRecord[]): Uint8Array {
  const bytes = new Uint8Array(list.reduce((sum, record) => sum + recordBytes(record), 0));
  let at = 0;
  for (const record of list) at = encodeRecordInto(record, bytes, viewOf(bytes), at);
  return bytes;
}

/** Record after record, until the bytes are used up. */
export const recordTarget: FuzzTarget = {
  name: "record",
  inputBytesMax: 16 * 1024,
  seeds: () => [
    encodeRecords(records),
    ...[...records, ...sampleGapFrame.records, ...sampleVolumeChanges, sampleVolumeSyncEnd].map((record) =>
      encodeRecords([record]),
    ),
  ],
  run: (input) =>
    outcomeOf(() => {
      const view = viewOf(input);
      for (let at = 0; at < input.length; ) {
        const { record, end } = decodeRecord(input, view, at);
        require(end > at && end <= input.length, `record ${at} ends at ${end}`);
        require(same(encodeRecords([record]), input.subarray(at, end)), "a record that is written otherwise");
        at = end;
      }
      return "ok";
    }),
};

const nextFrame = buildFrame({
  lineage: sampleFrame.lineage,
  first: sampleWriteFrame.last + 1,
  chainBefore: sampleWriteFrame.chainAfter,
  dataBytesBefore: sampleWriteFrame.dataBytesTotal,
  openedAtMs: 1,
  closedAtMs: 2,
  records,
});

/** What must hold of every frame that was taken. */
function requireWhole(frame: Frame): void {
  const gap = gapOf(frame);
  require(frame.count === frame.records.length, "count");
  require(frame.last === frame.first + (gap?.span ?? frame.count) - 1, "last");
  require(gap === undefined || (frame.count === 1 && same(gap.chainAfter, frame.chainAfter)), "gap");
  require(frame.body.byteLength <= frameBodyBytesMax, `body of ${frame.body.byteLength}`);
  require(same(encodeRecords(frame.records), frame.body), "records are not the body");
}

/** The second reading of the format agrees with what was taken. It is slow: for short inputs, now and then. */
function requireNaive(frame: Frame, input: Uint8Array): void {
  if (input.length > 4096 || (inputHash(input) & 7) !== 0) return;
  const read = naive.decodeFrame([...input]);
  require(isDeepStrictEqual(read, naiveFrame(frame)), "the second reading found another frame");
}

export const frameTarget: FuzzTarget = {
  name: "frame",
  inputBytesMax: 16 * 1024,
  seeds: () =>
    [sampleFrame, sampleWriteFrame, nextFrame, sampleGapFrame, sampleVolumeFrame].flatMap((frame) => [
      encodeFrame(frame, "none"),
      encodeFrame(frame, "lz4"),
    ]),
  repair: repairFrame,
  run: (input) =>
    outcomeOf(() => {
      const frame = decodeFrame(input);
      requireWhole(frame);
      if (input[5] === 0) {
        require(same(encodeFrame(frame, "none"), input), "a frame that is written otherwise");
      } else {
        const again = decodeFrame(encodeFrame(frame, "none"));
        require(same(again.body, frame.body) && same(again.chainAfter, frame.chainAfter), "body");
      }
      requireNaive(frame, input);
      return input[5] === 0 ? "ok" : "ok-lz4";
    }),
};

/** Lengths, CRCs and chain of a frame, as far as its body still holds records. */
function repairFrame(bytes: Buffer): void {
  if (bytes.length < frameHeaderBytes) return;
  const stored = bytes.subarray(frameHeaderBytes);
  bytes.writeUInt32BE(stored.length, 40);
  let body: Uint8Array | undefined = stored;
  if (bytes[5] === 1) body = unpacked(stored, bytes.readUInt32BE(36));
  else bytes.writeUInt32BE(stored.length, 36);
  if (body !== undefined) {
    bytes.writeUInt32BE(crc32(body), 44);
    walkChain(bytes.subarray(72, 104), body).copy(bytes, 104);
  }
  bytes.writeUInt32BE(crc32(bytes.subarray(0, 136)), 136);
}

function unpacked(stored: Uint8Array, length: number): Uint8Array | undefined {
  if (length > frameBodyBytesMax) return undefined;
  try {
    return lz4Decompress(stored, length);
  } catch (error) {
    if (error instanceof RemoteProtocolError) return undefined;
    throw error;
  }
}

function walkChain(start: Uint8Array, body: Uint8Array): Buffer {
  const bytes = Buffer.from(body.buffer, body.byteOffset, body.byteLength);
  // A gap alone claims its chain value.
  if (bytes[0] === 9 && bytes.length === 64) return bytes.subarray(32);
  let chain = Buffer.from(start);
  for (let at = 0; at + 16 <= bytes.length; ) {
    const payload = bytes[at] === 8 ? 64 : bytes[at] === 1 ? bytes.readUInt32BE(at + 4) : 0;
    const end = at + 16 + payload;
    if (end > bytes.length) break;
    const digest = createHash("sha256").update(bytes.subarray(at, end)).digest();
    chain = createHash("sha256").update(chain).update(digest).digest();
    at = end;
  }
  return chain;
}

export const batchTarget: FuzzTarget = {
  name: "batch",
  inputBytesMax: 16 * 1024,
  seeds: () =>
    Promise.all(
      batchCodecs.flatMap((codec) =>
        [
          [sampleFrame],
          [sampleFrame, sampleWriteFrame, nextFrame],
          [sampleFrame, sampleWriteFrame, sampleGapFrame, sampleVolumeFrame],
        ].map((frames) => encodeBatch(frames, sampleToken, codec)),
      ),
    ),
  repair: repairBatch,
  run: (input) =>
    outcomeOf(() => {
      const header = decodeBatchHeader(input);
      require(header.rawLength <= batchRawBytesMax, "raw length");
      const payload = input.subarray(batchHeaderBytes);
      const frames = decodeBatchPayload(header, payload);
      let bytes = 0;
      for (const frame of frames) {
        requireWhole(frame);
        bytes += frameHeaderBytes + frame.body.byteLength;
      }
      // No more memory than the header declared, whatever is packed into what.
      require(bytes === header.rawLength, `${bytes} bytes of frames, ${header.rawLength} declared`);
      require(header.codec !== "none" ||
        same(packFrames(frames), payload), "frames that are written otherwise");
      require(frames[0]?.first === header.first && frames.at(-1)?.last === header.last, "range");
      return `ok-${header.codec}`;
    }),
};

/** Lengths and CRCs of a batch and of the frames in a payload that is not packed, and the links between them. */
function repairBatch(bytes: Buffer): void {
  if (bytes.length < batchHeaderBytes) return;
  const payload = bytes.subarray(batchHeaderBytes);
  if (bytes[5] === 0) {
    bytes.writeUInt32BE(payload.length, 116);
    linkFrames(bytes, payload);
  }
  bytes.writeUInt32BE(payload.length, 120);
  bytes.writeUInt32BE(crc32(payload), 124);
  bytes.writeUInt32BE(crc32(bytes.subarray(0, 192)), 192);
}

function linkFrames(head: Buffer, payload: Buffer): void {
  let before: Buffer | undefined;
  for (let at = 0; at + frameHeaderBytes <= payload.length; ) {
    const stored = Math.min(payload.readUInt32BE(at + 40), payload.length - at - frameHeaderBytes);
    const frame = payload.subarray(at, at + frameHeaderBytes + stored);
    if (before !== undefined && (payload.length & 1) === 0) {
      before.copy(frame, 72, 104, 136);
      before.copy(frame, 8, 8, 24);
    }
    repairFrame(frame);
    if (before === undefined) frame.copy(head, 128, 72, 104);
    frame.copy(head, 160, 104, 136);
    before = frame;
    at += frame.length;
  }
}

function repairCrc(at: number): (bytes: Buffer) => void {
  return (bytes) => {
    if (bytes.length >= at + 4) bytes.writeUInt32BE(crc32(bytes.subarray(0, at)), at);
  };
}

export const headTarget: FuzzTarget = {
  name: "head",
  inputBytesMax: 16 * 1024,
  seeds: () => [
    encodeHead(sampleHead),
    encodeHead({ ...sampleHead, pairs: [] }),
    encodeHead({
      ...sampleHead,
      position: { ...sampleHead.position, sequence: 2 ** 53 - 1 },
      pairs: Array.from({ length: headPairsMax }, (_, at) => ({
        sequence: at * 1000,
        chain: sampleHead.position.chain,
      })),
    }),
  ],
  repair: (bytes) => {
    // A count that fits the length, then the checksum at the end.
    if (bytes.length < 84) return;
    bytes.writeUInt16BE(Math.floor((bytes.length - 84) / 40), 6);
    bytes.writeUInt32BE(crc32(bytes.subarray(0, bytes.length - 4)), bytes.length - 4);
  },
  run: (input) =>
    outcomeOf(() => {
      const head = decodeHead(input);
      require(head.pairs.length <= headPairsMax, "pairs");
      require(same(encodeHead(head), input), "a head that is written otherwise");
      return "ok";
    }),
};

export const watermarkTarget: FuzzTarget = {
  name: "watermark",
  inputBytesMax: 4096,
  seeds: () =>
    [sampleSlot, { ...sampleSlot, kind: "answered" as const, clean: false }].map((slot) => {
      const bytes = Buffer.alloc(slotBytes);
      encodeSlotInto(slot, bytes);
      return bytes;
    }),
  repair: repairCrc(slotBytes - 4),
  run: (input) =>
    outcomeOf(() => {
      const again = Buffer.alloc(slotBytes);
      encodeSlotInto(decodeSlot(input), again);
      // Only the slot counts; the page around it is spacing.
      require(same(again, input.subarray(0, slotBytes)), "a slot that is written otherwise");
      return "ok";
    }),
};

const aheadSample = (): Buffer => {
  const record = Buffer.alloc(aheadRecordBytesMax);
  return Buffer.concat(
    [sampleFrame, sampleGapFrame].map((frame) =>
      Buffer.from(encodeAheadInto(record, 5, frame.first, encodeFrame(frame, "none"))),
    ),
  );
};

/** A half: what is read is what the page says, and would be written so, but for the padding, which nobody looks at. */
export const writeAheadTarget: FuzzTarget = {
  name: "write-ahead",
  inputBytesMax: 4096,
  seeds: () => [aheadSample(), Buffer.concat([aheadSample(), Buffer.alloc(512)])],
  repair: (bytes) => {
    if (bytes.length < 32) return;
    const length = Math.min(bytes.readUInt32BE(24), bytes.length - 32);
    bytes.writeUInt32BE(length, 24);
    bytes.writeUInt32BE(crc32(bytes.subarray(32, 32 + length), crc32(bytes.subarray(0, 28))), 28);
  },
  run: (input) =>
    outcomeOf(() => {
      const found = scanAhead(input);
      const told = decodeAhead([...input]);
      require(isDeepStrictEqual(
        found.map(({ first, value }) => [first, [...value]]),
        told.map(({ first, value }) => [first, value]),
      ), "a half that reads otherwise by its page");
      const record = Buffer.alloc(aheadRecordBytesMax);
      let at = 0;
      for (const { filling, first, value } of told) {
        const again = encodeAheadInto(record, filling, first, Uint8Array.from(value));
        const whole = 32 + value.length;
        require(same(again.subarray(0, whole), input.subarray(at, at + whole)), "a record written otherwise");
        at += again.byteLength;
      }
      return found.length === 0 ? "none" : "ok";
    }),
};

const markerBytes = 100;

export const markerTarget: FuzzTarget = {
  name: "marker",
  inputBytesMax: 4096,
  seeds: () => [
    encodeMarkerSlot(
      {
        lineage: sampleSlot.lineage,
        applied: { sequence: 5, chain: sampleSlot.position.chain, dataBytesTotal: 4096, timeMs: 7 },
        applyingLast: 9,
      },
      3,
    ).subarray(0, markerBytes),
  ],
  repair: repairCrc(markerBytes - 4),
  run: (input) =>
    outcomeOf(() => {
      const slot = decodeMarkerSlot(input);
      if (slot === undefined) return "none";
      const again = encodeMarkerSlot(slot.state, slot.generation);
      require(same(
        again.subarray(0, markerBytes),
        input.subarray(0, markerBytes),
      ), "a marker written otherwise");
      return "ok";
    }),
};
