/**
 * A standby through a first sync, a scan that is given up and a resync on a simulated disk, stopped before every step that
 * writes its document or its marker, by kill and by each loss of power: what the document says then is true of the images,
 * and so is what the started standby says, until the rest of the history makes both sites equal.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { StandbyGroup } from "../../../gateway/group.ts";
import { isOpenable } from "../../../gateway/scan/completeness.ts";
import { parseStandbyDocument } from "../../../gateway/state.ts";
import { Marker } from "../../../image/marker.ts";
import { encodeBatch } from "../../../protocol/batch.ts";
import { genesisChain } from "../../../protocol/chain.ts";
import type { Hello } from "../../../protocol/control.ts";
import type { Frame } from "../../../protocol/frame.ts";
import { blockBytes, bytesToHex, lineageToText, type Token } from "../../../protocol/ids.ts";
import type { BlockRecord, ScanMark, ScanPurpose } from "../../../protocol/record.ts";
import { syncDirectory } from "../../../runtime/disk.ts";
import { readDocument } from "../../../runtime/durable-document.ts";
import { errorText } from "../../../runtime/errors.ts";
import type { HttpRequest } from "../../../runtime/http.ts";
import { silentLog } from "../../../runtime/log.ts";
import { gatewayGroupPaths } from "../../../runtime/paths.ts";
import { FrameSource, lineage, originOf } from "../../image/frames.ts";
import { clockOf } from "../../sim/world/clock.ts";
import type { DiskSnapshot } from "../../sim/world/disk.ts";
import { SimWorld } from "../../sim/world/driven.ts";
import { openSimOrderedStore } from "../../sim/world/ordered-store.ts";
import type { PowerCut } from "../../sim/world/tree.ts";
import { SeededRandom, seedFromEnvironment } from "../../support/seeded.ts";

const seed = seedFromEnvironment();
const statesMax = Number(process.env["SPLITSITE_SCAN_CRASH_STATES"] ?? 400);
const volumeBytes = 8 * blockBytes;
const volumes = ["data", "wal"].map((name, number) => ({ number, name, sizeBytes: volumeBytes }));
const paths = gatewayGroupPaths("/b", "g");
const token: Token = { epoch: 1, owner: "a" };
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
    this.#scan("resync", true, false, () => {
      this.#disks = this.#disks.map((disk) => Buffer.from(disk));
      this.#disks[0]!.fill(77, blockBytes, 3 * blockBytes);
    });
    this.#scan("resync", true, true);
    this.#writes(3);
    this.#cut();
  }

  get last(): number {
    return this.content.length - 1;
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
    this.group = new StandbyGroup({
      site: "b",
      dataDir: "/b",
      settings: {
        name: "g",
        home: "a",
        standby: "b",
        volumes: volumes.map(({ name, sizeBytes }) => ({ name, sizeBytes, image: null, standbyImage: null })),
        durability: "flush",
        rpo: { ageMs: null, bytes: null },
        history: { windowMs: 86_400_000, bytesMax: 1 << 30 },
        scan: { bytesPerSecond: null, verifyCron: null },
      },
      limits: {
        bytesMax: 2 ** 24,
        reserveBytes: 0,
        memoryTailBytes: 2 ** 16,
        writeBufferBytes: 2 ** 16,
      },
      target: null,
      storage: {
        disk: world.disk.view(life),
        images: world.disk.images(life),
        stores: {
          open: world.disk.store(life),
          guard: (_directory, _watermark, _bytes, open) => open(),
        },
        openIndex: openSimOrderedStore(world.disk.view(life)),
        bootId: world.disk.bootId,
      },
      clock: clockOf(world.scheduler, life),
      log: silentLog,
    });
  }

  async greet() {
    await this.world.drive(this.group.start());
    const { frames } = this.story;
    const genesis = genesisChain(lineage, volumes);
    const end = frames.at(-1)!;
    const hello: Hello = {
      lineage: lineageToText(lineage),
      token,
      volumes,
      durable: { sequence: end.last, chain: bytesToHex(end.chainAfter) },
      genesis: bytesToHex(genesis),
      create: true,
      initial: "data",
    };
    const answer = await this.world.drive(this.group.hello(hello));
    assert.ok(answer.kind === "attached", JSON.stringify(answer));
    return answer;
  }

  async batch(frame: Frame): Promise<void> {
    const bytes = await encodeBatch([frame], token, "none");
    let at = 0;
    const request: HttpRequest = {
      method: "POST",
      path: "",
      params: {},
      query: new URLSearchParams(),
      sites: ["a"],
      contentLength: bytes.byteLength,
      take: async (length) => {
        at += length;
        return bytes.subarray(at - length, at);
      },
      body: async () => bytes,
      signal: new AbortController().signal,
    };
    const answer = await this.world.drive(this.group.batch(request, "a"));
    assert.ok("json" in answer && (answer.json as { kind: string }).kind === "acknowledged");
  }

  alive() {
    const answer = this.group.heartbeat({
      lineage: lineageToText(lineage),
      token,
      answered: this.story.last,
      dataBytesTotal: 0,
      wallMs: 1,
    });
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
  assert.equal(status.consistent?.sequence ?? null, whole ? applied : null);
  const check = standby.group.plan().checks.find(({ id }) => id === "NOT_CONSISTENT");
  assert.equal(check?.outcome, whole ? "pass" : "fail");
  const firstSyncEnd = story.whole.indexOf(true);
  if (applied >= firstSyncEnd) assert.equal(answer.lacks, undefined);
  else if (acknowledged > 0) assert.equal(answer.lacks, seeded ? "unknown" : "empty");
  for (const frame of story.frames) if (frame.first > applied) await standby.batch(frame);
  assert.equal(await standby.settle(), story.last);
  standby.requireImages(story.last);
  assert.equal(standby.group.status().consistent?.sequence, story.last);
}

for (const seeded of [false, true]) {
  const start = seeded ? "carried" : "empty";
  test(`stopped before every step of document and marker, from ${start} images (SEED=${seed})`, async (context) => {
    const random = new SeededRandom(seed, seeded ? 1 : 0);
    const story = new Story(random, seeded);
    const points = await record(story, seeded, random);
    const documents = points.filter(({ what }) => what.includes("state.json"));
    const markers = points.filter(({ what }) => what.endsWith("/applied"));
    assert.ok(documents.length >= 12 && markers.length >= 12, `${documents.length}, ${markers.length}`);
    // Every step of the document, and of the others as many as there is time for.
    const others = random.shuffle(points.filter((point) => !documents.includes(point)));
    const chosen = [...documents, ...others];
    let states = 0;
    for (const point of chosen) {
      for (const model of models) {
        if (states >= statesMax && !documents.includes(point)) break;
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
