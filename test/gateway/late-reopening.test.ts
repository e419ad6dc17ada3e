/**
 * An intake that could not be opened is tried again after a pause. When a failover has opened it meanwhile and handed the
 * images over, they are the agent's: the pause that ends afterwards must open nothing (simulation, seed 2438).
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { systemImageFiles } from "../../block/image-files.ts";
import { StandbyGroup } from "../../gateway/group.ts";
import { levelEngine } from "../../journal/level-engine.ts";
import { openLevelOrderedStore } from "../../journal/level-ordered-store.ts";
import type { AdoptedExport, HandoverRecord } from "../../protocol/handover.ts";
import type { Clock } from "../../runtime/clock.ts";
import { systemClock } from "../../runtime/clock.ts";
import { systemDisk } from "../../runtime/disk.ts";
import { silentLog } from "../../runtime/log.ts";
import { gatewayGroupPaths } from "../../runtime/paths.ts";
import { groupSettings } from "../support/group-settings.ts";
import { diskError } from "../support/hooked-disk.ts";
import { mebibyte, Source, volumes } from "./standby-site.ts";

test("a late reopening of the intake leaves images alone that were handed over", async () => {
  const dataDir = mkdtempSync(join(tmpdir(), "splitsite-late-"));
  const paths = gatewayGroupPaths(dataDir, "erp");
  const adopted: HandoverRecord[] = [];
  let isBroken = false;
  let imagesOpened = 0;
  const pauses: (() => void)[] = [];
  const life = (clock: Clock): StandbyGroup =>
    new StandbyGroup({
      site: "dr",
      dataDir,
      settings: groupSettings({ volumes, overflow: "track" }),
      limits: {
        bytesMax: 64 * mebibyte,
        reserveBytes: 0,
        memoryTailBytes: 4 * mebibyte,
        writeBufferBytes: mebibyte,
      },
      target: {
        adopt: async (record): Promise<AdoptedExport[]> => {
          adopted.push(record);
          return [];
        },
      },
      storage: {
        disk: {
          ...systemDisk,
          readFile: (path) => {
            if (isBroken && path === paths.intakeWatermark) throw diskError("EIO");
            return systemDisk.readFile(path);
          },
        },
        images: {
          ...systemImageFiles,
          open: (options) => {
            imagesOpened += 1;
            return systemImageFiles.open(options);
          },
        },
        stores: levelEngine,
        openIndex: (directory) => openLevelOrderedStore(directory, silentLog),
        bootId: "11111111-1111-4111-8111-111111111111",
      },
      clock,
      log: silentLog,
    });
  try {
    // A first life that ends right behind the fence.
    const first = life(systemClock);
    await first.start();
    const answer = await first.hello(new Source(5).hello());
    assert.equal(answer.kind, "attached");
    await first.failover.raiseToken("the building is gone");
    await first.close();

    // A second one that cannot open the intake: not for itself, and not for the failover that it resumes.
    isBroken = true;
    const second = life({
      ...systemClock,
      after: (_delayMs, run) => {
        pauses.push(run);
        return { cancel: () => void pauses.splice(pauses.indexOf(run) >>> 0, 1) };
      },
    });
    await second.start();
    await second.runner.idle();
    assert.equal(second.status().reason?.code, "JOURNAL_OPEN_FAILED");
    assert.ok(pauses.length > 0, "it is tried again after a pause");

    // The disk is well, the failover is run again before the pause ends, and the pause ends afterwards.
    isBroken = false;
    for await (const _line of second.runner.run("again")) {
      // Steps are of no interest here.
    }
    assert.equal(adopted.length, 1);
    imagesOpened = 0;
    for (const ended of pauses.splice(0)) ended();
    await second.hello(new Source(6).hello());
    assert.equal(imagesOpened, 0, "images that are the agent's are not opened");
    assert.equal(second.past, undefined);
    assert.equal(second.status().state, "fenced");
    await second.close();
  } finally {
    rmSync(dataDir, { recursive: true, force: true });
  }
});
