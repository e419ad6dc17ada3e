/** What a standby keeps its state on, as one argument: file system, images, key-value stores, and the boot they are of. */
import type { ImageFiles } from "../block/image-files.ts";
import type { StoreEngine } from "../journal/store.ts";
import type { Disk } from "../runtime/disk.ts";
import type { OpenOrderedStore } from "../runtime/ordered-store.ts";

export interface StandbyStorage {
  readonly disk: Disk;
  readonly images: ImageFiles;
  readonly stores: StoreEngine;
  /** For the index of the history, which can be made anew. */
  readonly openIndex: OpenOrderedStore;
  /** Length of a segment of before-images; default as of `Segments`. */
  readonly segmentBytes?: number;
  /** Length of an apply step, raw bytes; default as of `Applier`. */
  readonly stepBytesMax?: number;
  /** Identity of this boot of the host: what was never synced may be counted on only within it. */
  readonly bootId: string;
}
