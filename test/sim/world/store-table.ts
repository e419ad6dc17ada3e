/**
 * Entries of the simulated store: how a batch of them lies in a log record, and how a table file holds many, sorted.
 * A table's values have no checksum that anybody looks at (finding 3); its index has one. Bytes in, values out.
 */
import { crc32 } from "node:zlib";
import type { RowTable } from "../../../journal/store.ts";

/** The head value's key; frames have their first sequence, which is never negative. */
export const headKey = -1;

/** Rows have the numbers below it, even ones for notes and odd ones for waymarks. */
export function rowKey(table: RowTable, number: number): number {
  return -2 - 2 * number - (table === "note" ? 0 : 1);
}

export function rowOf(key: number): { readonly table: RowTable; readonly number: number } {
  const at = -2 - key;
  return { table: at % 2 === 0 ? "note" : "waymark", number: Math.floor(at / 2) };
}

/** A value, or null where the key was deleted. */
export type Entries = Map<number, Uint8Array | null>;

const entryHeaderBytes = 12;
const deleted = 0xffffffff;

/** One atomic batch; copies the values. */
export function encodeBatch(entries: readonly (readonly [number, Uint8Array | null])[]): Uint8Array {
  const length = entries.reduce((sum, [, value]) => sum + entryHeaderBytes + (value?.byteLength ?? 0), 0);
  const out = Buffer.allocUnsafe(length);
  let at = 0;
  for (const [key, value] of entries) {
    out.writeDoubleLE(key, at);
    out.writeUInt32LE(value === null ? deleted : value.byteLength, at + 8);
    at += entryHeaderBytes;
    if (value === null) continue;
    out.set(value, at);
    at += value.byteLength;
  }
  return out;
}

/** Adds a batch's entries to `entries`; values are views of `payload`. */
export function decodeBatchInto(payload: Uint8Array, entries: Entries): void {
  const view = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength);
  for (let at = 0; at < payload.byteLength; ) {
    const key = view.readDoubleLE(at);
    const length = view.readUInt32LE(at + 8);
    at += entryHeaderBytes;
    entries.set(key, length === deleted ? null : payload.subarray(at, at + length));
    if (length !== deleted) at += length;
  }
}

/** Where a table file has a value; null where it says that the key was deleted. */
export type TableIndex = ReadonlyMap<number, { readonly offset: number; readonly length: number } | null>;

const indexRowBytes = 16;
const footerBytes = 8;

export function encodeTable(entries: Entries): Uint8Array {
  const rows = [...entries].sort(([a], [b]) => a - b);
  const valueBytes = rows.reduce((sum, [, value]) => sum + (value?.byteLength ?? 0), 0);
  const out = Buffer.allocUnsafe(valueBytes + rows.length * indexRowBytes + footerBytes);
  let at = 0;
  let row = valueBytes;
  for (const [key, value] of rows) {
    out.writeDoubleLE(key, row);
    out.writeUInt32LE(at, row + 8);
    out.writeUInt32LE(value === null ? deleted : value.byteLength, row + 12);
    row += indexRowBytes;
    if (value === null) continue;
    out.set(value, at);
    at += value.byteLength;
  }
  out.writeUInt32LE(rows.length, row);
  out.writeUInt32LE(crc32(out.subarray(valueBytes, row + 4)), row + 4);
  return out;
}

/** Undefined when the table is cut short or its index is damaged. */
export function decodeTableIndex(bytes: Uint8Array): TableIndex | undefined {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const footer = bytes.byteLength - footerBytes;
  if (footer < 0) return undefined;
  const start = footer - view.readUInt32LE(footer) * indexRowBytes;
  if (start < 0 || crc32(bytes.subarray(start, footer + 4)) !== view.readUInt32LE(footer + 4))
    return undefined;
  const index = new Map<number, { offset: number; length: number } | null>();
  for (let at = start; at < footer; at += indexRowBytes) {
    const length = view.readUInt32LE(at + 12);
    index.set(
      view.readDoubleLE(at),
      length === deleted ? null : { offset: view.readUInt32LE(at + 8), length },
    );
  }
  return index;
}
