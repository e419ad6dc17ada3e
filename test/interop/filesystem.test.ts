/**
 * A file system lives through the loss of its site: what was synced and acknowledged is there after the failover, and
 * the file system checks clean. The file system's own journal is what a guest has; the standby gives it one prefix.
 */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import type { FileHandle } from "node:fs/promises";
import { open, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { NbdDisk, requireFilesystem } from "../support/filesystem.ts";
import { TwoSites } from "../support/sites.ts";

const mebibyte = 1 << 20;

async function syncing(
  path: string,
  flags: string,
  write?: (file: FileHandle) => Promise<void>,
): Promise<void> {
  const file = await open(path, flags);
  try {
    await write?.(file);
    await file.sync();
  } finally {
    // Behind a dead site even this may fail, and then there is nothing left to release.
    await file.close().catch(() => undefined);
  }
}

/** Writes a file whose name is the digest of its content, and syncs it and its folder. */
async function writeSynced(folder: string): Promise<string> {
  const data = randomBytes(1 + Math.floor(Math.random() * 40_000));
  const name = createHash("sha256").update(data).digest("hex");
  await syncing(join(folder, name), "wx", (file) => file.writeFile(data));
  await syncing(folder, "r");
  return name;
}

test("ext4 is clean after a failover and has every file that was synced and acknowledged", {
  skip: requireFilesystem(),
}, async (t) => {
  const sites = await TwoSites.create({ volumes: { data: 64 * mebibyte } });
  const disks: NbdDisk[] = [];
  t.after(async () => {
    for (const disk of disks) await disk.detach();
    await sites.dispose();
  });
  await Promise.all([sites.start("dr"), sites.start("primary")]);
  await sites.waitServing("primary");
  const home = await NbdDisk.attach(sites.uri("primary", "data"), join(sites.folder, "home"));
  disks.push(home);
  await home.format();
  await home.mount();
  const acknowledged: string[] = [];
  for (let count = 0; count < 40; count += 1) acknowledged.push(await writeSynced(home.mountPoint));
  await sites.waitIdle("primary", "dr");
  // From here on files may be lost with the site, but never half there.
  let killed = false;
  const more = (async () => {
    while (!killed) await writeSynced(home.mountPoint);
  })().catch(() => undefined);
  await new Promise((resolve) => setTimeout(resolve, 500));
  await sites.kill("primary");
  killed = true;
  await more;
  await home.detach();
  disks.pop();

  await sites.failover("dr");
  const promoted = await NbdDisk.attach(sites.uri("dr", "data"), join(sites.folder, "promoted"));
  disks.push(promoted);
  // Mounting replays the file system's journal, as after any power loss; then nothing may be wrong.
  await promoted.mount();
  const names = (await readdir(promoted.mountPoint)).filter((name) => /^[0-9a-f]{64}$/.test(name));
  for (const name of acknowledged)
    assert.ok(names.includes(name), `synced and acknowledged file ${name} is gone`);
  for (const name of acknowledged) {
    const data = await readFile(join(promoted.mountPoint, name));
    assert.equal(createHash("sha256").update(data).digest("hex"), name, "a synced file changed");
  }
  await writeSynced(promoted.mountPoint);
  await promoted.unmount();
  const checked = await promoted.check();
  assert.equal(checked.code, 0, checked.output);
  t.diagnostic(`${acknowledged.length} files acknowledged, ${names.length} there after the failover`);
});
