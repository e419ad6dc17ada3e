/**
 * An owned group and the word of the other site: when it stops answering, what it remembers of that, and when its journal
 * may forget. The line is one in memory whose answers the test gives by hand (I4, F64, F65).
 */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { BlockErrno, BlockError } from "../../../block/device.ts";
import { systemImageFiles } from "../../../block/image-files.ts";
import { levelEngine } from "../../../journal/level-engine.ts";
import { openLevelOrderedStore } from "../../../journal/level-ordered-store.ts";
import { decodeBatchHeader } from "../../../protocol/batch.ts";
import type { BatchAnswer, GroupKnowledge, Hello } from "../../../protocol/control.ts";
import { systemClock } from "../../../runtime/clock.ts";
import type { Disk } from "../../../runtime/disk.ts";
import { systemDisk } from "../../../runtime/disk.ts";
import { readDocument } from "../../../runtime/durable-document.ts";
import { OperationalError } from "../../../runtime/errors.ts";
import { observeDisk } from "../../../runtime/failpoints.ts";
import type { HttpReply } from "../../../runtime/http.ts";
import { silentLog } from "../../../runtime/log.ts";
import { agentGroupPaths } from "../../../runtime/paths.ts";
import { systemRandom } from "../../../runtime/random.ts";
import { OwnedGroup } from "../../../site-agent/group/owned-group.ts";
import { parseAgentGroupState } from "../../../site-agent/group/state.ts";
import { compressAside } from "../../../site-agent/ship/compress-aside.ts";
import type { Line } from "../../../site-agent/ship/line.ts";
import { Door } from "../../support/door.ts";
import { until } from "../../support/wait.ts";

const sizeBytes = 1024 * 1024;
const newer = { epoch: 2, owner: "dr" };

/** Attaches everybody to an empty standby; batches and heartbeats wait at their doors. */
class HandLine implements Line {
  readonly settings = { codec: "none", connections: 2, collectMs: 60 } as const;
  readonly status = { up: true, limitBytesPerSecond: null, wireBytes: 0, lastContact: null };
  readonly budgetBytes = 16 * 1024 * 1024;
  readonly batches = new Door();
  readonly heartbeats = new Door();
  readonly questions = new Door();
  known: GroupKnowledge = { known: false, lineage: null, token: null };
  reachable = true;
  answer: (last: number) => BatchAnswer = (last) => ({ kind: "acknowledged", durable: last, applied: 0 });

  join(): () => void {
    return () => {};
  }

  async knowledge(): Promise<GroupKnowledge> {
    await this.questions.pass();
    if (this.reachable) return this.known;
    throw new OperationalError({ code: "PEER_UNREACHABLE", message: "nobody there", reaction: "retry" });
  }

  async control(_method: string, path: string, message?: unknown): Promise<HttpReply> {
    if (!this.reachable)
      throw new OperationalError({ code: "PEER_UNREACHABLE", message: "nobody there", reaction: "retry" });
    if (path.endsWith("/hello")) {
      const { genesis, token } = message as Hello;
      return reply({ kind: "attached", durable: { sequence: 0, chain: genesis }, applied: 0, token });
    }
    await this.heartbeats.pass();
    return reply({ kind: "alive", durable: 0, applied: 0, stopped: null });
  }

  async upload(_path: string, bytes: Uint8Array): Promise<HttpReply> {
    await this.batches.pass();
    return reply(this.answer(decodeBatchHeader(bytes).last));
  }

  renew(): void {}
}

function reply(json: unknown): HttpReply {
  return { status: 200, body: Buffer.from(JSON.stringify(json)) };
}

/** Paces and intervals come soon, so that no test waits for seconds. */
const hastyClock = {
  ...systemClock,
  after: (delayMs: number, run: () => void) => systemClock.after(Math.min(delayMs, 10), run),
};

class Rig {
  readonly line = new HandLine();
  readonly journalSync = new Door();
  readonly stateSync = new Door();
  readonly imageRead = new Door();
  readonly steps: string[] = [];
  readonly group: OwnedGroup;

  constructor(dataDir: string) {
    const paths = agentGroupPaths(dataDir, "erp");
    const volume = { name: "data", sizeBytes, image: null, standbyImage: null };
    this.group = new OwnedGroup({
      site: "primary",
      settings: {
        name: "erp",
        home: "primary",
        standby: "dr",
        volumes: [volume],
        durability: "flush",
        rpo: { ageMs: null, bytes: null },
        overflow: "hold",
        history: { windowMs: 86_400_000, bytesMax: 1 << 30 },
        scan: { bytesPerSecond: null, verifyCron: null, onMismatch: "report" },
      },
      paths,
      files: {
        disk: observeDisk(this.#disk(), "agent", (name) => this.steps.push(name)),
        images: { ...systemImageFiles, open: (options) => this.#openImage(options) },
        stores: levelEngine,
        openIndex: (directory) => openLevelOrderedStore(directory, silentLog),
        history: { windowMs: 86_400_000, bytesMax: 1 << 30 },
        clock: hastyClock,
        paths,
        journalBytesMax: 2 ** 26,
        reserveBytes: 0,
        memoryTailBytes: 2 ** 20,
        writeBufferBytes: 2 ** 20,
        aheadHalfBytes: 2 ** 18,
        bootId: "11111111-1111-4111-8111-111111111111",
        log: silentLog,
      },
      unappliedBytesMax: 2 ** 20,
      readHandover: () => Promise.resolve(undefined),
      link: this.line,
      compress: compressAside,
      clock: hastyClock,
      random: systemRandom,
      log: silentLog,
    });
  }

  async #openImage(options: Parameters<typeof systemImageFiles.open>[0]) {
    const device = await systemImageFiles.open(options);
    return new Proxy(device, {
      get: (target, name) => {
        if (name === "read") {
          return async (offset: number, length: number) => {
            await this.imageRead.pass();
            return target.read(offset, length);
          };
        }
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  }

  #disk(): Disk {
    return {
      ...systemDisk,
      open: async (path, mode) => {
        const file = await systemDisk.open(path, mode);
        if (path.endsWith("state.json.new")) {
          return {
            ...file,
            sync: async () => {
              await this.stateSync.pass();
              await file.sync();
            },
          };
        }
        if (!path.endsWith(".log") && !path.includes("/half-")) return file;
        return {
          ...file,
          syncData: async () => {
            await this.journalSync.pass();
            await file.syncData();
          },
        };
      },
    };
  }

  write(fill: number, durable = false): Promise<void> {
    const data = Buffer.alloc(4096, fill);
    return this.group.submit([{ kind: "write", volume: 0, offset: 0, length: 4096, data }], durable);
  }

  checkpoints(): number {
    return this.steps.filter((step) => step === "agent.checkpoint.syncData.after").length;
  }

  get head(): number {
    return this.group.journal?.log.head.sequence ?? -1;
  }

  /** The state after it had the time to become the wanted one. */
  async stateAfter(wanted: string): Promise<string> {
    const endMs = performance.now() + 5_000;
    while (this.group.status().state !== wanted && performance.now() < endMs)
      await new Promise((resolve) => setTimeout(resolve, 5));
    return this.group.status().state;
  }

  async close(): Promise<void> {
    const { batches, heartbeats, questions } = this.line;
    for (const door of [batches, heartbeats, questions, this.journalSync, this.stateSync, this.imageRead])
      door.open();
    await this.group.close("abandon");
  }
}

async function withRigs(use: (open: () => Rig, dataDir: string) => Promise<void>): Promise<void> {
  const dataDir = await mkdtemp(join(tmpdir(), "splitsite-line-"));
  // The product's timers do not keep a process alive; here nothing else does.
  const alive = setInterval(() => {}, 1_000);
  const rigs: Rig[] = [];
  try {
    await use(() => {
      const rig = new Rig(dataDir);
      rigs.push(rig);
      return rig;
    }, dataDir);
  } finally {
    for (const rig of rigs) await rig.close();
    clearInterval(alive);
    await rm(dataDir, { recursive: true, force: true });
  }
}

const isShutdown = (error: unknown): boolean =>
  error instanceof BlockError && error.errno === BlockErrno.ESHUTDOWN;

test("a superseded owner answers nothing any more, and knows it after a restart without being told again", async () => {
  await withRigs(async (open) => {
    const rig = open();
    rig.line.answer = () => ({ kind: "superseded", token: newer });
    await rig.group.start();
    await rig.write(1);
    assert.equal(await rig.stateAfter("fenced"), "fenced");
    await assert.rejects(rig.write(2), isShutdown);
    await assert.rejects(rig.group.flush(), isShutdown);
    await assert.rejects(rig.group.read(0, 0, 4096), isShutdown);
    await rig.close();
    const again = open();
    again.line.reachable = false;
    await again.group.start();
    assert.equal(again.group.status().state, "fenced");
    assert.equal(again.group.status().position.written, 1, "its unsent tail is stated");
    await assert.rejects(again.write(3), isShutdown);
  });
});

test("a fence is durable while a heartbeat still hangs: a kill meanwhile does not undo it", async () => {
  await withRigs(async (open, dataDir) => {
    const rig = open();
    rig.line.answer = () => ({ kind: "superseded", token: newer });
    rig.line.batches.close();
    rig.line.heartbeats.close();
    await rig.group.start();
    await rig.write(1);
    await until("batch and heartbeat", () =>
      rig.line.batches.waiting > 0 && rig.line.heartbeats.waiting > 0 ? true : undefined,
    );
    rig.line.batches.open();
    const { state } = agentGroupPaths(dataDir, "erp");
    const role = async () => (await readDocument(systemDisk, state, parseAgentGroupState))?.role;
    try {
      await until("the fence on disk", async () => ((await role()) === "fenced" ? true : undefined));
      assert.ok(rig.line.heartbeats.waiting > 0, "nobody answered the heartbeat");
    } finally {
      rig.line.heartbeats.open();
    }
  });
});

test("an answer to the start's question that names a newer token fences, however late it comes", async () => {
  await withRigs(async (open) => {
    const rig = open();
    await rig.group.start();
    await rig.write(1);
    const { lineage } = rig.group.status();
    await rig.close();
    const again = open();
    again.line.questions.close();
    again.line.batches.close();
    again.line.known = { known: true, lineage, token: newer };
    await again.group.start();
    assert.equal(again.group.status().io, "serving", "without an answer an owner serves");
    again.line.questions.open();
    assert.equal(await again.stateAfter("fenced"), "fenced");
    await assert.rejects(again.write(2), isShutdown);
    again.line.batches.open();
  });
});

test("a write under way when the newer token is seen is never answered with success", async () => {
  await withRigs(async (open) => {
    const rig = open();
    rig.line.answer = () => ({ kind: "superseded", token: newer });
    rig.line.batches.close();
    await rig.group.start();
    await rig.write(1);
    await until("the batch", () => (rig.line.batches.waiting > 0 ? true : undefined));
    rig.journalSync.close();
    const written = rig.write(2, true);
    await until("the sync", () => (rig.journalSync.waiting > 0 ? true : undefined));
    const outcomes = Promise.allSettled([written, rig.group.flush()]);
    // A step under way keeps the fence from going further than the knowledge of it.
    rig.stateSync.close();
    const busy = rig.group.resume(true);
    await until("the step", () => (rig.stateSync.waiting > 0 ? true : undefined));
    rig.line.batches.open();
    await until("the news", () => (rig.group.fenced ? true : undefined));
    assert.equal(rig.group.journal?.log.durable.sequence, 1);
    rig.journalSync.open();
    await until("the sync's end", () => (rig.group.journal?.log.durable.sequence === 2 ? true : undefined));
    rig.stateSync.open();
    await busy;
    assert.equal(await rig.stateAfter("fenced"), "fenced");
    for (const outcome of await outcomes) {
      assert.equal(outcome.status, "rejected");
      assert.ok(isShutdown(outcome.reason));
    }
  });
});

test("a read under way when the newer token is seen is never answered with success", async () => {
  await withRigs(async (open) => {
    const rig = open();
    rig.line.answer = () => ({ kind: "superseded", token: newer });
    rig.line.batches.close();
    await rig.group.start();
    rig.imageRead.close();
    const read = rig.group.read(0, 65_536, 4096);
    const outcome = read.then(
      () => "answered",
      (error: unknown) => (isShutdown(error) ? "refused" : String(error)),
    );
    await until("the read", () => (rig.imageRead.waiting > 0 ? true : undefined));
    await rig.write(1);
    rig.line.batches.open();
    await until("the news", () => (rig.group.fenced ? true : undefined));
    rig.imageRead.open();
    assert.equal(await outcome, "refused");
  });
});

test("the journal keeps what is not acknowledged, sent or not, and gives up what is", async () => {
  await withRigs(async (open) => {
    const rig = open();
    rig.line.batches.close();
    await rig.group.start();
    for (let round = 0; round < 3; round += 1) {
      const before = rig.checkpoints();
      await rig.write(round, true);
      await until("a checkpoint", () => (rig.checkpoints() > before ? true : undefined));
    }
    assert.ok(rig.line.batches.waiting > 0, "something was sent");
    assert.ok(rig.group.status().position.shipped > 0);
    assert.equal(rig.head, 0);
    rig.line.batches.open();
    await until("everything acknowledged", () =>
      rig.group.status().position.acknowledged === 3 ? true : undefined,
    );
    await rig.write(9, true);
    await until("room in the journal", () => (rig.head >= 3 ? true : undefined));
  });
});
