/** What a simulated disk keeps and loses, against what each call promises. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Disk, DiskFile } from "../../../runtime/disk.ts";
import { syncDirectory } from "../../../runtime/disk.ts";
import type { SimDisk } from "./disk.ts";
import { SimWorld } from "./driven.ts";
import type { PowerCut } from "./tree.ts";

const bytes = (length: number, value: number): Uint8Array => new Uint8Array(length).fill(value);

async function put(disk: Disk, path: string, content: Uint8Array): Promise<DiskFile> {
  const file = await disk.open(path, "replace");
  await file.write(0, content);
  return file;
}

/** A file whose name and first content are durable, open. */
async function settled(world: SimWorld, path: string, content: Uint8Array): Promise<DiskFile> {
  const disk = world.disk.view(world.life());
  return world.drive(
    (async () => {
      const file = await put(disk, path, content);
      await file.sync();
      await syncDirectory(disk, "/");
      return file;
    })(),
  );
}

const cached = (disk: SimDisk, path: string): Uint8Array | undefined => disk.contentOf(path, "cached");

test("what was written is read; nothing of it is durable before a sync", async () => {
  const world = new SimWorld(1);
  const disk = world.disk.view(world.life());
  const file = await world.drive(put(disk, "/f", bytes(1_000, 7)));
  assert.deepEqual(await world.drive(file.read(990, 100)), bytes(10, 7));
  assert.deepEqual(await world.drive(disk.readFile("/f")), bytes(1_000, 7));
  assert.deepEqual(world.disk.contentOf("/f", "stored"), bytes(0, 0));
  await world.drive(file.syncData());
  assert.deepEqual(world.disk.contentOf("/f", "stored"), bytes(1_000, 7));
  world.disk.powerCut("nothing");
  assert.equal(cached(world.disk, "/f"), undefined, "its name was never synced");
});

test("a sync keeps what was written before it was asked for, whatever is written during it", async () => {
  for (let seed = 0; seed < 50; seed += 1) {
    const world = new SimWorld(seed);
    const file = await settled(world, "/f", bytes(4_096, 1));
    await world.drive(file.write(0, bytes(4_096, 2)));
    const sync = file.syncData();
    const later = file.write(1_024, bytes(512, 3));
    await world.drive(sync);
    world.disk.powerCut("nothing");
    const left = cached(world.disk, "/f")!;
    for (let at = 0; at < 4_096; at += 1) {
      assert.ok(
        left[at] === 2 || (left[at] === 3 && at >= 1_024 && at < 1_536),
        `byte ${at} of seed ${seed}`,
      );
    }
    void later;
  }
});

test("power cuts leave all, nothing, some sectors, or a torn last write", async () => {
  const sectorsOf = (left: Uint8Array): number[] =>
    Array.from({ length: left.length / 512 }, (_, sector) => {
      const values = new Set(left.subarray(sector * 512, (sector + 1) * 512));
      assert.equal(values.size, 1, "a sector holds one of the two, whole");
      return [...values][0]!;
    });
  const seen = { mixed: 0, torn: 0 };
  for (let seed = 0; seed < 60; seed += 1) {
    const leaves = async (model: PowerCut): Promise<number[]> => {
      const world = new SimWorld(seed);
      const file = await settled(world, "/f", bytes(8_192, 1));
      await world.drive(file.write(0, bytes(4_096, 2)));
      await world.drive(file.write(4_096, bytes(4_096, 3)));
      world.disk.powerCut(model);
      assert.deepEqual(cached(world.disk, "/f"), world.disk.contentOf("/f", "stored"));
      return sectorsOf(cached(world.disk, "/f")!);
    };
    const [twos, threes, ones] = [2, 3, 1].map((value) => Array<number>(8).fill(value));
    assert.deepEqual(await leaves("everything"), [...twos!, ...threes!]);
    assert.deepEqual(await leaves("nothing"), [...ones!, ...ones!]);
    const subset = await leaves("subset");
    if (new Set(subset).size > 1) seen.mixed += 1;
    const torn = await leaves("torn");
    assert.deepEqual(torn.slice(0, 8), twos);
    const tornAt = torn.slice(8).indexOf(1);
    assert.ok(tornAt >= 0 && torn.slice(8 + tornAt).every((value) => value === 1), `torn ${torn}`);
    if (tornAt > 0) seen.torn += 1;
  }
  assert.ok(seen.mixed > 25 && seen.torn > 30, JSON.stringify(seen));
});

test("an unsynced append is lost by length, or leaves what was written back, and never rubbish", async () => {
  const lengths = new Set<number>();
  for (let seed = 0; seed < 80; seed += 1) {
    const world = new SimWorld(seed);
    const file = await settled(world, "/f", bytes(700, 1));
    await world.drive(file.write(700, bytes(2_000, 2)));
    world.disk.powerCut("subset");
    const left = cached(world.disk, "/f")!;
    lengths.add(left.length);
    assert.ok(left.length >= 700 && left.length <= 2_700);
    left.forEach((value, at) => {
      assert.ok(at < 700 ? value === 1 : value === 2 || value === 0, `byte ${at} is ${value}`);
    });
  }
  assert.ok(lengths.size > 3, [...lengths].join());
});

test("bytes behind the end that a loss of power left never come back when the file grows again", async () => {
  const world = new SimWorld(11);
  const file = await settled(world, "/f", bytes(512, 1));
  await world.drive(file.write(512, bytes(1_024, 2)));
  const sync = file.syncData();
  // Overwritten during the sync: its sectors reach the disk before the length does.
  await world.drive(file.write(512, bytes(1_024, 3)));
  world.disk.powerCut("nothing");
  void sync;
  assert.equal(cached(world.disk, "/f")!.length, 512);
  const again = await world.drive(world.disk.view(world.life()).open("/f", "update"));
  await world.drive(again.write(2_048, bytes(512, 4)));
  assert.deepEqual(cached(world.disk, "/f")!.subarray(512, 2_048), bytes(1_536, 0));
  await world.drive(again.sync());
  world.disk.powerCut("nothing");
  assert.deepEqual(cached(world.disk, "/f")!.subarray(512, 2_048), bytes(1_536, 0));
});

test("replacing by rename: unsynced content may leave an empty file, synced content never", async () => {
  const outcomes = new Set<string>();
  for (let seed = 0; seed < 60; seed += 1) {
    for (const syncs of [false, true]) {
      const world = new SimWorld(seed);
      await settled(world, "/d", bytes(600, 1));
      const disk = world.disk.view(world.life());
      await world.drive(
        (async () => {
          const file = await put(disk, "/d.new", bytes(600, 2));
          if (syncs) await file.sync();
          await disk.rename("/d.new", "/d");
        })(),
      );
      world.disk.powerCut("subset");
      const left = cached(world.disk, "/d")!;
      const what =
        left.length === 0 ? "empty" : left.every((value) => value === left[0]) ? `${left[0]}` : "mixed";
      if (syncs) assert.ok(left.length === 600 && (what === "1" || what === "2"), what);
      else outcomes.add(what);
    }
  }
  assert.ok(outcomes.has("empty") && outcomes.has("1"), [...outcomes].join());
});

test("names last from the sync of their folder, and a rename is never half", async () => {
  const seen = new Set<string>();
  for (let seed = 0; seed < 60; seed += 1) {
    const world = new SimWorld(seed);
    const disk = world.disk.view(world.life());
    await world.drive(
      (async () => {
        await disk.makeDirectory("/a/b");
        await disk.touch("/a/b/one");
        await syncDirectory(disk, "/");
        await syncDirectory(disk, "/a");
        await syncDirectory(disk, "/a/b");
        await disk.rename("/a/b/one", "/a/b/two");
        await disk.touch("/a/b/three");
      })(),
    );
    world.disk.powerCut("subset");
    const names = world.disk.paths().join(" ");
    assert.match(names, /^\/a\/b\/(one|three \/a\/b\/two|two)$/);
    seen.add(names);
  }
  assert.equal(seen.size, 3);
});

test("a folder whose own name was not synced goes with all that is in it", async () => {
  const world = new SimWorld(3);
  const disk = world.disk.view(world.life());
  await world.drive(
    (async () => {
      await disk.makeDirectory("/a");
      await (await put(disk, "/a/f", bytes(10, 1))).sync();
      await syncDirectory(disk, "/a");
    })(),
  );
  world.disk.powerCut("nothing");
  assert.deepEqual(world.disk.paths(), []);
  assert.equal(disk.exists("/a"), false);
});

test("a failed sync loses what it was to write, though a later one succeeds and the cache still shows it", async () => {
  const world = new SimWorld(4);
  const file = await settled(world, "/f", bytes(1_024, 1));
  await world.drive(file.write(0, bytes(512, 2)));
  const fault = world.disk.inject({
    match: (_, operation) => operation === "syncData",
    fault: "EIO",
    times: 1,
  });
  await assert.rejects(world.drive(file.syncData()), { code: "EIO" });
  await world.drive(file.syncData());
  assert.equal(fault.fired, 1);
  assert.deepEqual(cached(world.disk, "/f")!.subarray(0, 512), bytes(512, 2));
  world.disk.powerCut("everything");
  assert.deepEqual(cached(world.disk, "/f"), bytes(1_024, 1));
});

test("a kill keeps the page cache; a write under way happened, in part by sectors, or not", async () => {
  const seen = new Set<number>();
  for (let seed = 0; seed < 60; seed += 1) {
    const world = new SimWorld(seed);
    const life = world.life();
    const disk = world.disk.view(life);
    const file = await world.drive(put(disk, "/f", bytes(4_096, 1)));
    let told = false;
    const tell = (): void => {
      told = true;
    };
    file.write(0, bytes(4_096, 2)).then(tell, tell);
    world.disk.kill(life);
    const left = cached(world.disk, "/f")!;
    const count = left.filter((value) => value === 2).length;
    assert.ok(
      left.length === 4_096 && count % 512 === 0 && left.subarray(0, count).every((value) => value === 2),
    );
    seen.add(count);
    file.writeNow(0, bytes(1, 9));
    void disk.touch("/g");
    assert.equal(await world.scheduler.run(), "idle");
    assert.equal(told, false, "nobody is told");
    assert.deepEqual([cached(world.disk, "/f")![0] === 9, disk.exists("/g")], [false, false]);
  }
  assert.ok(seen.has(0) && seen.has(4_096) && seen.size > 4, [...seen].join());
});

test("a crash before a step leaves it undone, after it leaves it done, and nobody is told either way", async () => {
  for (const [when, expected] of [
    ["before", 1],
    ["after", 2],
  ] as const) {
    const world = new SimWorld(5);
    const life = world.life();
    const file = await world.drive(put(world.disk.view(life), "/f", bytes(512, 1)));
    world.disk.crashAt(world.disk.steps + 1, when, () => world.disk.kill(life));
    let told = false;
    const tell = (): void => {
      told = true;
    };
    file.write(0, bytes(512, 2)).then(tell, tell);
    await world.scheduler.run();
    assert.deepEqual([told, life.alive], [false, false]);
    assert.deepEqual(cached(world.disk, "/f"), bytes(512, expected));
  }
});

test("the hook sees every step before and after; reads are none", async () => {
  const world = new SimWorld(6);
  const seen: string[] = [];
  world.disk.onOperation = (_, path, operation, when) => seen.push(`${when} ${operation} ${path}`);
  const disk = world.disk.view(world.life());
  await world.drive(
    (async () => {
      const file = await put(disk, "/f", bytes(10, 1));
      file.writeNow(0, bytes(1, 2));
      await file.read(0, 10);
      await disk.list("/");
      await disk.remove("/f");
    })(),
  );
  const steps = ["create /f", "write /f", "write /f", "remove /f"];
  assert.deepEqual(
    seen,
    steps.flatMap((step) => [`before ${step}`, `after ${step}`]),
  );
  assert.equal(world.disk.steps, 4);
});

test("failing writes leave none, some or all of it, and say which error", async () => {
  const lefts: Record<string, Set<number>> = { EIO: new Set(), ENOSPC: new Set(), short: new Set() };
  for (let seed = 0; seed < 60; seed += 1) {
    for (const fault of ["EIO", "ENOSPC", "short"] as const) {
      const world = new SimWorld(seed);
      const file = await world.drive(put(world.disk.view(world.life()), "/f", bytes(100, 1)));
      world.disk.inject({ match: (path) => path === "/f", fault, times: 1, after: 1 });
      await world.drive(file.write(100, bytes(50, 2)));
      const failing = world.drive(file.write(150, bytes(1_500, 3)));
      if (fault === "short") await assert.rejects(failing, /short write/);
      else await assert.rejects(failing, { code: fault });
      assert.equal(world.disk.faultsFired.get(fault), 1);
      lefts[fault]!.add(cached(world.disk, "/f")!.length - 150);
      await world.drive(file.write(150, bytes(50, 4)));
    }
  }
  assert.ok(lefts["EIO"]!.has(1_500) && lefts["EIO"]!.has(0) && lefts["EIO"]!.size > 5);
  for (const fault of ["ENOSPC", "short"]) assert.ok(!lefts[fault]!.has(1_500) && lefts[fault]!.size > 5);
});

test("a failing write within one sector happens or does not, never half", async () => {
  const seen = new Set<number>();
  for (let seed = 0; seed < 30; seed += 1) {
    const world = new SimWorld(seed);
    const file = await world.drive(put(world.disk.view(world.life()), "/f", bytes(512, 1)));
    world.disk.inject({ match: (path) => path === "/f", fault: "EIO", times: 1 });
    assert.throws(() => file.writeNow(100, bytes(108, 2)), { code: "EIO" });
    seen.add(cached(world.disk, "/f")!.filter((value) => value === 2).length);
  }
  assert.deepEqual(
    [...seen].sort((a, b) => a - b),
    [0, 108],
  );
});

test("a full disk takes what fits, says ENOSPC, and goes on when there is room", async () => {
  const world = new SimWorld(7, { capacityBytes: 4_096 });
  const disk = world.disk.view(world.life());
  const file = await world.drive(put(disk, "/f", bytes(3_000, 1)));
  assert.equal(disk.freeBytes("/"), 1_024);
  await assert.rejects(world.drive(file.write(3_000, bytes(5_000, 2))), { code: "ENOSPC" });
  assert.equal(cached(world.disk, "/f")!.length, 4_096);
  await world.drive(file.write(0, bytes(4_096, 3)));
  world.disk.capacityBytes = 8_192;
  await world.drive(file.write(4_096, bytes(100, 4)));
  await world.drive(disk.remove("/f"));
  assert.equal(disk.freeBytes("/"), 8_192);
  assert.throws(() => disk.freeBytes("/nowhere"), { code: "ENOENT" });
});

test("snapshots are kept apart from what happens later, on either side", async () => {
  const world = new SimWorld(8);
  const file = await settled(world, "/f", bytes(2_048, 1));
  await world.drive(file.write(512, bytes(512, 2)));
  const snapshot = world.disk.snapshot();
  await world.drive(file.write(0, bytes(2_048, 3)));
  await world.drive(file.sync());
  assert.deepEqual(cached(world.disk, "/f"), bytes(2_048, 3));
  for (const [model, second] of [
    ["nothing", 1],
    ["everything", 2],
    ["nothing", 1],
  ] as const) {
    const other = new SimWorld(9);
    other.disk.restore(snapshot);
    other.disk.powerCut(model);
    assert.equal(other.disk.bootId, "boot-2");
    const expected = bytes(2_048, 1);
    expected.fill(second, 512, 1_024);
    assert.deepEqual(cached(other.disk, "/f"), expected);
    const again = await other.drive(other.disk.view(other.life()).open("/f", "update"));
    await other.drive(again.write(0, bytes(2_048, 5)));
    await other.drive(again.sync());
  }
  assert.deepEqual(cached(world.disk, "/f"), bytes(2_048, 3));
});

test("errors carry the system's codes", async () => {
  const world = new SimWorld(10);
  const disk = world.disk.view(world.life());
  const rejects = (promise: Promise<unknown>, code: string): Promise<void> =>
    assert.rejects(world.drive(promise), { code });
  await rejects(disk.open("/none", "read"), "ENOENT");
  await rejects(disk.open("/none", "update"), "ENOENT");
  await rejects(disk.open("/no/where", "replace"), "ENOENT");
  await rejects(disk.readFile("/none"), "ENOENT");
  await rejects(disk.list("/none"), "ENOENT");
  assert.throws(() => disk.listNow("/none"), { code: "ENOENT" });
  await rejects(disk.rename("/none", "/other"), "ENOENT");
  await world.drive(disk.remove("/none"));
  await world.drive(disk.makeDirectory("/folder"));
  await world.drive(disk.makeDirectory("/folder"));
  await rejects(disk.open("/folder", "update"), "EISDIR");
  const file = await world.drive(put(disk, "/f", bytes(1, 1)));
  await rejects(disk.list("/f"), "ENOTDIR");
  assert.deepEqual(new Set(disk.listNow("/")), new Set(["f", "folder"]));
  await file.close();
  await rejects(file.read(0, 1), "EBADF");
  assert.throws(() => file.writeNow(0, bytes(1, 1)), { code: "EBADF" });
  assert.equal(disk.exists("/f/below"), false);
});

test("the same seed gives the same trace, another seed another", async () => {
  const run = async (seed: number): Promise<string> => {
    const world = new SimWorld(seed);
    const disk = world.disk.view(world.life());
    await world.drive(disk.makeDirectory("/d"));
    const work = Array.from({ length: 20 }, async (_, at) => {
      const file = await put(disk, `/d/${at}`, bytes(at * 100, at));
      await file.sync();
    });
    await world.scheduler.run({ untilMs: 2 });
    world.disk.powerCut("subset");
    void work;
    const left = world.disk.paths().map((path) => Buffer.from(cached(world.disk, path)!).toString("hex"));
    return `${world.scheduler.trace.hash} ${left.join()}`;
  };
  for (let seed = 0; seed < 10; seed += 1) assert.equal(await run(seed), await run(seed));
  assert.notEqual(await run(1), await run(2));
});
