/**
 * In which order a step that carries a scan's marks or digests is done, with one step cut short: completeness is on disk
 * before the intention, a digest in a step that was cut short is unknown, and nothing is sealed in the middle of a scan.
 */
import assert from "node:assert/strict";
import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { BlockErrno, BlockError } from "../../../block/device.ts";
import { systemImageFiles } from "../../../block/image-files.ts";
import { StandbyGroup } from "../../../gateway/group.ts";
import { parseStandbyDocument } from "../../../gateway/state.ts";
import { levelEngine } from "../../../journal/level-engine.ts";
import { openLevelOrderedStore } from "../../../journal/level-ordered-store.ts";
import { encodeBatch } from "../../../protocol/batch.ts";
import type { Frame } from "../../../protocol/frame.ts";
import { lineageToText } from "../../../protocol/ids.ts";
import type { BlockRecord, ScanMark, ScanPurpose } from "../../../protocol/record.ts";
import { chunkDigest, leafDigests, scanChunkBytes } from "../../../protocol/scan-digest.ts";
import { systemClock } from "../../../runtime/clock.ts";
import { systemDisk } from "../../../runtime/disk.ts";
import { readDocument } from "../../../runtime/durable-document.ts";
import { observeDisk } from "../../../runtime/failpoints.ts";
import { silentLog } from "../../../runtime/log.ts";
import { gatewayGroupPaths } from "../../../runtime/paths.ts";
import { noise } from "../../journal/support/scratch-log.ts";
import { Door } from "../../support/door.ts";
import { groupSettings } from "../../support/group-settings.ts";
import { until } from "../../support/wait.ts";
import { batchRequest } from "../batch-request.ts";
import { mebibyte, Source, volumes } from "../standby-site.ts";

const mark = (of: ScanMark, purpose: ScanPurpose, begin: number): BlockRecord => ({
  kind: "scanMark",
  volume: 0,
  offset: 0,
  length: 0,
  mark: of,
  purpose,
  begin,
});

/** Digest of the first chunk of volume 0 when it holds nothing but `first` in its first sector. */
function digestOf(first: number): BlockRecord {
  const content = new Uint8Array(scanChunkBytes);
  content.fill(first, 0, 512);
  const digests = chunkDigest(leafDigests(content));
  return { kind: "scanDigest", volume: 0, offset: 0, length: scanChunkBytes, level: "chunk", digests };
}

const write = (byte: number, offset = 0): BlockRecord => ({
  kind: "write",
  volume: 0,
  offset,
  length: 512,
  data: new Uint8Array(512).fill(byte),
});

const mediumError = (): BlockError =>
  new BlockError(BlockErrno.EIO, "read", Object.assign(new Error("medium error"), { code: "EIO" }));

class Rig {
  readonly dataDir = mkdtempSync(join(tmpdir(), "splitsite-scan-steps-"));
  readonly paths = gatewayGroupPaths(this.dataDir, "erp");
  readonly source = new Source(17);
  readonly steps: string[] = [];
  readonly stateRename = new Door();
  /** Before the images are synced. */
  readonly imageSync = new Door();
  failSync = false;
  failRead = false;
  /** As a disk that cannot read any sector; what is in the page cache counts as read from it. */
  isUnreadable = false;
  readonly group: StandbyGroup;

  constructor() {
    const hook = (name: string): void => {
      if (name.endsWith(".after")) this.steps.push(name.slice("gateway.".length, -".after".length));
    };
    const disk = {
      ...systemDisk,
      rename: async (from: string, to: string) => {
        if (to === this.paths.state) await this.stateRename.pass();
        await systemDisk.rename(from, to);
      },
    };
    this.group = new StandbyGroup({
      site: "dr",
      dataDir: this.dataDir,
      settings: groupSettings({ volumes, history: { windowMs: 0, bytesMax: 1 << 30 } }),
      limits: {
        bytesMax: 64 * mebibyte,
        reserveBytes: 0,
        memoryTailBytes: 4 * mebibyte,
        writeBufferBytes: mebibyte,
      },
      target: null,
      storage: {
        disk: observeDisk(disk, "gateway", hook),
        images: { ...systemImageFiles, open: (options) => this.#open(options) },
        stores: levelEngine,
        openIndex: (directory) => openLevelOrderedStore(directory, silentLog),
        bootId: "11111111-1111-4111-8111-111111111111",
      },
      clock: systemClock,
      log: silentLog,
    });
  }

  async #open(options: Parameters<typeof systemImageFiles.open>[0]) {
    const device = await systemImageFiles.open(options);
    return new Proxy(device, {
      get: (from, name) => {
        const real: unknown = Reflect.get(from, name, from);
        if (typeof real !== "function") return real;
        return async (...args: unknown[]) => {
          if (name === "flush") await this.imageSync.pass();
          if (this.isUnreadable && name === "lendDescriptor") return undefined;
          if (this.isUnreadable && name === "read") throw mediumError();
          if ((name === "flush" && this.failSync) || (name === "read" && this.failRead)) {
            this.failSync = false;
            this.failRead = false;
            throw new BlockError(BlockErrno.EIO, "medium error");
          }
          return Reflect.apply(real, from, args);
        };
      },
    });
  }

  batch(records: readonly BlockRecord[]): Promise<void> {
    return this.send(this.source.put(records));
  }

  async send(frame: Frame): Promise<void> {
    const bytes = await encodeBatch([frame], this.source.token, "none");
    const answer = await this.group.batch(batchRequest(bytes, "primary"), "primary");
    assert.ok("json" in answer && (answer.json as { kind: string }).kind === "acknowledged");
  }

  applied(): Promise<true> {
    return until("applied", () => {
      const answer = this.group.heartbeat(this.source.heartbeat());
      return answer.kind === "alive" && answer.applied >= this.source.last ? true : undefined;
    });
  }

  findings(after: number) {
    const { lineage, token } = this.source;
    const answer = this.group.scan({ lineage: lineageToText(lineage), token, after });
    assert.ok(answer.kind === "findings", JSON.stringify(answer));
    return answer;
  }

  pins(): number[] | undefined {
    return this.group.past?.status?.pins.map(({ sequence }) => sequence);
  }

  async incomplete() {
    return (await readDocument(systemDisk, this.paths.state, parseStandbyDocument))!.incomplete;
  }
}

let rig: Rig;
beforeEach(async () => {
  rig = new Rig();
  await rig.group.start();
  assert.equal((await rig.group.hello(rig.source.hello())).kind, "attached");
  rig.steps.length = 0;
});
afterEach(async () => {
  rig.imageSync.open();
  rig.stateRename.open();
  await rig.group.close();
  rmSync(rig.dataDir, { recursive: true, force: true });
});

test("what the marks of a step say is on disk before its intention, and so before the images are touched", async () => {
  rig.stateRename.close();
  await rig.batch([write(1), mark("begin", "resync", 0), write(2)]);
  await until("the document", () => (rig.stateRename.waiting > 0 ? true : undefined));
  // What stands before it in the same frame was a step of its own; its point is pinned by now.
  assert.equal(readFileSync(rig.paths.image("data"))[0], 1);
  assert.ok(rig.steps.lastIndexOf("pins.rename") > rig.steps.lastIndexOf("applied.syncData"));
  assert.deepEqual(rig.pins(), [1]);
  const before = rig.steps.length;
  rig.stateRename.open();
  await rig.applied();
  const steps = rig.steps.slice(before);
  assert.ok(steps.indexOf("state.rename") >= 0);
  assert.ok(steps.indexOf("state.rename") < steps.indexOf("applied.syncData"), steps.join(", "));
  assert.deepEqual(await rig.incomplete(), {
    purpose: "resync",
    since: 2,
    until: null,
    scan: 2,
    seen: 2,
    holds: "unknown",
  });
  await rig.batch([mark("end", "resync", 2)]);
  await rig.applied();
  assert.equal((await rig.incomplete())?.until, 4);
  assert.equal(rig.group.status().consistent?.sequence, 4);
  await until("the pin is given back", () => (rig.pins()?.length === 0 ? true : undefined));
});

test("the end of a scan makes nothing recoverable before it is applied, and lets a failover go that applies it", async () => {
  await rig.batch([mark("begin", "resync", 0), write(2)]);
  await rig.applied();
  rig.imageSync.close();
  await rig.batch([write(3), mark("end", "resync", 1)]);
  await until("the sync of the images", () => (rig.imageSync.waiting > 0 ? true : undefined));
  assert.equal((await rig.incomplete())?.until, 4, "written before");
  assert.equal(rig.group.status().consistent, null);
  assert.equal(rig.group.plan().checks.find(({ id }) => id === "NOT_CONSISTENT")?.outcome, "pass");
  rig.imageSync.open();
  await rig.applied();
  assert.equal(rig.group.status().consistent?.sequence, 4);
});

test("digests of a step that was cut short are unknown afterwards, not equal, and later ones are compared", async () => {
  await rig.batch([write(1)]);
  await rig.applied();
  rig.failSync = true;
  // The digest says 9 where the images hold 1: were it ever taken for equal, this would show.
  await rig.batch([digestOf(9), write(2)]);
  await rig.applied();
  const unknown = rig.findings(0);
  assert.deepEqual([unknown.since, unknown.differing], [3, []]);
  await rig.batch([digestOf(2), digestOf(9), write(3)]);
  await rig.applied();
  const found = rig.findings(0);
  assert.deepEqual([found.since, found.through], [3, 5]);
  assert.deepEqual(found.differing, [{ sequence: 5, bits: "01" }]);
});

test("a digest is compared with what the images hold before the records behind it, in the same step", async () => {
  await rig.batch([write(1), digestOf(1), write(2), digestOf(1), digestOf(2), write(3)]);
  await rig.applied();
  const { since, through, differing } = rig.findings(0);
  assert.deepEqual([since, through, differing], [0, 5, [{ sequence: 4, bits: "01" }]]);
});

test("an image that cannot be read stops apply until it is opened again, and is no difference", async () => {
  rig.failRead = true;
  await rig.batch([digestOf(0), write(2)]);
  await until("the trouble", () =>
    rig.group.status().reason?.code === "IMAGE_READ_FAILED" ? true : undefined,
  );
  const { lineage, token } = rig.source;
  const ask = { lineage: lineageToText(lineage), token, after: 0 };
  const meanwhile = rig.group.scan(ask);
  assert.ok(meanwhile.kind === "refused" && meanwhile.code === "IMAGE_READ_FAILED");
  await rig.applied();
  const { since, through, differing } = rig.findings(0);
  assert.deepEqual([since, through, differing], [2, 2, []]);
});

test("a digest that reaches beyond its volume stops the group for good, as a write does", async () => {
  const digests = new Uint8Array(5 * 32);
  await rig.batch([
    { kind: "scanDigest", volume: 0, offset: 0, length: 5 * mebibyte, level: "chunk", digests },
  ]);
  await until("the trouble", () =>
    rig.group.status().reason?.code === "IMAGE_RECORD_RANGE" ? true : undefined,
  );
});

test("a scan that begins while the token is being written is not sealed in its middle: the images are taken back", async () => {
  await rig.batch([write(1)]);
  await rig.applied();
  rig.stateRename.close();
  const raised = rig.group.failover.raiseToken("test");
  await until("the token", () => (rig.stateRename.waiting > 0 ? true : undefined));
  await rig.batch([mark("begin", "resync", 0), write(2)]);
  rig.stateRename.open();
  await raised;
  await rig.group.failover.drainAndSeal();
  await rig.group.failover.applyToSeal(() => {});
  assert.deepEqual([...readFileSync(rig.paths.image("data")).subarray(0, 2)], [1, 1]);
  // Both wrote the document, and neither took back what the other wrote.
  const document = await readDocument(systemDisk, rig.paths.state, parseStandbyDocument);
  assert.deepEqual([document?.token.epoch, document?.failover?.progress], [2, "sealed"]);
  assert.equal(document?.failover?.seal?.sequence, 1);
  assert.deepEqual(document?.failover?.received, { sequence: 3, dataBytesTotal: 1024 });
});

test("a gap that was received and not reached by apply is not applied by a failover: nothing has to be taken back", async () => {
  await rig.batch([write(1)]);
  await rig.applied();
  rig.imageSync.close();
  await rig.batch([write(2)]);
  await until("the sync of the images", () => (rig.imageSync.waiting > 0 ? true : undefined));
  await rig.batch([write(3)]);
  await rig.send(rig.source.gap(100, 4_096));
  await rig.batch([write(4)]);
  const plan = rig.group.plan();
  assert.deepEqual([plan.point?.sequence, plan.toApply.records], [3, 2]);
  assert.deepEqual([plan.loss.writesMin, plan.loss.bytesMin], [101, 4_096 + 512]);
  await rig.group.failover.raiseToken("test");
  const sealed = rig.group.failover.drainAndSeal();
  rig.imageSync.open();
  await sealed;
  await rig.group.failover.applyToSeal(() => {});
  assert.equal(readFileSync(rig.paths.image("data"))[0], 3);
  assert.equal(await rig.incomplete(), null, "no step went beyond");
  const document = await readDocument(systemDisk, rig.paths.state, parseStandbyDocument);
  assert.equal(document?.failover?.seal?.sequence, 3);
  assert.deepEqual(document?.failover?.received, { sequence: 104, dataBytesTotal: 4 * 512 + 4_096 });
});

test("without a point before them incomplete images are opened nowhere, and the refusal is told while draining too", async () => {
  await rig.send(rig.source.gap(5, 0));
  await rig.batch([write(1)]);
  await rig.applied();
  const plan = rig.group.plan();
  assert.equal(plan.point, null);
  assert.equal(plan.checks.find(({ id }) => id === "NOT_CONSISTENT")?.outcome, "fail");
  assert.equal(rig.group.status().consistent, null);
  await rig.group.failover.raiseToken("test");
  await assert.rejects(rig.group.failover.drainAndSeal(), { code: "NOT_CONSISTENT" });
});

test("what a step cut short beyond the point has left in the images is taken back before they are handed over", async () => {
  await rig.batch([write(1)]);
  await rig.applied();
  rig.imageSync.close();
  await rig.batch([mark("begin", "resync", 0), write(2)]);
  await until("the sync of the images", () => (rig.imageSync.waiting > 0 ? true : undefined));
  assert.equal(readFileSync(rig.paths.image("data"))[0], 2);
  await rig.group.failover.raiseToken("test");
  const drained = rig.group.failover.drainAndSeal();
  // Until it waits for the step under way it waits for nothing outside of this process.
  for (let turn = 0; turn < 50; turn += 1) await new Promise((resolve) => setImmediate(resolve));
  // The step under way is waited for and fails: nothing is sealed, and no step goes beyond the point any more.
  rig.failSync = true;
  rig.imageSync.open();
  await assert.rejects(drained, { code: "IMAGE_SYNC_FAILED" });
  assert.equal(readFileSync(rig.paths.image("data"))[0], 2);
  await until("the images to be open", () =>
    rig.group.plan().checks.every(({ id, outcome }) => outcome !== "fail" || id === "AGENT_MISSING")
      ? true
      : undefined,
  );
  await rig.group.failover.drainAndSeal();
  await rig.group.failover.applyToSeal(() => {});
  assert.equal(readFileSync(rig.paths.image("data"))[0], 1);
  const document = await readDocument(systemDisk, rig.paths.state, parseStandbyDocument);
  assert.equal(document?.failover?.seal?.sequence, 1);
});

test("a point that lacks a block which could not be read when it was replaced is offered to nobody, after a restart too", async () => {
  const openable = () => {
    const { consistent } = rig.group.status();
    const { point, checks } = rig.group.plan();
    return [consistent?.sequence, point?.sequence, checks.find(({ id }) => id === "NOT_CONSISTENT")?.outcome];
  };
  await rig.batch([write(1)]);
  await rig.applied();
  await rig.batch([mark("begin", "resync", 0), write(2, scanChunkBytes)]);
  await rig.applied();
  assert.deepEqual(openable(), [1, 1, "pass"]);
  rig.isUnreadable = true;
  await rig.batch([write(3)]);
  await rig.applied();
  rig.isUnreadable = false;
  assert.deepEqual(openable(), [undefined, undefined, "fail"]);
  // A sync that fails has the images opened again.
  rig.failSync = true;
  await rig.batch([write(4)]);
  await until("the sync to have failed", () => (rig.failSync ? undefined : true));
  await rig.applied();
  assert.deepEqual(openable(), [undefined, undefined, "fail"]);
  await rig.batch([mark("end", "resync", 2)]);
  await rig.applied();
  assert.deepEqual(
    openable(),
    [rig.source.last, rig.source.last, "pass"],
    "the end of the resync is a point",
  );
});

test("before-images that are damaged stop a failover before the old owner is fenced, not after", async () => {
  const data = noise(512, 1);
  await rig.batch([{ kind: "write", volume: 0, offset: 0, length: 512, data }]);
  await rig.applied();
  await rig.batch([mark("begin", "resync", 0), write(2)]);
  await rig.applied();
  assert.equal(rig.group.plan().point?.sequence, 1);
  const segments = join(rig.paths.history, "segments");
  const [segment] = readdirSync(segments).map((name) => join(segments, name));
  const bytes = readFileSync(segment!);
  const at = bytes.lastIndexOf(data.subarray(0, 256));
  assert.ok(at > 0, "what the block held is found in the segment");
  bytes[at]! ^= 4;
  const file = openSync(segment!, "r+");
  writeSync(file, bytes, at, 1, at);
  closeSync(file);
  await assert.rejects(rig.group.failover.raiseToken("test"), { code: "HISTORY_DAMAGED" });
  const document = await readDocument(systemDisk, rig.paths.state, parseStandbyDocument);
  assert.deepEqual([document?.token.epoch, document?.failover], [1, null]);
  await rig.batch([write(3)]);
  await rig.applied();
});
