/**
 * What the main thread and the write thread say to each other, and the layout of the slots they share. Types and
 * sizes only.
 *
 * A slot is one SharedArrayBuffer: `slotDataBytes` of data, the runs' bytes one after another; behind it the runs,
 * two 64-bit floats each: offset on the device and length; a negative length is a range to zero, without data.
 */

/** Data of one slot: copied in one go, so it also bounds how long the main thread is kept (some 0.2 ms). */
export const slotDataBytes = 512 * 1024;
/** Runs of one slot: as many as there are sectors in it. */
export const slotRunsMax = slotDataBytes / 512;
export const slotBytes = slotDataBytes + slotRunsMax * 2 * Float64Array.BYTES_PER_ELEMENT;
/** Enough that the thread has work while answered slots are filled again: 4 x 0.5 MiB for the whole process. */
export const slotCount = 4;

export interface ThreadSetup {
  readonly slots: readonly SharedArrayBuffer[];
}

export type ThreadOrder =
  | {
      readonly kind: "write";
      readonly fd: number;
      readonly slot: number;
      readonly runs: number;
    }
  | {
      readonly kind: "zero";
      readonly fd: number;
      readonly offset: number;
      readonly length: number;
      readonly mayFree: boolean;
      /** Fail with ENOTSUP rather than write zeroes. */
      readonly fast: boolean;
    };
