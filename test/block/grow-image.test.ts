/** Growing an image: what is new reads as zeroes and what was there is untouched, on files and on a real loop device. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtemp, readFile, rm, stat, symlink, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { openFileDevice } from "../../block/file-device.ts";
import { growImage } from "../../block/grow-image.ts";
import { errorCode, errorText } from "../../runtime/errors.ts";

const MiB = 1024 * 1024;
const refusedAs = (code: string) => (error: unknown) => errorCode(error) === code;

async function withFolder(use: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "splitsite-grow-"));
  try {
    await use(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

test("a file grows sparse; whatever stood behind the volume is gone, and it is the same file", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "image");
    for (const behind of [0, 512, MiB, 3 * MiB]) {
      await writeFile(path, Buffer.concat([Buffer.alloc(MiB, 1), Buffer.alloc(behind, 2)]));
      const before = await stat(path);
      for (let again = 0; again < 2; again += 1) await growImage({ path, fromBytes: MiB, toBytes: 2 * MiB });
      const after = await stat(path);
      assert.equal(after.ino, before.ino);
      assert.ok(after.blocks * 512 < MiB + 64 * 1024, "sparse");
      const expected = Buffer.concat([Buffer.alloc(MiB, 1), Buffer.alloc(MiB)]);
      assert.ok(expected.equals(await readFile(path)), `${behind} bytes stood behind`);
    }
  });
});

test("what is no image of the volume is not grown", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "image");
    const order = { path, fromBytes: MiB, toBytes: 2 * MiB };
    await assert.rejects(growImage(order), refusedAs("IMAGE_MISSING"));
    await writeFile(path, Buffer.alloc(MiB - 512));
    await assert.rejects(growImage(order), refusedAs("IMAGE_SIZE"));
    await symlink(path, join(folder, "link"));
    await assert.rejects(growImage({ ...order, path: join(folder, "link") }), refusedAs("IMAGE_UNREADABLE"));
  });
});

test("a longer image is opened as long as its volume where that is allowed, and only there", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "image");
    await writeFile(path, Buffer.alloc(MiB + 512));
    const options = { path, sizeBytes: MiB, create: "never" } as const;
    await assert.rejects(openFileDevice(options), refusedAs("IMAGE_SIZE"));
    await assert.rejects(
      openFileDevice({ ...options, sizeBytes: 2 * MiB, longer: "opened" }),
      refusedAs("IMAGE_SIZE"),
    );
    const device = await openFileDevice({ ...options, longer: "opened" });
    assert.equal(device.sizeBytes, MiB);
    await device.close();
  });
});

test("a block device's new range is zeroed, when the device has its size", async (t) => {
  await withFolder(async (folder) => {
    const backing = join(folder, "backing");
    await writeFile(backing, Buffer.alloc(3 * MiB, 7));
    let device: string;
    try {
      const attach = ["--find", "--show", backing];
      device = execFileSync("losetup", attach, { encoding: "utf8", stdio: "pipe" }).trim();
    } catch (error) {
      t.skip(`no loop device to be had: ${errorText(error).split("\n")[0]}`);
      return;
    }
    try {
      await assert.rejects(
        growImage({ path: device, fromBytes: MiB, toBytes: 2 * MiB }),
        refusedAs("IMAGE_SIZE"),
      );
      const progress: number[] = [];
      const stopped = new Error("stopped");
      await assert.rejects(
        growImage({
          path: device,
          fromBytes: MiB,
          toBytes: 3 * MiB,
          onProgress: (done) => {
            progress.push(done);
            throw stopped;
          },
        }),
        stopped,
      );
      await growImage({ path: device, fromBytes: MiB, toBytes: 3 * MiB });
      assert.deepEqual(progress, [2 * MiB]);
      const expected = Buffer.concat([Buffer.alloc(MiB, 7), Buffer.alloc(2 * MiB)]);
      assert.ok(expected.equals(await readFile(device)));
    } finally {
      execFileSync("losetup", ["--detach", device]);
    }
    await truncate(backing, 0);
  });
});
