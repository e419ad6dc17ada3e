/**
 * The head value: where the journal begins after trimming, and some (sequence, chain) pairs of what was before.
 * Pure. Kept inside the database, made durable before the frames it replaces are deleted. See docs/formats/head.md.
 *
 *   offset  size  field
 *   0       4     magic          "SSHD"
 *   4       1     version        1
 *   5       1     reserved       0
 *   6       2     pairCount
 *   8       16    lineage
 *   24      8     sequence       position before the first frame kept
 *   32      8     dataBytesTotal
 *   40      8     closedAtMs
 *   48      32    chain
 *   80      40 n  pairs          (sequence 8, chain 32), sequences rising, all below `sequence`
 *   80+40n  4     crc            CRC-32 of all bytes before
 */
import { crc32 } from "node:zlib";
import { ByteReader, ByteWriter } from "../protocol/bytes.ts";
import type { ChainPosition, LineageBytes } from "../protocol/ids.ts";
import { RemoteProtocolError } from "../protocol/remote-error.ts";
import type { LogPosition } from "./frame-log.ts";

const headMagic = 0x53534844;
const headVersion = 1;
const headFixedBytes = 80;
const pairBytes = 40;
/**
 * Pairs kept at most: 256 x 40 B = 10 KiB rewritten per trim, a trim being seconds apart. The older half is thinned
 * to every second one whenever the limit is passed, so pairs get sparser the older they are.
 */
export const headPairsMax = 256;

export interface Head {
  readonly lineage: LineageBytes;
  readonly position: LogPosition;
  readonly pairs: readonly ChainPosition[];
}

export function encodeHead(head: Head): Uint8Array {
  const writer = new ByteWriter(headFixedBytes + head.pairs.length * pairBytes + 4)
    .u32(headMagic)
    .u8(headVersion)
    .u8(0)
    .u16(head.pairs.length)
    .put(head.lineage)
    .u64(head.position.sequence)
    .u64(head.position.dataBytesTotal)
    .u64(head.position.closedAtMs)
    .put(head.position.chain);
  for (const pair of head.pairs) writer.u64(pair.sequence).put(pair.chain);
  return writer.u32(crc32(writer.bytes.subarray(0, writer.offset))).bytes;
}

/** RemoteProtocolError for anything that `encodeHead` does not write. */
export function decodeHead(bytes: Uint8Array): Head {
  if (bytes.byteLength < headFixedBytes + 4)
    throw new RemoteProtocolError("HEAD_TRUNCATED", "head value cut short");
  const reader = new ByteReader(bytes);
  if (reader.u32() !== headMagic) throw new RemoteProtocolError("HEAD_MAGIC", "not a head value");
  const version = reader.u8();
  if (version !== headVersion) throw new RemoteProtocolError("HEAD_VERSION", `head version ${version}`);
  const sum = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(bytes.byteLength - 4);
  if (crc32(bytes.subarray(0, bytes.byteLength - 4)) !== sum)
    throw new RemoteProtocolError("HEAD_CRC", "head value is damaged");
  const reserved = reader.u8();
  const pairCount = reader.u16();
  if (
    reserved !== 0 ||
    pairCount > headPairsMax ||
    bytes.byteLength !== headFixedBytes + pairCount * pairBytes + 4
  ) {
    throw new RemoteProtocolError("HEAD_LIMITS", "head value beyond its limits");
  }
  const lineage = reader.bytes(16).slice();
  const sequence = reader.u64();
  const dataBytesTotal = reader.u64();
  const closedAtMs = reader.u64();
  const chain = reader.bytes(32).slice();
  const pairs: ChainPosition[] = [];
  let before = -1;
  for (let index = 0; index < pairCount; index += 1) {
    const pair = { sequence: reader.u64(), chain: reader.bytes(32).slice() };
    if (pair.sequence <= before || pair.sequence >= sequence)
      throw new RemoteProtocolError("HEAD_ORDER", "head pairs out of order");
    before = pair.sequence;
    pairs.push(pair);
  }
  return { lineage, position: { sequence, chain, dataBytesTotal, closedAtMs }, pairs };
}

/** `pairs` and one newer, thinned to the limit: of the older half every second one goes, the oldest stays. */
export function addPair(pairs: readonly ChainPosition[], newer: ChainPosition): ChainPosition[] {
  const all = [...pairs, newer];
  if (all.length <= headPairsMax) return all;
  const half = headPairsMax / 2;
  return all.filter((_, index) => index >= half || index % 2 === 0);
}
