/** The life of one owned group on real files: what it refuses to start on, and what it survives while it serves. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { copyFile, mkdir, mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { systemImageFiles } from "../../../block/image-files.ts";
import { levelEngine } from "../../../journal/level-engine.ts";
import { openLevelOrderedStore } from "../../../journal/level-ordered-store.ts";
import type { StoreEngine } from "../../../journal/store.ts";
import type { Lineage } from "../../../protocol/ids.ts";
import type { Clock } from "../../../runtime/clock.ts";
import { systemClock } from "../../../runtime/clock.ts";
import type { Disk } from "../../../runtime/disk.ts";
import { systemDisk } from "../../../runtime/disk.ts";
import { readDocument } from "../../../runtime/durable-document.ts";
import { errorCode, OperationalError } from "../../../runtime/errors.ts";
import { silentLog } from "../../../runtime/log.ts";
import { agentGroupPaths } from "../../../runtime/paths.ts";
import { systemRandom } from "../../../runtime/random.ts";
import { OwnedGroup } from "../../../site-agent/group/owned-group.ts";
import { mayPass } from "../../../site-agent/group/reopen-rule.ts";
import { parseAgentGroupState } from "../../../site-agent/group/state.ts";
import { compressAside } from "../../../site-agent/ship/compress-aside.ts";
import type { Line } from "../../../site-agent/ship/line.ts";
import { groupSettings } from "../../support/group-settings.ts";
import { diskError, hookedDisk } from "../../support/hooked-disk.ts";
import { until } from "../../support/wait.ts";

const volumeBytes = 1024 * 1024;
const thisBoot = "11111111-1111-4111-8111-111111111111";
const nextBoot = "22222222-2222-4222-8222-222222222222";

interface Options {
  readonly boot?: string;
  readonly reserveBytes?: number;
  readonly journalBytesMax?: number;
  readonly clock?: Clock;
  readonly link?: Line;
  readonly stores?: StoreEngine;
  readonly disk?: Disk;
}

/** A group of the home site with no line: nobody can be asked, so an operator creates it. */
function groupIn(dataDir: string, options: Options = {}): OwnedGroup {
  const paths = agentGroupPaths(dataDir, "erp");
  return new OwnedGroup({
    site: "primary",
    settings: groupSettings({
      volumes: ["data", "log"].map((name) => ({ name, sizeBytes: volumeBytes })),
    }),
    paths,
    files: {
      disk: options.disk ?? systemDisk,
      images: systemImageFiles,
      stores: options.stores ?? levelEngine,
      openIndex: (directory) => openLevelOrderedStore(directory, silentLog),
      history: { windowMs: 86_400_000, bytesMax: 1 << 30 },
      clock: systemClock,
      paths,
      journalBytesMax: options.journalBytesMax ?? 2 ** 30,
      reserveBytes: options.reserveBytes ?? 0,
      memoryTailBytes: 1024 * 1024,
      writeBufferBytes: 4 * 1024 * 1024,
      // Of what a small disk has, the journal is to be the most.
      aheadHalfBytes: 256 * 1024,
      bootId: options.boot ?? thisBoot,
      log: silentLog,
    },
    unappliedBytesMax: 1024 * 1024,
    readHandover: () => Promise.resolve(undefined),
    link: options.link ?? null,
    compress: compressAside,
    clock: options.clock ?? systemClock,
    random: systemRandom,
    log: silentLog,
  });
}

async function withDataDir(use: (dataDir: string) => Promise<void>): Promise<void> {
  const dataDir = await mkdtemp(join(tmpdir(), "splitsite-group-"));
  try {
    await use(dataDir);
  } finally {
    await rm(dataDir, { recursive: true, force: true });
  }
}

function write(group: OwnedGroup, offset: number, fill: number, length = 4096): Promise<void> {
  return group.submit(
    [{ kind: "write", volume: 0, offset, length, data: Buffer.alloc(length, fill) }],
    false,
  );
}

async function firstByte(group: OwnedGroup, offset: number): Promise<number | undefined> {
  return (await group.read(0, offset, 512))[0];
}

test("a created group serves, and serves the same after a clean restart", async () => {
  await withDataDir(async (dataDir) => {
    const first = groupIn(dataDir);
    await first.start();
    assert.equal(first.status().reason?.code, "WAITING_FOR_PEER");
    assert.equal(first.status().io, "refused");
    await first.create();
    assert.equal(first.status().io, "serving");
    await write(first, 0, 7);
    await first.flush();
    await first.close();
    const second = groupIn(dataDir);
    await second.start();
    assert.equal(await firstByte(second, 0), 7);
    assert.equal(second.status().lineage, first.status().lineage);
    await assert.rejects(second.create(), (error) => errorCode(error) === "GROUP_EXISTS");
    await second.close();
  });
});

test("a group created by order while it waits for the other site is not started a second time", async () => {
  await keptAlive(() =>
    withDataDir(async (dataDir) => {
      const timers: (() => void)[] = [];
      const clock = {
        ...systemClock,
        after: (_: number, run: () => void) => ({ cancel: () => {}, started: timers.push(run) }),
      };
      const group = groupIn(dataDir, { clock });
      await group.start();
      // The question to the other site is due again, just as the operator's order arrives.
      const created = group.create();
      for (const run of timers.splice(0)) run();
      await created;
      await group.resume(true);
      assert.equal(group.status().io, "serving");
      await group.close("abandon");
    }),
  );
});

test("an image that holds data is taken as it is, and remembered: a standby needs a first sync", async () => {
  await withDataDir(async (dataDir) => {
    const image = agentGroupPaths(dataDir, "erp").image("data");
    await mkdir(dirname(image), { recursive: true });
    const content = Buffer.alloc(volumeBytes);
    content[4096] = 1;
    await writeFile(image, content);
    const group = groupIn(dataDir);
    await group.start();
    await group.create();
    assert.equal((await group.read(0, 4096, 512))[0], 1);
    const state = await readDocument(systemDisk, agentGroupPaths(dataDir, "erp").state, parseAgentGroupState);
    assert.equal(state?.initial, "data");
    await group.close();
  });
});

test("F76 another file under the image's path stops the group", async () => {
  await withDataDir(async (dataDir) => {
    const group = groupIn(dataDir);
    await group.start();
    await group.create();
    await write(group, 0, 7);
    await group.close();
    const image = agentGroupPaths(dataDir, "erp").image("data");
    await copyFile(image, `${image}.copy`);
    await rename(`${image}.copy`, image);
    const again = groupIn(dataDir);
    await again.start();
    assert.equal(again.status().state, "stopped");
    assert.equal(again.status().reason?.code, "IMAGE_MISMATCH");
    await assert.rejects(write(again, 0, 1));
    await again.close();
  });
});

test("a journal without its state document is somebody's history: nothing is created over it", async () => {
  await withDataDir(async (dataDir) => {
    const group = groupIn(dataDir);
    await group.start();
    await group.create();
    await group.close();
    await rm(agentGroupPaths(dataDir, "erp").state);
    const again = groupIn(dataDir);
    await again.start();
    await assert.rejects(again.create(), (error) => errorCode(error) === "STATE_MISSING");
    await again.close();
  });
});

test("a damaged state document stops the group and is not taken for none", async () => {
  await withDataDir(async (dataDir) => {
    const group = groupIn(dataDir);
    await group.start();
    await group.create();
    await group.close();
    await writeFile(agentGroupPaths(dataDir, "erp").state, "{}");
    const again = groupIn(dataDir);
    await again.start();
    assert.equal(again.status().reason?.code, "DOCUMENT_DAMAGED");
    await again.close();
  });
});

test("after a power loss TCP clients wait for an operator, through restarts, until he accepts", async () => {
  await withDataDir(async (dataDir) => {
    const beforeLoss = groupIn(dataDir);
    await beforeLoss.start();
    await beforeLoss.create();
    await write(beforeLoss, 0, 7);
    await beforeLoss.close("abandon");
    for (const boot of [nextBoot, nextBoot]) {
      const group = groupIn(dataDir, { boot });
      await group.start();
      assert.equal(group.unflushedMayBeLost, true);
      await group.close();
    }
    const accepted = groupIn(dataDir, { boot: nextBoot });
    await accepted.start();
    await accepted.resume(true);
    assert.equal(accepted.unflushedMayBeLost, false);
    await accepted.close();
    const after = groupIn(dataDir, { boot: nextBoot });
    await after.start();
    assert.equal(after.unflushedMayBeLost, false);
    await after.close();
  });
});

test("F31 a journal damaged while it is opened again stops the group at once", async () => {
  await withDataDir(async (dataDir) => {
    const group = groupIn(dataDir);
    await group.start();
    await group.create();
    await write(group, 0, 7);
    await group.flush();
    await group.close("abandon");
    await rm(agentGroupPaths(dataDir, "erp").watermark(1));
    const again = groupIn(dataDir);
    await again.start();
    assert.equal(again.status().reason?.code, "WATERMARK_MISSING");
    assert.equal(again.status().io, "refused");
    await again.close();
  });
});

/** A journal whose writes fail, and which does not open again, for as long as the test wants. */
class BreakableJournal {
  broken = false;
  readonly stores: StoreEngine;
  readonly disk = hookedDisk((operation, path) => {
    if (this.broken && operation === "writeNow" && path.includes("half-")) throw diskError("EIO");
  });

  constructor(code: string, reaction: "stop" | "retry") {
    this.stores = {
      ...levelEngine,
      open: async (...all) => {
        if (this.broken) throw new OperationalError({ code, message: "made so by the test", reaction });
        return levelEngine.open(...all);
      },
    };
  }
}

test("writes whose put failed are refused when no journal follows, and not left without an answer", async () => {
  await withDataDir(async (dataDir) => {
    const journal = new BreakableJournal("JOURNAL_DAMAGED", "stop");
    const group = groupIn(dataDir, journal);
    await group.start();
    await group.create();
    await write(group, 0, 1);
    journal.broken = true;
    // A write that is never answered must fail the test instead of keeping it.
    let patience: NodeJS.Timeout | undefined;
    const outcomes = await Promise.race([
      Promise.allSettled([write(group, 0, 2), write(group, 4096, 3), write(group, 8192, 4)]),
      new Promise<undefined>((resolve) => {
        patience = setTimeout(() => resolve(undefined), 5_000);
      }),
    ]);
    clearTimeout(patience);
    assert.ok(outcomes !== undefined, "a write was left without an answer");
    assert.deepEqual(
      outcomes.map(({ status }) => status),
      ["rejected", "rejected", "rejected"],
    );
    assert.equal(group.status().reason?.code, "JOURNAL_DAMAGED");
    await group.close();
  });
});

test("an order to take over does not stop a group that waits for its disk", async () => {
  await withDataDir(async (dataDir) => {
    const journal = new BreakableJournal("JOURNAL_OPEN_FAILED", "retry");
    const group = groupIn(dataDir, journal);
    await group.start();
    await group.create();
    journal.broken = true;
    await keptAlive(async () => {
      const waiting = write(group, 0, 2);
      await until("the journal does not open", () =>
        group.status().reason?.code === "JOURNAL_OPEN_FAILED" ? true : undefined,
      );
      await assert.rejects(group.adopt(), (error) => errorCode(error) === "JOURNAL_OPEN_FAILED");
      journal.broken = false;
      await waiting;
    });
    assert.equal(await firstByte(group, 0), 2);
    await group.close();
  });
});

test("only what may pass by itself is tried again", () => {
  for (const code of [
    "JOURNAL_DAMAGED",
    "WATERMARK_DAMAGED",
    "MARKER_DAMAGED",
    "IMAGE_MISMATCH",
    "IMAGE_BEYOND_JOURNAL",
  ]) {
    assert.equal(mayPass(code), false, code);
  }
  assert.equal(mayPass("JOURNAL_OPEN_FAILED"), true);
});

/** Content that LZ4 does not shrink, told apart by its first byte. */
function noise(index: number, length: number): Buffer {
  const data = Buffer.alloc(length);
  let state = (index + 1) * 2654435761;
  for (let at = 0; at < length; at += 4) {
    state = Math.imul(state ^ (state >>> 15), 2246822519) + at;
    data.writeInt32LE(state | 0, at);
  }
  data[0] = index & 255;
  return data;
}

/** The product's timers do not keep a process alive; here nothing else does. */
async function keptAlive<T>(use: () => Promise<T>): Promise<T> {
  const alive = setInterval(() => {}, 1_000);
  try {
    return await use();
  } finally {
    clearInterval(alive);
  }
}

function writeNoise(group: OwnedGroup, index: number, length: number): Promise<void> {
  const offset = (index * length) % volumeBytes;
  return group.submit([{ kind: "write", volume: 0, offset, length, data: noise(index, length) }], false);
}

async function held(group: OwnedGroup): Promise<void> {
  while (group.status().io !== "held") await new Promise((resolve) => setTimeout(resolve, 2));
}

test("a full journal holds writes and says so; nothing answered is lost", async () => {
  await withDataDir(async (dataDir) => {
    const journalBytesMax = 4 * 1024 * 1024;
    const length = 256 * 1024;
    const group = groupIn(dataDir, { journalBytesMax });
    await group.start();
    await group.create();
    // Only a standby's word releases frames, and there is none: the quota fills.
    let answered = -1;
    const answers = Array.from({ length: 40 }, async (_, index) => {
      await writeNoise(group, index, length);
      answered = index;
    });
    const outcomes = Promise.allSettled(answers);
    await held(group);
    assert.equal(group.status().reason?.code, "JOURNAL_FULL");
    const { written } = group.status().position;
    assert(written > 0 && written < 40);
    await group.close();
    assert.equal((await outcomes).filter((outcome) => outcome.status === "rejected").length, 40 - written);
    assert.equal(answered, written - 1);
    const again = groupIn(dataDir, { journalBytesMax });
    await again.start();
    for (let index = Math.max(0, written - 4); index < written; index += 1) {
      assert.equal(await firstByte(again, (index * length) % volumeBytes), index);
    }
    await again.close();
  });
});

for (const [title, reserveBytes] of [
  ["F21 a disk near its reserve holds writes until there is space", 4 * 1024 * 1024],
  ["F20 a disk that fills in mid-put is opened again when there is space", 0],
] as const) {
  test(`${title}: every answered write is there, none is refused`, async (t) => {
    if (process.getuid?.() !== 0) return t.skip("needs root to mount a small tmpfs");
    await withDataDir(async (dataDir) => {
      execFileSync("mount", ["-t", "tmpfs", "-o", "size=32m", "tmpfs", dataDir]);
      try {
        await keptAlive(() => fillAndFree(dataDir, reserveBytes));
      } finally {
        execFileSync("umount", ["-l", dataDir]);
      }
    });
  });
}

/** Twice the space that is left, reserve included. */
const writes = 192;

async function fillAndFree(dataDir: string, reserveBytes: number): Promise<void> {
  const group = groupIn(dataDir, { reserveBytes });
  await group.start();
  await group.create();
  // Both images allocated first: what fills the disk then is the journal.
  for (let index = 0; index < 8; index += 1) await writeNoise(group, index, 128 * 1024);
  await group.flush();
  const filler = join(dataDir, "filler");
  const free = Number(
    execFileSync("df", ["--output=avail", "-B1", dataDir]).toString().trim().split("\n")[1],
  );
  await writeFile(filler, Buffer.alloc(Math.max(0, free - reserveBytes - 1024 * 1024), 1));
  const answers = Array.from({ length: writes }, (_, index) => writeNoise(group, index, 64 * 1024));
  const all = Promise.all(answers);
  await Promise.race([held(group), all.then(() => assert.fail("12 MiB went into 5 MiB of space"))]);
  await rm(filler);
  await all;
  await group.flush();
  const check = async (of: OwnedGroup) => {
    for (let index = writes - 16; index < writes; index += 1)
      assert.equal(await firstByte(of, (index * 65536) % volumeBytes), index);
  };
  await check(group);
  await group.close();
  const again = groupIn(dataDir);
  await again.start();
  await check(again);
  await again.close();
}

/** A line to a site that has taken the group over: all it does is to say so. */
function successorLine(lineage: Lineage): Line {
  const silent = () => new Promise<never>(() => {});
  return {
    settings: { codec: "auto", connections: 1, collectMs: 60 },
    status: { up: true, limitBytesPerSecond: 1_000, wireBytes: 0, lastContact: null },
    budgetBytes: 1 << 20,
    join: () => () => {},
    knowledge: () => Promise.resolve({ known: true, lineage, token: { epoch: 2, owner: "dr" } }),
    control: silent,
    upload: silent,
    renew: () => {},
  };
}

test("an owner that comes back superseded says how much it alone holds, and goes on saying so", async () => {
  await withDataDir(async (dataDir) => {
    const first = groupIn(dataDir);
    await first.start();
    await first.create();
    for (let block = 0; block < 5; block += 1) await write(first, block * 512, 7);
    await first.flush();
    const { lineage } = first.status();
    assert.ok(lineage !== null);
    await first.close("abandon");
    for (let start = 1; start <= 2; start += 1) {
      const back = groupIn(dataDir, { link: successorLine(lineage) });
      await back.start();
      const status = back.status();
      assert.deepEqual([status.state, status.io, status.reason?.code], ["fenced", "refused", "SUPERSEDED"]);
      assert.deepEqual([status.position.written, status.position.acknowledged], [5, 0], `start ${start}`);
      assert.deepEqual([status.lag.writes, status.lag.bytes], [5, 5 * 4096], `start ${start}`);
      assert.equal(status.link.limitBytesPerSecond, 1_000);
      await back.close();
    }
  });
});
