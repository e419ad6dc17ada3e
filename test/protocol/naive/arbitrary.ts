/** Arbitrary histories for the property tests, small enough for a naive reader. Test support. */
import fc from "fast-check";
import type { Frame } from "../../../protocol/frame.ts";
import { buildFrame } from "../../../protocol/frame.ts";
import type { BlockRecord, ClientRecord } from "../../../protocol/record.ts";
import { digestsBytes } from "../../../protocol/scan-digest.ts";
import type { NaiveFrame, NaiveRecord } from "./formats.ts";

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
      fc.constantFrom("verify" as const, "first-sync" as const, "resync" as const, "repair" as const),
      fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
    )
    .map(([mark, purpose, name]): BlockRecord => {
      const begin = mark === "begin" ? 0 : name;
      return { kind: "scanMark", volume: 0, offset: 0, length: 0, mark, purpose, begin };
    }),
);

export const arbitraryRecord: fc.Arbitrary<BlockRecord> = fc.oneof(
  { arbitrary: arbitraryClientRecord, weight: 3 },
  { arbitrary: arbitraryScanRecord, weight: 1 },
);

export const arbitraryBytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });

/** Consecutive frames of one history. */
export function arbitraryFrames(framesMax: number): fc.Arbitrary<Frame[]> {
  return fc
    .tuple(
      arbitraryBytes(16),
      arbitraryBytes(32),
      fc.integer({ min: 1, max: 2 ** 50 }),
      fc.nat(2 ** 40),
      fc.array(fc.tuple(fc.array(arbitraryRecord, { minLength: 1, maxLength: 5 }), fc.nat(2 ** 42)), {
        minLength: 1,
        maxLength: framesMax,
      }),
    )
    .map(([lineage, chain, first, total, parts]) => {
      const frames: Frame[] = [];
      for (const [records, openedAtMs] of parts) {
        const before = frames.at(-1);
        frames.push(
          buildFrame({
            lineage,
            first: before === undefined ? first : before.last + 1,
            chainBefore: before === undefined ? chain : before.chainAfter,
            dataBytesBefore: before === undefined ? total : before.dataBytesTotal,
            openedAtMs,
            closedAtMs: openedAtMs + 3,
            records,
          }),
        );
      }
      return frames;
    });
}

const kinds = { write: 1, zeroes: 2, trim: 3, scanDigest: 4, scanContent: 5, scanMark: 10 };

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
      const purpose = ["verify", "first-sync", "resync", "repair"].indexOf(record.purpose);
      const mark = ["begin", "end", "given-up"].indexOf(record.mark);
      return { ...plain, flags: mark * 4 + purpose, offset: BigInt(record.begin) };
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
