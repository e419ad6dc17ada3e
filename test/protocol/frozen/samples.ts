/**
 * The values whose bytes are frozen: version 1 of every format, for ever. The same bytes are the worked examples of
 * docs/formats. A change that makes one of them fail is a new version of the format, not a change of this file.
 */
import type { Head } from "../../../journal/head.ts";
import { encodeHead } from "../../../journal/head.ts";
import type { Slot } from "../../../journal/watermark-slot.ts";
import { bootBytes, encodeSlotInto, slotBytes } from "../../../journal/watermark-slot.ts";
import { aheadRecordBytesMax, encodeAheadInto } from "../../../journal/write-ahead-frames.ts";
import { encodeBatch } from "../../../protocol/batch.ts";
import { genesisChain } from "../../../protocol/chain.ts";
import type { Frame } from "../../../protocol/frame.ts";
import { buildFrame, buildGapFrame, encodeFrame } from "../../../protocol/frame.ts";
import type { BlockRecord, VolumeChangeRecord } from "../../../protocol/record.ts";
import { encodeRecordInto, recordBytes } from "../../../protocol/record.ts";

export const sampleLineage = Uint8Array.from(Buffer.from("00112233445566778899aabbccddeeff", "hex"));
export const sampleVolumes = [
  { number: 0, name: "data", sizeBytes: 2 ** 30 },
  { number: 1, name: "log", sizeBytes: 2 ** 28 },
];
export const sampleGenesis = genesisChain(sampleLineage, sampleVolumes);
export const sampleToken = { epoch: 3, owner: "primary" };

export const sampleRecords: readonly BlockRecord[] = [
  { kind: "zeroes", volume: 0, offset: 1024 * 1024, length: 65_536 },
  { kind: "trim", volume: 1, offset: 4096, length: 4096 },
];
const writeRecord: BlockRecord = {
  kind: "write",
  volume: 1,
  offset: 2 ** 33,
  length: 512,
  data: new Uint8Array(512).fill(0x5a),
};

/** Of a volume of 2 MiB and 512 bytes; digests that anybody can see are three. */
export const sampleScanRecords: readonly BlockRecord[] = [
  { kind: "scanMark", volume: 0, offset: 0, length: 0, mark: "begin", purpose: "first-sync", begin: 0 },
  {
    kind: "scanDigest",
    volume: 1,
    offset: 0,
    length: 2 * 1024 * 1024 + 512,
    level: "chunk",
    digests: Uint8Array.from([0x11, 0x22, 0x33].flatMap((byte) => Array<number>(32).fill(byte))),
  },
  {
    kind: "scanDigest",
    volume: 1,
    offset: 2 * 1024 * 1024,
    length: 512,
    level: "leaf",
    digests: new Uint8Array(16).fill(0x44),
  },
  { kind: "scanContent", volume: 1, offset: 1024 * 1024, length: 512, data: new Uint8Array(512).fill(0x5a) },
  { kind: "scanContent", volume: 1, offset: 8192, length: 4096, data: null },
  { kind: "scanMark", volume: 0, offset: 0, length: 0, mark: "end", purpose: "first-sync", begin: 812 },
];

/** Sequences 1 and 2: no data, so that the example is short. */
export const sampleFrame: Frame = buildFrame({
  lineage: sampleLineage,
  first: 1,
  chainBefore: sampleGenesis,
  dataBytesBefore: 0,
  openedAtMs: 1_772_446_446_000,
  closedAtMs: 1_772_446_446_007,
  records: sampleRecords,
});
/** Sequence 3: a write that compresses. */
export const sampleWriteFrame: Frame = buildFrame({
  lineage: sampleLineage,
  first: 3,
  chainBefore: sampleFrame.chainAfter,
  dataBytesBefore: 0,
  openedAtMs: 1_772_446_447_000,
  closedAtMs: 1_772_446_447_001,
  records: [writeRecord],
});

/** Sequences 4 to 1003: what a standby will never get. */
export const sampleGapFrame: Frame = buildGapFrame({
  lineage: sampleLineage,
  after: {
    sequence: sampleWriteFrame.last,
    chain: sampleWriteFrame.chainAfter,
    dataBytesTotal: sampleWriteFrame.dataBytesTotal,
  },
  to: {
    sequence: sampleWriteFrame.last + 1_000,
    chain: new Uint8Array(32).fill(0x55),
    dataBytesTotal: sampleWriteFrame.dataBytesTotal + 4 * 1024 * 1024,
  },
  closedAtMs: 1_772_446_448_000,
});

/** A volume that comes with data of its own, and one that is grown. */
export const sampleVolumeChanges: readonly VolumeChangeRecord[] = [
  {
    kind: "volumeChange",
    volume: 2,
    offset: 0,
    length: 0,
    sizeBytes: 2 ** 31,
    name: "index",
    holdsData: true,
  },
  {
    kind: "volumeChange",
    volume: 1,
    offset: 0,
    length: 0,
    sizeBytes: 2 ** 29,
    name: "log",
    holdsData: false,
  },
];

/** Sequence 1004: the second of them, behind the gap. */
export const sampleVolumeFrame: Frame = buildFrame({
  lineage: sampleLineage,
  first: sampleGapFrame.last + 1,
  chainBefore: sampleGapFrame.chainAfter,
  dataBytesBefore: sampleGapFrame.dataBytesTotal,
  openedAtMs: 1_772_446_449_000,
  closedAtMs: 1_772_446_449_000,
  records: sampleVolumeChanges.slice(1),
});

/** The scan that brings what came with data. */
export const sampleVolumeSyncEnd: BlockRecord = {
  kind: "scanMark",
  volume: 0,
  offset: 0,
  length: 0,
  mark: "end",
  purpose: "volume-sync",
  begin: 1005,
};

export const sampleSlot: Slot = {
  kind: "durable",
  clean: true,
  lineage: sampleLineage,
  generation: 7,
  boot: bootBytes("7d5bd7d5-6f3c-4b43-9a2a-0a8b6b1f9c11"),
  position: {
    sequence: 2,
    chain: sampleFrame.chainAfter,
    dataBytesTotal: 0,
    closedAtMs: sampleFrame.closedAtMs,
  },
};

export const sampleFilling = 5;

export const sampleHead: Head = {
  lineage: sampleLineage,
  position: sampleSlot.position,
  pairs: [{ sequence: 0, chain: sampleGenesis }],
};

function record(value: BlockRecord): Uint8Array {
  const bytes = new Uint8Array(recordBytes(value));
  encodeRecordInto(value, bytes, new DataView(bytes.buffer), 0);
  return bytes;
}

function slot(): Uint8Array {
  const bytes = Buffer.alloc(slotBytes);
  encodeSlotInto(sampleSlot, bytes);
  return bytes;
}

/** Two records of filling 5, so that the second stands where the padding of the first says. */
function ahead(): Uint8Array {
  const record = Buffer.alloc(aheadRecordBytesMax);
  const both = [sampleFrame, sampleGapFrame].map((frame) =>
    Uint8Array.from(encodeAheadInto(record, sampleFilling, frame.first, encodeFrame(frame, "none"))),
  );
  return Buffer.concat(both);
}

/** Every frozen value, encoded by today's code. LZ4 and brotli may choose other bytes one day; the rest may not. */
export async function encodeSamples(): Promise<
  Record<string, { bytes: Uint8Array; deterministic: boolean }>
> {
  const both = [sampleFrame, sampleWriteFrame];
  return {
    "record-zeroes": { bytes: record(sampleRecords[0]!), deterministic: true },
    "record-trim": { bytes: record(sampleRecords[1]!), deterministic: true },
    "record-write": { bytes: record(writeRecord), deterministic: true },
    "record-scan-begin": { bytes: record(sampleScanRecords[0]!), deterministic: true },
    "record-scan-digest-chunk": { bytes: record(sampleScanRecords[1]!), deterministic: true },
    "record-scan-digest-leaf": { bytes: record(sampleScanRecords[2]!), deterministic: true },
    "record-scan-content": { bytes: record(sampleScanRecords[3]!), deterministic: true },
    "record-scan-zeroes": { bytes: record(sampleScanRecords[4]!), deterministic: true },
    "record-scan-end": { bytes: record(sampleScanRecords[5]!), deterministic: true },
    "record-volume-data": { bytes: record(sampleVolumeChanges[0]!), deterministic: true },
    "record-volume-grown": { bytes: record(sampleVolumeChanges[1]!), deterministic: true },
    "record-volume-sync-end": { bytes: record(sampleVolumeSyncEnd), deterministic: true },
    "frame-volume": { bytes: encodeFrame(sampleVolumeFrame, "none"), deterministic: true },
    "record-gap": { bytes: record(sampleGapFrame.records[0]!), deterministic: true },
    chain: {
      bytes: Buffer.concat([sampleGenesis, sampleFrame.chainAfter, sampleWriteFrame.chainAfter]),
      deterministic: true,
    },
    frame: { bytes: encodeFrame(sampleFrame, "none"), deterministic: true },
    "frame-gap": { bytes: encodeFrame(sampleGapFrame, "none"), deterministic: true },
    "frame-lz4": { bytes: encodeFrame(sampleWriteFrame, "lz4"), deterministic: false },
    batch: { bytes: await encodeBatch([sampleFrame], sampleToken, "none"), deterministic: true },
    "batch-lz4": { bytes: await encodeBatch(both, sampleToken, "lz4"), deterministic: false },
    "batch-brotli": { bytes: await encodeBatch(both, sampleToken, "brotli"), deterministic: false },
    watermark: { bytes: slot(), deterministic: true },
    "write-ahead": { bytes: ahead(), deterministic: true },
    head: { bytes: encodeHead(sampleHead), deterministic: true },
  };
}
