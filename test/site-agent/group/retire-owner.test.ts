/**
 * The end of an owner's life: nothing answered is missing in its images whenever the order is cut short (L2), nothing is given
 * up without being said (L3), and what is retired is never served again (L4). docs/group-life.md.
 */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { BlockErrno, BlockError } from "../../../block/device.ts";
import { retireObstacle } from "../../../protocol/retirement.ts";
import { syncDirectory, systemDisk } from "../../../runtime/disk.ts";
import { readDocument } from "../../../runtime/durable-document.ts";
import { errorCode } from "../../../runtime/errors.ts";
import { silentLog } from "../../../runtime/log.ts";
import { agentGroupPaths } from "../../../runtime/paths.ts";
import { AgentExportCatalog } from "../../../site-agent/export-catalog.ts";
import { OwnedGroup } from "../../../site-agent/group/owned-group.ts";
import { parseAgentGroupState } from "../../../site-agent/group/state.ts";
import { compressAside } from "../../../site-agent/ship/compress-aside.ts";
import { clockOf, randomOf } from "../../sim/world/clock.ts";
import type { DiskSnapshot } from "../../sim/world/disk.ts";
import { SimWorld } from "../../sim/world/driven.ts";
import type { PowerCut } from "../../sim/world/tree.ts";
import { SeededRandom, seedFromEnvironment } from "../../support/seeded.ts";
import { until } from "../../support/wait.ts";
import { OwnerRig } from "./owner-rig.ts";

const seed = seedFromEnvironment();
const order = { by: "carol@berlin", reason: "moved elsewhere", force: false };
const refused = (code: string) => (error: unknown) => errorCode(error) === code;
const isShutdown = (error: unknown): boolean =>
  error instanceof BlockError && error.errno === BlockErrno.ESHUTDOWN;

/** Asked for by an NBD client. */
function opened(group: OwnedGroup) {
  const client = { transport: "unix", tls: false, certificateNames: [], address: "unix" } as const;
  return new AgentExportCatalog(new Map([["erp", group]]), []).open("erp/data", client);
}

test("a retired owner is never served again, says where its disks are, and they hold everything", async () => {
  await OwnerRig.with(async (rig) => {
    const group = await rig.open();
    for (let block = 0; block < 40; block += 1) await rig.write(group, block, block + 1);
    assert.equal(retireObstacle(group.retirePlan, true), undefined);
    await group.retire(order);
    const image = rig.paths.image("data");
    assert.ok(readFileSync(image).equals(rig.content), "the image, while the agent runs on");
    assert.ok(rig.standby.content.equals(rig.content), "the standby has all of it");
    await assert.rejects(rig.write(group, 0, 9), isShutdown);
    await assert.rejects(group.flush(), isShutdown);
    await assert.rejects(group.read(0, 0, 512), isShutdown);
    assert.deepEqual(
      await opened(group).then((outcome) => "reason" in outcome && outcome.reason),
      "shutdown",
    );
    await group.retire(order);
    await group.close("abandon");
    const beats = rig.standby.beats.length;
    // A newer token changes nothing of it, and nobody is asked.
    rig.standby.known = { known: true, lineage: group.status().lineage, token: { epoch: 2, owner: "dr" } };
    for (let start = 0; start < 2; start += 1) {
      const again = await rig.open();
      const status = again.status();
      assert.deepEqual(
        [status.state, status.io, status.reason?.code],
        ["retired", "refused", "GROUP_RETIRED"],
      );
      assert.equal(status.position.written, 40);
      assert.equal(status.lag.writes, 0);
      assert.deepEqual([status.retired?.by, status.retired?.reason], [order.by, order.reason]);
      assert.deepEqual(status.retired?.images, [{ volume: "data", path: image }]);
      assert.ok(status.retired.deletable.includes(rig.paths.journal(1)));
      assert.ok(!status.retired.deletable.some((path) => image.startsWith(path)), "never an image");
      await assert.rejects(again.submit([], false), isShutdown);
      assert.deepEqual(await opened(again).then(({ kind }) => kind), "refused");
      for (const ordered of [again.pause(order), again.resume(true), again.create(), again.adopt()])
        await assert.rejects(ordered, refused("GROUP_RETIRED"));
      await again.close();
    }
    assert.equal(rig.standby.beats.length, beats, "nobody is told anything any more");
    assert.ok(existsSync(image) && readFileSync(image).equals(rig.content));
  });
});

test("an owner whose standby lacks something is retired only by force, and the loss is named and kept (L3)", async () => {
  await OwnerRig.with(async (rig) => {
    const group = await rig.open();
    await rig.write(group, 0, 1);
    await until("the first write", () => (rig.standby.durable === 1 ? true : undefined));
    rig.standby.batches.close();
    for (let block = 1; block < 6; block += 1) await rig.write(group, block, block + 1);
    await assert.rejects(group.retire(order), refused("NOT_ACKNOWLEDGED"));
    const { io, position } = group.status();
    assert.deepEqual([io, position.written, position.acknowledged], ["serving", 6, 1]);
    await rig.write(group, 6, 7);
    const { loss, checks } = group.retirePlan;
    assert.deepEqual(loss, { writes: 6, bytes: 6 * 4096 });
    assert.deepEqual(
      checks.filter(({ outcome }) => outcome === "fail").map(({ id, forcible }) => [id, forcible]),
      [["NOT_ACKNOWLEDGED", true]],
    );
    await group.retire({ ...order, force: true });
    rig.standby.batches.open();
    const again = await rig.open();
    assert.deepEqual(again.status().retired?.loss, loss);
    assert.deepEqual([again.status().lag.writes, again.status().position.acknowledged], [6, 1]);
    assert.ok(readFileSync(rig.paths.image("data")).equals(rig.content));
  });
});

test("a paused owner is not retired while its standby lacks something, nor is one that this site does not own", async () => {
  await OwnerRig.with(async (rig) => {
    const elsewhere = await rig.open(undefined, "dr");
    await assert.rejects(elsewhere.retire({ ...order, force: true }), refused("NOT_OWNER"));
    await elsewhere.close();
    const group = await rig.open();
    await rig.write(group, 0, 1);
    await group.pause(order);
    await rig.write(group, 1, 2);
    await assert.rejects(group.retire(order), refused("NOT_ACKNOWLEDGED"));
    await group.resume(false);
    await group.retire(order);
    assert.ok(rig.standby.content.equals(rig.content));
  });
});

test("a write that is answered while the order is under way is in the images and at the standby, and the rest is refused", async () => {
  await OwnerRig.with(async (rig) => {
    const group = await rig.open();
    const random = new SeededRandom(seed, 91);
    let answered = 0;
    const clients = Array.from({ length: 4 }, async (_, client) => {
      for (let count = 1; count <= 60; count += 1) {
        try {
          await rig.write(group, client * 60 + count, random.below(255) + 1);
          answered += 1;
        } catch (error) {
          assert.ok(isShutdown(error));
          return;
        }
      }
    });
    await until("some writes", () => (answered > 20 ? true : undefined));
    await group.retire(order).catch((error: unknown) => {
      // Clients that go on writing are reason enough: then nothing has happened.
      assert.equal(errorCode(error), "NOT_ACKNOWLEDGED");
      assert.equal(group.status().io, "serving");
    });
    await Promise.all(clients);
    await group.retire(order);
    assert.ok(readFileSync(rig.paths.image("data")).equals(rig.content));
    assert.ok(rig.standby.content.equals(rig.content));
  });
});

test("a document that cannot be written leaves the group as it was, and served", async () => {
  await OwnerRig.with(async (rig) => {
    let broken = false;
    const disk = {
      ...systemDisk,
      rename: async (from: string, to: string) => {
        if (broken && to === rig.paths.state) {
          broken = false;
          throw Object.assign(new Error("made so by the test"), { code: "EIO" });
        }
        await systemDisk.rename(from, to);
      },
    };
    const group = await rig.open(disk);
    await rig.write(group, 0, 1);
    broken = true;
    await assert.rejects(group.retire(order));
    await until("service", () => (group.status().io === "serving" ? true : undefined));
    await rig.write(group, 1, 2);
    const state = await readDocument(systemDisk, rig.paths.state, parseAgentGroupState);
    assert.deepEqual([state?.role, state?.retired], ["owner", null]);
    await group.retire(order);
    assert.ok(readFileSync(rig.paths.image("data")).equals(rig.content));
  });
});

const volumeBytes = 64 * 1024;
const models: readonly (PowerCut | "kill")[] = ["kill", "everything", "nothing", "subset", "torn"];

/** An owner in a simulated world, whose standby cannot be reached. */
function simulatedOwner(world: SimWorld): OwnedGroup {
  const life = world.life();
  const clock = clockOf(world.scheduler, life);
  const paths = agentGroupPaths("/a", "g");
  const history = { windowMs: 0, bytesMax: 1 << 30 };
  const volumes = [{ name: "data", sizeBytes: volumeBytes, image: null, standbyImage: null }];
  return new OwnedGroup({
    site: "a",
    settings: {
      ...{ name: "g", home: "a", standby: "b", volumes, durability: "flush", overflow: "hold", history },
      rpo: { ageMs: null, bytes: null },
      scan: { bytesPerSecond: null, verifyCron: null, onMismatch: "report" },
    },
    paths,
    files: {
      ...world.storage(life),
      ...{ history, clock, paths, journalBytesMax: 2 ** 24, reserveBytes: 0, memoryTailBytes: 2 ** 16 },
      // The disk is copied before every step.
      ...{ writeBufferBytes: 2 ** 16, aheadHalfBytes: 2 ** 14, log: silentLog },
    },
    unappliedBytesMax: 2 ** 18,
    readHandover: () => Promise.resolve(undefined),
    link: null,
    compress: compressAside,
    clock,
    random: randomOf(world.scheduler),
    log: silentLog,
  });
}

async function retiring(random: SeededRandom) {
  const world = new SimWorld(random.below(2 ** 31));
  const disk = world.disk.view(world.life());
  await world.drive(disk.makeDirectory("/a"));
  await world.drive(syncDirectory(disk, "/"));
  const group = simulatedOwner(world);
  const content = Buffer.alloc(volumeBytes);
  await world.drive(group.start());
  await world.drive(group.create());
  for (let count = 0; count < 30; count += 1) {
    const length = 512 * (1 + random.below(16));
    const offset = 512 * random.below((volumeBytes - length) / 512);
    const data = Buffer.alloc(length, 1 + random.below(255));
    await world.drive(group.submit([{ kind: "write", volume: 0, offset, length, data }], random.chance(0.2)));
    content.set(data, offset);
  }
  const points: { readonly what: string; readonly disk: DiskSnapshot }[] = [];
  world.disk.onOperation = (_life, path, operation, when) => {
    if (when === "before") points.push({ what: `${operation} ${path}`, disk: world.disk.snapshot() });
  };
  await world.drive(group.retire({ ...order, force: true }));
  points.push({ what: "end", disk: world.disk.snapshot() });
  world.disk.onOperation = undefined;
  return { points, content };
}

test(`an order to retire that is cut short anywhere leaves a group that is served, or disks that hold everything (L2, SEED=${seed})`, async (t) => {
  const random = new SeededRandom(seed, 92);
  const tally = { retired: 0, served: 0 };
  for (let round = 0; round < 3; round += 1) {
    const { points, content } = await retiring(random);
    for (const { what, disk } of points) {
      for (const model of models) {
        const context = `before ${what}, ${model}`;
        const world = new SimWorld(random.below(2 ** 31));
        world.disk.restore(disk);
        if (model !== "kill") world.disk.powerCut(model);
        const group = simulatedOwner(world);
        await world.drive(group.start());
        const { state, io } = group.status();
        if (state === "retired") {
          tally.retired += 1;
          for (const which of ["cached", "stored"] as const) {
            const image = world.disk.contentOf("/a/agent/g/images/data.img", which);
            assert.ok(image !== undefined && content.equals(image), `${context}: ${which}`);
          }
        } else {
          tally.served += 1;
          assert.equal(io, "serving", `${context}: ${JSON.stringify(group.status().reason)}`);
          const found = await world.drive(group.read(0, 0, volumeBytes));
          // A loss of power may take what was answered and never flushed; a kill takes nothing.
          if (model === "kill") assert.ok(content.equals(found), context);
        }
        await world.drive(group.close("abandon"));
      }
    }
  }
  t.diagnostic(JSON.stringify(tally));
  assert.ok(tally.retired > 10 && tally.served > 50, JSON.stringify(tally));
});
