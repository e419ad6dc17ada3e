/**
 * A journal and images in memory whose every step waits until the test lets it go, for tests of what may happen before
 * what. They keep the promises of the real ones and nothing else, and note the order in which steps were begun.
 */
import assert from "node:assert/strict";
import type { GroupImage } from "../../../image/group-image.ts";
import type { AppliedPosition } from "../../../image/marker.ts";
import type { FrameLog, LogPosition } from "../../../journal/frame-log.ts";
import type { Frame } from "../../../protocol/frame.ts";
import { isOfScan } from "../../../protocol/record.ts";
import { Door } from "../../support/door.ts";

export interface Doors {
  readonly append: Door;
  readonly sync: Door;
  readonly apply: Door;
  readonly imageSync: Door;
  readonly commit: Door;
}

export function newDoors(): Doors {
  return {
    append: new Door(),
    sync: new Door(),
    apply: new Door(),
    imageSync: new Door(),
    commit: new Door(),
  };
}

export class HeldLog {
  readonly steps: string[];
  readonly #doors: Doors;
  head: LogPosition;
  tail: LogPosition;
  durable: LogPosition;
  readonly poisoned = false;
  /** What fails behind the writers. */
  poison: (error: Error) => void = () => {};
  readonly whenPoisoned = new Promise<Error>((resolve) => {
    this.poison = resolve;
  });
  readonly bytes = 0;

  constructor(origin: LogPosition, doors: Doors, steps: string[]) {
    this.head = origin;
    this.tail = origin;
    this.durable = origin;
    this.#doors = doors;
    this.steps = steps;
  }

  asLog(): FrameLog {
    return this as unknown as FrameLog;
  }

  roomFor(): "ok" {
    return "ok";
  }

  async append(frame: Frame): Promise<void> {
    assert.equal(frame.first, this.tail.sequence + 1);
    await this.#doors.append.pass();
    this.steps.push(`append ${frame.last}`);
    const { last: sequence, chainAfter: chain, dataBytesTotal, closedAtMs } = frame;
    this.tail = { sequence, chain, dataBytesTotal, closedAtMs };
  }

  async sync(): Promise<LogPosition> {
    const target = this.tail;
    await this.#doors.sync.pass();
    this.steps.push(`sync ${target.sequence}`);
    this.durable = target;
    return target;
  }

  async trim(through: number): Promise<void> {
    this.steps.push(`trim ${through}`);
    this.head = { ...this.head, sequence: through };
  }

  async close(): Promise<void> {}
}

export class HeldImage {
  readonly steps: string[];
  readonly #doors: Doors;
  readonly content: Buffer;
  held: AppliedPosition;
  applied: AppliedPosition;

  constructor(origin: AppliedPosition, sizeBytes: number, doors: Doors, steps: string[]) {
    this.content = Buffer.alloc(sizeBytes);
    this.held = origin;
    this.applied = origin;
    this.#doors = doors;
    this.steps = steps;
  }

  asImage(): GroupImage {
    return this as unknown as GroupImage;
  }

  async apply(frames: readonly Frame[]): Promise<void> {
    const last = frames.at(-1)!;
    this.steps.push(`apply ${last.last}`);
    await this.#doors.apply.pass();
    for (const frame of frames) {
      for (const record of frame.records) {
        if (isOfScan(record)) continue;
        if (record.kind === "write") this.content.set(record.data, record.offset);
        else this.content.fill(0, record.offset, record.offset + record.length);
      }
    }
    const { last: sequence, chainAfter: chain, dataBytesTotal, closedAtMs: timeMs } = last;
    this.held = { sequence, chain, dataBytesTotal, timeMs };
  }

  async sync(): Promise<AppliedPosition> {
    const covered = this.held;
    await this.#doors.imageSync.pass();
    this.steps.push(`image sync ${covered.sequence}`);
    return covered;
  }

  async commit(position: AppliedPosition): Promise<void> {
    await this.#doors.commit.pass();
    this.steps.push(`commit ${position.sequence}`);
    this.applied = position;
  }

  async read(_volume: number, offset: number, length: number): Promise<Uint8Array> {
    return this.content.subarray(offset, offset + length);
  }

  async close(): Promise<void> {}
}
