/** A journal that is not what was promised is refused with a code, never served (F28, F29, F31). */
import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { spawn } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { Level } from "level";
import { verifyFrameLog } from "../../journal/inspect.ts";
import { scriptArguments } from "../support/tree.ts";
import { until } from "../support/wait.ts";
import { fill, origin, Scratch, small } from "./support/scratch-log.ts";
import { seeded } from "./support/seed.ts";

const frames = 60;
const refusals = [
  "JOURNAL_DAMAGED",
  "JOURNAL_MISSING",
  "JOURNAL_OPEN_FAILED",
  "JOURNAL_READ_FAILED",
  "WATERMARK_MISSING",
  "WATERMARK_DAMAGED",
];
const good = new Scratch();
const stale = new Scratch();
const foreign = new Scratch();
const made: Scratch[] = [good, stale, foreign];
after(() => {
  for (const one of made) one.remove();
});

before(async () => {
  const log = await good.create(small);
  await fill(log, frames / 2);
  await log.sync();
  await log.close("abandon");
  cpSync(good.directory, stale.directory, { recursive: true });
  const second = (await good.open(small)).log;
  await fill(second, frames / 2);
  await second.sync();
  // Its background thread may still be at work on a table whose log then stays.
  await until("LevelDB to have one log", async () => (isShaped() ? true : undefined));
  await second.close("abandon");
  const other = await foreign.create({ ...small, lineage: new Uint8Array(16).fill(9) });
  await other.close("clean");
});

function isShaped(place = good): boolean {
  return filesOf(place, ".ldb").length >= 2 && filesOf(place, ".log").length === 1;
}

function copyOf(original: Scratch): Scratch {
  const copy = new Scratch();
  made.push(copy);
  cpSync(original.directory, copy.directory, { recursive: true });
  return copy;
}

function filesOf(place: Scratch, ending: string): string[] {
  const { directory } = place.options();
  return readdirSync(directory)
    .filter((name) => (ending === "MANIFEST" ? name.startsWith(ending) : name.endsWith(ending)))
    .sort()
    .map((name) => join(directory, name))
    .filter((path) => statSync(path).size > 0);
}

const logOf = (place: Scratch): string => filesOf(place, ".log").at(-1)!;
/** The largest: the first holds only the head value. */
const tableOf = (place: Scratch): string =>
  filesOf(place, ".ldb").reduce((a, b) => (statSync(b).size > statSync(a).size ? b : a));
const manifestOf = (place: Scratch): string => filesOf(place, "MANIFEST")[0]!;

function flip(path: string, bit: number): void {
  const bytes = readFileSync(path);
  bytes[bit >> 3]! ^= 1 << (bit & 7);
  writeFileSync(path, bytes);
}

const serverArguments = scriptArguments("./support/outcome-server", import.meta.url);
let server: ChildProcess | undefined;
let aborts = 0;
after(() => server?.kill());

/**
 * "whole" when the journal opens and every frame is there and true; else the code it is refused with. Asked in a
 * child process, as LevelDB may abort on what it reads; a new one then asks again, as a service manager would.
 */
async function outcome(place: Scratch): Promise<string> {
  for (let attempt = 0; attempt < 3; attempt += 1) {
    server ??= spawn(process.execPath, serverArguments, { stdio: ["ignore", "ignore", "ignore", "ipc"] });
    const child = server;
    const answer = await new Promise<string>((resolve) => {
      const gone = () => resolve("ABORTED");
      child.once("exit", gone);
      child.once("message", (code) => {
        child.off("exit", gone);
        resolve(String(code));
      });
      child.send({ directory: place.directory, frames });
    });
    if (answer !== "ABORTED") return answer;
    server = undefined;
    aborts += 1;
  }
  return "ABORTED";
}

test("the undamaged journal opens whole, with tables and a log to damage", async () => {
  const place = copyOf(good);
  assert.ok(isShaped(place));
  assert.equal(await outcome(place), "whole");
});

const damages: Record<string, (place: Scratch) => void> = {
  "CURRENT missing": (place) => rmSync(join(place.options().directory, "CURRENT")),
  "CURRENT empty": (place) => truncateSync(join(place.options().directory, "CURRENT")),
  "CURRENT naming no manifest": (place) =>
    writeFileSync(join(place.options().directory, "CURRENT"), "MANIFEST-999999\n"),
  "MANIFEST missing": (place) => rmSync(manifestOf(place)),
  "MANIFEST empty": (place) => truncateSync(manifestOf(place)),
  "MANIFEST cut short": (place) => truncateSync(manifestOf(place), statSync(manifestOf(place)).size >> 1),
  "MANIFEST zeroed": (place) =>
    writeFileSync(manifestOf(place), Buffer.alloc(statSync(manifestOf(place)).size)),
  "table missing": (place) => rmSync(tableOf(place)),
  "table empty": (place) => truncateSync(tableOf(place)),
  "table cut short": (place) => truncateSync(tableOf(place), statSync(tableOf(place)).size >> 1),
  "table page zeroed": (place) => {
    const bytes = readFileSync(tableOf(place));
    bytes.fill(0, 8192, 12_288);
    writeFileSync(tableOf(place), bytes);
  },
  "two tables swapped": (place) => {
    const [a, b] = filesOf(place, ".ldb");
    renameSync(a!, `${a}.x`);
    renameSync(b!, a!);
    renameSync(`${a}.x`, b!);
  },
  "log missing": (place) => rmSync(logOf(place)),
  "log empty": (place) => truncateSync(logOf(place)),
  "log cut short": (place) => truncateSync(logOf(place), statSync(logOf(place)).size - 5_000),
  "folder empty": (place) => {
    rmSync(place.options().directory, { recursive: true });
    mkdirSync(place.options().directory);
  },
  "folder missing": (place) => rmSync(place.options().directory, { recursive: true }),
  "older copy of the database": (place) => {
    rmSync(place.options().directory, { recursive: true });
    cpSync(stale.options().directory, place.options().directory, { recursive: true });
  },
  "database of another history": (place) => {
    rmSync(place.options().directory, { recursive: true });
    cpSync(foreign.options().directory, place.options().directory, { recursive: true });
  },
  "database and watermark of another history": (place) => {
    rmSync(place.directory, { recursive: true });
    cpSync(foreign.directory, place.directory, { recursive: true });
  },
  "watermark missing": (place) => rmSync(place.options().watermarkPath),
  "watermark empty": (place) => truncateSync(place.options().watermarkPath),
  "watermark cut short": (place) => truncateSync(place.options().watermarkPath, 8_192),
  "watermark zeroed": (place) => writeFileSync(place.options().watermarkPath, Buffer.alloc(16_384)),
};

for (const [name, damage] of Object.entries(damages)) {
  test(`refused: ${name} (F31)`, async () => {
    const place = copyOf(good);
    damage(place);
    const code = await outcome(place);
    assert.ok(refusals.includes(code), `${name}: ${code}`);
    // Asking again changes nothing: a refusal never mends.
    assert.ok(refusals.includes(await outcome(place)), "second look");
  });
}

test("a table that makes LevelDB abort stops the group, not the agent for ever", () => {
  assert.ok(aborts > 0, "no damage above made LevelDB abort: the trial may be dropped");
});

test("a lost tail is told from a shorter journal, with what is missing (finding 4)", async () => {
  const place = copyOf(good);
  truncateSync(logOf(place), 0);
  await assert.rejects(place.open(small), (error: { code: string; details: Record<string, unknown> }) => {
    assert.equal(error.code, "JOURNAL_DAMAGED");
    assert.match(String(error.details["problem"]), /-lost$/);
    assert.equal(error.details["durable"], frames);
    assert.equal(error.details["sequence"], Number(error.details["tail"]) + 1);
    return true;
  });
});

test("a hole in the middle is named by its sequence (finding 2)", async () => {
  const place = new Scratch();
  made.push(place);
  const log = await place.create({ compression: "none" });
  await fill(log, 80);
  await log.close("abandon");
  flip(logOf(place), 120_000 * 8);
  await assert.rejects(place.open(), (error: { code: string; details: Record<string, unknown> }) => {
    assert.equal(error.code, "JOURNAL_DAMAGED");
    assert.equal(error.details["problem"], "hole");
    assert.ok(Number(error.details["found"]) > Number(error.details["sequence"]));
    return true;
  });
});

/** A journal of 20 frames, durable to 10, whose frame `lost` the store does not have any more. */
async function withGap(lost: number): Promise<Scratch> {
  const place = new Scratch();
  made.push(place);
  const log = await place.create(small);
  await fill(log, 10);
  await log.sync();
  await fill(log, 10);
  await log.close("abandon");
  const db = new Level<Buffer, Buffer>(place.options().directory, {
    keyEncoding: "buffer",
    valueEncoding: "buffer",
  });
  const keys = await db.keys({ gte: Buffer.from("f"), lt: Buffer.from("g") }).all();
  await db.del(keys[lost - 1]!);
  await db.close();
  return place;
}

test("after a loss of power the journal ends at a gap behind what was promised, and goes on from there", async () => {
  const place = await withGap(15);
  await assert.rejects(place.open(small), { code: "JOURNAL_DAMAGED" }, "the same boot loses nothing");
  for (let start = 1; start <= 2; start += 1) {
    const { log, recovery } = await place.open({ ...small, bootId: "boot-2" });
    assert.deepEqual([log.tail.sequence, recovery.answered, recovery.sameBoot], [14, 20, false]);
    await log.close("abandon");
  }
  const { log } = await place.open({ ...small, bootId: "boot-2" });
  // The same sequences with other content: nothing of the stranded frames may shine through.
  await fill(log, 3, 512);
  await log.sync();
  await log.close("abandon");
  const again = await place.open({ ...small, bootId: "boot-2" });
  assert.equal(again.log.tail.sequence, 17);
  assert.equal((await again.log.frames(15, 1e9)).length, 3);
  await again.log.close("clean");
});

test("a gap below what was promised is damage in any boot", async () => {
  const place = await withGap(7);
  for (const bootId of ["boot-1", "boot-2"])
    await assert.rejects(place.open({ ...small, bootId }), { code: "JOURNAL_DAMAGED" });
});

test("LevelDB alone opens with a hole and no error: why sequences are dense (finding 2)", async () => {
  const place = new Scratch();
  made.push(place);
  const path = join(place.directory, "raw");
  const open = () => new Level<string, Buffer>(path, { valueEncoding: "buffer", compression: false });
  const db = open();
  for (let at = 0; at < 100; at += 1)
    await db.put(`k${String(at).padStart(3, "0")}`, Buffer.alloc(4096, at), { sync: true } as object);
  await db.close();
  flip(join(path, readdirSync(path).find((name) => name.endsWith(".log"))!), 200_000 * 8);
  const again = open();
  const keys = await again.keys().all();
  await again.close();
  assert.ok(keys.length < 100 && keys.includes("k099"), `${keys.length} keys`);
});

test("a bit flipped in a table is returned by LevelDB as data, and caught by us on reading (finding 3)", async () => {
  const place = copyOf(good);
  const { log } = await place.open(small);
  const table = tableOf(place);
  const before = readFileSync(table);
  const raw = (): Promise<Buffer> => collect(log);
  const sound = await raw();
  flip(table, 20_000 * 8);
  const rotten = await raw();
  assert.notDeepEqual(rotten, sound, "LevelDB says nothing");
  await assert.rejects(log.frames(1, 1e9), { code: "JOURNAL_DAMAGED" });
  const verdict = await verifyFrameLog(log);
  assert.equal(verdict.sound, false);
  assert.equal(verdict.problem?.code, "JOURNAL_DAMAGED");
  assert.equal(verdict.problem?.sequence, verdict.last + 1);
  await log.close("abandon");
  assert.equal(await outcome(place), "JOURNAL_DAMAGED");
  writeFileSync(table, before);
});

async function collect(log: Awaited<ReturnType<Scratch["open"]>>["log"]): Promise<Buffer> {
  const values: Uint8Array[] = [];
  for await (const { value } of log.storedFrames()) values.push(value);
  return Buffer.concat(values);
}

test("verify proves a sound journal, and says how far it is", async () => {
  const place = copyOf(good);
  const { log } = await place.open(small);
  const told: number[] = [];
  const verdict = await verifyFrameLog(log, (progress) => told.push(progress.sequence));
  assert.deepEqual(
    [verdict.sound, verdict.first, verdict.last, verdict.frames, verdict.problem],
    [true, 1, frames, frames, null],
  );
  assert.equal(told.at(-1), frames);
  assert.ok(existsSync(place.options().watermarkPath) && origin.sequence === 0);
  await log.close("clean");
});

for (const [ending, id] of [
  [".log", "F28"],
  [".ldb", "F29"],
] as const) {
  test(`every bit flipped in a ${ending} file is refused or harmless (${id})`, async (t) => {
    const random = seeded(t);
    const count = Number(process.env["SPLITSITE_FLIPS"] ?? 40);
    const seen: Record<string, number> = {};
    for (let at = 0; at < count; at += 1) {
      const place = copyOf(good);
      const paths = filesOf(place, ending);
      const path = paths[random(paths.length)]!;
      const bit = random(statSync(path).size * 8);
      flip(path, bit);
      const code = await outcome(place);
      seen[code] = (seen[code] ?? 0) + 1;
      assert.ok(code === "whole" || refusals.includes(code), `${path} bit ${bit}: ${code}`);
      place.remove();
    }
    assert.ok((seen["JOURNAL_DAMAGED"] ?? 0) > count / 2, JSON.stringify(seen));
  });
}
