/** What a standby keeps its state on, as one argument: file system, images, key-value store, and the boot they are of. */
import type { ImageFiles } from "../block/image-files.ts";
import type { StoreEngine } from "../journal/store.ts";
import type { Disk } from "../runtime/disk.ts";

export interface StandbyStorage {
  readonly disk: Disk;
  readonly images: ImageFiles;
  readonly stores: StoreEngine;
  /** Identity of this boot of the host: what was never synced may be counted on only within it. */
  readonly bootId: string;
}
