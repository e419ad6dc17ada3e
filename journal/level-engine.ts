/** LevelDB as the store of the product's frame logs, with the trial that keeps a rotten table from ending the process. */
import { systemDisk } from "../runtime/disk.ts";
import { openLevelStore } from "./level-store.ts";
import type { StoreEngine } from "./store.ts";
import { withTrial } from "./trial.ts";

export const levelEngine: StoreEngine = {
  open: openLevelStore,
  guard: (directory, watermarkPath, writeBufferBytes, open) =>
    withTrial(systemDisk, directory, watermarkPath, writeBufferBytes, open),
};
