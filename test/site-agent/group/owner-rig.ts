/**
 * An owned group on real files whose standby is one in memory at the other end of its line: it takes batches, keeps what the
 * volume holds, and answers honestly. A test opens as many lives of the group on one folder as it likes. Judges nothing.
 */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemImageFiles } from "../../../block/image-files.ts";
import { levelEngine } from "../../../journal/level-engine.ts";
import { openLevelOrderedStore } from "../../../journal/level-ordered-store.ts";
import { batchHeaderBytes, decodeBatchHeader, decodeBatchPayload } from "../../../protocol/batch.ts";
import type { GroupKnowledge, Heartbeat, Hello, Refusal } from "../../../protocol/control.ts";
import type { Frame } from "../../../protocol/frame.ts";
import { bytesToHex } from "../../../protocol/ids.ts";
import type { Clock } from "../../../runtime/clock.ts";
import { systemClock } from "../../../runtime/clock.ts";
import type { Disk } from "../../../runtime/disk.ts";
import { systemDisk } from "../../../runtime/disk.ts";
import { OperationalError } from "../../../runtime/errors.ts";
import type { HttpReply } from "../../../runtime/http.ts";
import { silentLog } from "../../../runtime/log.ts";
import { agentGroupPaths } from "../../../runtime/paths.ts";
import { systemRandom } from "../../../runtime/random.ts";
import type { GroupSettings } from "../../../runtime/settings/types.ts";
import { OwnedGroup } from "../../../site-agent/group/owned-group.ts";
import { compressAside } from "../../../site-agent/ship/compress-aside.ts";
import type { Line } from "../../../site-agent/ship/line.ts";
import { Door } from "../../support/door.ts";
import { groupSettings } from "../../support/group-settings.ts";

export const volumeBytes = 1024 * 1024;
export const blockBytes = 4096;

/** The standby of one group, for as many lives of its owner as there are. */
export class MemoryStandby implements Line {
  readonly settings = { codec: "none", connections: 2, collectMs: 10 } as const;
  readonly status = { up: true, limitBytesPerSecond: null, wireBytes: 0, lastContact: null };
  readonly budgetBytes = 16 * 1024 * 1024;
  readonly frames: Frame[] = [];
  readonly content = Buffer.alloc(volumeBytes);
  /** What the owner said of itself, newest last. */
  readonly beats: Heartbeat[] = [];
  /** Batches wait here before anything is taken of them. */
  readonly batches = new Door();
  known: GroupKnowledge = { known: false, lineage: null, token: null };
  /** Answered to everything instead. */
  refusal: Refusal | undefined;
  /** Batches that were taken. */
  taken = 0;
  /** Its site knows nothing of the group, until it is told to make it. */
  #isUnknown = false;
  #genesis = "";

  get durable(): number {
    return this.frames.at(-1)?.last ?? 0;
  }

  /** Everything it had is gone. */
  lose(): void {
    this.frames.length = 0;
    this.content.fill(0);
    this.#isUnknown = true;
  }

  join(): () => void {
    return () => {};
  }

  knowledge(): Promise<GroupKnowledge> {
    return Promise.resolve(this.known);
  }

  async control(_method: string, path: string, message?: unknown): Promise<HttpReply> {
    if (this.refusal !== undefined) return reply(this.refusal);
    if (path.endsWith("/hello")) {
      const { genesis, token, create } = message as Hello;
      this.#isUnknown &&= !create;
      if (this.#isUnknown) return reply({ kind: "unknown" });
      this.#genesis = genesis;
      const last = this.frames.at(-1);
      const chain = last === undefined ? this.#genesis : bytesToHex(last.chainAfter);
      return reply({
        ...{ kind: "attached", durable: { sequence: this.durable, chain } },
        ...{ applied: this.durable, token },
      });
    }
    if (path.endsWith("/heartbeat")) {
      this.beats.push(message as Heartbeat);
      if (this.#isUnknown) return reply({ kind: "unknown" });
      return reply({ kind: "alive", durable: this.durable, applied: this.durable, stopped: null });
    }
    return reply({ kind: "unknown" });
  }

  async upload(_path: string, bytes: Uint8Array, signal: AbortSignal): Promise<HttpReply> {
    const gaveUp = new Promise((resolve) => signal.addEventListener("abort", resolve));
    await Promise.race([this.batches.pass(), gaveUp]);
    if (signal.aborted)
      throw new OperationalError({ code: "REQUEST_ABORTED", message: "given up", reaction: "retry" });
    if (this.refusal !== undefined) return reply(this.refusal);
    const header = decodeBatchHeader(bytes);
    if (header.first !== this.durable + 1)
      return reply({ kind: "wanted", sequence: this.durable + 1, applied: this.durable });
    this.taken += 1;
    for (const frame of decodeBatchPayload(header, bytes.subarray(batchHeaderBytes))) {
      this.frames.push(frame);
      for (const record of frame.records)
        if (record.kind === "write") this.content.set(record.data, record.offset);
    }
    return reply({ kind: "acknowledged", durable: this.durable, applied: this.durable });
  }

  renew(): void {}
}

function reply(json: unknown): HttpReply {
  return { status: 200, body: Buffer.from(JSON.stringify(json)) };
}

/** Paces and intervals come soon; what is as long as somebody's patience comes sooner, and not too soon for a busy host. */
export const hastyClock: Clock = {
  ...systemClock,
  after: (delayMs: number, run: () => void) =>
    systemClock.after(delayMs < 3_000 ? Math.min(delayMs, 20) : delayMs / 3, run),
};

export class OwnerRig {
  readonly dataDir: string;
  readonly standby = new MemoryStandby();
  journalBytesMax = 2 ** 26;
  /** What the volume has to hold: every write that was answered. */
  readonly content = Buffer.alloc(volumeBytes);
  /** That of the lives to come. */
  clock = hastyClock;
  readonly #lives: OwnedGroup[] = [];

  private constructor(dataDir: string) {
    this.dataDir = dataDir;
  }

  static async with(use: (rig: OwnerRig) => Promise<void>): Promise<void> {
    const dataDir = await mkdtemp(join(tmpdir(), "splitsite-owner-"));
    // The product's timers do not keep a process alive; here nothing else does.
    const alive = setInterval(() => {}, 1_000);
    const rig = new OwnerRig(dataDir);
    try {
      await use(rig);
    } finally {
      rig.standby.batches.open();
      for (const life of rig.#lives) await life.close("abandon");
      clearInterval(alive);
      await rm(dataDir, { recursive: true, force: true });
    }
  }

  get paths(): ReturnType<typeof agentGroupPaths> {
    return agentGroupPaths(this.dataDir, "erp");
  }

  /** The next life of the group, started. */
  async open(
    disk: Disk = systemDisk,
    site = "primary",
    rpo: GroupSettings["rpo"] = { ageMs: null, bytes: null },
  ): Promise<OwnedGroup> {
    const history = { windowMs: 86_400_000, bytesMax: 1 << 30 };
    const group = new OwnedGroup({
      site,
      settings: groupSettings({ volumes: [{ name: "data", sizeBytes: volumeBytes }], history, rpo }),
      paths: this.paths,
      files: {
        disk,
        images: systemImageFiles,
        stores: levelEngine,
        openIndex: (directory) => openLevelOrderedStore(directory, silentLog),
        history,
        clock: this.clock,
        paths: this.paths,
        journalBytesMax: this.journalBytesMax,
        reserveBytes: 0,
        memoryTailBytes: 2 ** 20,
        writeBufferBytes: 2 ** 20,
        aheadHalfBytes: 2 ** 18,
        bootId: "11111111-1111-4111-8111-111111111111",
        log: silentLog,
      },
      unappliedBytesMax: 2 ** 20,
      readHandover: () => Promise.resolve(undefined),
      link: this.standby,
      compress: compressAside,
      clock: this.clock,
      random: systemRandom,
      log: silentLog,
    });
    this.#lives.push(group);
    await group.start();
    return group;
  }

  /** One answered write; `content` has it then. */
  async write(group: OwnedGroup, block: number, fill: number): Promise<void> {
    const data = Buffer.alloc(blockBytes, fill);
    const offset = block * blockBytes;
    await group.submit([{ kind: "write", volume: 0, offset, length: blockBytes, data }], false);
    this.content.set(data, offset);
  }
}
