/**
 * F23 to F27, F33: disks that fail or hang under the running product. The group on the failing disk says so within 15 s
 * and gives no answer that is not true; the other group of the same sites never notices; when the disk is sound again,
 * everything promised is there and both sides become equal.
 */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmdirSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { TestContext } from "node:test";
import { test } from "node:test";
import { OwnBoot } from "../support/own-boot.ts";
import { PowerCutDisk, powerCutsImpossible } from "../support/power-cut.ts";
import { SeededRandom, seedFromEnvironment } from "../support/seeded.ts";
import type { SiteName } from "../support/sites.ts";
import { requireTools } from "../support/tools.ts";
import { DiskRig } from "./rig.ts";

const seed = seedFromEnvironment();
const skip = powerCutsImpossible() || requireTools("unshare");
const mebibyte = 1 << 20;
/** Failing calls tried at each site. */
const tries = Number(process.env["SPLITSITE_DISK_ROUNDS"] ?? 1);

interface Faulty {
  readonly rig: DiskRig;
  readonly disk: PowerCutDisk;
  /** The machine of `site` after its disk was replaced by a sound one with what had reached it: a new boot. */
  readonly repair: () => Promise<void>;
}

/** A rig in which `place` below the data folder of `site` lies on a disk that can fail. */
async function faulty(
  t: TestContext,
  site: SiteName,
  place: readonly string[],
  durability: "flush" | "write" = "flush",
): Promise<Faulty> {
  const disk = await PowerCutDisk.make(128 * mebibyte);
  const boots = mkdtempSync(join(tmpdir(), "splitsite-boots-"));
  let started: DiskRig | undefined;
  t.after(async () => {
    // A test that fails while the disk hangs: a process that waits for it would outlive its kill.
    await disk.hang(false);
    // Processes first: they keep the disk busy.
    await started?.dispose();
    await disk.destroy();
    rmSync(boots, { recursive: true, force: true });
  });
  await disk.powerOn();
  rmdirSync(join(disk.mountPoint, "lost+found"));
  const boot = new OwnBoot(join(boots, "boot"), disk.mountPoint);
  const rig = await DiskRig.start({
    seed,
    durability,
    homeImagesApart: site === "primary" && !place.includes("images"),
    prepare: async (dataDirs) => {
      const path = join(dataDirs[site], ...place);
      mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
      symlinkSync(disk.mountPoint, path);
    },
    sites: { launch: (launched) => (launched === site ? boot.launch() : []) },
  });
  started = rig;
  const repair = async () => {
    await rig.sites.kill(site);
    if (site === "primary") {
      for (const load of [rig.spoilt, rig.sound]) if (load.running) await load.cutOff();
    }
    await disk.takeDown();
    await disk.powerOn();
    boot.reboot();
    await rig.sites.start(site);
    if (site !== "primary") return;
    for (const load of [rig.spoilt, rig.sound]) {
      await rig.sites.waitServing(site, load.group);
      await load.checkHome("after the repair", "power-loss");
    }
  };
  return { rig, disk, repair };
}

/** After the repair: new work gets through, and both sides become equal. */
async function worksAgain(rig: DiskRig): Promise<string> {
  for (const load of [rig.spoilt, rig.sound]) {
    if (!load.running) await load.start();
    await load.progress(20);
  }
  return rig.finish(true);
}

for (const durability of ["flush", "write"] as const) {
  test(`a journal whose writes fail gives no further OK, durability ${durability} (F23, SEED=${seed})`, {
    skip,
  }, async (t) => {
    const { rig, disk, repair } = await faulty(t, "primary", ["agent", "erp"], durability);
    disk.failWrites(true);
    const shown = await rig.ownerShows("the failing journal", ({ io }) => io !== "serving");
    assert.notEqual(shown.state, "protected");
    await rig.soundGoesOn();
    t.diagnostic(`owner: ${shown.state}, ${shown.io}, ${shown.reason?.code}`);
    await repair();
    t.diagnostic(await worksAgain(rig));
  });
}

test(`local images whose writes fail are not believed, and the journal mends them (F24, SEED=${seed})`, {
  skip,
}, async (t) => {
  const { rig, disk, repair } = await faulty(t, "primary", ["agent", "erp", "images"]);
  disk.failWrites(true);
  const shown = await rig.ownerShows("the failing images", ({ io }) => io !== "serving");
  t.diagnostic(`owner: ${shown.state}, ${shown.io}, ${shown.reason?.code}`);
  await rig.soundGoesOn();
  await repair();
  t.diagnostic(await worksAgain(rig));
});

test(`standby images whose writes fail stop apply, and no write is skipped (F25, SEED=${seed})`, {
  skip,
}, async (t) => {
  const { rig, disk, repair } = await faulty(t, "dr", ["gateway", "erp", "images"]);
  disk.failWrites(true);
  const shown = await rig.standbyShows("the failing images", ({ reason }) =>
    /^(IMAGE|MARKER)/.test(reason?.code ?? ""),
  );
  t.diagnostic(`standby: ${shown.state}, ${shown.reason?.code}`);
  const { applied } = shown.position;
  await rig.spoilt.progress(20);
  await rig.soundGoesOn();
  assert.equal((await rig.sites.standby("dr", "erp")).position.applied, applied, "applied to a dead disk");
  await repair();
  t.diagnostic(await worksAgain(rig));
});

test(`a file system that turns read-only stops its group with a reason (F33, SEED=${seed})`, {
  skip,
}, async (t) => {
  const { rig, disk, repair } = await faulty(t, "primary", ["agent", "erp"]);
  await disk.abort();
  const shown = await rig.ownerShows("the read-only file system", ({ io }) => io !== "serving");
  t.diagnostic(`owner: ${shown.state}, ${shown.io}, ${shown.reason?.code}`);
  await rig.soundGoesOn();
  await repair();
  t.diagnostic(await worksAgain(rig));
});

test(`a disk that hangs holds its own group and no other, and nothing is answered early (F27, SEED=${seed})`, {
  skip,
}, async (t) => {
  const { rig, disk } = await faulty(t, "primary", ["agent", "erp"], "write");
  for (let round = 0; round < 2; round += 1) {
    await disk.hang(true);
    // Requests that were being answered as the disk stopped are told apart from those that need it.
    await rig.sound.progress(20);
    const { answered } = rig.spoilt;
    await rig.sound.progress(60);
    assert.ok(rig.spoilt.answered <= answered + 8, "writes were answered by a disk that hangs");
    await rig.soundGoesOn();
    await disk.hang(false);
    await rig.spoilt.progress(20);
  }
  t.diagnostic(await worksAgain(rig));
});

for (const [site, count] of [
  ["primary", tries],
  ["dr", tries],
] as const) {
  test(`one sync that fails once at ${site} is not repeated and believed (F26, SEED=${seed})`, {
    skip: requireTools("strace"),
  }, async (t) => {
    const random = new SeededRandom(seed, site === "primary" ? 11 : 12);
    let failed = 0;
    for (let at = 0; at < count; at += 1) {
      // Early enough that the load reaches it, late enough that creation is over. One thread makes all calls.
      const call = 60 + random.below(60);
      const rig = await DiskRig.start({
        seed: seed + at,
        sites: {
          launch: (launched) =>
            launched === site
              ? [
                  ...[
                    "env",
                    "UV_THREADPOOL_SIZE=1",
                    "strace",
                    "-f",
                    "--seccomp-bpf",
                    "-qq",
                    "-o",
                    "/dev/null",
                  ],
                  ...["-e", "trace=fdatasync", "-e", `inject=fdatasync:error=EIO:when=${call}`],
                ]
              : [],
        },
      });
      try {
        await rig.spoilt.progress(150);
        await rig.sound.progress(150);
        const log = rig.sites.log(site);
        const noticed = /EIO/.test(log);
        if (noticed) failed += 1;
        t.diagnostic(
          `call ${call}: ${/"(JOURNAL_POISONED|IMAGE_SYNC_FAILED|MARKER\w*|IMAGE_MARKER_FAILED)"/.exec(log)?.[1] ?? "unnoticed"}; ${await rig.finish(true)}`,
        );
      } finally {
        await rig.dispose();
      }
    }
    assert.ok(failed > 0, "no sync failed");
  });
}
