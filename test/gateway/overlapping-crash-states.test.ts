/**
 * A standby that catches up in steps that overlap, on a simulated disk, stopped before steps of the disk by kill and by each
 * loss of power: the started standby has lost nothing that was acknowledged, its images come to hold exactly the owner's, every
 * point of its history holds what the owner's disks held there, and a failover from there hands over the same.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { StandbyGroup } from "../../gateway/group.ts";
import { genesisChain } from "../../protocol/chain.ts";
import type { Frame } from "../../protocol/frame.ts";
import { parseHandoverRecord } from "../../protocol/handover.ts";
import { blockBytes, bytesToHex, lineageToText } from "../../protocol/ids.ts";
import { syncDirectory } from "../../runtime/disk.ts";
import { readDocument } from "../../runtime/durable-document.ts";
import { errorText } from "../../runtime/errors.ts";
import { gatewayGroupPaths } from "../../runtime/paths.ts";
import { FrameSource, lineage, originOf } from "../image/frames.ts";
import type { DiskSnapshot } from "../sim/world/disk.ts";
import { SimWorld } from "../sim/world/driven.ts";
import type { PowerCut } from "../sim/world/tree.ts";
import { SeededRandom, seedFromEnvironment } from "../support/seeded.ts";
import { ownersToken, sendBatch, settled, simulatedStandby } from "./simulated-standby.ts";

const seed = seedFromEnvironment();
const statesMax = Number(process.env["SPLITSITE_SCAN_CRASH_STATES"] ?? 120);
const volumeBytes = 8 * blockBytes;
const volumes = ["data", "wal"].map((name, number) => ({ number, name, sizeBytes: volumeBytes }));
const paths = gatewayGroupPaths("/b", "g");
const models: readonly (PowerCut | "kill")[] = ["everything", "nothing", "subset", "torn", "kill"];
/** A few frames of some KiB. */
const stepBytesMax = 12 * 1024;
const frameCount = 60;
/** Frames of one batch: what makes apply fall behind. */
const batchFrames = 20;

class Story {
  readonly frames: Frame[] = [];
  /** By sequence: what the owner's disks hold. */
  readonly content: Buffer[][] = [volumes.map(() => Buffer.alloc(volumeBytes))];

  constructor(random: SeededRandom) {
    const source = new FrameSource(originOf(volumes));
    for (let made = 0; made < frameCount; made += 1) {
      const volume = random.below(volumes.length);
      const length = 512 * (1 + random.below(12));
      const offset = 512 * random.below((volumeBytes - length) / 512);
      const disks = this.content.at(-1)!.map((disk) => Buffer.from(disk));
      this.content.push(disks);
      if (random.chance(0.2)) {
        disks[volume]!.fill(0, offset, offset + length);
        this.frames.push(source.next([{ kind: "trim", volume, offset, length }]));
      } else {
        const data = Buffer.alloc(length, 1 + random.below(255));
        disks[volume]!.set(data, offset);
        this.frames.push(source.next([{ kind: "write", volume, offset, length, data }]));
      }
    }
  }

  get last(): number {
    return this.frames.length;
  }
}

class Standby {
  readonly world: SimWorld;
  readonly group: StandbyGroup;
  readonly story: Story;

  constructor(world: SimWorld, story: Story) {
    this.world = world;
    this.story = story;
    this.group = simulatedStandby(world, world.life(), volumes, stepBytesMax);
  }

  async greet() {
    await this.world.drive(this.group.start());
    const answer = await this.world.drive(
      this.group.hello({
        lineage: lineageToText(lineage),
        token: ownersToken,
        volumes,
        founding: volumes,
        durable: { sequence: this.story.last, chain: bytesToHex(this.story.frames.at(-1)!.chainAfter) },
        genesis: bytesToHex(genesisChain(lineage, volumes)),
        create: true,
      }),
    );
    assert.ok(answer.kind === "attached", JSON.stringify(answer));
    return answer;
  }

  async batch(frames: readonly Frame[]): Promise<void> {
    await sendBatch(this.world, this.group, frames);
  }

  settle(): Promise<number> {
    return settled(this.world, this.group, this.story.last);
  }

  requireImages(sequence: number): void {
    for (const { number, name } of volumes) {
      const found = Buffer.from(this.world.disk.contentOf(paths.image(name), "cached") ?? []);
      assert.ok(found.equals(this.story.content[sequence]![number]!), `${name} at ${sequence}`);
    }
  }

  async requirePoints(): Promise<number> {
    const past = this.group.past!;
    if (past.status === null || past.status.points < 2) return 0;
    const points = await this.world.drive(past.points(0, 10_000));
    for (const { sequence } of points) {
      for (const { number, name } of volumes) {
        const view = await this.world.drive(past.openView(number, sequence));
        const found = Buffer.from(await this.world.drive(view.read(0, volumeBytes)));
        await this.world.drive(view.close());
        assert.ok(found.equals(this.story.content[sequence]![number]!), `${name} as of ${sequence}`);
      }
    }
    return points.length;
  }
}

interface Point {
  readonly what: string;
  readonly disk: DiskSnapshot;
  readonly acknowledged: number;
  /** A step has begun, and the one before is in the images and not in their marker. */
  readonly overlaps: boolean;
}

async function record(story: Story): Promise<Point[]> {
  const world = new SimWorld(seed);
  const disk = world.disk.view(world.life());
  await world.drive(disk.makeDirectory("/b"));
  await world.drive(syncDirectory(disk, "/"));
  const standby = new Standby(world, story);
  const points: Point[] = [];
  let acknowledged = 0;
  // Between the last write of a step and the first before-image of the next one the marker moves twice when they do not
  // overlap, for the end of the one and the intention of the other, and once when they do.
  let markers = 2;
  let overlaps = false;
  await standby.greet();
  world.disk.onOperation = (_life, path, operation, when) => {
    if (when !== "before") return;
    if (path === paths.marker && operation === "syncData") {
      markers += 1;
      if (markers >= 2) overlaps = false;
    } else if (path.includes("/images/") && !operation.startsWith("sync")) {
      if (!overlaps) markers = 0;
    } else if (path.includes("/segments/") && markers < 2) overlaps = true;
    points.push({ what: `${operation} ${path}`, disk: world.disk.snapshot(), acknowledged, overlaps });
  };
  for (let at = 0; at < story.frames.length; at += batchFrames) {
    const frames = story.frames.slice(at, at + batchFrames);
    await standby.batch(frames);
    acknowledged = frames.at(-1)!.last;
  }
  assert.equal(await standby.settle(), story.last);
  standby.requireImages(story.last);
  assert.ok((await standby.requirePoints()) > 5);
  return points;
}

function crashed(point: Point, model: PowerCut | "kill"): SimWorld {
  const world = new SimWorld(seed);
  world.disk.restore(point.disk);
  if (model !== "kill") world.disk.powerCut(model);
  return world;
}

async function crash(story: Story, point: Point, model: PowerCut | "kill"): Promise<void> {
  const standby = new Standby(crashed(point, model), story);
  const { durable } = await standby.greet();
  assert.ok(durable.sequence >= point.acknowledged, "nothing acknowledged is lost");
  const applied = await standby.settle();
  assert.equal(applied, durable.sequence);
  standby.requireImages(applied);
  await standby.requirePoints();
  const rest = story.frames.filter(({ first }) => first > applied);
  if (rest.length > 0) await standby.batch(rest);
  assert.equal(await standby.settle(), story.last);
  standby.requireImages(story.last);
  await standby.requirePoints();
}

async function failOver(story: Story, point: Point, model: PowerCut | "kill"): Promise<void> {
  const world = crashed(point, model);
  const standby = new Standby(world, story);
  const { durable } = await standby.greet();
  if (durable.sequence === 0) return;
  await world.drive(
    (async () => {
      for await (const line of standby.group.runner.run("test"))
        if (line.type === "error") throw new Error(`${line.id}: ${line.message}`);
    })(),
  );
  const disk = world.disk.view(world.life());
  const handover = (await world.drive(readDocument(disk, paths.handover, parseHandoverRecord)))!;
  assert.equal(handover.sealed, durable.sequence);
  standby.requireImages(durable.sequence);
}

/** Those between two ends first, then the others, in a random order. */
function chosen(points: readonly Point[], random: SeededRandom): Point[] {
  const beside = random.shuffle(points.filter(({ overlaps }) => overlaps));
  const others = random.shuffle(points.filter(({ overlaps }) => !overlaps));
  assert.ok(
    beside.some(({ what }) => what.includes("/segments/")),
    "before-images are kept meanwhile",
  );
  assert.ok(
    beside.some(({ what }) => what.includes("/images/")),
    "images are synced or written meanwhile",
  );
  return [...beside.slice(0, statesMax / 2), ...others.slice(0, statesMax / 2)];
}

test(`stopped before every step of steps that overlap (SEED=${seed})`, async (context) => {
  const random = new SeededRandom(seed, 5);
  const story = new Story(random);
  const points = chosen(await record(story), random);
  for (const [index, point] of points.entries()) {
    const model = models[index % models.length]!;
    try {
      await crash(story, point, model);
    } catch (error) {
      const where = `${model} before ${point.what}, ${point.acknowledged} acknowledged`;
      throw new Error(`${where}: ${errorText(error)}`, { cause: error });
    }
  }
  const beside = points.filter(({ overlaps }) => overlaps).length;
  context.diagnostic(`${points.length} states, ${beside} of them with two steps under way`);
});

test(`a failover from any crash in steps that overlap hands over all that was received (SEED=${seed})`, async () => {
  const random = new SeededRandom(seed, 6);
  const story = new Story(random);
  for (const [index, point] of chosen(await record(story), random)
    .slice(0, statesMax / 4)
    .entries()) {
    const model = models[index % models.length]!;
    try {
      await failOver(story, point, model);
    } catch (error) {
      throw new Error(`${model} before ${point.what}: ${errorText(error)}`, { cause: error });
    }
  }
});
