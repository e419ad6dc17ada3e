/** Frames and records for the tests of this folder, and the naive model they are judged against. */
import fc from "fast-check";
import type { AppliedPosition } from "../../image/marker.ts";
import { genesisChain } from "../../protocol/chain.ts";
import type { Frame } from "../../protocol/frame.ts";
import { buildFrame, buildGapFrame } from "../../protocol/frame.ts";
import type { VolumeEntry } from "../../protocol/ids.ts";
import type { BlockRecord, ClientRecord } from "../../protocol/record.ts";

export const lineage = new Uint8Array(16).fill(7);

export function originOf(volumes: readonly VolumeEntry[]): AppliedPosition {
  return { sequence: 0, chain: genesisChain(lineage, volumes), dataBytesTotal: 0, timeMs: 0 };
}

/** Frames that continue a position, one after another. */
export class FrameSource {
  position: AppliedPosition;

  constructor(position: AppliedPosition) {
    this.position = position;
  }

  next(records: readonly BlockRecord[]): Frame {
    const first = this.position.sequence + 1;
    const frame = buildFrame({
      lineage,
      first,
      chainBefore: this.position.chain,
      dataBytesBefore: this.position.dataBytesTotal,
      openedAtMs: first * 10,
      closedAtMs: first * 10 + 5,
      records,
    });
    return this.#take(frame);
  }

  /** A gap of `span` sequences with `dataBytes` in them; its chain value is as good as any. */
  gap(span: number, dataBytes: number): Frame {
    const { sequence, dataBytesTotal } = this.position;
    const chain = this.position.chain.map((byte) => byte ^ 0x5a);
    const to = { sequence: sequence + span, chain, dataBytesTotal: dataBytesTotal + dataBytes };
    return this.#take(buildGapFrame({ lineage, after: this.position, to, closedAtMs: to.sequence * 10 }));
  }

  #take(frame: Frame): Frame {
    this.position = {
      sequence: frame.last,
      chain: frame.chainAfter,
      dataBytesTotal: frame.dataBytesTotal,
      timeMs: frame.closedAtMs,
    };
    return frame;
  }
}

export interface RecordShape {
  readonly kind: "write" | "zeroes" | "trim";
  readonly volume: number;
  readonly sector: number;
  readonly sectors: number;
  readonly fill: number;
}

/** Records of 1..`sectorsMax` sectors within `sectorCount`, many of them aligned to blocks. */
export function recordShapes(
  volumes: number,
  sectorCount: number,
  sectorsMax: number,
): fc.Arbitrary<RecordShape> {
  return fc
    .record({
      kind: fc.constantFrom(
        "write" as const,
        "write" as const,
        "write" as const,
        "zeroes" as const,
        "trim" as const,
      ),
      volume: fc.nat(volumes - 1),
      sector: fc.oneof(
        fc.nat(sectorCount - 1),
        fc.nat(Math.floor(sectorCount / 8) - 1).map((block) => block * 8),
      ),
      sectors: fc.oneof(fc.integer({ min: 1, max: sectorsMax }), fc.constantFrom(8, 16)),
      fill: fc.integer({ min: 1, max: 255 }),
    })
    .map((shape) => ({ ...shape, sectors: Math.min(shape.sectors, sectorCount - shape.sector) }));
}

/** Every sector gets bytes of its own, so that a sector in the wrong place shows. */
export function recordOf(shape: RecordShape): ClientRecord {
  const { kind, volume } = shape;
  const offset = shape.sector * 512;
  const length = shape.sectors * 512;
  if (kind !== "write") return { kind, volume, offset, length };
  const data = new Uint8Array(length);
  for (let sector = 0; sector < shape.sectors; sector += 1) {
    data.fill((shape.fill + sector) % 256 || 1, sector * 512, (sector + 1) * 512);
  }
  return { kind, volume, offset, length, data };
}

export function applyNaively(images: readonly Uint8Array[], record: BlockRecord): void {
  if (record.kind === "scanDigest" || record.kind === "scanMark") return;
  const image = images[record.volume]!;
  const data = record.kind === "write" || record.kind === "scanContent" ? record.data : null;
  if (data !== null) image.set(data, record.offset);
  else image.fill(0, record.offset, record.offset + record.length);
}
