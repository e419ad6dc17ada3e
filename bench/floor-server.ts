/**
 * The least that any write path of ours can cost: the NBD server alone, and the NBD server with one LevelDB put before
 * the answer and nothing else. A process of its own, as the product is:
 * `node floor-server.js memory|put SOCKET BYTES FOLDER`. Ends on SIGTERM.
 */
import { join } from "node:path";
import type { BlockDevice } from "../block/device.ts";
import { MemoryDevice } from "../block/memory-device.ts";
import { openLevelStore } from "../journal/level-store.ts";
import { startRig } from "../test/block/nbd-rig.ts";

/** As the site agent gives the journal of a group. */
const writeBufferBytes = 8 * 1024 * 1024;

const [mode, path, bytes, folder] = process.argv.slice(2) as [string, string, string, string];
const device = new MemoryDevice({ sizeBytes: Number(bytes) });
const hooks = mode === "put" ? { write: await putFirst(device) } : {};
const rig = await startRig({ disk: { device, hooks } }, { listen: { kind: "unix", path } });
process.once("SIGTERM", () => void rig.server.close(1_000).then(() => process.exit(0)));

/** Every write is put and answered then; nothing is hashed, framed, compressed or applied. */
async function putFirst(under: BlockDevice): Promise<BlockDevice["write"]> {
  const store = await openLevelStore(join(folder, "floor-db"), "create", writeBufferBytes);
  let sequence = 0;
  return async (offset, data, options) => {
    sequence += 1;
    await store.putFrame(sequence, data);
    await under.write(offset, data, options);
  };
}
