/** Arbitrary histories for the property tests, small enough for a naive reader. Test support. */
import fc from "fast-check";
import type { Frame } from "../../../protocol/frame.ts";
import { buildFrame, buildGapFrame } from "../../../protocol/frame.ts";
import type {
  BlockRecord,
  ClientRecord,
  GapRecord,
  ScanPurpose,
  VolumeChangeRecord,
} from "../../../protocol/record.ts";
import { digestsBytes } from "../../../protocol/scan-digest.ts";
import type { NaiveFrame, NaiveRecord } from "./formats.ts";
import { number } from "./formats.ts";

const sectors = (max: number) => fc.integer({ min: 1, max }).map((count) => count * 512);
const offset = fc.oneof(fc.nat(64), fc.nat(2 ** 40)).map((sector) => sector * 512);
const volume = fc.oneof(fc.nat(3), fc.constant(0xffff));

/** `length` bytes that a seed decides, compressible or not. */
function filled(length: number, seed: number, noisy: boolean): Uint8Array {
  return new Uint8Array(length).map((_, index) =>
    noisy ? (index * 167 + seed * 31 + (index >> 3)) & 0xff : seed,
  );
}

export const arbitraryClientRecord: fc.Arbitrary<ClientRecord> = fc.oneof(
  fc.tuple(volume, offset, sectors(4), fc.nat(255), fc.boolean()).map(
    ([v, at, length, seed, noisy]): ClientRecord => ({
      kind: "write",
      volume: v,
      offset: at,
      length,
      data: filled(length, seed, noisy),
    }),
  ),
  fc
    .tuple(fc.constantFrom("zeroes" as const, "trim" as const), volume, offset, sectors(2 ** 23 - 1))
    .map(([kind, v, at, length]): ClientRecord => ({ kind, volume: v, offset: at, length })),
);

const mebibyte = 1024 * 1024;

export const arbitraryScanRecord: fc.Arbitrary<BlockRecord> = fc.oneof(
  fc
    .tuple(
      fc.constantFrom("chunk" as const, "leaf" as const),
      volume,
      fc.nat(2 ** 20),
      sectors(2048),
      fc.nat(255),
    )
    .map(([level, v, chunk, size, seed]): BlockRecord => {
      const length = level === "leaf" ? size : size * 9;
      const digests = filled(digestsBytes(level, length), seed, true);
      return { kind: "scanDigest", volume: v, offset: chunk * mebibyte, length, level, digests };
    }),
  fc
    .tuple(volume, offset, sectors(4), fc.nat(255), fc.boolean())
    .map(([v, at, length, seed, zero]): BlockRecord => {
      const data = zero ? null : filled(length, seed, true);
      return { kind: "scanContent", volume: v, offset: at, length, data };
    }),
  fc
    .tuple(
      fc.constantFrom("begin" as const, "end" as const, "given-up" as const),
      fc.constantFrom<ScanPurpose[]>("verify", "first-sync", "resync", "repair", "volume-sync"),
      fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
    )
    .map(([mark, purpose, name]): BlockRecord => {
      const begin = mark === "begin" ? 0 : name;
      return { kind: "scanMark", volume: 0, offset: 0, length: 0, mark, purpose, begin };
    }),
);

/** Sizes as they are, and as they could be at most. */
const arbitraryGapSize = fc.tuple(
  fc.oneof(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 2 ** 40 })),
  fc.oneof(fc.constant(0), fc.nat(2 ** 44)),
);

export const arbitraryGap: fc.Arbitrary<GapRecord> = fc
  .tuple(arbitraryGapSize, fc.uint8Array({ minLength: 32, maxLength: 32 }))
  .map(([[span, dataBytes], chainAfter]) => ({
    kind: "gap",
    volume: 0,
    offset: 0,
    length: 0,
    span,
    dataBytes,
    chainAfter,
  }));

export const arbitraryVolumeChange: fc.Arbitrary<VolumeChangeRecord> = fc
  .tuple(
    volume,
    fc.oneof(sectors(2 ** 20), fc.constant(Number.MAX_SAFE_INTEGER - 511)),
    fc.stringMatching(/^[a-z0-9][a-z0-9_-]{0,62}$/),
    fc.boolean(),
  )
  .map(([v, sizeBytes, name, holdsData]) => ({
    kind: "volumeChange",
    volume: v,
    offset: 0,
    length: 0,
    sizeBytes,
    name,
    holdsData,
  }));

/** Records that share a frame with others: all but gaps and changes of the volume table. */
export const arbitraryRecord: fc.Arbitrary<BlockRecord> = fc.oneof(
  { arbitrary: arbitraryClientRecord, weight: 3 },
  { arbitrary: arbitraryScanRecord, weight: 1 },
);

export const arbitraryBytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });

const arbitraryPart = fc.oneof(
  { arbitrary: fc.array(arbitraryRecord, { minLength: 1, maxLength: 5 }), weight: 4 },
  { arbitrary: arbitraryGap, weight: 1 },
  { arbitrary: arbitraryVolumeChange.map((record): BlockRecord[] => [record]), weight: 1 },
);

/** Consecutive frames of one history, gaps among them. */
export function arbitraryFrames(framesMax: number): fc.Arbitrary<Frame[]> {
  return fc
    .tuple(
      arbitraryBytes(16),
      arbitraryBytes(32),
      fc.integer({ min: 1, max: 2 ** 50 }),
      fc.nat(2 ** 40),
      fc.array(fc.tuple(arbitraryPart, fc.nat(2 ** 42)), { minLength: 1, maxLength: framesMax }),
    )
    .map(([lineage, start, first, total, parts]) => {
      const frames: Frame[] = [];
      for (const [part, openedAtMs] of parts) {
        const before = frames.at(-1);
        const sequence = before?.last ?? first - 1;
        const chain = before?.chainAfter ?? start;
        const dataBytesTotal = before?.dataBytesTotal ?? total;
        if ("span" in part) {
          const to = {
            sequence: sequence + part.span,
            chain: part.chainAfter,
            dataBytesTotal: dataBytesTotal + part.dataBytes,
          };
          const after = { sequence, chain, dataBytesTotal };
          frames.push(buildGapFrame({ lineage, after, to, closedAtMs: openedAtMs }));
          continue;
        }
        frames.push(
          buildFrame({
            lineage,
            first: sequence + 1,
            chainBefore: chain,
            dataBytesBefore: dataBytesTotal,
            openedAtMs,
            closedAtMs: openedAtMs + 3,
            records: part,
          }),
        );
      }
      return frames;
    });
}

const kinds = {
  write: 1,
  zeroes: 2,
  trim: 3,
  scanDigest: 4,
  scanContent: 5,
  volumeChange: 8,
  gap: 9,
  scanMark: 10,
};

export function naiveRecord(record: BlockRecord): NaiveRecord {
  const plain = {
    kind: kinds[record.kind],
    flags: 0,
    volume: record.volume,
    offset: BigInt(record.offset),
    length: record.length,
    data: [] as number[],
  };
  switch (record.kind) {
    case "write":
      return { ...plain, data: [...record.data] };
    case "scanDigest":
      return { ...plain, flags: record.level === "leaf" ? 1 : 0, data: [...record.digests] };
    case "scanContent":
      return { ...plain, flags: record.data === null ? 1 : 0, data: [...(record.data ?? [])] };
    case "scanMark": {
      const purpose = ["verify", "first-sync", "resync", "repair", "volume-sync"].indexOf(record.purpose);
      const mark = ["begin", "end", "given-up"].indexOf(record.mark);
      const flags = mark * 4 + (purpose % 4) + Math.floor(purpose / 4) * 16;
      return { ...plain, flags, offset: BigInt(record.begin) };
    }
    case "volumeChange": {
      const name = [...Buffer.from(record.name, "latin1")];
      return {
        ...plain,
        flags: record.holdsData ? 1 : 0,
        offset: BigInt(record.sizeBytes),
        data: [...name, ...number(0, 64 - name.length)],
      };
    }
    case "gap": {
      const numbers = [...number(record.span, 8), ...number(record.dataBytes, 8)];
      return { ...plain, data: [...numbers, ...record.chainAfter] };
    }
    default:
      return plain;
  }
}

export function naiveFrame(frame: Frame): NaiveFrame {
  return {
    lineage: [...frame.lineage],
    first: BigInt(frame.first),
    openedAtMs: BigInt(frame.openedAtMs),
    closedAtMs: BigInt(frame.closedAtMs),
    dataBytesTotal: BigInt(frame.dataBytesTotal),
    chainBefore: [...frame.chainBefore],
    chainAfter: [...frame.chainAfter],
    records: frame.records.map(naiveRecord),
  };
}
