/**
 * A standby through a first sync, gaps, a scan that is given up and resyncs on a simulated disk, stopped before every step that
 * writes its document, its pins or its marker, by kill and by each loss of power: what the document says then is true of the
 * images, and so is what the started standby says, until the rest of the history makes both sites equal. A failover from there
 * opens the newest position that is whole, and one that is stopped in any step of taking the images back is finished.
 */

import assert from "node:assert/strict";
import { test } from "node:test";
import type { StandbyGroup } from "../../../gateway/group.ts";
import { isOpenable } from "../../../gateway/scan/completeness.ts";
import { parseStandbyDocument } from "../../../gateway/state.ts";
import { Marker } from "../../../image/marker.ts";
import { genesisChain } from "../../../protocol/chain.ts";
import type { HelloAnswer } from "../../../protocol/control.ts";
import type { Frame } from "../../../protocol/frame.ts";
import { parseHandoverRecord } from "../../../protocol/handover.ts";
import { blockBytes, bytesToHex, lineageToText } from "../../../protocol/ids.ts";
import type { BlockRecord, ScanMark, ScanPurpose } from "../../../protocol/record.ts";
import { syncDirectory } from "../../../runtime/disk.ts";
import { readDocument } from "../../../runtime/durable-document.ts";
import { errorText } from "../../../runtime/errors.ts";
import { gatewayGroupPaths } from "../../../runtime/paths.ts";
import { FrameSource, lineage, originOf } from "../../image/frames.ts";
import type { DiskSnapshot } from "../../sim/world/disk.ts";
import { SimWorld } from "../../sim/world/driven.ts";
import type { PowerCut } from "../../sim/world/tree.ts";
import { SeededRandom, seedFromEnvironment } from "../../support/seeded.ts";
import { heartbeatOf, ownersToken, sendBatch, simulatedStandby } from "../simulated-standby.ts";

const seed = seedFromEnvironment();
const statesMax = Number(process.env["SPLITSITE_SCAN_CRASH_STATES"] ?? 400);
const volumeBytes = 8 * blockBytes;
const volumes = ["data", "wal"].map((name, number) => ({ number, name, sizeBytes: volumeBytes }));
const paths = gatewayGroupPaths("/b", "g");
const models: readonly (PowerCut | "kill")[] = ["everything", "nothing", "subset", "torn", "kill"];

/** The owner's history: its frames, and for every sequence what its disks hold and whether a standby there is whole. */
class Story {
  readonly frames: Frame[] = [];
  readonly content: Buffer[][] = [];
  readonly whole: boolean[] = [];
  readonly #source = new FrameSource(originOf(volumes));
  readonly #random: SeededRandom;
  #disks: Buffer[];
  #whole = false;
  #pending: BlockRecord[] = [];

  constructor(random: SeededRandom, seeded: boolean) {
    this.#random = random;
    this.#disks = volumes.map(() => Buffer.alloc(volumeBytes));
    for (const disk of this.#disks)
      for (let at = 0; at < volumeBytes; at += blockBytes)
        if (random.chance(0.6)) disk.fill(1 + random.below(255), at, at + blockBytes);
    this.#note();
    this.#writes(3);
    this.#scan("first-sync", seeded, false);
    this.#scan("first-sync", seeded, true);
    this.#writes(4);
    // The owner drops frames: its disks change, and nothing of it is in the order before the resync begins.
    this.#scan("resync", true, false, () => this.#drop(77));
    this.#scan("resync", true, true);
    this.#writes(3);
    // The same, told by gaps; the second of them comes before the resync of the first has ended.
    this.#gap(9);
    this.#writes(2);
    this.#scan("resync", true, false);
    this.#gap(1);
    this.#scan("resync", true, true);
    this.#writes(3);
    this.#gap(4);
    this.#scan("resync", true, true);
    this.#writes(2);
    this.#cut();
  }

  get last(): number {
    return this.content.length - 1;
  }

  #drop(byte: number): void {
    this.#disks = this.#disks.map((disk) => Buffer.from(disk));
    this.#disks[0]!.fill(byte, blockBytes, 3 * blockBytes);
  }

  #gap(span: number): void {
    this.#cut();
    this.#whole = false;
    for (let sequence = 0; sequence < span; sequence += 1) {
      this.#drop(this.#random.below(256));
      this.#note();
    }
    this.frames.push(this.#source.gap(span, span * 8_192));
  }

  /** What a failover opens that has received everything up to `sequence`; undefined: nothing. */
  openable(sequence: number): number | undefined {
    const found = this.whole.lastIndexOf(true, sequence);
    return found > 0 ? found : undefined;
  }

  #note(): void {
    this.content.push(this.#disks);
    this.whole.push(this.#whole);
  }

  #put(record: BlockRecord): number {
    this.#pending.push(record);
    if (record.kind === "write") {
      this.#disks = this.#disks.map((disk) => Buffer.from(disk));
      this.#disks[record.volume]!.set(record.data, record.offset);
    }
    this.#note();
    if (this.#random.chance(0.3)) this.#cut();
    return this.last;
  }

  #cut(): void {
    if (this.#pending.length === 0) return;
    this.frames.push(this.#source.next(this.#pending));
    this.#pending = [];
  }

  #writes(count: number): void {
    for (let index = 0; index < count; index += 1) {
      const length = 512 * (1 + this.#random.below(12));
      const offset = 512 * this.#random.below((volumeBytes - length) / 512);
      const data = Buffer.alloc(length, 1 + this.#random.below(255));
      this.#put({ kind: "write", volume: this.#random.below(volumes.length), offset, length, data });
    }
  }

  #scan(purpose: ScanPurpose, everything: boolean, ends: boolean, before?: () => void): void {
    const mark = (of: ScanMark, begin: number): number =>
      this.#put({ kind: "scanMark", volume: 0, offset: 0, length: 0, mark: of, purpose, begin });
    before?.();
    this.#whole = false;
    const begin = mark("begin", 0);
    for (const { number } of volumes) {
      for (let offset = 0; offset < volumeBytes; offset += blockBytes) {
        if (!ends && offset > volumeBytes / 2) continue;
        const now = this.#disks[number]!.subarray(offset, offset + blockBytes);
        const isZero = now.every((byte) => byte === 0);
        if (isZero && !everything) continue;
        const data = isZero ? null : Buffer.from(now);
        this.#put({ kind: "scanContent", volume: number, offset, length: blockBytes, data });
        if (this.#random.chance(0.2)) this.#writes(1);
      }
    }
    if (ends) this.#whole = true;
    mark(ends ? "end" : "given-up", begin);
  }
}

/** A gateway on the simulated machine, from its start to its end. */
class Standby {
  readonly world: SimWorld;
  readonly group: StandbyGroup;
  readonly story: Story;

  constructor(world: SimWorld, story: Story) {
    const life = world.life();
    this.world = world;
    this.story = story;
    this.group = simulatedStandby(world, life, volumes);
  }

  async greet() {
    await this.world.drive(this.group.start());
    const { frames } = this.story;
    const genesis = bytesToHex(genesisChain(lineage, volumes));
    const end = frames.at(-1)!;
    const hello = (sequence: number, chain: string): Promise<HelloAnswer> => {
      const durable = { sequence, chain };
      const of = { lineage: lineageToText(lineage), token: ownersToken, volumes, genesis, durable } as const;
      return this.world.drive(this.group.hello({ ...of, create: true, initial: "data" }));
    };
    // It is made before the owner has scanned anything, and met again with all of the story.
    const first = await hello(0, genesis);
    const answer = first.kind === "attached" ? first : await hello(end.last, bytesToHex(end.chainAfter));
    assert.ok(answer.kind === "attached", JSON.stringify(answer));
    return answer;
  }

  async batch(frame: Frame): Promise<void> {
    await sendBatch(this.world, this.group, [frame]);
  }

  alive() {
    const answer = this.group.heartbeat(heartbeatOf(this.story.last));
    assert.ok(answer.kind === "alive", JSON.stringify(answer));
    return answer;
  }

  /** Everything that was received is in the images. */
  async settle(): Promise<number> {
    const { scheduler } = this.world;
    for (let waits = 0; ; waits += 1) {
      const { durable, applied, stopped } = this.alive();
      assert.equal(stopped, null);
      if (applied === durable) return applied;
      assert.ok(waits < 100, "apply goes on");
      await scheduler.run({ untilMs: scheduler.nowMs + 100 });
    }
  }

  requireImages(sequence: number): void {
    for (const [index, { name }] of volumes.entries()) {
      const found = Buffer.from(this.world.disk.contentOf(paths.image(name), "cached") ?? []);
      assert.ok(found.equals(this.story.content[sequence]![index]!), `${name} is the owner's at ${sequence}`);
    }
  }
}

interface Point {
  readonly what: string;
  readonly disk: DiskSnapshot;
  readonly acknowledged: number;
}

/** Carries images that are nearly the owner's, and leaves it to others to sync them. */
async function carry(world: SimWorld, story: Story, random: SeededRandom): Promise<void> {
  const life = world.life();
  for (const [index, { name }] of volumes.entries()) {
    const device = await world.drive(
      world.disk.images(life).open({ path: paths.image(name), sizeBytes: volumeBytes, create: "sparse" }),
    );
    const data = Buffer.from(story.content[0]![index]!);
    data.writeUInt32BE(random.uint32(), 512 * random.below(volumeBytes / 512));
    await world.drive(device.write(0, data, { fua: false }));
    await world.drive(device.close());
  }
}

async function record(story: Story, seeded: boolean, random: SeededRandom): Promise<Point[]> {
  const world = new SimWorld(seed);
  const disk = world.disk.view(world.life());
  // The data folder is there before anything starts, as an installation leaves it.
  await world.drive(disk.makeDirectory("/b"));
  await world.drive(syncDirectory(disk, "/"));
  await world.drive(disk.makeDirectory(`${paths.directory}/images`));
  if (seeded) await carry(world, story, random);
  const standby = new Standby(world, story);
  const points: Point[] = [];
  let acknowledged = 0;
  world.disk.onOperation = (_life, path, operation, when) => {
    if (when === "before")
      points.push({ what: `${operation} ${path}`, disk: world.disk.snapshot(), acknowledged });
  };
  await standby.greet();
  for (const frame of story.frames) {
    await standby.batch(frame);
    acknowledged = frame.last;
    // Steps of one frame and of many.
    if (random.chance(0.4)) await world.scheduler.run({ untilMs: world.scheduler.nowMs + random.below(500) });
  }
  assert.equal(await standby.settle(), story.last);
  standby.requireImages(story.last);
  return points;
}

/** Document and marker as a crash left them, looked at before anyone starts. */
async function requireTrueDocument(world: SimWorld, story: Story): Promise<void> {
  const disk = world.disk.view(world.life());
  const document = await world.drive(readDocument(disk, paths.state, parseStandbyDocument));
  if (document?.phase !== "standing") return;
  const marker = await world.drive(Marker.open(disk, paths.marker, lineage));
  const { applied, applyingLast } = marker.state;
  await world.drive(marker.close());
  // At every position that the images may be brought to, the document says openable only where they then are the source.
  for (let position = applied.sequence; position <= story.last; position += 1) {
    const { incomplete } = document;
    const seen = incomplete?.seen ?? 0;
    // Of marks behind its last step the document does not know; they are in the intake.
    if (position > Math.max(applyingLast, seen)) break;
    if (isOpenable(incomplete, position))
      assert.ok(
        story.whole[position],
        `${JSON.stringify(incomplete)} at ${position}, applying ${applyingLast}`,
      );
  }
  if (applyingLast > applied.sequence || !isOpenable(document.incomplete, applied.sequence)) return;
  for (const [index, { name }] of volumes.entries()) {
    const found = Buffer.from(world.disk.contentOf(paths.image(name), "cached") ?? []);
    assert.ok(found.equals(story.content[applied.sequence]![index]!), `${name} at ${applied.sequence}`);
  }
}

async function crash(
  story: Story,
  seeded: boolean,
  { disk, acknowledged }: Point,
  model: PowerCut | "kill",
): Promise<void> {
  const world = new SimWorld(seed);
  world.disk.restore(disk);
  if (model !== "kill") world.disk.powerCut(model);
  await requireTrueDocument(world, story);
  const standby = new Standby(world, story);
  const answer = await standby.greet();
  assert.ok(answer.durable.sequence >= acknowledged);
  const applied = await standby.settle();
  const whole = story.whole[applied]!;
  if (whole) standby.requireImages(applied);
  const status = standby.group.status();
  const openable = story.openable(applied);
  assert.equal(status.consistent?.sequence, openable);
  const isPinned = !whole && openable !== undefined;
  // It is given back behind the step whose end shows in `applied`.
  const { scheduler } = world;
  await scheduler.run({ untilMs: scheduler.nowMs + 100 });
  assert.deepEqual(
    standby.group.past?.status?.pins.map(({ sequence }) => sequence),
    isPinned ? [openable] : [],
  );
  const plan = standby.group.plan();
  const check = plan.checks.find(({ id }) => id === "NOT_CONSISTENT");
  assert.equal(check?.outcome, openable === undefined ? "fail" : "pass");
  assert.equal(plan.point?.sequence, openable);
  const firstSyncEnd = story.whole.indexOf(true);
  if (applied >= firstSyncEnd) assert.equal(answer.lacks, whole ? undefined : "resync");
  else if (acknowledged > 0) assert.equal(answer.lacks, seeded ? "unknown" : "empty");
  for (const frame of story.frames) if (frame.first > applied) await standby.batch(frame);
  assert.equal(await standby.settle(), story.last);
  standby.requireImages(story.last);
  assert.equal(standby.group.status().consistent?.sequence, story.last);
}

/** Fails over at once, also when there is nothing to open, and gives the steps of the disk until it was over. */
async function failOver(story: Story, { disk }: Point, model: PowerCut | "kill"): Promise<Point[]> {
  const world = new SimWorld(seed);
  world.disk.restore(disk);
  if (model !== "kill") world.disk.powerCut(model);
  const standby = new Standby(world, story);
  const { durable } = await standby.greet();
  const openable = story.openable(durable.sequence);
  const run = (): Promise<void> => world.drive(finish(standby));
  if (openable === undefined) {
    await assert.rejects(run(), { code: "NOT_CONSISTENT" });
    return [];
  }
  const points: Point[] = [];
  world.disk.onOperation = (_life, path, operation, when) => {
    if (when === "before")
      points.push({ what: `${operation} ${path}`, disk: world.disk.snapshot(), acknowledged: openable });
  };
  await run();
  await requireHandedOver(standby, durable.sequence);
  return points;
}

async function finish({ group }: Standby): Promise<void> {
  for await (const line of group.runner.run("test"))
    if (line.type === "error") throw new Error(`${line.id}: ${line.message}`);
}

/** The hand-over record says the newest position that is whole, the images hold it, and the loss is all that lies behind. */
async function requireHandedOver({ world, group, story }: Standby, received: number): Promise<void> {
  const openable = story.openable(received)!;
  const view = world.disk.view(world.life());
  const record = await world.drive(readDocument(view, paths.handover, parseHandoverRecord));
  assert.equal(record?.sealed, openable);
  const document = await world.drive(readDocument(view, paths.state, parseStandbyDocument));
  assert.equal(document?.failover?.received?.sequence, received === openable ? undefined : received);
  const marker = await world.drive(Marker.open(view, paths.marker, lineage));
  const { applied, applyingLast } = marker.state;
  await world.drive(marker.close());
  assert.deepEqual([applied.sequence, applyingLast], [openable, openable]);
  assert.deepEqual(record.chain, bytesToHex(applied.chain));
  assert.equal(record.dataBytesTotal, applied.dataBytesTotal);
  assert.equal(group.plan().loss.writesMin, received - openable);
  for (const [index, { name }] of volumes.entries()) {
    const found = Buffer.from(world.disk.contentOf(paths.image(name), "cached") ?? []);
    assert.ok(found.equals(story.content[openable]![index]!), `${name} is the owner's at ${openable}`);
  }
}

/** A failover that was stopped: never begun and then run, or finished by the start; handed over is one position only. */
async function resume(story: Story, { disk, what }: Point, received: number, model: PowerCut | "kill") {
  const world = new SimWorld(seed);
  world.disk.restore(disk);
  if (model !== "kill") world.disk.powerCut(model);
  const standby = new Standby(world, story);
  await world.drive(standby.group.start());
  await world.drive(standby.group.runner.idle());
  if (standby.group.runner.phase.name === "standing") await world.drive(finish(standby));
  assert.equal(standby.group.runner.phase.name, "done", what);
  await requireHandedOver(standby, received);
}

test(`a failover from any crash opens the newest whole position, and is finished wherever it stops (SEED=${seed})`, async (context) => {
  const random = new SeededRandom(seed, 2);
  const story = new Story(random, false);
  const points = random.shuffle(await record(story, false, random));
  let states = 0;
  let resumed = 0;
  let takenBack = 0;
  for (const [index, point] of points.slice(0, statesMax / 8).entries()) {
    const model = models[index % models.length]!;
    try {
      const steps = await failOver(story, point, model);
      states += 1;
      const isTakenBack = steps.some(({ what }) => what.includes("/images/"));
      if (!isTakenBack) continue;
      takenBack += 1;
      if (resumed >= statesMax) continue;
      const received = await receivedAt(story, point, model);
      for (const step of random.shuffle(steps).slice(0, 8)) {
        await resume(story, step, received, models[resumed % models.length]!);
        resumed += 1;
      }
    } catch (error) {
      throw new Error(`${model} before ${point.what}: ${errorText(error)}`, { cause: error });
    }
  }
  assert.ok(takenBack > 3 && resumed > 30, `${takenBack} taken back, ${resumed} resumed`);
  context.diagnostic(`${states} failovers, ${takenBack} taken back, ${resumed} stopped and finished`);
});

async function receivedAt(story: Story, { disk }: Point, model: PowerCut | "kill"): Promise<number> {
  const world = new SimWorld(seed);
  world.disk.restore(disk);
  if (model !== "kill") world.disk.powerCut(model);
  return (await new Standby(world, story).greet()).durable.sequence;
}

for (const seeded of [false, true]) {
  const start = seeded ? "carried" : "empty";
  test(`stopped before every step of document and marker, from ${start} images (SEED=${seed})`, async (context) => {
    const random = new SeededRandom(seed, seeded ? 1 : 0);
    const story = new Story(random, seeded);
    const points = await record(story, seeded, random);
    const documents = points.filter(({ what }) => what.includes("state.json"));
    const pins = points.filter(({ what }) => what.includes("pins.json"));
    const markers = points.filter(({ what }) => what.endsWith("/applied"));
    assert.ok(documents.length >= 12 && markers.length >= 12, `${documents.length}, ${markers.length}`);
    // Every step of document and pins, and of the others as many as there is time for.
    const rest = random.shuffle(
      points.filter((point) => !documents.includes(point) && !pins.includes(point)),
    );
    let states = 0;
    for (const [index, point] of [...documents, ...pins, ...rest].entries()) {
      const isOfPins = pins.includes(point);
      for (const model of isOfPins ? [models[index % models.length]!] : models) {
        if (states >= statesMax && !isOfPins && !documents.includes(point)) break;
        try {
          await crash(story, seeded, point, model);
        } catch (error) {
          const where = `${model} before ${point.what}, ${point.acknowledged} acknowledged`;
          throw new Error(`${where}: ${errorText(error)}`, {
            cause: error,
          });
        }
        states += 1;
      }
    }
    context.diagnostic(`${states} states, ${documents.length} steps of the document`);
  });
}
