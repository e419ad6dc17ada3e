/**
 * The stamp: what a test writes into every 512-byte sector, so that a reader can tell which write a sector came
 * from and whether it is whole. Shares no code with the product.
 *
 *   offset  size  field
 *   0       4     magic       tells stamped data from anything else
 *   4       4     seed        which run wrote it: data of an older run is foreign
 *   8       6     number      which write of the run
 *   14      2     volume      index of the volume: finds data that landed on another disk
 *   16      6     sector      index of the sector on the volume: finds misdirected data
 *   22      2     zero
 *   24      484   filler      half random, half text, so that it compresses about two to one
 *   508     4     CRC-32 of all before it: finds a sector mixed from two writes
 */
import { crc32 } from "node:zlib";
import { SeededRandom } from "./seeded.ts";

export const stampBytes = 512;
const magic = 0x53505354;
const fillerAt = 24;
const randomBytes = 230;
const checksumAt = 508;

const poolBytes = 1 << 20;
const pool = Buffer.alloc(poolBytes + randomBytes);
{
  const random = new SeededRandom(0x5eed);
  for (let at = 0; at < pool.length - 3; at += 4) pool.writeUInt32LE(random.uint32(), at);
}
const text = Buffer.from("the standby equals the source after some prefix of its write order; ".repeat(8));

/** Data of one write: `length` bytes (whole sectors) for `offset` (whole sectors) of volume `volume`. */
export function stampData(
  seed: number,
  number: number,
  volume: number,
  offset: number,
  length: number,
): Buffer {
  const data = Buffer.allocUnsafe(length);
  const first = offset / stampBytes;
  for (let index = 0; index < length / stampBytes; index += 1) {
    const at = index * stampBytes;
    data.writeUInt32BE(magic, at);
    data.writeUInt32BE(seed, at + 4);
    data.writeUIntBE(number, at + 8, 6);
    data.writeUInt16BE(volume, at + 14);
    data.writeUIntBE(first + index, at + 16, 6);
    data.writeUInt16BE(0, at + 22);
    const from = (number * 7919 + index * 521) % poolBytes;
    pool.copy(data, at + fillerAt, from, from + randomBytes);
    text.copy(data, at + fillerAt + randomBytes, 0, checksumAt - fillerAt - randomBytes);
    data.writeUInt32BE(crc32(data.subarray(at, at + checksumAt)), at + checksumAt);
  }
  return data;
}

export type SectorReading =
  | { readonly kind: "zero" }
  | { readonly kind: "stamp"; readonly number: number }
  | { readonly kind: "foreign"; readonly why: string };

const zeroSector = Buffer.alloc(stampBytes);

/** Reads the sector at `at` of `data`, which came from sector `sector` of `volume` in the run `seed`. */
export function readStamp(
  data: Buffer,
  at: number,
  seed: number,
  volume: number,
  sector: number,
): SectorReading {
  if (data.compare(zeroSector, 0, stampBytes, at, at + stampBytes) === 0) return { kind: "zero" };
  if (data.readUInt32BE(at) !== magic) return { kind: "foreign", why: "not stamped" };
  if (data.readUInt32BE(at + checksumAt) !== crc32(data.subarray(at, at + checksumAt))) {
    return { kind: "foreign", why: `torn or damaged, claims write ${data.readUIntBE(at + 8, 6)}` };
  }
  const number = data.readUIntBE(at + 8, 6);
  if (data.readUInt32BE(at + 4) !== seed) return { kind: "foreign", why: `of another run, write ${number}` };
  if (data.readUInt16BE(at + 14) !== volume || data.readUIntBE(at + 16, 6) !== sector) {
    return {
      kind: "foreign",
      why: `misdirected: write ${number} of volume ${data.readUInt16BE(at + 14)}, sector ${data.readUIntBE(at + 16, 6)}`,
    };
  }
  return { kind: "stamp", number };
}
