/** Frame logs in a scratch folder, and frames to fill them with. Test support; holds no assertion. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { FrameLogOptions, LogPosition } from "../../../journal/frame-log.ts";
import { levelEngine } from "../../../journal/level-engine.ts";
import type { LevelFrameLog } from "../../../journal/level-frame-log.ts";
import type { FrameLogWorld } from "../../../journal/open.ts";
import { openFrameLog } from "../../../journal/open.ts";
import type { AheadOptions } from "../../../journal/write-ahead-log.ts";
import { genesisChain } from "../../../protocol/chain.ts";
import type { Frame } from "../../../protocol/frame.ts";
import { buildFrame } from "../../../protocol/frame.ts";
import type { BlockRecord } from "../../../protocol/record.ts";
import { systemClock } from "../../../runtime/clock.ts";
import { systemDisk } from "../../../runtime/disk.ts";
import { silentLog } from "../../../runtime/log.ts";

export const lineage = new Uint8Array(16).map((_, at) => at + 1);
export const origin: LogPosition = {
  sequence: 0,
  chain: genesisChain(lineage, [{ number: 0, name: "data", sizeBytes: 2 ** 30 }]),
  dataBytesTotal: 0,
  closedAtMs: 0,
};

/** Bytes that depend on `seed` and do not compress. */
export function noise(length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = (seed * 2654435761 + 1) >>> 0;
  for (let at = 0; at < length; at += 1) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes[at] = state & 0xff;
  }
  return bytes;
}

export function write(offset: number, data: Uint8Array): BlockRecord {
  return { kind: "write", volume: 0, offset, length: data.byteLength, data };
}

/** The frame that continues `after` with `records`. */
export function frameAfter(
  after: LogPosition,
  records: readonly BlockRecord[],
  closedAtMs = 1_000 + after.sequence,
): Frame {
  return buildFrame({
    lineage,
    first: after.sequence + 1,
    chainBefore: after.chain,
    dataBytesBefore: after.dataBytesTotal,
    openedAtMs: closedAtMs - 1,
    closedAtMs,
    records,
  });
}

/** A frame of `count` writes of `bytes` incompressible bytes, its content given by its place in the history. */
export function nextFrame(after: LogPosition, bytes = 4096, count = 1): Frame {
  const records = Array.from({ length: count }, (_, at) =>
    write((after.sequence + at) * 4096, noise(bytes, after.sequence + at + 1)),
  );
  return frameAfter(after, records);
}

/** Options that make tables of a few frames, so that there is something to damage. */
export const small = { writeBufferBytes: 64 * 1024, compression: "none", memoryTailBytes: 0 } as const;

/** The real world. */
export const systemFrameLogWorld: FrameLogWorld = {
  disk: systemDisk,
  stores: levelEngine,
  clock: systemClock,
};

export class Scratch {
  readonly directory: string;
  readonly ahead: AheadOptions | null;

  /** A new folder, or one that another process has made. `aheadHalfBytes`: the journals have halves of that length. */
  constructor(
    directory = mkdtempSync(join(tmpdir(), "splitsite-journal-")),
    aheadHalfBytes: number | null = null,
  ) {
    this.directory = directory;
    this.ahead =
      aheadHalfBytes === null
        ? null
        : { directory: join(this.directory, "ahead-1"), halfBytes: aheadHalfBytes };
  }

  options(changes: Partial<FrameLogOptions> = {}): FrameLogOptions {
    return {
      directory: join(this.directory, "journal"),
      watermarkPath: join(this.directory, "watermark"),
      ahead: this.ahead,
      lineage,
      origin,
      mode: "open",
      compression: "lz4",
      bytesMax: 2 ** 30,
      reserveBytes: 0,
      memoryTailBytes: 1024 * 1024,
      bootId: "boot-1",
      writeBufferBytes: 1024 * 1024,
      ...changes,
    };
  }

  async open(changes: Partial<FrameLogOptions> = {}, world: Partial<FrameLogWorld> = {}) {
    const { log, recovery } = await openFrameLog(this.options(changes), silentLog, {
      ...systemFrameLogWorld,
      ...world,
    });
    return { log: log as LevelFrameLog, recovery };
  }

  async create(
    changes: Partial<FrameLogOptions> = {},
    world: Partial<FrameLogWorld> = {},
  ): Promise<LevelFrameLog> {
    return (await this.open({ mode: "create", ...changes }, world)).log;
  }

  remove(): void {
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** Appends `frames` frames and returns them. */
export async function fill(log: LevelFrameLog, frames: number, bytes = 4096, count = 1): Promise<Frame[]> {
  const appended: Frame[] = [];
  for (let at = 0; at < frames; at += 1) {
    const frame = nextFrame(log.tail, bytes, count);
    await log.append(frame);
    appended.push(frame);
  }
  return appended;
}
