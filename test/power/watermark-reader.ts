/**
 * Reads the promise in a watermark file as docs/formats/watermark.md has it, with no code of the product: the second
 * witness of what a site called durable.
 */
import { readFileSync } from "node:fs";
import { crc32 } from "node:zlib";

const pageBytes = 4096;
const slotBytes = 108;

/** Sequence of the newest whole durable slot. Throws when there is none. */
export function promisedSequence(path: string): number {
  const file = readFileSync(path);
  const found: { generation: bigint; sequence: number }[] = [];
  for (const at of [0, pageBytes]) {
    const slot = file.subarray(at, at + slotBytes);
    if (slot.toString("latin1", 0, 4) !== "SSWM" || slot[5] !== 1) continue;
    if (crc32(slot.subarray(0, slotBytes - 4)) !== slot.readUInt32BE(slotBytes - 4)) continue;
    found.push({ generation: slot.readBigUInt64BE(24), sequence: Number(slot.readBigUInt64BE(48)) });
  }
  const newest = found.sort((a, b) => Number(a.generation - b.generation)).at(-1);
  if (newest === undefined) throw new Error(`${path} has no whole durable slot`);
  return newest.sequence;
}
