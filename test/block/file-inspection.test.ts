/** What can be told of an image before it is used: whether it holds data, and whether it is the same one. */
import assert from "node:assert/strict";
import { mkdtemp, open, rename, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { imageHoldsData, imageIdentity } from "../../block/image-inspection.ts";
import { errorCode } from "../../runtime/errors.ts";

const MiB = 1024 * 1024;
let folder = "";

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "splitsite-inspect-"));
});
after(() => rm(folder, { recursive: true, force: true }));

async function sparse(name: string, sizeBytes: number): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, "");
  await truncate(path, sizeBytes);
  return path;
}

async function put(path: string, at: number, bytes: Uint8Array): Promise<void> {
  const file = await open(path, "r+");
  await file.write(bytes, 0, bytes.byteLength, at);
  await file.close();
}

test("a missing, empty, sparse or zero-filled image holds no data", async () => {
  assert.equal(await imageHoldsData(join(folder, "absent.img"), MiB), false);
  assert.equal(await imageHoldsData(await sparse("empty.img", 0), MiB), false);
  assert.equal(await imageHoldsData(await sparse("sparse.img", 2 ** 40), 2 ** 40), false);
  const zeroed = await sparse("zeroed.img", 8 * MiB);
  await put(zeroed, 3 * MiB, Buffer.alloc(2 * MiB));
  let done = 0;
  assert.equal(
    await imageHoldsData(zeroed, 8 * MiB, (bytes) => {
      done = bytes;
    }),
    false,
  );
  assert.equal(done, 8 * MiB);
});

test("one byte anywhere is data", async () => {
  for (const at of [0, 4095, 5 * MiB + 17, 8 * MiB - 1]) {
    const path = await sparse(`byte-${at}.img`, 8 * MiB);
    await put(path, Math.max(0, at - 4096), Buffer.alloc(Math.min(at, 4096)));
    await put(path, at, Buffer.from([1]));
    assert.equal(await imageHoldsData(path, 8 * MiB), true, `byte at ${at}`);
  }
});

test("an image of another size is refused before it is judged", async () => {
  const path = await sparse("size.img", MiB);
  await assert.rejects(imageHoldsData(path, 2 * MiB), (error) => errorCode(error) === "IMAGE_SIZE");
});

test("F76: a file put in the place of another has another identity; one moved keeps its own", async () => {
  const first = await sparse("first.img", MiB);
  const second = await sparse("second.img", MiB);
  const identity = await imageIdentity(first);
  assert.equal(identity.kind, "file");
  assert.equal(identity.sizeBytes, MiB);
  await rename(first, join(folder, "moved.img"));
  await rename(second, first);
  assert.notDeepEqual(await imageIdentity(first), identity);
  assert.deepEqual(await imageIdentity(join(folder, "moved.img")), identity);
});
