/** Reads a half of the write-ahead log by docs/formats/write-ahead.md alone, byte by byte. Shares no code with the product. */
import { crc32 } from "node:zlib";

export interface NaiveAhead {
  readonly filling: number;
  readonly first: number;
  readonly value: number[];
}

function number(bytes: readonly number[], at: number, length: number): number {
  let value = 0;
  for (let index = 0; index < length; index += 1) value = value * 256 + bytes[at + index]!;
  return value;
}

/** The record at `at`; undefined where there is none. */
export function decodeAheadRecord(bytes: readonly number[], at: number): NaiveAhead | undefined {
  if (at + 32 > bytes.length || String.fromCharCode(...bytes.slice(at, at + 4)) !== "SSWA") return undefined;
  const length = number(bytes, at + 24, 4);
  if (length > 65_536 || at + 32 + length > bytes.length) return undefined;
  const value = bytes.slice(at + 32, at + 32 + length);
  const summed = Uint8Array.from([...bytes.slice(at, at + 28), ...value]);
  if (crc32(summed) !== number(bytes, at + 28, 4)) return undefined;
  if (number(bytes, at + 4, 4) !== 0x01000000) throw new RangeError("a version that is not on the page");
  return { filling: number(bytes, at + 8, 8), first: number(bytes, at + 16, 8), value };
}

export function decodeAhead(bytes: readonly number[]): NaiveAhead[] {
  const found: NaiveAhead[] = [];
  let at = 0;
  for (;;) {
    const record = decodeAheadRecord(bytes, at);
    const before = found.at(-1);
    if (record === undefined) return found;
    if (before !== undefined && (record.filling !== before.filling || record.first <= before.first))
      return found;
    found.push(record);
    at += 32 + record.value.length;
    while (at % 8 !== 0) at += 1;
  }
}
