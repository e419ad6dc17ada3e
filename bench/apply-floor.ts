/**
 * What the disk and the kernel allow an apply step: the same bytes written to the same files with the same syncs, one after
 * another, by plain pwrite and fdatasync, and nothing else: nothing is read, folded, verified, hashed or copied. On files of
 * its own in the same folder.
 */
import { randomInt } from "node:crypto";
import { closeSync, fdatasyncSync, fsyncSync, openSync, writeSync } from "node:fs";
import { join } from "node:path";
import { slotDataBytes } from "../block/write-orders.ts";

const mebibyte = 2 ** 20;
/** As the gateway's: raw bytes of a step, and of a chunk of before-images. */
export const stepBytes = 16 * mebibyte;
const chunkBytes = 256 * 1024;
const markerBytes = 4096;

export interface FloorOptions {
  /** Exists. */
  readonly folder: string;
  readonly imageBytes: number;
  /** Random bytes, 16 MiB at least: what is written. */
  readonly noise: Buffer;
}

export class ApplyFloor {
  readonly #options: FloorOptions;
  readonly #image: number;
  readonly #marker: number;
  readonly #intake: number;
  readonly #segment: number;
  #segmentBytes = 0;

  /** Makes an image that is full, written as a gateway writes, and the small files. */
  constructor(options: FloorOptions) {
    const { folder, imageBytes, noise } = options;
    this.#options = options;
    this.#image = openSync(join(folder, "image"), "w");
    for (let at = 0; at < imageBytes; at += slotDataBytes)
      writeSync(this.#image, noise, at % noise.byteLength, slotDataBytes, at);
    this.#marker = openSync(join(folder, "marker"), "w");
    this.#intake = openSync(join(folder, "intake"), "w");
    this.#segment = openSync(join(folder, "segment"), "w");
    for (const small of [this.#marker, this.#intake]) writeSync(small, noise, 0, 2 * markerBytes, 0);
    for (const file of [this.#image, this.#marker, this.#intake, this.#segment]) fsyncSync(file);
  }

  /** Steps of writes of one size that hold `workBytes` together; MB/s. */
  run(writeBytes: number, workBytes: number, keepsHistory: boolean): number {
    const startedMs = performance.now();
    for (let left = workBytes; left > 0; left -= stepBytes) this.#step(writeBytes, keepsHistory);
    return workBytes / 1e3 / (performance.now() - startedMs);
  }

  #step(writeBytes: number, keepsHistory: boolean): void {
    const { imageBytes, noise } = this.#options;
    // Intention, before-images, image, marker, and the new beginning of the intake: each with its sync.
    this.#putAndSync(this.#marker, 0);
    if (keepsHistory) {
      for (let done = 0; done < stepBytes; done += chunkBytes) {
        writeSync(this.#segment, noise, done % noise.byteLength, chunkBytes, this.#segmentBytes);
        this.#segmentBytes += chunkBytes;
      }
      fdatasyncSync(this.#segment);
    }
    const offsets = Array.from(
      { length: stepBytes / writeBytes },
      () => randomInt(imageBytes / writeBytes) * writeBytes,
    );
    for (const offset of offsets.sort((a, b) => a - b)) {
      const from = randomInt((noise.byteLength - writeBytes) / 512) * 512;
      writeSync(this.#image, noise, from, writeBytes, offset);
    }
    fdatasyncSync(this.#image);
    this.#putAndSync(this.#marker, markerBytes);
    this.#putAndSync(this.#intake, 0);
  }

  #putAndSync(file: number, at: number): void {
    writeSync(file, this.#options.noise, 0, markerBytes, at);
    fdatasyncSync(file);
  }

  close(): void {
    for (const file of [this.#image, this.#marker, this.#intake, this.#segment]) closeSync(file);
  }
}
