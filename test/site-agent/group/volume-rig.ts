/**
 * An owned group on a simulated machine whose volume table changes, and a standby as simple as can be at the end of a line in
 * memory: a test kills the group at any step of its disk, and holds what comes back against what was promised.
 */

import assert from "node:assert/strict";
import type { CompressBatch } from "../../../protocol/batch.ts";
import { batchHeaderBytes, decodeBatchHeader, decodeBatchPayload } from "../../../protocol/batch.ts";
import type { GroupKnowledge, Hello, HelloAnswer, ScanAsk, WantedAnswer } from "../../../protocol/control.ts";
import type { Frame } from "../../../protocol/frame.ts";
import type { Token } from "../../../protocol/ids.ts";
import { bytesEqual, bytesToHex, lineageToText } from "../../../protocol/ids.ts";
import { OperationalError } from "../../../runtime/errors.ts";
import type { HttpReply } from "../../../runtime/http.ts";
import { silentLog } from "../../../runtime/log.ts";
import { agentGroupPaths } from "../../../runtime/paths.ts";
import type { GroupSettings } from "../../../runtime/settings/types.ts";
import { OwnedGroup } from "../../../site-agent/group/owned-group.ts";
import type { Line } from "../../../site-agent/ship/line.ts";
import { clockOf, randomOf } from "../../sim/world/clock.ts";
import type { SimWorld } from "../../sim/world/driven.ts";
import type { Life } from "../../sim/world/life.ts";
import { groupSettings } from "../../support/group-settings.ts";
import { NaiveStandby } from "../scan/naive-standby.ts";

export const KiB = 1024;
export const paths = agentGroupPaths("/site", "erp");

/** Sizes by name, in the order of the file. */
export type Table = Readonly<Record<string, number>>;

export function settingsOf(table: Table, overflow: "track" | "hold" = "hold"): GroupSettings {
  const volumes = Object.entries(table).map(([name, sizeBytes]) => ({ name, sizeBytes }));
  return groupSettings({ volumes, overflow, history: { windowMs: 0, bytesMax: 1 << 30 } });
}

const notCompressed: CompressBatch = async (_codec, raw) => ({ shrunk: false, bytes: raw });

/** The other site: keeps what it is sent, and judges each greeting by what it holds. */
export class ToySite implements Line {
  readonly settings = { codec: "none", connections: 2, collectMs: 60 } as const;
  readonly budgetBytes = 16 * 1024 * KiB;
  readonly frames: Frame[] = [];
  standby: NaiveStandby;
  readonly founding: readonly number[];
  /** What it says of a table that is wanted. */
  wanted: WantedAnswer = "ready";
  asked: Hello[] = [];
  /** Nothing gets through. */
  down = false;
  /** Batches are refused as busy. */
  busy = false;
  #token: Token = { epoch: 1, owner: "primary" };
  #genesis = "";
  #lineage: string | null = null;

  constructor(founding: readonly number[], frames: readonly Frame[] = []) {
    this.founding = founding;
    this.standby = new NaiveStandby(founding);
    this.#take(frames);
    const [first] = frames;
    if (first === undefined) return;
    this.#genesis = bytesToHex(first.chainBefore);
    this.#lineage = lineageToText(first.lineage);
  }

  get status() {
    return { up: !this.down, limitBytesPerSecond: null, wireBytes: 0, lastContact: null };
  }

  get durable(): { sequence: number; chain: string } {
    const last = this.frames.at(-1);
    if (last === undefined) return { sequence: 0, chain: this.#genesis };
    return { sequence: last.last, chain: bytesToHex(last.chainAfter) };
  }

  join(): () => void {
    return () => {};
  }

  async knowledge(): Promise<GroupKnowledge> {
    this.#reach();
    return {
      known: this.#lineage !== null,
      lineage: this.#lineage,
      token: this.#lineage === null ? null : this.#token,
    };
  }

  async control(_method: string, path: string, message?: unknown): Promise<HttpReply> {
    this.#reach();
    if (path.endsWith("/hello")) return reply(this.#greet(message as Hello));
    if (path.endsWith("/scan")) return reply(this.standby.findings((message as ScanAsk).after));
    const { sequence } = this.durable;
    return reply({ kind: "alive", durable: sequence, applied: sequence, stopped: null });
  }

  async upload(_path: string, bytes: Uint8Array): Promise<HttpReply> {
    this.#reach();
    if (this.busy) return reply({ kind: "busy", code: "INTAKE_FULL", message: "full", retryAfterMs: 500 });
    const header = decodeBatchHeader(bytes);
    const frames = decodeBatchPayload(header, bytes.subarray(batchHeaderBytes));
    const { sequence } = this.durable;
    if (header.first !== sequence + 1)
      return reply({ kind: "wanted", sequence: sequence + 1, applied: sequence });
    this.#take(frames);
    return reply({ kind: "acknowledged", durable: header.last, applied: header.last });
  }

  renew(): void {}

  #take(frames: readonly Frame[]): void {
    for (const frame of frames) {
      const before = this.frames.at(-1);
      if (before !== undefined) assert.ok(bytesEqual(before.chainAfter, frame.chainBefore), "one history");
      for (const record of frame.records) {
        const known = this.standby.volumes[record.volume];
        const end = record.offset + record.length;
        const isOfTable = record.kind === "volumeChange" || record.kind === "gap";
        assert.ok(
          isOfTable || end <= (known?.byteLength ?? 0),
          `${record.kind} beyond volume ${record.volume}`,
        );
      }
      this.frames.push(frame);
      this.standby.apply([frame]);
    }
  }

  #greet(hello: Hello): HelloAnswer {
    this.asked.push(hello);
    this.#genesis ||= hello.genesis;
    this.#lineage ??= hello.lineage;
    assert.equal(hello.genesis, this.#genesis, "a history has one beginning");
    const founding = (hello.founding ?? hello.volumes).map(({ sizeBytes }) => sizeBytes);
    assert.deepEqual(founding, this.founding);
    for (const [number, held] of this.standby.volumes.entries()) {
      const offered = hello.volumes.find((volume) => volume.number === number);
      assert.ok(offered !== undefined && offered.sizeBytes >= held.byteLength, `volume ${number} is offered`);
    }
    const { wanted, standby } = this;
    return {
      kind: "attached",
      durable: this.durable,
      applied: this.durable.sequence,
      token: hello.token,
      ...(standby.lacks === undefined ? {} : { lacks: standby.lacks }),
      ...(hello.wanted === undefined ? {} : { wanted }),
    };
  }

  #reach(): void {
    if (this.down)
      throw new OperationalError({ code: "PEER_UNREACHABLE", message: "down", reaction: "retry" });
  }
}

function reply(json: unknown): HttpReply {
  return { status: 200, body: Buffer.from(JSON.stringify(json)) };
}

export interface GroupOptions {
  readonly journalBytesMax?: number;
  readonly overflow?: "track" | "hold";
  readonly log?: typeof silentLog;
}

/** A new life of the group on this machine; not started. */
export function groupOn(
  world: SimWorld,
  line: Line | null,
  table: Table,
  options: GroupOptions = {},
): { group: OwnedGroup; life: Life } {
  const life = world.life();
  const clock = clockOf(world.scheduler, life);
  const settings = settingsOf(table, options.overflow);
  const group = new OwnedGroup({
    site: "primary",
    settings,
    paths,
    files: {
      ...world.storage(life),
      history: settings.history,
      clock,
      paths,
      journalBytesMax: options.journalBytesMax ?? 64 * 1024 * KiB,
      reserveBytes: 0,
      memoryTailBytes: 256 * KiB,
      writeBufferBytes: 64 * KiB,
      // The disk is copied before every step.
      aheadHalfBytes: 16 * KiB,
      log: options.log ?? silentLog,
    },
    unappliedBytesMax: 1024 * KiB,
    readHandover: () => Promise.resolve(undefined),
    link: line,
    compress: notCompressed,
    clock,
    random: randomOf(world.scheduler),
    log: options.log ?? silentLog,
  });
  return { group, life };
}

export function write(group: OwnedGroup, volume: number, offset: number, fill: number): Promise<void> {
  const data = Buffer.alloc(512, fill);
  return group.submit([{ kind: "write", volume, offset, length: 512, data }], true);
}

/** Lets virtual time pass until `met`, at most a minute of it. */
export async function passUntil(world: SimWorld, met: () => boolean, what: string): Promise<void> {
  const endMs = world.scheduler.nowMs + 60_000;
  while (!met()) {
    assert.ok(world.scheduler.nowMs < endMs, `not within a minute: ${what}`);
    await world.drive(pause(world, 20));
  }
}

export function pause(world: SimWorld, delayMs: number): Promise<void> {
  return new Promise((resolve) => world.scheduler.at(delayMs, "pause", resolve));
}
