/**
 * The end of a standby's life on a real gateway, and on a simulated disk stopped before every step: it takes nothing any more,
 * is handed over to nobody, holds exactly its seal, and what can be opened stays (L4, L5). docs/group-life.md.
 */

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { afterEach, beforeEach, test } from "node:test";
import type { StandbyGroup } from "../../gateway/group.ts";
import { parseStandbyDocument } from "../../gateway/state.ts";
import type { PointList } from "../../protocol/admin.ts";
import { encodeBatch } from "../../protocol/batch.ts";
import { genesisChain } from "../../protocol/chain.ts";
import type { Hello } from "../../protocol/control.ts";
import { wanRoutes } from "../../protocol/control.ts";
import type { Frame } from "../../protocol/frame.ts";
import { blockBytes, bytesToHex, lineageToText } from "../../protocol/ids.ts";
import type { BlockRecord } from "../../protocol/record.ts";
import type { StandbyStatus } from "../../protocol/status.ts";
import { syncDirectory, systemDisk } from "../../runtime/disk.ts";
import { readDocument } from "../../runtime/durable-document.ts";
import { errorCode } from "../../runtime/errors.ts";
import { gatewayGroupPaths } from "../../runtime/paths.ts";
import { FrameSource, lineage, originOf } from "../image/frames.ts";
import type { DiskSnapshot } from "../sim/world/disk.ts";
import { SimWorld } from "../sim/world/driven.ts";
import type { PowerCut } from "../sim/world/tree.ts";
import { SeededRandom, seedFromEnvironment } from "../support/seeded.ts";
import { batchRequest } from "./batch-request.ts";
import { HandOwner } from "./scan/hand-owner.ts";
import { simulatedStandby } from "./simulated-standby.ts";
import { volumes as realVolumes, Source, StandbySite } from "./standby-site.ts";

const seed = seedFromEnvironment();
const order = { by: "carol@munich", reason: "moved elsewhere", force: false };

let site: StandbySite;
let source: Source;
beforeEach(async () => {
  site = await StandbySite.make();
  source = new Source(seed);
  await site.start();
});
afterEach(async () => site.remove());

const status = (): StandbyStatus => site.role!.statuses()[0]!;

/** The last line of the order. */
// biome-ignore lint/suspicious/noExplicitAny: looked at field by field.
async function retire(change: Partial<typeof order> = {}): Promise<any> {
  const answer = await site.admin("POST", "/v1/groups/erp/gateway/retire", { ...order, ...change });
  assert.ok("lines" in answer);
  let last: unknown;
  for await (const line of answer.lines) last = line;
  return last;
}

// biome-ignore lint/suspicious/noExplicitAny: as above.
async function json(path: string): Promise<any> {
  const answer = await site.admin("GET", path);
  return "json" in answer ? answer.json : undefined;
}

/** Everybody who feeds, asks or takes over is told the same. */
async function requireRefusals(): Promise<void> {
  const { frames } = source;
  for (const reply of [
    await site.hello(source),
    await site.heartbeat(source),
    await site.batch(source, [frames.at(-1)!]),
    await site.send(wanRoutes.scan("erp"), {
      ...{ lineage: lineageToText(source.lineage), token: source.token, after: 0 },
    }),
  ])
    assert.deepEqual([reply.json.kind, reply.json.code], ["refused", "GROUP_RETIRED"]);
  await assert.rejects(site.failover(), (error) => errorCode(error) === "GROUP_RETIRED");
}

test("a retired standby holds all it received, takes nothing, is failed over to by nobody, and its points stay (L4)", async () => {
  await site.hello(source);
  for (let round = 0; round < 3; round += 1) {
    await site.batch(source, source.write(3));
    await site.applied(source);
  }
  await site.batch(source, source.write(6));
  await site.heartbeat(source);
  const held = source.last;
  const content = source.contents.at(-1)!;
  const plan = await json("/v1/groups/erp/gateway/retire");
  assert.equal(plan.sequence, held);
  assert.deepEqual(
    plan.checks
      .filter((check: { outcome: string }) => check.outcome !== "pass")
      .map(({ id }: { id: string }) => id),
    ["OWNER_ALIVE"],
  );
  const { type, result } = await retire();
  assert.equal(type, "result");
  assert.deepEqual([result.sequence, result.by, result.loss.writes], [held, order.by, 0]);
  assert.ok(site.images().every((image, index) => image.equals(content[index]!)));
  source.write(2);
  const points = (await json("/v1/groups/erp/gateway/points")) as PointList;
  assert.ok(points.points.length >= 3);
  for (let start = 0; start < 2; start += 1) {
    await requireRefusals();
    const { state, reason, position, retired, consistent } = status();
    assert.deepEqual([state, reason?.code, position.applied], ["retired", "GROUP_RETIRED", held]);
    assert.equal(consistent?.sequence, held);
    assert.deepEqual(
      retired?.images.map(({ path }) => path),
      realVolumes.map(({ name }) => site.paths.image(name)),
    );
    assert.deepEqual(await json("/v1/groups/erp/gateway/points"), points, "nothing was given back");
    const again = await retire({ by: "dave" });
    assert.equal(again.result.by, order.by, "what is retired is taken as done");
    await site.stop();
    await site.start();
  }
  // An owner of long ago is told what it always was.
  const old = await site.hello(source, { token: { epoch: 1, owner: "dr" } });
  assert.notEqual(old.json.kind, "attached");
  assert.ok(site.images().every((image, index) => image.equals(content[index]!)));
  assert.equal((await site.send(wanRoutes.group("erp"), undefined)).json.known, true);
});

test("a standby whose document cannot be read is not called unknown: the order is refused with what stops it", async () => {
  await site.hello(source);
  await site.batch(source, source.write(4));
  await site.applied(source);
  await site.stop();
  const written = readFileSync(site.paths.state);
  writeFileSync(site.paths.state, "{");
  await site.start();
  const { state, reason } = status();
  assert.equal(state, "stopped");
  assert.equal(reason?.code, "DOCUMENT_DAMAGED");
  assert.equal((await retire({ force: true })).id, "DOCUMENT_DAMAGED");
  await site.stop();
  writeFileSync(site.paths.state, written);
  await site.start();
  await site.hello(source);
  assert.equal((await retire()).type, "result");
});

test("no standby, or one that was handed over, is not retired here; a failover is not begun beside the order", async () => {
  assert.equal((await retire({ force: true })).id, "STANDBY_UNKNOWN");
  await site.hello(source);
  await site.batch(source, source.write(4));
  await site.applied(source);
  const both = await Promise.allSettled([retire(), site.failover()]);
  const document = (await readDocument(systemDisk, site.paths.state, parseStandbyDocument))!;
  assert.equal(document.failover === null, document.retired !== null, JSON.stringify(both));
  if (document.failover === null) return;
  assert.ok(["HANDED_OVER", "FAILOVER_RUNNING"].includes((await retire({ force: true })).id));
});

test(`a standby in the midst of a resync is retired by force only, at the last point before it (SEED=${seed})`, async () => {
  const random = new SeededRandom(seed, 93);
  const disks = () => realVolumes.map(({ sizeBytes }) => Buffer.alloc(sizeBytes));
  const owner = new HandOwner(seed, disks(), disks());
  await site.hello(owner.source);
  owner.write(30 + random.below(20));
  owner.cut();
  const point = { sequence: owner.source.last, disks: owner.standby.map((disk) => Buffer.from(disk)) };
  owner.drop(100);
  owner.write(5);
  await owner.send(site);
  await owner.applied(site);
  const refused = await retire();
  assert.deepEqual([refused.code, refused.id], [6, "NOT_CONSISTENT"]);
  assert.equal(status().retired, null);
  owner.write(3);
  await owner.send(site);
  await owner.applied(site);
  const { loss, sequence } = await json("/v1/groups/erp/gateway/retire");
  assert.deepEqual([sequence, loss.writes], [point.sequence, owner.source.last - point.sequence]);
  const { result } = await retire({ force: true });
  assert.deepEqual([result.sequence, result.loss], [point.sequence, loss]);
  for (let start = 0; start < 2; start += 1) {
    assert.ok(site.images().every((image, index) => image.equals(point.disks[index]!)));
    assert.deepEqual([status().state, status().position.applied], ["retired", point.sequence]);
    await site.stop();
    await site.start();
    for (let waits = 0; status().state !== "retired" && waits < 100; waits += 1)
      await new Promise((resolve) => setTimeout(resolve, 20));
  }
});

const volumeBytes = 8 * blockBytes;
const volumes = ["data", "wal"].map((name, number) => ({ number, name, sizeBytes: volumeBytes }));
const paths = gatewayGroupPaths("/b", "g");
const token = { epoch: 1, owner: "a" };
const models: readonly (PowerCut | "kill")[] = ["kill", "everything", "nothing", "subset", "torn"];

/** What the owner sent: frames, a gap somewhere when it was `cut`, and what the disks hold behind each frame. */
class Story {
  readonly frames: Frame[] = [];
  readonly contents: Buffer[][] = [volumes.map(() => Buffer.alloc(volumeBytes))];

  constructor(random: SeededRandom) {
    const made = new FrameSource(originOf(volumes));
    for (let count = 0; count < 14; count += 1) {
      const next = this.contents.at(-1)!.map((disk) => Buffer.from(disk));
      const records = Array.from({ length: 1 + random.below(4) }, (): BlockRecord => {
        const volume = random.below(volumes.length);
        const length = 512 * (1 + random.below(10));
        const offset = 512 * random.below((volumeBytes - length) / 512);
        const data = Buffer.alloc(length, 1 + random.below(255));
        next[volume]!.set(data, offset);
        return { kind: "write", volume, offset, length, data };
      });
      this.frames.push(made.next(records));
      this.contents.push(next);
    }
  }

  get last(): number {
    return this.frames.at(-1)!.last;
  }
}

function simulated(world: SimWorld): StandbyGroup {
  const life = world.life();
  return simulatedStandby(world, life, volumes);
}

function helloOf(story: Story): Hello {
  const end = story.frames.at(-1)!;
  return {
    ...{ lineage: lineageToText(lineage), token, volumes, create: true },
    durable: { sequence: end.last, chain: bytesToHex(end.chainAfter) },
    genesis: bytesToHex(genesisChain(lineage, volumes)),
  };
}

async function batch(world: SimWorld, group: StandbyGroup, frame: Frame): Promise<string> {
  const bytes = await encodeBatch([frame], token, "none");
  const answer = await world.drive(group.batch(batchRequest(bytes, "a"), "a"));
  const { kind, code } = (answer as { json: { kind: string; code?: string } }).json;
  return code ?? kind;
}

async function retiring(random: SeededRandom, story: Story) {
  const world = new SimWorld(random.below(2 ** 31));
  const disk = world.disk.view(world.life());
  await world.drive(disk.makeDirectory("/b"));
  await world.drive(syncDirectory(disk, "/"));
  const group = simulated(world);
  await world.drive(group.start());
  await world.drive(group.hello(helloOf(story)));
  for (const frame of story.frames) assert.equal(await batch(world, group, frame), "acknowledged");
  const points: { readonly what: string; readonly disk: DiskSnapshot }[] = [];
  world.disk.onOperation = (_life, path, operation, when) => {
    if (when === "before") points.push({ what: `${operation} ${path}`, disk: world.disk.snapshot() });
  };
  await world.drive(group.retire(order));
  points.push({ what: "end", disk: world.disk.snapshot() });
  world.disk.onOperation = undefined;
  return points;
}

test(`an order to retire that is cut short anywhere is finished by the start, or has changed nothing (L5, SEED=${seed})`, async (t) => {
  const random = new SeededRandom(seed, 94);
  const tally = { retired: 0, standing: 0 };
  const story = new Story(random);
  for (const { what, disk } of await retiring(random, story)) {
    for (const model of models) {
      const context = `before ${what}, ${model}`;
      const world = new SimWorld(random.below(2 ** 31));
      world.disk.restore(disk);
      if (model !== "kill") world.disk.powerCut(model);
      const group = simulated(world);
      await world.drive(group.start());
      const { retired } = group.status();
      if (retired === null) {
        tally.standing += 1;
        const answer = await world.drive(group.hello(helloOf(story)));
        assert.ok(answer.kind === "attached" && answer.durable.sequence === story.last, context);
        await world.drive(group.retire(order));
      } else {
        tally.retired += 1;
        assert.equal(retired.sequence, story.last, context);
        assert.equal(await batch(world, group, story.frames.at(-1)!), "GROUP_RETIRED", context);
        const { scheduler } = world;
        for (let waits = 0; group.status().state !== "retired"; waits += 1) {
          assert.ok(waits < 100, `${context}: it comes to its end`);
          await scheduler.run({ untilMs: scheduler.nowMs + 100 });
        }
      }
      assert.equal(group.status().state, "retired", context);
      for (const [index, { name }] of volumes.entries()) {
        const image = Buffer.from(world.disk.contentOf(paths.image(name), "stored") ?? []);
        assert.ok(image.equals(story.contents.at(-1)![index]!), `${context}: ${name}`);
      }
      await world.drive(group.close());
    }
  }
  t.diagnostic(JSON.stringify(tally));
  assert.ok(tally.retired > 20 && tally.standing > 5, JSON.stringify(tally));
});
