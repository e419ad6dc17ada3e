/**
 * A failing world at the standby: apply that cannot go on, an intake that fills up, images that are not where they
 * were. The group says so with a code, never lies about positions, and goes on by itself when it can (F22, F23, F33).
 */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readdirSync, renameSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { Applier } from "../../gateway/apply/applier.ts";
import { verifyAgainstIntake } from "../../gateway/apply/open-image.ts";
import type { GroupImage } from "../../image/group-image.ts";
import { segmentBytesDefault } from "../../image/history/segments.ts";
import type { FrameLog } from "../../journal/frame-log.ts";
import type { Frame } from "../../protocol/frame.ts";
import { systemClock } from "../../runtime/clock.ts";
import { systemDisk } from "../../runtime/disk.ts";
import { OperationalError } from "../../runtime/errors.ts";
import { silentLog } from "../../runtime/log.ts";
import { until } from "../support/wait.ts";
import { mebibyte, Source, StandbySite } from "./standby-site.ts";

let site: StandbySite;
let source: Source;
beforeEach(async () => {
  site = await StandbySite.make();
  source = new Source(3);
});
afterEach(async () => site.remove());

test("with apply stopped the intake takes what it may, then says busy and why; nothing grows, nothing is lost", async () => {
  site.intakeBytesMax = 2 * mebibyte;
  await site.start();
  await site.hello(source);
  await site.stop();
  renameSync(site.paths.image("data"), `${site.paths.image("data")}.away`);
  await site.start();
  // biome-ignore lint/suspicious/noExplicitAny: answers are looked at field by field.
  let answer: any;
  let acknowledged = 0;
  for (let sent = 0; sent < 40; sent += 1) {
    answer = (await site.batch(source, source.write(2, 4, 128 * 1024))).json;
    if (answer.kind !== "acknowledged") break;
    acknowledged = answer.durable;
  }
  assert.deepEqual([answer.kind, answer.code], ["busy", "INTAKE_FULL"]);
  assert.match(answer.message, /IMAGE_MISSING/);
  const status = site.role!.statuses()[0]!;
  assert.deepEqual([status.state, status.reason?.code], ["stopped", "IMAGE_MISSING"]);
  assert.ok(status.intake.bytes <= 2 * mebibyte);
  assert.deepEqual([status.position.applied, status.consistent], [0, null]);
  assert.equal((await site.heartbeat(source)).json.stopped, "IMAGE_MISSING");
  await assert.rejects(site.failover(), { code: "IMAGE_MISSING" });
  // The image is back: applying goes on by itself, and with it the intake.
  renameSync(`${site.paths.image("data")}.away`, site.paths.image("data"));
  for (;;) {
    const from = source.frames.findIndex((frame) => frame.first > acknowledged);
    if (from < 0) break;
    const { json } = await site.batch(source, source.frames.slice(from, from + 2));
    if (json.kind === "acknowledged") acknowledged = json.durable;
    else if (json.kind === "wanted") acknowledged = json.sequence - 1;
    else await new Promise((resolve) => setTimeout(resolve, 50));
  }
  await site.applied(source);
  assert.deepEqual(site.images(), source.contents.at(-1));
});

/** Room is made a second behind a refusal at the latest: far longer than that. */
const takenWithinMs = 15_000;

test("before-images that fill the disk give way, though the intake takes nothing and no step is to come", async (t) => {
  site.reserveBytes = mebibyte;
  // So that nothing is given back for its age: what the frames made here say of the time is long ago.
  site.windowMs = Number.MAX_SAFE_INTEGER;
  const own = systemDisk.freeBytes;
  let capacityBytes: number | undefined;
  const kinds = new Set<string>();
  // What the history takes counts, and nothing else: the intake gives space back at moments of its own. And the intake is the
  // first to notice: behind the last step the history may still be looking whether it has room.
  t.mock.method(systemDisk, "freeBytes", (directory: string) => {
    const notices = kinds.has("busy INTAKE_FULL") || directory === site.paths.intake;
    return capacityBytes === undefined || !notices
      ? own(directory)
      : capacityBytes - bytesIn(site.paths.history);
  });
  await site.start();
  await site.hello(source);
  // Longer than a segment, so that the next set begins another one.
  while (bytesIn(site.paths.history) <= segmentBytesDefault) {
    assert.equal((await site.batch(source, randomWrites(3))).json.kind, "acknowledged");
    await site.applied(source);
  }
  assert.equal((await site.batch(source, randomWrites(1))).json.kind, "acknowledged");
  await site.applied(source);
  // Above the reserve, and with the next frame below it.
  capacityBytes = bytesIn(site.paths.history) + 1.5 * mebibyte;
  const fromMs = performance.now();
  await until(
    "the last look at the free space to be too old",
    () => performance.now() - fromMs > 1_100 || undefined,
  );
  const frames = randomWrites(1);
  const sentMs = performance.now();
  let kind = "";
  await until("the intake to take writes again, or to have refused them for long", async () => {
    const { json } = await site.batch(source, frames);
    kind = json.kind;
    kinds.add(`${kind} ${json.code ?? ""}`);
    return kind === "acknowledged" || performance.now() - sentMs > takenWithinMs || undefined;
  });
  assert.equal(kind, "acknowledged", "writes are taken again");
  assert.ok(kinds.has("busy INTAKE_FULL"), [...kinds].join());
  await site.applied(source);
  assert.ok(bytesIn(site.paths.history) < 8 * mebibyte, "what the old segment held is gone");
});

/** Frames of one MiB that no codec shrinks, over the whole of the first volume in turn. */
function randomWrites(count: number): Frame[] {
  return Array.from({ length: count }, () => {
    const offset = (source.frames.length % 4) * mebibyte;
    return source.put([{ kind: "write", volume: 0, offset, length: mebibyte, data: randomBytes(mebibyte) }]);
  });
}

/** Length of all files in a folder and those in it, bytes. */
function bytesIn(directory: string): number {
  return readdirSync(directory, { recursive: true, withFileTypes: true }).reduce(
    (sum, entry) => sum + (entry.isFile() ? statSync(join(entry.parentPath, entry.name)).size : 0),
    0,
  );
}

test("images newer than the intake are never called consistent (IMAGE_AHEAD_OF_INTAKE)", async () => {
  await site.start();
  await site.hello(source);
  await site.stop();
  const { cpSync, rmSync } = await import("node:fs");
  cpSync(site.paths.intake, `${site.directory}/intake-old`, { recursive: true });
  cpSync(site.paths.intakeWatermark, `${site.directory}/watermark-old`);
  await site.start();
  await site.batch(source, source.write(3));
  await site.applied(source);
  await site.stop();
  rmSync(site.paths.intake, { recursive: true });
  cpSync(`${site.directory}/intake-old`, site.paths.intake, { recursive: true });
  cpSync(`${site.directory}/watermark-old`, site.paths.intakeWatermark);
  await site.start();
  const status = site.role!.statuses()[0]!;
  assert.deepEqual([status.state, status.reason?.code], ["stopped", "IMAGE_AHEAD_OF_INTAKE"]);
  await assert.rejects(site.failover(), { code: "IMAGE_AHEAD_OF_INTAKE" });
});

test("a damaged intake stops the group and nothing is served from it", async () => {
  await site.start();
  await site.hello(source);
  await site.stop();
  for (const name of readdirSync(site.paths.intake)) writeFileSync(`${site.paths.intake}/${name}`, "x");
  await site.start();
  assert.equal(site.role!.statuses()[0]!.state, "stopped");
  assert.equal((await site.hello(source)).json.kind, "refused");
});

test("after a failed sync the images are opened again and written again from the marker; the failed one is not used", async () => {
  const frames = source.write(3);
  const last = frames.at(-1)!;
  const at = (sequence: number) => ({
    sequence,
    chain: sequence === 0 ? frames[0]!.chainBefore : last.chainAfter,
    dataBytesTotal: 0,
    timeMs: 0,
  });
  const calls: string[] = [];
  let opened = 0;
  let marker = at(0);
  const open = async (): Promise<GroupImage> => {
    opened += 1;
    const mine = opened;
    const image = {
      get applied() {
        return marker;
      },
      held: marker,
      applyingLast: 0,
      undoBehind: async () => false,
      begin: async (sequence: number) => void calls.push(`${mine} begin ${sequence}`),
      apply: async (applied: readonly unknown[]) => {
        calls.push(`${mine} apply ${applied.length}`);
        image.held = at(last.last);
      },
      sync: async () => {
        calls.push(`${mine} sync`);
        if (mine === 1)
          throw new OperationalError({ code: "IMAGE_SYNC_FAILED", message: "EIO", reaction: "stop" });
        return at(last.last);
      },
      commit: async (position: typeof marker) => {
        calls.push(`${mine} commit ${position.sequence}`);
        marker = position;
      },
      close: async () => void calls.push(`${mine} close`),
    };
    return image as unknown as GroupImage;
  };
  const position = { sequence: last.last, chain: last.chainAfter };
  const intake = {
    head: { sequence: 0, chain: frames[0]!.chainBefore },
    tail: position,
    durable: position,
    frames: async () => frames,
    chainAt: async (sequence: number) => at(sequence).chain,
    trim: async (through: number) => void calls.push(`trim ${through}`),
  } as unknown as FrameLog;
  const timers: (() => void)[] = [];
  const clock = {
    ...systemClock,
    after: (_delayMs: number, run: () => void) => {
      timers.push(run);
      return { cancel() {} };
    },
  };
  const applier = new Applier({
    intake,
    open,
    history: { windowMs: 0, bytesMax: 1 },
    clock,
    log: silentLog,
    incomplete: () => null,
    incompleteAtEnd: () => null,
    sealed: undefined,
    beforeStep: async () => {},
    changeTable: async () => false,
    isWhole: () => true,
    onApplied: () => {},
    onIntakeBroken: (error) => assert.fail(String(error)),
  });
  await applier.start();
  while (timers.length === 0) await new Promise((resolve) => setImmediate(resolve));
  assert.equal(applier.trouble?.code, "IMAGE_SYNC_FAILED");
  assert.equal(applier.appliedSequence, 0);
  await assert.rejects(applier.bringTo({ sequence: last.last, chain: last.chainAfter }), {
    code: "IMAGE_SYNC_FAILED",
  });
  timers[0]!();
  while (applier.appliedSequence < last.last) await new Promise((resolve) => setImmediate(resolve));
  assert.equal(applier.trouble, null);
  await applier.stop();
  assert.deepEqual(calls, [
    ...[`1 begin ${last.last}`, "1 apply 3", "1 sync", "1 close"],
    ...[
      `2 begin ${last.last}`,
      "2 apply 3",
      "2 sync",
      `2 commit ${last.last}`,
      `trim ${last.last}`,
      "2 close",
    ],
  ]);
});

test("what images and intake prove together: torn, trimmed and foreign are told apart, and none is consistent", async () => {
  const chain = new Uint8Array(32).fill(1);
  const verify = (
    image: { applied: number; applyingLast: number },
    known: Uint8Array | undefined = chain,
  ): Promise<void> =>
    verifyAgainstIntake(
      {
        applied: { sequence: image.applied, chain },
        applyingLast: image.applyingLast,
      } as unknown as GroupImage,
      { head: { sequence: 4 }, tail: { sequence: 10 }, chainAt: async () => known } as unknown as FrameLog,
      undefined,
    );
  await verify({ applied: 4, applyingLast: 10 });
  await verify({ applied: 10, applyingLast: 10 });
  await assert.rejects(verify({ applied: 8, applyingLast: 11 }), { code: "IMAGE_TORN" });
  await assert.rejects(verify({ applied: 3, applyingLast: 3 }), { code: "IMAGE_BEHIND_INTAKE" });
  await assert.rejects(verify({ applied: 11, applyingLast: 11 }), { code: "IMAGE_AHEAD_OF_INTAKE" });
  await assert.rejects(verify({ applied: 8, applyingLast: 8 }, new Uint8Array(32)), {
    code: "IMAGE_DIVERGED",
  });
});
