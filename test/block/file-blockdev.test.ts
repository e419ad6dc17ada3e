/** The file device on a real loop device: a block device behaves as a file does, and is never grown or made. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { openFileDevice } from "../../block/file-device.ts";
import { imageHoldsData, imageIdentity } from "../../block/image-inspection.ts";
import { errorCode, errorText } from "../../runtime/errors.ts";

const MiB = 1024 * 1024;
const sizeBytes = 32 * MiB;

/** A loop device over the file, or why there is none here. */
function attachLoop(path: string): { device: string } | { missing: string } {
  try {
    return {
      device: execFileSync("losetup", ["--find", "--show", path], { encoding: "utf8", stdio: "pipe" }).trim(),
    };
  } catch (error) {
    return { missing: `no loop device to be had: ${errorText(error).split("\n")[0]}` };
  }
}

test("a block device of the host is an image: size by its end, zeroes by the kernel, flushes", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "splitsite-loop-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const backing = join(folder, "backing");
  await writeFile(backing, "");
  await truncate(backing, sizeBytes);
  const loop = attachLoop(backing);
  if ("missing" in loop) {
    t.skip(loop.missing);
    return;
  }
  try {
    const options = { path: loop.device, create: "sparse" } as const;
    await assert.rejects(
      openFileDevice({ ...options, sizeBytes: 2 * sizeBytes }),
      (error) => errorCode(error) === "IMAGE_SIZE",
    );
    const { kind, sizeBytes: found } = await imageIdentity(loop.device);
    assert.deepEqual([kind, found], ["device", sizeBytes]);
    assert.equal(await imageHoldsData(loop.device, sizeBytes), false);

    const device = await openFileDevice({ ...options, sizeBytes });
    const model = Buffer.alloc(sizeBytes);
    model.fill(1, 0, 8 * MiB);
    await device.write(0, model.subarray(0, 8 * MiB), { fua: true });
    await device.writeChanges([
      { offset: 512, length: 4096, data: Buffer.alloc(4096, 2) },
      { offset: MiB, length: 2 * MiB, data: null },
      { offset: 16 * MiB, length: 512, data: Buffer.alloc(512, 3) },
    ]);
    model
      .fill(2, 512, 4608)
      .fill(0, MiB, 3 * MiB)
      .fill(3, 16 * MiB, 16 * MiB + 512);
    await device.trim(4 * MiB + 512, MiB, { fua: false });
    await device.zero(6 * MiB, MiB, { fua: true, mayTrim: false, fast: false });
    model.fill(0, 4 * MiB + 512, 5 * MiB + 512).fill(0, 6 * MiB, 7 * MiB);
    await device.flush();
    assert(model.equals(await device.read(0, sizeBytes)));
    assert.deepEqual(await device.extents(0, sizeBytes), [{ length: sizeBytes, hole: false, zero: false }]);
    await device.close();
    assert.equal(await imageHoldsData(loop.device, sizeBytes), true);
  } finally {
    execFileSync("losetup", ["--detach", loop.device]);
  }
});
