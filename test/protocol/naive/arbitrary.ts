/** Arbitrary histories for the property tests, small enough for a naive reader. Test support. */
import fc from "fast-check";
import type { Frame } from "../../../protocol/frame.ts";
import { buildFrame } from "../../../protocol/frame.ts";
import type { BlockRecord } from "../../../protocol/record.ts";
import type { NaiveFrame, NaiveRecord } from "./formats.ts";

const sectors = (max: number) => fc.integer({ min: 1, max }).map((count) => count * 512);
const offset = fc.oneof(fc.nat(64), fc.nat(2 ** 40)).map((sector) => sector * 512);
const volume = fc.oneof(fc.nat(3), fc.constant(0xffff));

export const arbitraryRecord: fc.Arbitrary<BlockRecord> = fc.oneof(
  fc
    .tuple(volume, offset, sectors(4), fc.nat(255), fc.boolean())
    .map(([v, at, length, seed, noisy]): BlockRecord => {
      const data = new Uint8Array(length).map((_, index) =>
        noisy ? (index * 167 + seed * 31 + (index >> 3)) & 0xff : seed,
      );
      return { kind: "write", volume: v, offset: at, length, data };
    }),
  fc
    .tuple(fc.constantFrom("zeroes" as const, "trim" as const), volume, offset, sectors(2 ** 23 - 1))
    .map(([kind, v, at, length]): BlockRecord => ({ kind, volume: v, offset: at, length })),
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

const kinds = { write: 1, zeroes: 2, trim: 3 };

export function naiveRecord(record: BlockRecord): NaiveRecord {
  return {
    kind: kinds[record.kind],
    volume: record.volume,
    offset: BigInt(record.offset),
    length: record.length,
    data: record.kind === "write" ? [...record.data] : [],
  };
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
