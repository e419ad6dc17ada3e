/**
 * In which order a standby's durable steps happen, from the batch to the hand-over, with a step held back where only its
 * absence tells: nothing is acknowledged, applied, told, trimmed, sealed or handed over before what it rests on is durable.
 * Faults F05 F08 F11..F14; invariants N1, X1..X4.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import type { ImageFiles } from "../../block/image-files.ts";
import { systemImageFiles } from "../../block/image-files.ts";
import { StandbyGroup } from "../../gateway/group.ts";
import { OpenStandby } from "../../gateway/open-standby.ts";
import { parseStandbyDocument, type StandbyDocument } from "../../gateway/state.ts";
import type { StandbyStorage } from "../../gateway/storage.ts";
import { levelEngine } from "../../journal/level-engine.ts";
import { openLevelOrderedStore } from "../../journal/level-ordered-store.ts";
import { encodeBatch } from "../../protocol/batch.ts";
import type { BatchAnswer } from "../../protocol/control.ts";
import type { Frame } from "../../protocol/frame.ts";
import { systemClock } from "../../runtime/clock.ts";
import type { Disk, DiskFile } from "../../runtime/disk.ts";
import { systemDisk } from "../../runtime/disk.ts";
import { readDocument, writeDocument } from "../../runtime/durable-document.ts";
import { observeDisk, observeImages, observeIndexes, observeStores } from "../../runtime/failpoints.ts";
import { silentLog } from "../../runtime/log.ts";
import { gatewayGroupPaths } from "../../runtime/paths.ts";
import type { GroupSettings } from "../../runtime/settings/types.ts";
import { Door } from "../support/door.ts";
import { groupSettings } from "../support/group-settings.ts";
import { diskError } from "../support/hooked-disk.ts";
import { until } from "../support/wait.ts";
import { batchRequest } from "./batch-request.ts";
import { mebibyte, Source, volumes } from "./standby-site.ts";

const limits = {
  // So little that six frames are a slice, which leaves the store behind the step that applied them.
  bytesMax: mebibyte / 2,
  reserveBytes: 0,
  memoryTailBytes: 4 * mebibyte,
  writeBufferBytes: mebibyte,
};
const settings: GroupSettings = groupSettings({ volumes });

/** A standby on real files whose steps are noted, with a door before the sync of its log and of its images. */
class Standby {
  readonly dataDir = mkdtempSync(join(tmpdir(), "splitsite-order-"));
  readonly paths = gatewayGroupPaths(this.dataDir, "erp");
  readonly source = new Source(17);
  readonly steps: string[] = [];
  readonly logSync = new Door();
  readonly imageSync = new Door();
  /** Before the state document gets its name. */
  readonly stateRename = new Door();
  /** Timers that have come wait here: the pace between two apply steps. */
  readonly pace = new Door();
  /** Nothing more fits on the disk of the history. */
  historyIsFull = false;
  readonly storage: StandbyStorage;
  group: StandbyGroup;

  constructor() {
    const hook = (name: string): void => {
      if (name.endsWith(".after")) this.steps.push(name.slice("gateway.".length, -".after".length));
    };
    this.storage = {
      disk: observeDisk(this.#disk(), "gateway", hook),
      images: observeImages(this.#images(), "gateway", hook),
      stores: observeStores(levelEngine, "gateway", hook),
      openIndex: observeIndexes((directory) => openLevelOrderedStore(directory, silentLog), "gateway", hook),
      bootId: "11111111-1111-4111-8111-111111111111",
    };
    this.group = new StandbyGroup({
      site: "dr",
      dataDir: this.dataDir,
      settings,
      limits,
      target: null,
      storage: this.storage,
      clock: {
        ...systemClock,
        after: (delayMs, run) => systemClock.after(delayMs, () => void this.pace.pass().then(run)),
      },
      log: silentLog,
    });
  }

  #disk(): Disk {
    const held = (file: DiskFile): DiskFile => ({
      ...file,
      syncData: async () => {
        await this.logSync.pass();
        await file.syncData();
      },
    });
    return {
      ...systemDisk,
      rename: async (from, to) => {
        if (to === this.paths.state) await this.stateRename.pass();
        await systemDisk.rename(from, to);
      },
      open: async (path, mode) => {
        const file = await systemDisk.open(path, mode);
        if (path.includes("/segments/")) return this.#filling(file);
        return path.endsWith(".log") ? held(file) : file;
      },
    };
  }

  #filling(file: DiskFile): DiskFile {
    return {
      ...file,
      write: async (position, bytes) => {
        if (this.historyIsFull) throw diskError("ENOSPC");
        await file.write(position, bytes);
      },
    };
  }

  #images(): ImageFiles {
    return {
      ...systemImageFiles,
      open: async (options) => {
        const device = await systemImageFiles.open(options);
        return new Proxy(device, {
          get: (from, name) => {
            const real: unknown = Reflect.get(from, name, from);
            if (typeof real !== "function") return real;
            return async (...args: unknown[]) => {
              if (name === "flush") await this.imageSync.pass();
              const result: unknown = await Reflect.apply(real, from, args);
              if (name === "close") this.steps.push("image.close");
              return result;
            };
          },
        });
      },
    };
  }

  /** Made, attached, nothing received. */
  async attach(): Promise<void> {
    await this.group.start();
    const answer = await this.group.hello(this.source.hello());
    assert.equal(answer.kind, "attached");
    this.steps.length = 0;
  }

  async batch(frames: readonly Frame[]): Promise<BatchAnswer> {
    const bytes = await encodeBatch(frames, this.source.token, "none");
    const answer = await this.group.batch(batchRequest(bytes, "primary"), "primary");
    assert.ok("json" in answer);
    const json = answer.json as BatchAnswer;
    this.steps.push(json.kind);
    return json;
  }

  /** What the owner is told: durable and applied. */
  told(): { durable: number; applied: number } {
    const answer = this.group.heartbeat(this.source.heartbeat());
    assert.equal(answer.kind, "alive");
    return answer;
  }

  async applied(sequence: number): Promise<void> {
    await until("applied", () => (this.told().applied >= sequence ? true : undefined));
  }

  async document(): Promise<StandbyDocument> {
    return (await readDocument(systemDisk, this.paths.state, parseStandbyDocument))!;
  }
}

let standby: Standby;
beforeEach(async () => {
  standby = new Standby();
  await standby.attach();
});
afterEach(async () => {
  standby.logSync.open();
  standby.imageSync.open();
  standby.pace.open();
  await standby.group.close();
  rmSync(standby.dataDir, { recursive: true, force: true });
});

/** Everything that needs no door has happened: as long as it takes to make three documents durable on this disk. */
async function settled(): Promise<void> {
  for (let round = 0; round < 3; round += 1)
    await writeDocument(systemDisk, join(standby.dataDir, "tick.json"), { round });
}

/** The wanted steps in their order, each found behind the one before it. */
function assertOrder(steps: readonly string[], wanted: readonly string[]): void {
  let from = 0;
  for (const step of wanted) {
    const at = steps.indexOf(step, from);
    assert.ok(at >= 0, `${step} is missing or too early in: ${steps.join(", ")}`);
    from = at + 1;
  }
}

test("a batch is acknowledged when the intake and its promise are synced, and not before", async () => {
  standby.logSync.close();
  const answer = standby.batch(standby.source.write(2));
  await until("the sync", () => (standby.logSync.waiting > 0 ? true : undefined));
  await settled();
  assert.ok(!standby.steps.includes("acknowledged"), standby.steps.join(", "));
  assert.equal(standby.told().durable, 0);
  standby.logSync.open();
  assert.equal((await answer).kind, "acknowledged");
  assertOrder(standby.steps, [
    "store.putFrame",
    "intake-log.syncData",
    "intake-watermark.syncData",
    "acknowledged",
  ]);
});

test("an apply step: intention, history, images, their sync, marker, and only then the intake gives the records up", async () => {
  await standby.batch(standby.source.write(6));
  await standby.applied(standby.source.last);
  await until("the trim", () => (standby.steps.includes("store.deleteFrames") ? true : undefined));
  const step = standby.steps.slice(standby.steps.indexOf("intake-watermark.syncData") + 1);
  assertOrder(step, [
    "applied.syncData",
    // The first step begins the history, durably, and its first segment.
    "pins.sync",
    "pins.rename",
    "segments.sync",
    "segment.syncData",
    "index.write",
    "image.writeChanges",
    "image.flush",
    "applied.syncData",
    "store.putHead",
    "store.deleteFrames",
  ]);
  assert.equal(step.filter((name) => name === "applied.syncData").length, 2, step.join(", "));
  assert.ok(step.indexOf("applied.syncData") < step.indexOf("image.writeChanges"));
  assert.ok(step.indexOf("segment.syncData") < step.indexOf("image.writeChanges"), step.join(", "));
  assert.ok(step.lastIndexOf("applied.syncData") < step.indexOf("store.putHead"), step.join(", "));
});

test("a history that cannot be written holds apply with its reason, changes nothing, and goes on by itself", async () => {
  await standby.batch(standby.source.write(1));
  await standby.applied(standby.source.last);
  const before = standby.source.last;
  standby.historyIsFull = true;
  standby.steps.length = 0;
  assert.equal((await standby.batch(standby.source.write(2))).kind, "acknowledged", "the intake has room");
  const { state } = await until("the reason", () => {
    const status = standby.group.status();
    return status.reason?.code === "HISTORY_FULL" ? status : undefined;
  });
  assert.equal(state, "stopped");
  assert.deepEqual([standby.told().applied, standby.group.status().consistent?.sequence], [before, before]);
  assert.ok(!standby.steps.includes("image.writeChanges"), standby.steps.join(", "));
  standby.historyIsFull = false;
  await standby.applied(standby.source.last);
  const { history, reason } = standby.group.status();
  assert.notEqual(reason?.code, "HISTORY_FULL");
  assert.deepEqual([history.newest, history.problem], [standby.source.last, null]);
  for (const sequence of [before, standby.source.last]) {
    const view = await standby.group.past!.openView(0, sequence);
    const expected = standby.source.contents[sequence / 3]![0]!;
    assert.ok(expected.equals(await view.read(0, view.sizeBytes)), `${sequence}`);
    await view.close();
  }
});

test("no position is told as applied before the images are synced up to it", async () => {
  standby.imageSync.close();
  await standby.batch(standby.source.write(2));
  await until("the sync", () => (standby.imageSync.waiting > 0 ? true : undefined));
  await settled();
  assert.equal(standby.told().applied, 0);
  assert.equal(standby.group.status().position.applied, 0);
  assert.equal(standby.group.status().consistent, null);
  standby.imageSync.open();
  await standby.applied(standby.source.last);
});

test("frames that are not synced are not applied, although the log can give them", async () => {
  await standby.batch(standby.source.write(1));
  await standby.applied(standby.source.last);
  standby.pace.close();
  let synced = 0;
  // One that comes later than the pace after a step is applied at once: on a busy machine another one follows.
  await until("the rest before the next step", async () => {
    if (standby.pace.waiting > 0) return true;
    await standby.batch(standby.source.write(1));
    synced = standby.source.last;
    return undefined;
  });
  standby.logSync.close();
  const unsynced = standby.batch(standby.source.write(1));
  await until("the sync", () => (standby.logSync.waiting > 0 ? true : undefined));
  standby.pace.open();
  await standby.applied(synced);
  assert.deepEqual([standby.told().durable, standby.told().applied], [synced, synced]);
  standby.logSync.open();
  assert.equal((await unsynced).kind, "acknowledged");
});

test("a failover has its higher token on disk before it does anything else", async () => {
  await standby.batch(standby.source.write(2));
  await standby.group.failover.raiseToken("test");
  const document = await standby.document();
  assert.deepEqual(document.token, { epoch: 2, owner: "dr" });
  assert.equal(document.failover?.progress, "fenced");
  assert.deepEqual(document.failover.previous, { epoch: 1, owner: "primary" });
  assertOrder(standby.steps, ["state.sync", "state.rename", "folder.sync"]);
});

test("what the owner says while the token is written counts as lost when it is not received (promise 3)", async () => {
  await standby.batch(standby.source.write(2));
  const received = standby.source.last;
  standby.stateRename.close();
  const raised = standby.group.failover.raiseToken("test");
  await until("the token's document", () => (standby.stateRename.waiting > 0 ? true : undefined));
  standby.source.write(5);
  assert.equal(standby.group.heartbeat(standby.source.heartbeat()).kind, "alive");
  standby.stateRename.open();
  await raised;
  assert.equal(standby.group.plan().loss.writesMin, standby.source.last - received);
  await standby.group.failover.drainAndSeal();
  assert.equal((await standby.document()).failover?.heard?.answered, standby.source.last);
});

test("the seal is written when the intake is synced up to it, and takes in what was being synced", async () => {
  await standby.batch(standby.source.write(2));
  standby.logSync.close();
  const late = standby.batch(standby.source.write(2));
  await until("the sync", () => (standby.logSync.waiting > 0 ? true : undefined));
  await standby.group.failover.raiseToken("test");
  const sealed = standby.group.failover.drainAndSeal();
  await settled();
  assert.equal((await standby.document()).failover?.progress, "fenced");
  assert.equal((await late).kind, "superseded", "inside the seal, and never acknowledged");
  standby.logSync.open();
  await sealed;
  const { failover } = await standby.document();
  assert.equal(failover?.progress, "sealed");
  assert.equal(failover.seal?.sequence, standby.source.last);
});

test("a seal counts as applied when the images are synced up to it, and not before", async () => {
  standby.imageSync.close();
  await standby.batch(standby.source.write(2));
  await standby.group.failover.raiseToken("test");
  await standby.group.failover.drainAndSeal();
  let done = false;
  const applying = standby.group.failover
    .applyToSeal(() => {})
    .then(() => {
      done = true;
    });
  await until("the sync", () => (standby.imageSync.waiting > 0 ? true : undefined));
  await settled();
  assert.equal(done, false);
  standby.imageSync.open();
  await applying;
});

test("the hand-over record exists only when the gateway has closed images and intake", async () => {
  await standby.batch(standby.source.write(2));
  await standby.group.failover.raiseToken("test");
  await standby.group.failover.drainAndSeal();
  await standby.group.failover.applyToSeal(() => {});
  standby.steps.length = 0;
  await standby.group.failover.recordHandover();
  const recorded = standby.steps.indexOf("handover.rename");
  const closes = standby.steps.filter((step) => step === "image.close").length;
  assert.equal(closes, volumes.length);
  assert.ok(recorded > standby.steps.lastIndexOf("image.close"), standby.steps.join(", "));
  assert.equal((await standby.document()).failover?.progress, "handed-over");
});

test("a fence that was raised before a restart stands from the first instant", async () => {
  await standby.batch(standby.source.write(2));
  await standby.group.failover.raiseToken("test");
  await standby.group.close();
  const document = await standby.document();
  const open = await OpenStandby.open({
    document,
    paths: standby.paths,
    limits,
    history: settings.history,
    storage: standby.storage,
    clock: systemClock,
    log: silentLog,
    incomplete: () => null,
    volumes: () => document.volumes,
    configuredBytes: () => undefined,
    beforeStep: async () => {},
    changeTable: async () => false,
    onBroken: (error) => assert.fail(String(error)),
  });
  try {
    assert.equal(open.receiver.state.condition, "fenced");
    assert.deepEqual(open.receiver.state.token, { epoch: 2, owner: "dr" });
  } finally {
    await open.close("clean", { code: "TEST", message: "over" });
  }
});
