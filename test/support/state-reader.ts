/**
 * Reads whole volumes from wherever they are (file, NBD, memory) and turns them into what the oracles judge: for each
 * sector the number of the write found there. Judges nothing itself.
 */
import { open } from "node:fs/promises";
import { readStamp, stampBytes } from "./stamp.ts";

/** Anything that can be read like a disk. */
export interface Readable {
  readonly sizeBytes: number;
  read(offset: number, length: number): Promise<Uint8Array>;
}

/** A raw image file. A file shorter than `sizeBytes` reads as zeroes behind its end. */
export function imageFile(path: string, sizeBytes: number): Readable {
  return {
    sizeBytes,
    async read(offset, length) {
      const file = await open(path, "r");
      try {
        const data = Buffer.alloc(length);
        await file.read(data, 0, length, offset);
        return data;
      } finally {
        await file.close();
      }
    },
  };
}

export function memoryImage(bytes: Uint8Array): Readable {
  return {
    sizeBytes: bytes.byteLength,
    read: (offset, length) => Promise.resolve(bytes.subarray(offset, offset + length)),
  };
}

/** Marks in `VolumeState.found`. */
export const foundZero = -1;
export const foundForeign = -2;

export interface VolumeState {
  /** Per sector: number of the write found, `foundZero` or `foundForeign`. */
  readonly found: Int32Array;
  /** What is wrong with foreign sectors, at most 20. */
  readonly foreign: readonly string[];
}

const chunkBytes = 1 << 20;

/** Reads every sector of volume `volume` (index in the group) of the run `seed`. */
export async function readVolume(source: Readable, seed: number, volume: number): Promise<VolumeState> {
  const found = new Int32Array(source.sizeBytes / stampBytes);
  const foreign: string[] = [];
  for (let offset = 0; offset < source.sizeBytes; offset += chunkBytes) {
    const length = Math.min(chunkBytes, source.sizeBytes - offset);
    const bytes = await source.read(offset, length);
    if (bytes.byteLength !== length)
      throw new Error(`short read: ${bytes.byteLength} of ${length} at ${offset}`);
    const data = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let at = 0; at < length; at += stampBytes) {
      const sector = (offset + at) / stampBytes;
      const reading = readStamp(data, at, seed, volume, sector);
      if (reading.kind === "stamp") {
        found[sector] = reading.number;
      } else if (reading.kind === "zero") {
        found[sector] = foundZero;
      } else {
        found[sector] = foundForeign;
        if (foreign.length < 20) foreign.push(`volume ${volume} sector ${sector}: ${reading.why}`);
      }
    }
  }
  return { found, foreign };
}

/** All volumes of a group, in the order of their numbers. */
export async function readGroup(sources: readonly Readable[], seed: number): Promise<VolumeState[]> {
  const states: VolumeState[] = [];
  for (const [volume, source] of sources.entries()) states.push(await readVolume(source, seed, volume));
  return states;
}
