/**
 * Waymarks: positions of dropped frames at which a peer may still be, so that its chain value can be proven although the
 * frames are gone. Pure. One row each, under the position's sequence. See docs/formats/waymark.md.
 *
 *   offset  size  field
 *   0       8     dataBytesTotal
 *   8       32    chain
 *   40      4     crc            CRC-32 of the sequence (8 bytes) and of all bytes before
 */
import { crc32 } from "node:zlib";
import { ByteReader, ByteWriter } from "../protocol/bytes.ts";
import { ChainWalker } from "../protocol/chain.ts";
import type { Frame } from "../protocol/frame.ts";
import type { Sequence } from "../protocol/ids.ts";
import { recordBytes, recordDataBytes } from "../protocol/record.ts";
import { RemoteProtocolError } from "../protocol/remote-error.ts";
import type { MarkedPosition } from "./frame-log.ts";

/**
 * A peer may be at any position behind one it was known to be at, as far as was sent meanwhile: 48 MiB in flight are fewer
 * records than this where they are of 1 KiB. 65,536 rows of 52 bytes are 3 MiB.
 */
export const waymarkSpan = 65_536;
/** A frame with a longer body may have been cut for the line, so that a peer can be inside it; a batch is never shorter. */
const cutBodyBytes = 32 * 1024;
const waymarkBytes = 44;

export function encodeWaymark({ sequence, dataBytesTotal, chain }: MarkedPosition): Uint8Array {
  const writer = new ByteWriter(waymarkBytes).u64(dataBytesTotal).put(chain);
  return writer.u32(sumOf(sequence, writer.bytes.subarray(0, writer.offset))).bytes;
}

/** RemoteProtocolError for anything that `encodeWaymark` does not write for this sequence. */
export function decodeWaymark(sequence: Sequence, bytes: Uint8Array): MarkedPosition {
  if (bytes.byteLength !== waymarkBytes) throw new RemoteProtocolError("WAYMARK_LENGTH", "not a waymark");
  const reader = new ByteReader(bytes);
  const dataBytesTotal = reader.u64();
  const chain = reader.bytes(32).slice();
  if (reader.u32() !== sumOf(sequence, bytes.subarray(0, waymarkBytes - 4)))
    throw new RemoteProtocolError("WAYMARK_CRC", "a waymark is damaged");
  return { sequence, chain, dataBytesTotal };
}

function sumOf(sequence: Sequence, bytes: Uint8Array): number {
  return crc32(bytes, crc32(new ByteWriter(8).u64(sequence).bytes));
}

/** Whether a peer that was at one of `anchors` may have come to `sequence`. */
export function isReachable(sequence: Sequence, anchors: readonly Sequence[]): boolean {
  return anchors.some((anchor) => sequence >= anchor && sequence - anchor <= waymarkSpan);
}

/** Positions in and at the end of a frame at which a peer may be, rising. */
export function waymarksOf(frame: Frame, anchors: readonly Sequence[]): MarkedPosition[] {
  const marks = insideOf(frame, anchors);
  const { last: sequence, chainAfter: chain, dataBytesTotal } = frame;
  if (isReachable(sequence, anchors)) marks.push({ sequence, chain, dataBytesTotal });
  return marks;
}

function insideOf(frame: Frame, anchors: readonly Sequence[]): MarkedPosition[] {
  const cut = frame.body.byteLength > cutBodyBytes && anchors.some((one) => isNear(frame, one));
  const inside = (sequence: Sequence): boolean =>
    sequence < frame.last && (cut ? isReachable(sequence, anchors) : anchors.includes(sequence));
  if (!cut && !anchors.some((one) => one >= frame.first && one < frame.last)) return [];
  const marks: MarkedPosition[] = [];
  const walker = new ChainWalker(frame.chainBefore);
  let dataBytesTotal = frame.dataBytesTotal;
  for (const record of frame.records) dataBytesTotal -= recordDataBytes(record);
  let at = 0;
  for (const [index, record] of frame.records.entries()) {
    const sequence = frame.first + index;
    const next = at + recordBytes(record);
    walker.advance(frame.body.subarray(at, next));
    at = next;
    dataBytesTotal += recordDataBytes(record);
    if (inside(sequence)) marks.push({ sequence, chain: walker.value, dataBytesTotal });
  }
  return marks;
}

function isNear(frame: Frame, anchor: Sequence): boolean {
  return frame.last > anchor && frame.first <= anchor + waymarkSpan;
}
