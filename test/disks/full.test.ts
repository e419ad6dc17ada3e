/**
 * F20, F21, F22: file systems that are full for real, under the running product, and get their space back. Writes wait
 * or the standby says why it takes no more; nothing answered is lost, nothing has to be done by hand, and the other
 * group of the same sites never notices.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { seedFromEnvironment } from "../support/seeded.ts";
import { SmallDisk, smallDisksImpossible } from "../support/small-disk.ts";
import { DiskRig } from "./rig.ts";

const seed = seedFromEnvironment();
const skip = smallDisksImpossible();
const mebibyte = 1 << 20;
/** What is answered while nothing can be journalled needs no journal: reads, and FLUSH of what is durable. */
const answeredHeldMax = 8;
const fillsMax = 5;
const rounds = Number(process.env["SPLITSITE_DISK_ROUNDS"] ?? 2);

for (const durability of ["flush", "write"] as const) {
  test(`a full file system under the journal only makes writes wait, durability ${durability} (F20, F21, SEED=${seed})`, {
    skip,
  }, async (t) => {
    let disk: SmallDisk | undefined;
    const rig = await DiskRig.start({
      seed,
      durability,
      homeImagesApart: true,
      prepare: async ({ primary }) => {
        disk = await SmallDisk.mount(join(primary, "agent", "erp"), 48 * mebibyte);
      },
      clean: async () => disk?.unmount(),
    });
    t.after(() => rig.dispose());
    assert.ok(disk);
    let poisoned = 0;
    for (let round = 0; round < rounds; round += 1) {
      const before = rig.sites.log("primary").split("ENGINE_FAILED").length;
      // Opening the journal again merges tables and gives space back, which writes may use: full is what stays full.
      for (let fills = 1, answered = -1; rig.spoilt.answered > answered + answeredHeldMax; fills += 1) {
        assert.ok(fills <= fillsMax, "writes were answered without a journal");
        disk.fill();
        const held = await rig.ownerShows("held writes", ({ io }) => io === "held");
        assert.notEqual(held.reason, null);
        assert.equal(held.state, "at-risk");
        answered = rig.spoilt.answered;
        await rig.soundGoesOn();
      }
      assert.equal(rig.spoilt.record.count("refused"), 0);
      disk.free();
      await rig.ownerShows("served writes", ({ io }) => io === "serving");
      await rig.spoilt.progress(20);
      poisoned += rig.sites.log("primary").split("ENGINE_FAILED").length - before;
    }
    assert.ok(poisoned > 0, "no put ever met the full disk: only the reserve was tested");
    // What is on disk is what was answered, whatever the page cache of the process said.
    await rig.spoilt.end();
    await rig.sites.kill("primary");
    if (rig.sound.running) await rig.sound.cutOff();
    await rig.sites.start("primary");
    for (const load of [rig.spoilt, rig.sound]) {
      await rig.sites.waitServing("primary", load.group);
      await load.checkHome("after a kill", "kill");
    }
    t.diagnostic(`${rounds} rounds, ${poisoned} failed puts or syncs; ${await rig.finish(true)}`);
  });
}

test(`a full file system under the standby's intake or images stops it honestly, until there is space (F22, SEED=${seed})`, {
  skip,
}, async (t) => {
  const disks: SmallDisk[] = [];
  const rig = await DiskRig.start({
    seed,
    prepare: async ({ dr }) => {
      disks.push(await SmallDisk.mount(join(dr, "gateway", "erp"), 48 * mebibyte));
      disks.push(await SmallDisk.mount(join(dr, "gateway", "erp", "images"), 5 * mebibyte));
    },
    clean: async () => {
      for (const disk of disks.reverse()) await disk.unmount();
    },
  });
  t.after(() => rig.dispose());
  const [intake, images] = disks as [SmallDisk, SmallDisk];
  // The images are sparse files, hardly written yet: the space they have not taken is what is missing.
  images.fill();
  const shown = await rig.standbyShows("that it cannot apply", ({ reason }) =>
    /^IMAGE/.test(reason?.code ?? ""),
  );
  assert.equal(shown.state, "stopped");
  assert.ok(shown.position.applied < shown.position.received, JSON.stringify(shown.position));
  t.diagnostic(`images full: standby shows ${shown.reason?.code}`);
  await rig.soundGoesOn();
  await rig.spoilt.progress(20);
  const { position: later } = await rig.sites.standby("dr", "erp");
  assert.equal(later.applied, shown.position.applied, "applied without space");
  images.free();
  await rig.standbyShows("that it applies again", ({ position }) => position.applied > later.applied);
  for (let round = 0; round < rounds; round += 1) {
    intake.fill();
    const stuck = await rig.ownerShows("that the standby takes no more", ({ reason }) => reason !== null);
    assert.equal(stuck.io, "serving");
    t.diagnostic(`intake full: owner shows ${stuck.reason?.code}`);
    await rig.spoilt.progress(20);
    await rig.soundGoesOn();
    const { position } = await rig.sites.standby("dr", "erp");
    assert.ok(position.applied <= position.durable, JSON.stringify(position));
    intake.free();
    await rig.protectedAgain();
  }
  t.diagnostic(await rig.finish(true));
});
