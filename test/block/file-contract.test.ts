/** The block device contract, run on the file device and on the layers above it. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after } from "node:test";
import type { FileDevice } from "../../block/file-device.ts";
import { openFileDevice } from "../../block/file-device.ts";
import { DelayDevice } from "../../block/layers/delay.ts";
import { FaultDevice } from "../../block/layers/fault.ts";
import { PassthroughDevice } from "../../block/layers/passthrough.ts";
import { systemClock } from "../../runtime/clock.ts";
import { blockDeviceContract, contractSizeBytes } from "../contract/block-device.ts";

const folder = mkdtempSync(join(tmpdir(), "splitsite-contract-"));
after(() => rmSync(folder, { recursive: true, force: true }));
let made = 0;

function newFile(): Promise<FileDevice> {
  made += 1;
  return openFileDevice({
    path: join(folder, `${made}.img`),
    sizeBytes: contractSizeBytes,
    create: "sparse",
  });
}

blockDeviceContract("a file", newFile);
blockDeviceContract("a passthrough layer", async () => new PassthroughDevice(await newFile()));
blockDeviceContract(
  "a fault layer that lets everything pass",
  async () => new FaultDevice(await newFile(), () => undefined),
);
blockDeviceContract(
  "a delay layer without delay",
  async () => new DelayDevice(await newFile(), systemClock, { readMs: 0, writeMs: 0, flushMs: 0 }),
);
