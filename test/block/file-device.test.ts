/** The file device on real files: what it refuses to open, holes, latched syncs and writes in order. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import type { FileHandle } from "node:fs/promises";
import { mkdir, mkdtemp, open, rm, stat, symlink, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import fc from "fast-check";
import type { BlockChange } from "../../block/bulk-write.ts";
import { BlockErrno, BlockError } from "../../block/device.ts";
import { FileDevice, openFileDevice } from "../../block/file-device.ts";
import { errorCode } from "../../runtime/errors.ts";

const MiB = 1024 * 1024;
let folder = "";

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "splitsite-file-"));
});
after(() => rm(folder, { recursive: true, force: true }));

function rejectsWith(code: string, promise: Promise<unknown>): Promise<void> {
  return assert.rejects(promise, (error) => errorCode(error) === code);
}

const plain = { fua: false };

test("a new image is sparse, of exact size, private, and reads as zeroes", async () => {
  const path = join(folder, "new.img");
  const device = await openFileDevice({ path, sizeBytes: 64 * MiB, create: "sparse" });
  const stats = await stat(path);
  assert.equal(stats.size, 64 * MiB);
  assert.equal(stats.mode & 0o777, 0o600);
  assert(stats.blocks * 512 < MiB);
  assert((await device.read(MiB, 8192)).every((byte) => byte === 0));
  assert.deepEqual(await device.extents(0, 64 * MiB), [{ length: 64 * MiB, hole: true, zero: true }]);
  await device.close();
});

test("written bytes are read back, also after flush and reopening", async () => {
  const path = join(folder, "written.img");
  const first = await openFileDevice({ path, sizeBytes: MiB, create: "sparse" });
  const data = Buffer.alloc(8192, 5);
  await first.write(512, data, { fua: true });
  assert(data.equals(await first.read(512, 8192)));
  await first.flush();
  await first.close();
  const second = await openFileDevice({ path, sizeBytes: MiB, create: "never" });
  assert(data.equals(await second.read(512, 8192)));
  assert((await second.read(0, 512)).every((byte) => byte === 0));
  // Longer than what is tried in the page cache.
  assert.equal((await second.read(0, MiB)).byteLength, MiB);
  await second.close();
});

test("an image that is missing, linked, of another kind or of another size is refused", async () => {
  const file = join(folder, "real.img");
  await writeFile(file, Buffer.alloc(4096));
  await symlink(file, join(folder, "link.img"));
  await mkdir(join(folder, "directory.img"));
  execFileSync("mkfifo", [join(folder, "pipe.img")]);
  await truncate(file, 8192);
  const openIt = (name: string, sizeBytes: number, create: "sparse" | "never" = "never") =>
    openFileDevice({ path: join(folder, name), sizeBytes, create });
  await rejectsWith("IMAGE_MISSING", openIt("absent.img", 8192));
  await rejectsWith("IMAGE_KIND", openIt("link.img", 8192));
  await rejectsWith("IMAGE_KIND", openIt("link.img", 8192, "sparse"));
  await rejectsWith("IMAGE_UNREADABLE", openIt("directory.img", 8192));
  await rejectsWith("IMAGE_KIND", openIt("pipe.img", 8192));
  await rejectsWith("IMAGE_SIZE", openIt("real.img", 4096, "sparse"));
  await rejectsWith("IMAGE_SIZE", openIt("real.img", 16384, "sparse"));
  assert.equal((await stat(file)).size, 8192);
});

test("an empty file, left by a crash while it was made, is given its size", async () => {
  const path = join(folder, "empty.img");
  await writeFile(path, "");
  await rejectsWith("IMAGE_SIZE", openFileDevice({ path, sizeBytes: MiB, create: "never" }));
  await (await openFileDevice({ path, sizeBytes: MiB, create: "sparse" })).close();
  assert.equal((await stat(path)).size, MiB);
});

test("a device opened read-only refuses changes with EPERM", async () => {
  const path = join(folder, "read-only.img");
  await truncate(await made(path), MiB);
  const device = await openFileDevice({ path, sizeBytes: MiB, create: "never", readOnly: true });
  assert.equal(device.can.write, false);
  const refused = (error: unknown) => error instanceof BlockError && error.errno === BlockErrno.EPERM;
  await assert.rejects(device.write(0, Buffer.alloc(512), plain), refused);
  await assert.rejects(device.trim(0, 512, plain), refused);
  await assert.rejects(device.writeChanges([]), refused);
  await device.close();
});

async function made(path: string): Promise<string> {
  await writeFile(path, "");
  return path;
}

test("trim and zero leave zeroes and nothing else changed; trim frees the space", async () => {
  const path = join(folder, "trim.img");
  const device = await openFileDevice({ path, sizeBytes: 8 * MiB, create: "sparse" });
  await device.write(0, Buffer.alloc(8 * MiB, 1), { fua: true });
  const allocated = (await stat(path)).blocks;
  await device.trim(MiB + 512, 4 * MiB, { fua: true });
  await device.zero(6 * MiB + 512, 1024, { fua: false, mayTrim: false, fast: false });
  const bytes = Buffer.from(await device.read(0, 8 * MiB));
  const expected = Buffer.alloc(8 * MiB, 1);
  expected.fill(0, MiB + 512, 5 * MiB + 512);
  expected.fill(0, 6 * MiB + 512, 6 * MiB + 1536);
  assert(bytes.equals(expected));
  const extents = await device.extents(0, 8 * MiB);
  assert.equal(
    extents.reduce((sum, extent) => sum + extent.length, 0),
    8 * MiB,
  );
  if (device.can.fastZero) {
    assert((await stat(path)).blocks < allocated);
    assert(extents.some((extent) => extent.hole && extent.length >= 4 * MiB - 8192));
    await device.zero(0, MiB, { fua: false, mayTrim: true, fast: true });
    assert((await device.read(0, MiB)).every((byte) => byte === 0));
  }
  await device.close();
});

test("extents are clipped to what was asked", async () => {
  const path = join(folder, "extents.img");
  const device = await openFileDevice({ path, sizeBytes: 4 * MiB, create: "sparse" });
  await device.write(MiB, Buffer.alloc(MiB, 1), { fua: true });
  for (const [offset, length] of [
    [0, 512],
    [MiB - 512, 1024],
    [MiB + 512, 512],
    [2 * MiB - 512, 2 * MiB],
  ] as const) {
    const extents = await device.extents(offset, length);
    assert.equal(
      extents.reduce((sum, extent) => sum + extent.length, 0),
      length,
    );
    assert(extents.every((extent) => extent.length > 0));
  }
  await device.close();
});

test("many changes at once leave what they say, at any mix of lengths and zeroes", async () => {
  const sectors = 8192;
  const path = join(folder, "bulk.img");
  const device = await openFileDevice({ path, sizeBytes: sectors * 512, create: "sparse" });
  const model = Buffer.alloc(sectors * 512);
  const shapes = fc.array(
    fc.record({
      gap: fc.oneof(fc.constant(0), fc.nat(40)),
      length: fc.oneof(fc.constant(8), fc.integer({ min: 1, max: 64 }), fc.constantFrom(1024, 1025, 2500)),
      fill: fc.nat(255),
    }),
    { minLength: 1, maxLength: 80 },
  );
  await fc.assert(
    fc.asyncProperty(shapes, fc.constantFrom(0, 1024, 1536, 7 * 512), async (list, order) => {
      const changes: BlockChange[] = [];
      let sector = 0;
      for (const { gap, length, fill } of list) {
        sector += gap;
        if (sector + length > sectors) break;
        const offset = sector * 512;
        changes.push({
          offset,
          length: length * 512,
          data: fill === 0 ? null : Buffer.alloc(length * 512, fill),
        });
        model.fill(fill, offset, offset + length * 512);
        sector += length;
      }
      // Any order is allowed, so that neighbours may come apart and strangers together.
      await device.writeChanges(
        order === 0 ? changes : changes.toSorted((a, b) => (a.offset % order) - (b.offset % order)),
      );
      assert(model.equals(await device.read(0, model.byteLength)));
    }),
    // The device keeps its content from run to run, so a failing run cannot be shrunk.
    { numRuns: 60, endOnFailure: true },
  );
  await device.close();
});

test("writers of many devices at once share the slots and all come through", async () => {
  const devices = await Promise.all(
    Array.from({ length: 6 }, (_, index) =>
      openFileDevice({ path: join(folder, `many-${index}.img`), sizeBytes: 4 * MiB, create: "sparse" }),
    ),
  );
  await Promise.all(
    devices.map((device, index) =>
      device.writeChanges(
        Array.from({ length: 512 }, (_, block) => ({
          offset: block * 8192,
          length: 4096,
          data: Buffer.alloc(4096, index + 1),
        })),
      ),
    ),
  );
  for (const [index, device] of devices.entries()) {
    const bytes = await device.read(0, 4 * MiB);
    for (let block = 0; block < 1024; block += 1) {
      assert.equal(bytes[block * 4096], block % 2 === 0 ? index + 1 : 0);
      assert.equal(bytes[block * 4096 + 4095], block % 2 === 0 ? index + 1 : 0);
    }
    await device.close();
  }
});

test("a close waits for changes under way and later requests are refused", async () => {
  const path = join(folder, "closing.img");
  const device = await openFileDevice({ path, sizeBytes: 8 * MiB, create: "sparse" });
  const writing = device.writeChanges([{ offset: 0, length: 8 * MiB, data: Buffer.alloc(8 * MiB, 6) }]);
  await device.close();
  await writing;
  await assert.rejects(
    device.read(0, 512),
    (error) => error instanceof BlockError && error.errno === BlockErrno.ESHUTDOWN,
  );
  const file = await open(path);
  const { buffer } = await file.read(Buffer.alloc(4096), 0, 4096, 8 * MiB - 4096);
  assert(buffer.every((byte) => byte === 6));
  await file.close();
});

test("after one failed flush everything fails, although the disk would take it", async (t) => {
  const path = join(folder, "lost.img");
  const device = await openFileDevice({ path, sizeBytes: MiB, create: "sparse" });
  const handle = await open(path);
  const failing = t.mock.method(Object.getPrototypeOf(handle) as FileHandle, "datasync", () =>
    Promise.reject(Object.assign(new Error("lost"), { code: "EIO" })),
  );
  const broken = (error: unknown) => error instanceof BlockError && error.errno === BlockErrno.EIO;
  await assert.rejects(device.flush(), broken);
  failing.mock.restore();
  await assert.rejects(device.flush(), broken);
  await assert.rejects(device.read(0, 512), broken);
  await assert.rejects(device.write(0, Buffer.alloc(512), plain), broken);
  await assert.rejects(device.writeChanges([]), broken);
  await assert.rejects(device.trim(0, 512, plain), broken);
  await handle.close();
  await device.close();
});

test("a full file system is told as ENOSPC", {
  skip: process.platform === "linux" ? false : "needs /dev/full",
}, async () => {
  const file = await open("/dev/full", "r+");
  const device = new FileDevice(file, "/dev/full", MiB, false, true);
  const full = (error: unknown) => error instanceof BlockError && error.errno === BlockErrno.ENOSPC;
  await assert.rejects(device.write(0, Buffer.alloc(4096), plain), full);
  await assert.rejects(device.writeChanges([{ offset: 0, length: 4096, data: Buffer.alloc(4096) }]), full);
  await assert.rejects(device.writeChanges([{ offset: 0, length: MiB, data: null }]), full);
  // /dev/full cannot be synced: the failure is remembered and everything fails from then on.
  const broken = (error: unknown) => error instanceof BlockError && error.errno === BlockErrno.EIO;
  await assert.rejects(device.flush(), broken);
  await assert.rejects(device.flush(), broken);
  await assert.rejects(device.read(0, 512), broken);
  await assert.rejects(device.write(0, Buffer.alloc(512), plain), broken);
  await device.close();
});
