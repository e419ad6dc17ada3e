/**
 * A standby whose volumes join and grow, on a simulated disk, stopped before every step of the disk around the changes, by
 * kill and by each loss of power: the started standby has the owner's table and content, its points hold exactly the volumes
 * that were whole there, with what they held, and a failover hands over exactly those.
 */

import assert from "node:assert/strict";
import { test } from "node:test";
import type { StandbyGroup } from "../../../gateway/group.ts";
import { parseStandbyDocument } from "../../../gateway/state.ts";
import { Marker } from "../../../image/marker.ts";
import { genesisChain } from "../../../protocol/chain.ts";
import type { Hello } from "../../../protocol/control.ts";
import type { Frame } from "../../../protocol/frame.ts";
import { parseHandoverRecord } from "../../../protocol/handover.ts";
import { bytesToHex, lineageToText } from "../../../protocol/ids.ts";
import { isWholeAt } from "../../../protocol/table-volume.ts";
import { syncDirectory } from "../../../runtime/disk.ts";
import { readDocument } from "../../../runtime/durable-document.ts";
import { errorCode, errorText } from "../../../runtime/errors.ts";
import { gatewayGroupPaths } from "../../../runtime/paths.ts";
import { lineage } from "../../image/frames.ts";
import type { DiskSnapshot } from "../../sim/world/disk.ts";
import { SimWorld } from "../../sim/world/driven.ts";
import type { PowerCut } from "../../sim/world/tree.ts";
import { SeededRandom, seedFromEnvironment } from "../../support/seeded.ts";
import { ownersToken, sendBatch, settled, simulatedStandby } from "../simulated-standby.ts";
import { founding, Story } from "./story.ts";

const seed = seedFromEnvironment();
const statesMax = Number(process.env["SPLITSITE_SCAN_CRASH_STATES"] ?? 200);
/** Kinds of loss before each step of the document: all of them where there is time. */
const documentKinds = statesMax >= 1_000 ? 5 : 1;
const paths = gatewayGroupPaths("/b", "g");
const models: readonly (PowerCut | "kill")[] = ["everything", "nothing", "subset", "torn", "kill"];

class Standby {
  readonly world: SimWorld;
  readonly group: StandbyGroup;
  readonly story: Story;

  constructor(world: SimWorld, story: Story) {
    const life = world.life();
    this.world = world;
    this.story = story;
    // As it is to be in the end: a configuration is ahead of its table.
    this.group = simulatedStandby(world, life, story.tableAt(story.last));
  }

  /** `sequence`: how far the owner's journal has got. */
  async greet(sequence = this.story.last) {
    await this.world.drive(this.group.start());
    const { frames } = this.story;
    const frame = frames.find(({ last }) => last >= sequence)!;
    const hello: Hello = {
      lineage: lineageToText(lineage),
      token: ownersToken,
      volumes: this.story
        .tableAt(frame.last)
        .map(({ number, name, sizeBytes }) => ({ number, name, sizeBytes })),
      founding,
      durable: { sequence: frame.last, chain: bytesToHex(frame.chainAfter) },
      genesis: bytesToHex(genesisChain(lineage, founding)),
      create: true,
    };
    const answer = await this.world.drive(this.group.hello(hello));
    assert.ok(answer.kind === "attached", JSON.stringify(answer));
    return answer;
  }

  async batch(frame: Frame): Promise<void> {
    await sendBatch(this.world, this.group, [frame]);
  }

  settle(): Promise<number> {
    return settled(this.world, this.group, this.story.last);
  }

  async document() {
    const disk = this.world.disk.view(this.world.life());
    return (await this.world.drive(readDocument(disk, paths.state, parseStandbyDocument)))!;
  }

  /** Table and images are the owner's at `sequence`, as far as they can be. */
  async requireOwners(sequence: number): Promise<void> {
    const { volumes } = await this.document();
    const table = this.story.tableAt(sequence);
    assert.deepEqual(
      volumes.map(({ imagePath: _, ...row }) => row),
      table,
    );
    for (const { volume, sizeBytes, wholeFrom } of this.group.status().volumes) {
      const row = table.find(({ name }) => name === volume)!;
      assert.deepEqual([sizeBytes, wholeFrom], [row.sizeBytes, row.wholeFrom]);
    }
    for (const row of table) {
      const found = Buffer.from(this.world.disk.contentOf(paths.image(row.name), "cached") ?? []);
      assert.equal(found.byteLength, row.sizeBytes, row.name);
      if (!this.story.whole[sequence] || row.wholeFrom === null) continue;
      assert.ok(
        found.equals(this.story.contentAt(sequence, row.number, row.sizeBytes)),
        `${row.name} at ${sequence}`,
      );
    }
  }

  /** Every point holds exactly what was whole there, and what that held, with the sizes of now. */
  async requirePoints(applied: number, random: SeededRandom, most: number): Promise<number> {
    const past = this.group.past!;
    const table = this.story.tableAt(applied);
    const points = await this.world.drive(past.points(0, 10_000));
    for (const { sequence } of random.shuffle([...points]).slice(0, most)) {
      assert.ok(this.story.whole[sequence], `${sequence} is a point`);
      const whole = table.filter((row) => isWholeAt(row, sequence));
      assert.deepEqual(
        past.volumesAt({ sequence }).map(({ name, sizeBytes }) => [name, sizeBytes]),
        whole.map(({ name, sizeBytes }) => [name, sizeBytes]),
      );
      const others = table.filter((row) => !whole.includes(row));
      assert.deepEqual(
        past.leftOutAt({ sequence }),
        others.map(({ name }) => name),
      );
      for (const { number } of others)
        await assert.rejects(past.openView(number, sequence), { code: "VOLUME_NOT_IN_POINT" });
      for (const { number, name, sizeBytes } of whole) {
        const view = await this.world.drive(past.openView(number, sequence));
        assert.equal(view.sizeBytes, sizeBytes);
        const found = Buffer.from(await this.world.drive(view.read(0, sizeBytes)));
        await this.world.drive(view.close());
        assert.ok(
          found.equals(this.story.contentAt(sequence, number, sizeBytes)),
          `${name} as of ${sequence}`,
        );
      }
    }
    return points.length;
  }
}

interface Point {
  readonly what: string;
  readonly disk: DiskSnapshot;
  readonly acknowledged: number;
}

async function record(story: Story, random: SeededRandom): Promise<Point[]> {
  const world = new SimWorld(seed);
  const disk = world.disk.view(world.life());
  await world.drive(disk.makeDirectory("/b"));
  await world.drive(syncDirectory(disk, "/"));
  const standby = new Standby(world, story);
  const points: Point[] = [];
  let acknowledged = 0;
  await standby.greet(1);
  world.disk.onOperation = (_life, path, operation, when) => {
    if (when === "before")
      points.push({ what: `${operation} ${path}`, disk: world.disk.snapshot(), acknowledged });
  };
  for (const frame of story.frames) {
    await standby.batch(frame);
    acknowledged = frame.last;
    // Steps of one frame and of many.
    if (random.chance(0.4)) await world.scheduler.run({ untilMs: world.scheduler.nowMs + random.below(500) });
  }
  assert.equal(await standby.settle(), story.last);
  await standby.requireOwners(story.last);
  assert.ok((await standby.requirePoints(story.last, random, 1_000)) > 10);
  return points;
}

/** Before anyone starts: the marker is never ahead of the document, and the document never of the images. */
async function requireOrder(world: SimWorld, story: Story): Promise<void> {
  const disk = world.disk.view(world.life());
  const document = await world.drive(readDocument(disk, paths.state, parseStandbyDocument));
  const marker = await world.drive(Marker.open(disk, paths.marker, lineage));
  const { applied } = marker.state;
  await world.drive(marker.close());
  for (const row of story.tableAt(applied.sequence)) {
    const held = document?.volumes.find(({ number }) => number === row.number);
    assert.ok(held !== undefined && held.sizeBytes >= row.sizeBytes, `${row.name} at ${applied.sequence}`);
  }
  for (const { imagePath, sizeBytes, name } of document?.volumes ?? []) {
    const found = world.disk.contentOf(imagePath, "cached");
    assert.ok(found !== undefined && found.byteLength >= sizeBytes, `the image of ${name}`);
  }
}

function crashed(point: Point, model: PowerCut | "kill"): SimWorld {
  const world = new SimWorld(seed);
  world.disk.restore(point.disk);
  if (model !== "kill") world.disk.powerCut(model);
  return world;
}

async function crash(
  story: Story,
  point: Point,
  model: PowerCut | "kill",
  random: SeededRandom,
): Promise<void> {
  const world = crashed(point, model);
  await requireOrder(world, story);
  const standby = new Standby(world, story);
  const answer = await standby.greet();
  assert.ok(answer.durable.sequence >= point.acknowledged);
  const applied = await standby.settle();
  await standby.requireOwners(applied);
  const openable = story.openable(applied);
  assert.equal(standby.group.status().consistent?.sequence, openable);
  const plan = standby.group.plan();
  assert.equal(plan.point?.sequence, openable);
  const leftOut = story.tableAt(applied).filter((row) => openable !== undefined && !isWholeAt(row, openable));
  assert.deepEqual(
    plan.leftOut,
    leftOut.map(({ name }) => name),
  );
  if (story.whole[applied] && (await hasPoints(standby))) await standby.requirePoints(applied, random, 3);
  for (const frame of story.frames) if (frame.first > applied) await standby.batch(frame);
  assert.equal(await standby.settle(), story.last);
  await standby.requireOwners(story.last);
  await standby.requirePoints(story.last, random, 3);
}

/** The first step after a standby was made begins its history; a crash may come before that. */
async function hasPoints({ world, group }: Standby): Promise<boolean> {
  try {
    return (await world.drive(group.past!.points(undefined, 1))).length > 0;
  } catch (error) {
    if (errorCode(error) !== "POINTS_NONE") throw error;
    return false;
  }
}

/** Fails over with whatever was received, and gives how many volumes were left out; undefined: nothing could be opened. */
async function failOver(story: Story, point: Point, model: PowerCut | "kill"): Promise<number | undefined> {
  const world = crashed(point, model);
  const standby = new Standby(world, story);
  const { durable } = await standby.greet();
  const openable = story.openable(durable.sequence);
  if (openable === undefined) return undefined;
  let told: unknown;
  await world.drive(
    (async () => {
      for await (const line of standby.group.runner.run("test")) {
        if (line.type === "error") throw new Error(`${line.id}: ${line.message}`);
        if (line.type === "result") told = line.result;
      }
    })(),
  );
  const disk = world.disk.view(world.life());
  const handover = (await world.drive(readDocument(disk, paths.handover, parseHandoverRecord)))!;
  assert.equal(handover.sealed, openable);
  const { volumes: table } = await standby.document();
  const whole = story.wholeAt(openable);
  assert.deepEqual(
    handover.volumes.map(({ number }) => number),
    whole.map(({ number }) => number),
  );
  const others = table.filter(({ number }) => !whole.some((each) => each.number === number));
  assert.deepEqual(
    handover.leftOut,
    others.map(({ number, name, sizeBytes }) => ({ number, name, sizeBytes })),
  );
  assert.deepEqual(
    (told as { leftOut: string[] }).leftOut,
    others.map(({ name }) => name),
  );
  for (const { number, name, sizeBytes, imagePath } of handover.volumes) {
    const found = Buffer.from(world.disk.contentOf(imagePath, "cached") ?? []);
    assert.ok(
      found.equals(story.contentAt(openable, number, sizeBytes)),
      `${name} is the owner's at ${openable}`,
    );
  }
  return others.length;
}

test(`stopped before every step around a change of the table (SEED=${seed})`, async (context) => {
  const random = new SeededRandom(seed, 3);
  const story = new Story(random);
  const points = await record(story, random);
  const isOfChange = ({ what }: Point): boolean =>
    what.includes("state.json") || what.includes("/images/") || what.endsWith("/applied");
  const documents = points.filter(({ what }) => what.includes("state.json"));
  assert.ok(documents.length >= 12, `${documents.length} steps of the document`);
  const chosen = [
    ...documents,
    ...random
      .shuffle(points.filter((point) => isOfChange(point) && !documents.includes(point)))
      .slice(0, statesMax / 4),
    ...random.shuffle(points.filter((point) => !isOfChange(point))).slice(0, statesMax / 8),
  ];
  let states = 0;
  for (const [index, point] of chosen.entries()) {
    const kinds = documents.includes(point) ? documentKinds : 1;
    const of = models.map((_, at) => models[(index + at) % models.length]!).slice(0, kinds);
    for (const model of of) {
      try {
        await crash(story, point, model, random);
      } catch (error) {
        const where = `${model} before ${point.what}, ${point.acknowledged} acknowledged`;
        throw new Error(`${where}: ${errorText(error)}`, { cause: error });
      }
      states += 1;
    }
  }
  context.diagnostic(`${states} states, ${documents.length} steps of the document`);
});

test(`a failover from any crash hands over exactly what is whole (SEED=${seed})`, async (context) => {
  const random = new SeededRandom(seed, 4);
  const story = new Story(random);
  const points = random.shuffle(await record(story, random));
  const left = new Map<number, number>();
  for (const [index, point] of points.slice(0, statesMax / 4).entries()) {
    const model = models[index % models.length]!;
    try {
      const count = await failOver(story, point, model);
      if (count !== undefined) left.set(count, (left.get(count) ?? 0) + 1);
    } catch (error) {
      throw new Error(`${model} before ${point.what}: ${errorText(error)}`, { cause: error });
    }
  }
  assert.ok((left.get(0) ?? 0) > 3 && (left.get(1) ?? 0) > 3, JSON.stringify([...left]));
  context.diagnostic(`volumes left out: ${JSON.stringify([...left])}`);
});
