/**
 * LZ4 blocks; the only importer of lz4-napi. Pure. LZ4 detects no corruption and believes its size prefix
 * (docs/decisions/lz4.md), so nothing here is trusted: every caller checks a CRC and the chain over the result.
 */
import { compressSync, uncompressSync } from "lz4-napi";
import { RemoteProtocolError } from "./remote-error.ts";

/** Compressed copy: the packaged block form, a 4-byte little-endian raw length in front. */
export function lz4Compress(raw: Uint8Array): Uint8Array {
  return compressSync(asBuffer(raw));
}

/** Exactly `rawLength` bytes, or RemoteProtocolError. The declared length is compared before anything is allocated. */
export function lz4Decompress(stored: Uint8Array, rawLength: number): Uint8Array {
  const buffer = asBuffer(stored);
  if (buffer.length < 4 || buffer.readUInt32LE(0) !== rawLength) {
    throw new RemoteProtocolError("LZ4_LENGTH", `LZ4 block does not declare ${rawLength} bytes`);
  }
  let raw: Uint8Array;
  try {
    raw = uncompressSync(buffer);
  } catch (cause) {
    throw new RemoteProtocolError("LZ4_DAMAGED", "LZ4 block does not decode", { cause: String(cause) });
  }
  if (raw.byteLength !== rawLength) {
    throw new RemoteProtocolError(
      "LZ4_LENGTH",
      `LZ4 block decodes to ${raw.byteLength}, not ${rawLength} bytes`,
    );
  }
  return raw;
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
