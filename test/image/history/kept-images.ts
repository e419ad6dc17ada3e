/**
 * A group's images with a history on a simulated disk, and naive copies of what they held: for tests that bring them
 * to a state, break something, and look what is left.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { BlockDevice } from "../../../block/device.ts";
import { BlockErrno, BlockError } from "../../../block/device.ts";
import { GroupImage } from "../../../image/group-image.ts";
import type { ChunkHead } from "../../../image/history/chunk.ts";
import { chunkBytes, chunkHeadBytes, decodeChunkHead, runBytes } from "../../../image/history/chunk.ts";
import { History } from "../../../image/history/history.ts";
import type { WalkedChunk } from "../../../image/history/segments.ts";
import { openView } from "../../../image/history/view.ts";
import type { Frame } from "../../../protocol/frame.ts";
import type { Sequence, VolumeEntry } from "../../../protocol/ids.ts";
import { silentLog } from "../../../runtime/log.ts";
import { SimWorld } from "../../sim/world/driven.ts";
import type { Life } from "../../sim/world/life.ts";
import { ForgetfulStore } from "../../support/forgetful-store.ts";
import { applyNaively, FrameSource, lineage, originOf, recordOf } from "../frames.ts";

/** The last block is three sectors long. */
export const sectorCount = 40 * 8 + 3;
export const sizeBytes = sectorCount * 512;
export const volumes: readonly VolumeEntry[] = [0, 1].map((number) => ({
  number,
  name: `v${number}`,
  sizeBytes,
}));
const origin = originOf(volumes);
export const folder = "/data";
export const segmentsFolder = join(folder, "history", "segments");

export function segmentPath(number: number): string {
  return join(segmentsFolder, String(number).padStart(8, "0"));
}

export interface Written {
  readonly volume: number;
  readonly block: number;
  readonly blocks: number;
  readonly fill: number;
}

export class KeptImages {
  readonly world: SimWorld;
  readonly source = new FrameSource(origin);
  /** What the volumes hold after each frame, naively. */
  readonly copies = new Map<Sequence, Uint8Array[]>([[0, volumes.map(() => new Uint8Array(sizeBytes))]]);
  readonly segmentBytes: number;
  /** `VOLUME:BLOCK` that the disk cannot read. */
  readonly badBlocks = new Set<string>();
  store = new ForgetfulStore();
  life: Life;

  constructor(seed: number, segmentBytes = 1024) {
    this.world = new SimWorld(seed);
    this.life = this.world.life();
    this.segmentBytes = segmentBytes;
  }

  async prepare(): Promise<void> {
    const disk = this.world.disk.view(this.life);
    await this.world.drive(disk.makeDirectory(folder));
    for (const each of ["/", folder]) {
      const file = await this.world.drive(disk.open(each, "read"));
      await this.world.drive(file.sync());
    }
  }

  /** Not driven: it may be cut short. */
  async open(mode: "create" | "open" = "open"): Promise<GroupImage> {
    const { life, store } = this;
    const disk = this.world.disk.view(life);
    const files = this.world.disk.images(life);
    const opened = [];
    for (const entry of volumes) {
      const path = join(folder, `${entry.name}.img`);
      const create = mode === "create" ? ("sparse" as const) : ("never" as const);
      const device = await files.open({ path, sizeBytes, create });
      opened.push({ entry, device: this.wrapped(device, entry.number) });
    }
    return GroupImage.open({
      disk,
      volumes: opened,
      markerPath: join(folder, "marker"),
      lineage,
      mode,
      origin,
      log: silentLog,
      openHistory: (applied, applyingLast) =>
        History.open({
          disk,
          directory: join(folder, "history"),
          lineage,
          applied,
          mayHold: mode === "create" ? 0 : Math.max(applyingLast, this.source.position.sequence),
          openIndex: async () => store,
          windowMs: 1_000_000,
          bytesMax: 2 ** 40,
          log: silentLog,
          segmentBytes: this.segmentBytes,
        }),
    });
  }

  /** A volume's device, as the images are given it. */
  protected wrapped<T extends BlockDevice>(device: T, volume: number): T {
    return withBadBlocks(device, volume, this.badBlocks);
  }

  /** A frame of writes, one record each, every sector with content of its own. */
  frame(writes: readonly Written[]): Frame {
    const records = writes.map(({ volume, block, blocks, fill }) =>
      recordOf({ kind: "write", volume, sector: block * 8, sectors: blocks * 8, fill }),
    );
    const frame = this.source.next(records);
    const copy = this.copies.get(frame.first - 1)!.map((bytes) => bytes.slice());
    for (const record of records) applyNaively(copy, record);
    this.copies.set(frame.last, copy);
    return frame;
  }

  /** The disk after a crash, with what was forgotten drawn by the world; the store forgets what `survives` refuses. */
  crash(model: "everything" | "nothing" | "subset" | "torn", survives: () => boolean): void {
    if (this.life.alive) this.world.disk.powerCut(model);
    this.life = this.world.life();
    this.store = this.store.crashed(survives);
  }

  /** Flips a bit of the first payload in a segment, and gives the chunk whose it is. */
  damagePayload(number: number): WalkedChunk {
    const path = segmentPath(number);
    for (const { offset, head, bytes } of chunksOf(this.world.disk.contentOf(path, "cached")!)) {
      if (head.storedBytes === 0) continue;
      this.world.disk.flipBit(path, offset + chunkHeadBytes + head.runs.length * runBytes, 0);
      return { place: { segment: number, offset }, head, bytes };
    }
    throw new Error(`segment ${number} has no payload`);
  }

  /** What the images hold is what they held after `sequence`. */
  async checkImages(image: GroupImage, sequence: Sequence, what: string): Promise<void> {
    for (const { number } of volumes) {
      const content = await image.read(number, 0, sizeBytes);
      assert.equal(Buffer.compare(content, this.copies.get(sequence)![number]!), 0, `${what}: ${number}`);
    }
  }

  /** Every point of the history up to `through` reads as its copy. Gives the points. */
  async checkPoints(
    image: GroupImage,
    what: string,
    through = Number.POSITIVE_INFINITY,
  ): Promise<Sequence[]> {
    const all = (await image.history!.points(0, 1000)).map(({ sequence }) => sequence);
    const points = all.filter((sequence) => sequence <= through);
    for (const sequence of points) {
      for (const { number } of volumes) {
        const view = await openView(image, number, sequence);
        const content = await view.read(0, sizeBytes);
        const wanted = this.copies.get(sequence)![number]!;
        assert.equal(Buffer.compare(content, wanted), 0, `${what}: volume ${number} at ${sequence}`);
        await view.close();
      }
    }
    return points;
  }
}

/** The chunks of a segment's content, which must be whole. */
export function* chunksOf(
  content: Uint8Array,
): Generator<{ offset: number; head: ChunkHead; bytes: number }> {
  for (let offset = 0; offset < content.byteLength; ) {
    const head = decodeChunkHead(content.subarray(offset));
    const bytes = chunkBytes(head.runs.length, head.storedBytes);
    yield { offset, head, bytes };
    offset += bytes;
  }
}

/** Runs `work` in the life under way until it settles or that life ends; true when it settled. */
export async function lived(kept: KeptImages, work: () => Promise<void>): Promise<boolean> {
  const { life } = kept;
  let settled = false;
  let failure: unknown;
  work().then(
    () => {
      settled = true;
    },
    (error: unknown) => {
      settled = true;
      failure = error;
    },
  );
  await kept.world.scheduler.run({ stop: () => settled || !life.alive });
  if (failure !== undefined) throw failure;
  assert.ok(settled || !life.alive, "stuck");
  return settled && life.alive;
}

/** Steps that overlap each other, over several segments; each one frame. */
export function overlappingSteps(count: number): Written[][] {
  return Array.from({ length: count }, (_, step) => [
    { volume: 0, block: step % 5, blocks: 3, fill: 1 + step * 7 },
    { volume: 1, block: 10 + (step % 3), blocks: 1, fill: 2 + step * 7 },
    { volume: step % 2, block: 20 + step, blocks: 2, fill: 3 + step * 7 },
  ]);
}

/** The device, whose bad blocks cannot be read; what is written there is readable again, as after a sector was given another place. */
function withBadBlocks<T extends BlockDevice>(device: T, volume: number, bad: Set<string>): T {
  const read = async (offset: number, length: number): Promise<Uint8Array> => {
    for (let block = Math.floor(offset / 4096); block * 4096 < offset + length; block += 1) {
      if (!bad.has(`${volume}:${block}`)) continue;
      throw new BlockError(BlockErrno.EIO, "read", Object.assign(new Error("medium error"), { code: "EIO" }));
    }
    return device.read(offset, length);
  };
  return new Proxy(device, {
    get: (target, name) => {
      if (name === "read") return read;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}
