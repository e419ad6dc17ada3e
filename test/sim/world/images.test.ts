/** Simulated images are block devices like the real ones, down to the codes they refuse with. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { isBulkWritable } from "../../../block/bulk-write.ts";
import { type BlockDevice, BlockError } from "../../../block/device.ts";
import { blockDeviceContract, contractSizeBytes } from "../../contract/block-device.ts";
import { SimWorld } from "./driven.ts";

const plain = { fua: false };
const sector = (value: number): Uint8Array => new Uint8Array(512).fill(value);

/** For tests that await a device without knowing of virtual time: its events happen as soon as they are there. */
function alwaysDriven(world: SimWorld, device: BlockDevice): BlockDevice {
  return new Proxy(device, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target);
      if (typeof value !== "function") return value;
      return (...given: unknown[]): unknown => {
        const result: unknown = Reflect.apply(value, target, given);
        if (result instanceof Promise) pump(world, result);
        return result;
      };
    },
  });
}

const pumped = new WeakMap<SimWorld, { waiting: number; running: boolean }>();

function pump(world: SimWorld, promise: Promise<unknown>): void {
  const state = pumped.get(world) ?? { waiting: 0, running: false };
  pumped.set(world, state);
  state.waiting += 1;
  const settle = (): void => {
    state.waiting -= 1;
  };
  promise.then(settle, settle);
  if (state.running) return;
  state.running = true;
  void (async () => {
    while (state.waiting > 0) await world.scheduler.run();
    state.running = false;
  })();
}

const image = { path: "/image", sizeBytes: 64 * 1024, create: "sparse" } as const;

blockDeviceContract("SimImage", async () => {
  const world = new SimWorld(1);
  const images = world.disk.images(world.life());
  return alwaysDriven(world, await world.drive(images.open({ ...image, sizeBytes: contractSizeBytes })));
});

test("an image is told from another in its place, and refused like a real one", async () => {
  const world = new SimWorld(2);
  const life = world.life();
  const [disk, images] = [world.disk.view(life), world.disk.images(life)];
  const rejects = (promise: Promise<unknown>, code: string): Promise<void> =>
    assert.rejects(world.drive(promise), { code });
  await rejects(images.open({ ...image, create: "never" }), "IMAGE_MISSING");
  await rejects(images.identity("/image"), "IMAGE_MISSING");
  assert.equal(await world.drive(images.holdsData("/image", image.sizeBytes)), false);
  const device = await world.drive(images.open(image));
  const identity = await world.drive(images.identity("/image"));
  assert.deepEqual([identity.kind, identity.sizeBytes], ["file", image.sizeBytes]);
  await rejects(images.open({ ...image, sizeBytes: 4_096 }), "IMAGE_SIZE");
  await rejects(images.holdsData("/image", 4_096), "IMAGE_SIZE");
  assert.equal(await world.drive(images.holdsData("/image", image.sizeBytes)), false);
  await world.drive(device.write(512, sector(1), plain));
  assert.equal(await world.drive(images.holdsData("/image", image.sizeBytes)), true);
  await world.drive(disk.makeDirectory("/folder"));
  await rejects(images.open({ ...image, path: "/folder" }), "IMAGE_KIND");
  await rejects(images.open({ ...image, path: "/no/where" }), "IMAGE_MISSING");
  world.disk.inject({ match: (path) => path === "/image", fault: "EIO", times: 1 });
  await rejects(images.open(image), "IMAGE_UNREADABLE");
  await world.drive(disk.rename("/image", "/moved"));
  await world.drive(images.open(image));
  assert.notEqual((await world.drive(images.identity("/image"))).inode, identity.inode);
  assert.equal((await world.drive(images.identity("/moved"))).inode, identity.inode);
});

test("a made image is durable, name and size, before it is given out", async () => {
  const world = new SimWorld(3);
  await world.drive(world.disk.images(world.life()).open(image));
  world.disk.powerCut("nothing");
  assert.deepEqual(world.disk.contentOf("/image", "cached"), new Uint8Array(image.sizeBytes));
});

test("a failed flush is for good: what was written may be lost, and nothing is answered well again", async () => {
  const world = new SimWorld(4);
  const device = await world.drive(world.disk.images(world.life()).open(image));
  await world.drive(device.write(0, sector(1), plain));
  world.disk.inject({ match: (_, operation) => operation === "syncData", fault: "EIO", times: 1 });
  const isEio = (error: unknown): boolean => error instanceof BlockError && error.errno === 5;
  await assert.rejects(world.drive(device.flush()), isEio);
  await assert.rejects(device.flush(), isEio);
  await assert.rejects(device.read(0, 512), isEio);
  world.disk.powerCut("everything");
  assert.deepEqual(world.disk.contentOf("/image", "cached")!.subarray(0, 512), sector(0));
});

test("lost and misdirected writes are answered well, and the image is not what it should be", async () => {
  for (let seed = 0; seed < 20; seed += 1) {
    const world = new SimWorld(seed);
    const device = await world.drive(world.disk.images(world.life()).open(image));
    world.disk.inject({ match: (_, operation) => operation === "write", fault: "lost", times: 1 });
    await world.drive(device.write(0, sector(1), plain));
    assert.deepEqual(await world.drive(device.read(0, 512)), sector(0));
    world.disk.inject({ match: (_, operation) => operation === "write", fault: "misdirected", times: 1 });
    await world.drive(device.write(0, sector(2), plain));
    const all = await world.drive(device.read(0, image.sizeBytes));
    assert.deepEqual(all.subarray(0, 512), sector(0));
    assert.equal(all.indexOf(2) % 512, 0);
    assert.equal(all.filter((value) => value === 2).length, 512);
  }
});

test("a flipped bit is read as it is, from the cache and after power loss", async () => {
  const world = new SimWorld(5);
  const device = await world.drive(world.disk.images(world.life()).open(image));
  await world.drive(device.write(0, sector(0), { fua: true }));
  world.disk.flipBit("/image", 100, 3);
  assert.equal((await world.drive(device.read(100, 1)))[0], 8);
  world.disk.powerCut("nothing");
  assert.equal(world.disk.contentOf("/image", "cached")![100], 8);
});

test("holes are told as holes, and room comes back with them", async () => {
  const world = new SimWorld(6);
  const device = await world.drive(world.disk.images(world.life()).open(image));
  const holes = async (): Promise<string> =>
    (await world.drive(device.extents(0, 8_192)))
      .map(({ length, hole }) => `${hole ? "-" : "x"}${length}`)
      .join(" ");
  assert.equal(await holes(), "-8192");
  await world.drive(device.write(1_024, new Uint8Array(2_048).fill(1), plain));
  assert.equal(await holes(), "-1024 x2048 -5120");
  assert.equal(world.disk.usedBytes, 2_048);
  await world.drive(device.trim(1_024, 1_024, plain));
  assert.equal(await holes(), "-2048 x1024 -5120");
  await world.drive(device.zero(0, 512, { fua: true, mayTrim: false, fast: false }));
  assert.equal(await holes(), "x512 -1536 x1024 -5120");
  world.disk.powerCut("nothing");
  assert.equal(world.disk.usedBytes, 1_536);
});

test("many changes in one call: killed in it, each sector is old or new", async () => {
  const seen = new Set<number>();
  for (let seed = 0; seed < 60; seed += 1) {
    const world = new SimWorld(seed);
    const life = world.life();
    const device = await world.drive(world.disk.images(life).open(image));
    assert.ok(isBulkWritable(device));
    await world.drive(device.write(0, new Uint8Array(16_384).fill(1), plain));
    const changes = [0, 1, 2, 3].map((at) => ({
      offset: at * 4_096,
      length: 2_048,
      data: at === 2 ? null : new Uint8Array(2_048).fill(2),
    }));
    void device.writeChanges(changes);
    world.disk.kill(life);
    const left = world.disk.contentOf("/image", "cached")!;
    let changed = 0;
    for (let at = 0; at < 16_384; at += 512) {
      const values = new Set(left.subarray(at, at + 512));
      assert.equal(values.size, 1);
      if (!values.has(1)) changed += 1;
      assert.ok(values.has(1) || (at % 4_096 < 2_048 && values.has(at >> 12 === 2 ? 0 : 2)));
    }
    seen.add(changed);
  }
  assert.ok(seen.has(0) && seen.has(16) && seen.size > 4, [...seen].join());
});

test("a full disk answers ENOSPC, and zeroes that free need no room", async () => {
  const world = new SimWorld(7, { capacityBytes: 1_024 });
  const device = await world.drive(world.disk.images(world.life()).open(image));
  const isFull = (error: unknown): boolean => error instanceof BlockError && error.errno === 28;
  await assert.rejects(world.drive(device.write(0, new Uint8Array(2_048).fill(1), plain)), isFull);
  assert.equal(world.disk.usedBytes, 1_024);
  await world.drive(device.trim(0, 512, plain));
  await world.drive(device.write(8_192, sector(1), plain));
  await assert.rejects(world.drive(device.write(0, sector(1), plain)), isFull);
});

test("an image whose maker was killed before its sync is made durable by who makes it again", async () => {
  const world = new SimWorld(9);
  const first = world.life();
  world.disk.strikeAt({
    match: (path, operation) => path === image.path && operation === "sync",
    after: 0,
    when: "before",
    act: () => world.disk.kill(first),
  });
  void world.disk.images(first).open(image);
  await world.scheduler.run();
  assert.equal(world.disk.contentOf(image.path, "cached")?.byteLength, image.sizeBytes);
  await world.drive(world.disk.images(world.life()).open(image));
  world.disk.powerCut("nothing");
  assert.equal(world.disk.contentOf(image.path, "cached")?.byteLength, image.sizeBytes);
});

test("an image that grows keeps its volume and gains zeroes, whatever crash, and is opened as long as its volume", async () => {
  const grown = image.sizeBytes + 8_192;
  const growth = { path: "/image", fromBytes: image.sizeBytes, toBytes: grown };
  const longer = { ...image, create: "never", longer: "opened" } as const;
  const world = new SimWorld(3);
  const images = world.disk.images(world.life());
  const device = await world.drive(images.open(image));
  await world.drive(device.write(512, sector(1), plain));
  await world.drive(device.flush());
  const states = [world.disk.snapshot()];
  world.disk.onOperation = () => states.push(world.disk.snapshot());
  await world.drive(images.grow(growth));
  // What a first try left behind the volume is no part of it.
  const first = await world.drive(images.open({ ...longer, sizeBytes: grown }));
  await world.drive(first.write(grown - 512, sector(2), plain));
  await world.drive(images.grow(growth));
  assert.ok(states.length > 10);
  for (const state of states) {
    for (const model of ["kill", "nothing", "everything", "subset", "torn"] as const) {
      const after = new SimWorld(4);
      after.disk.restore(state);
      if (model !== "kill") after.disk.powerCut(model);
      const old = await after.drive(after.disk.images(after.life()).open(longer));
      assert.equal(old.sizeBytes, image.sizeBytes);
      assert.deepEqual(await after.drive(old.read(512, 512)), sector(1));
      await after.drive(after.disk.images(after.life()).grow(growth));
      after.disk.powerCut("nothing");
      const whole = { ...image, create: "never", sizeBytes: grown } as const;
      const now = await after.drive(after.disk.images(after.life()).open(whole));
      assert.deepEqual(await after.drive(now.read(512, 512)), sector(1));
      assert.ok((await after.drive(now.read(image.sizeBytes, 8_192))).every((byte) => byte === 0));
    }
  }
});
