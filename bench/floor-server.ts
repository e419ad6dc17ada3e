/**
 * The least that any write path of ours can cost: the NBD server alone; with one LevelDB put before the answer; with that
 * and the two syncs that make it durable, of LevelDB's log and of a watermark. A process of its own, as the product is:
 * `node floor-server.js memory|put|synced SOCKET BYTES FOLDER`. Ends on SIGTERM.
 */
import { join } from "node:path";
import type { BlockDevice } from "../block/device.ts";
import { MemoryDevice } from "../block/memory-device.ts";
import { openLevelStore } from "../journal/level-store.ts";
import { LogFiles } from "../journal/log-files.ts";
import { slotSpacingBytes } from "../journal/watermark.ts";
import { slotBytes } from "../journal/watermark-slot.ts";
import { systemDisk } from "../runtime/disk.ts";
import { startRig } from "../test/block/nbd-rig.ts";

/** As the site agent gives the journal of a group. */
const writeBufferBytes = 8 * 1024 * 1024;

const [mode, path, bytes, folder] = process.argv.slice(2) as [string, string, string, string];
const device = new MemoryDevice({ sizeBytes: Number(bytes) });
const hooks = mode === "memory" ? {} : { write: await putFirst(device, mode === "synced") };
const rig = await startRig({ disk: { device, hooks } }, { listen: { kind: "unix", path } });
process.once("SIGTERM", () => void rig.server.close(1_000).then(() => process.exit(0)));

/** Every write is put, with `synced` made durable, and answered then; nothing is hashed, framed, compressed or applied. */
async function putFirst(under: BlockDevice, synced: boolean): Promise<BlockDevice["write"]> {
  const directory = join(folder, `floor-db-${mode}`);
  const store = await openLevelStore(directory, "create", writeBufferBytes);
  const logs = new LogFiles(systemDisk, directory);
  const watermark = await systemDisk.open(join(folder, `floor-watermark-${mode}`), "replace");
  await watermark.write(0, new Uint8Array(slotSpacingBytes));
  const slot = new Uint8Array(slotBytes);
  let sequence = 0;
  return async (offset, data, options) => {
    sequence += 1;
    await store.putFrame(sequence, data);
    if (synced) {
      logs.written();
      await logs.sync();
      watermark.writeNow(0, slot);
      await watermark.syncData();
    }
    await under.write(offset, data, options);
  };
}
