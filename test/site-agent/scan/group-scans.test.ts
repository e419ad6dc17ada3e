/**
 * Scans of an owned group end to end on the owner's side: real journal, images and line, against a standby in memory. A first
 * sync of images that held data, a verify with planted differences and its repair, kills in the middle, and the operator's
 * orders.
 */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { mkdir, mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { TestContext } from "node:test";
import { after, before, test } from "node:test";
import { systemImageFiles } from "../../../block/image-files.ts";
import { levelEngine } from "../../../journal/level-engine.ts";
import { openLevelOrderedStore } from "../../../journal/level-ordered-store.ts";
import type { ScanReport } from "../../../protocol/admin.ts";
import { adminRoutes } from "../../../protocol/admin.ts";
import type { StandbyLack } from "../../../protocol/control.ts";
import { blockBytes } from "../../../protocol/ids.ts";
import type { ScanMarkRecord, ScanPurpose } from "../../../protocol/record.ts";
import { scanChunkBytes } from "../../../protocol/scan-digest.ts";
import { systemClock } from "../../../runtime/clock.ts";
import type { Disk } from "../../../runtime/disk.ts";
import { systemDisk } from "../../../runtime/disk.ts";
import { errorCode } from "../../../runtime/errors.ts";
import type { HttpRequest } from "../../../runtime/http.ts";
import { silentLog } from "../../../runtime/log.ts";
import { agentGroupPaths } from "../../../runtime/paths.ts";
import { systemRandom } from "../../../runtime/random.ts";
import type { SiteSettings, TlsFiles } from "../../../runtime/settings/types.ts";
import { agentAdminRoutes } from "../../../site-agent/admin.ts";
import { OwnedGroup } from "../../../site-agent/group/owned-group.ts";
import { compressAside } from "../../../site-agent/ship/compress-aside.ts";
import { Link } from "../../../site-agent/ship/link.ts";
import { testCa } from "../../gateway/certificates.ts";
import { groupSettings } from "../../support/group-settings.ts";
import { SeededRandom, seedFromEnvironment } from "../../support/seeded.ts";
import { until } from "../../support/wait.ts";
import { FakeGateway } from "../ship/fake-gateway.ts";
import { NaiveStandby } from "./naive-standby.ts";

/** Each volume is a window of its own: a scan of three volumes is confirmed three times. */
const sizes = [3 * scanChunkBytes + 2 * blockBytes + 512, scanChunkBytes, 2 * scanChunkBytes];
const names = ["data", "log", "temp"];

let directory: string;
let primary: TlsFiles;
let dr: TlsFiles;

before(async () => {
  directory = await mkdtemp(join(tmpdir(), "splitsite-scans-"));
  const ca = await testCa();
  primary = await ca.issue(directory, "primary", ["primary"]);
  dr = await ca.issue(directory, "dr", ["dr"]);
});
after(() => rm(directory, { recursive: true, force: true }));

/** Paces and intervals come soon, so that no test waits for seconds; the patience with the other site stays long enough. */
const hastyClock = {
  ...systemClock,
  after: (delayMs: number, run: () => void) =>
    systemClock.after(delayMs === 3_000 ? delayMs : Math.min(delayMs, 20), run),
};

function site(name: string, tls: TlsFiles, port: number | null): SiteSettings {
  const gateway =
    port === null
      ? null
      : {
          listen: { kind: "tcp", host: "127.0.0.1", port: 0 } as const,
          url: `https://127.0.0.1:${port}`,
          intake: { maxBytes: 1, reserveBytes: 0 },
        };
  return { name, dataDir: directory, tls, admin: { kind: "unix", path: "unused" }, agent: null, gateway };
}

class Rig {
  readonly dataDir: string;
  readonly gateway = new FakeGateway();
  standby: NaiveStandby;
  readonly link: Link;
  readonly settings;
  readonly disk: Disk;
  group!: OwnedGroup;
  /** Told of each replacement of scan.json. */
  scanSaved: (count: number) => void = () => {};
  onMismatch: "report" | "repair" = "report";
  /** The next sync of the journal fails: the engine is closed and another one opened. */
  failSync = false;
  /** The next replacement of scan.json finds no space. */
  failScanSave = false;
  #saves = 0;

  private constructor(dataDir: string, port: number, gateway: FakeGateway, standby: NaiveStandby) {
    this.dataDir = dataDir;
    this.gateway = gateway;
    this.standby = standby;
    this.settings = {
      between: ["primary", "dr"],
      limitBytesPerSecond: null,
      windows: [],
      connections: 2,
      collectMs: 60,
      codec: "none",
    } as const;
    this.link = new Link({
      self: site("primary", primary, null),
      peer: site("dr", dr, port),
      settings: this.settings,
      clock: systemClock,
      random: systemRandom,
      log: silentLog,
    });
    this.disk = {
      ...systemDisk,
      open: async (path, mode) => {
        const file = await systemDisk.open(path, mode);
        if (!path.includes("/half-")) return file;
        return {
          ...file,
          syncData: async () => {
            if (!this.failSync) return file.syncData();
            this.failSync = false;
            throw Object.assign(new Error("a sync that failed"), { code: "EIO" });
          },
        };
      },
      rename: async (from, to) => {
        if (this.failScanSave && to.endsWith("scan.json")) {
          this.failScanSave = false;
          throw Object.assign(new Error("no space"), { code: "ENOSPC" });
        }
        await systemDisk.rename(from, to);
        if (!to.endsWith("scan.json")) return;
        this.#saves += 1;
        this.scanSaved(this.#saves);
      },
    };
  }

  static async make(t: TestContext, lacks?: StandbyLack): Promise<Rig> {
    const dataDir = await mkdtemp(join(directory, "group-"));
    const standby = new NaiveStandby(sizes, lacks);
    const gateway = new FakeGateway();
    gateway.standby = standby;
    const rig = new Rig(dataDir, await gateway.listen(dr), gateway, standby);
    // The product's timers do not keep a process alive; here nothing else may.
    const alive = setInterval(() => {}, 1_000);
    t.after(async () => {
      await rig.group.close("abandon");
      await rig.link.close();
      await gateway.close();
      clearInterval(alive);
    });
    return rig;
  }

  /** Writes into an image before the group exists. */
  async put(volume: number, offset: number, bytes: Uint8Array): Promise<void> {
    const path = agentGroupPaths(this.dataDir, "erp").image(names[volume]!);
    await mkdir(dirname(path), { recursive: true });
    const file = await open(path, "a+").then(async (made) => {
      await made.close();
      return open(path, "r+");
    });
    await file.truncate(sizes[volume]);
    await file.write(bytes, 0, bytes.byteLength, offset);
    await file.close();
  }

  async start(): Promise<void> {
    const paths = agentGroupPaths(this.dataDir, "erp");
    this.group = new OwnedGroup({
      site: "primary",
      settings: groupSettings({
        volumes: names.map((name, index) => ({ name, sizeBytes: sizes[index]! })),
        history: { windowMs: 0, bytesMax: 1 << 30 },
        scan: { bytesPerSecond: 64 * 1024 * 1024, verifyCron: null, onMismatch: this.onMismatch },
      }),
      paths,
      files: {
        disk: this.disk,
        images: systemImageFiles,
        stores: levelEngine,
        openIndex: (directory) => openLevelOrderedStore(directory, silentLog),
        history: { windowMs: 0, bytesMax: 1 << 30 },
        clock: hastyClock,
        paths,
        journalBytesMax: 2 ** 28,
        reserveBytes: 0,
        memoryTailBytes: 2 ** 20,
        writeBufferBytes: 2 ** 20,
        aheadHalfBytes: 2 ** 18,
        bootId: "11111111-1111-4111-8111-111111111111",
        log: silentLog,
      },
      unappliedBytesMax: 2 ** 20,
      readHandover: () => Promise.resolve(undefined),
      link: this.link,
      compress: compressAside,
      clock: hastyClock,
      random: systemRandom,
      log: silentLog,
    });
    await this.group.start();
  }

  async kill(): Promise<void> {
    await this.group.close("abandon");
    this.gateway.cutAll();
  }

  write(volume: number, offset: number, data: Buffer): Promise<void> {
    return this.group.submit([{ kind: "write", volume, offset, length: data.byteLength, data }], false);
  }

  /** Another one in its place, which knows nothing of the history. */
  replaceStandby(lacks: StandbyLack): void {
    this.standby = new NaiveStandby(sizes, lacks);
    this.gateway.standby = this.standby;
    this.gateway.frames.length = 0;
  }

  marks(): ScanMarkRecord[] {
    return this.standby.records.filter((record) => record.kind === "scanMark");
  }

  /** The standby has applied the end of a scan. */
  ended(of: ScanPurpose): Promise<true> {
    return until(`the end of a ${of}`, () =>
      this.marks().some(({ purpose, mark }) => purpose === of && mark === "end") ? true : undefined,
    );
  }

  /** No scan is under way, and everything written is applied at the standby. */
  async idle(): Promise<void> {
    await until("the end of the scan", () =>
      this.group.status().scan === null && !this.#waiting() ? true : undefined,
    );
    await until("the standby", () => {
      const { written } = this.group.status().position;
      return this.standby.applied === written ? true : undefined;
    });
  }

  #waiting(): boolean {
    return this.group.status().reason?.code === "FIRST_SYNC" || this.group.status().state === "stopped";
  }

  /** The standby is the owner, byte for byte. */
  async assertEqual(): Promise<void> {
    for (const [volume, size] of sizes.entries())
      for (let at = 0; at < size; at += scanChunkBytes) {
        const length = Math.min(scanChunkBytes, size - at);
        const ours = Buffer.from(await this.group.read(volume, at, length));
        assert(
          ours.equals(this.standby.volumes[volume]!.subarray(at, at + length)),
          `${names[volume]} at ${at}`,
        );
      }
  }
}

const seed = seedFromEnvironment();
console.log(`SEED=${seed}`);

/** Where writers write meanwhile, bytes from each volume's start: what else is sent is known. */
const writtenBytes = 256 * 1024;

/** Writes here and there until the returned function is called; that settles when all is answered. */
function writeMeanwhile(rig: Rig, random: SeededRandom): () => Promise<void> {
  let writing = true;
  const running = (async () => {
    while (writing) {
      const volume = random.below(sizes.length);
      const length = 512 * (1 + random.below(16));
      const offset = 512 * random.below((writtenBytes - length) / 512);
      await rig.write(volume, offset, Buffer.alloc(length, random.below(256)));
      await new Promise((resolve) => setTimeout(resolve, random.below(3)));
    }
  })();
  return async () => {
    writing = false;
    await running;
  };
}

async function fillImages(rig: Rig): Promise<void> {
  await rig.put(0, 0, Buffer.alloc(blockBytes, 1));
  await rig.put(0, 2 * scanChunkBytes + 512, Buffer.alloc(300_032, 2));
  await rig.put(0, sizes[0]! - 512, Buffer.alloc(512, 3));
  await rig.put(1, 4096, Buffer.alloc(4096, 4));
  await rig.put(2, scanChunkBytes - 1024, Buffer.alloc(2048, 5));
}

test("images that held data reach a standby made from nothing while their writers go on", async (t) => {
  const rig = await Rig.make(t, "empty");
  await fillImages(rig);
  await rig.start();
  assert.notEqual(rig.group.status().state, "protected");
  const rest = writeMeanwhile(rig, new SeededRandom(seed, 1));
  await rig.ended("first-sync");
  await rest();
  await rig.idle();
  await rig.assertEqual();
  assert.deepEqual(
    rig.marks().map(({ mark, purpose }) => `${purpose} ${mark}`),
    ["first-sync begin", "first-sync end"],
  );
  const content = rig.standby.records.filter(({ kind }) => kind === "scanContent");
  const bytes = content.reduce((sum, { length }) => sum + length, 0);
  assert(bytes < 400_000 + sizes.length * writtenBytes, `holes are not sent: ${bytes}`);
  assert(!rig.standby.records.some(({ kind }) => kind === "scanDigest"));
  await until("protection", () => (rig.group.status().state === "protected" ? true : undefined));
});

test("a seeded standby gets what differs and no more", async (t) => {
  const rig = await Rig.make(t, "unknown");
  await fillImages(rig);
  const standby = rig.standby.volumes[0]!;
  // Carried there, but older: one block is another, one is where nothing is any more.
  standby.fill(1, 0, blockBytes);
  standby.fill(2, 2 * scanChunkBytes + 512, 2 * scanChunkBytes + 512 + 300_032);
  standby.fill(9, scanChunkBytes, scanChunkBytes + 512);
  await rig.start();
  await rig.ended("first-sync");
  await rig.idle();
  await rig.assertEqual();
  const content = rig.standby.records.filter((record) => record.kind === "scanContent");
  assert(content.some(({ offset, data }) => offset === scanChunkBytes && data === null));
  assert(content.reduce((sum, { length }) => sum + length, 0) <= 5 * blockBytes);
});

test("the first sync is said until the standby has applied its end", async (t) => {
  const rig = await Rig.make(t, "unknown");
  rig.standby.silent = true;
  await fillImages(rig);
  await rig.start();
  await until("digests", () =>
    rig.standby.records.some(({ kind }) => kind === "scanDigest") ? true : undefined,
  );
  const { state, reason, scan } = rig.group.status();
  assert.equal(state, "catching-up");
  assert.equal(reason?.code, "FIRST_SYNC");
  assert.equal(scan?.purpose, "first-sync");
  assert.equal(scan?.totalBytes, sizes[0]! + sizes[1]! + sizes[2]!);
  await assert.rejects(rig.group.scans.verify(), (error) => errorCode(error) === "SCAN_UNDER_WAY");
  await assert.rejects(rig.group.scans.giveUp(), (error) => errorCode(error) === "SCAN_NEEDED");
  rig.standby.silent = false;
  await rig.idle();
  await rig.assertEqual();
});

test("a first sync that is killed at each of its saved places, while writers go on, still makes an equal", async (t) => {
  for (const lacks of ["empty", "unknown"] as const) {
    const rig = await Rig.make(t, lacks);
    await fillImages(rig);
    // Begun without and with its number, and behind each window: killed five times in one life.
    const deaths = new Set([1, 3, 5, 8, 11]);
    let die: () => void = () => {};
    rig.scanSaved = (count) => {
      if (deaths.delete(count)) die();
    };
    const random = new SeededRandom(seed, lacks === "empty" ? 3 : 4);
    for (let life = 0; !rig.marks().some(({ mark }) => mark === "end"); life += 1) {
      assert(life < 8, "it gets on");
      const dead = new Promise<void>((resolve) => {
        die = resolve;
      });
      await rig.start();
      const rest = writeMeanwhile(rig, random);
      await Promise.race([dead, rig.ended("first-sync").catch(() => {})]);
      await rest();
      if (!rig.marks().some(({ mark }) => mark === "end")) await rig.kill();
    }
    await rig.idle();
    await rig.assertEqual();
    await rig.kill();
  }
});

test("a first sync that a lost standby had nearly got begins anew for the one in its place", async (t) => {
  const rig = await Rig.make(t, "unknown");
  await fillImages(rig);
  // The last window but one is confirmed.
  const nearly = new Promise<void>((resolve) => {
    rig.scanSaved = (count) => {
      if (count === 4) resolve();
    };
  });
  await rig.start();
  await nearly;
  await rig.kill();
  assert(!rig.marks().some(({ mark }) => mark === "end"));
  rig.replaceStandby("unknown");
  rig.standby.volumes[0]!.fill(9, 0, scanChunkBytes);
  await rig.start();
  await rig.ended("first-sync");
  await rig.idle();
  await rig.assertEqual();
  const begins = rig.marks().filter(({ mark }) => mark === "begin");
  assert.equal(begins.length, 2);
});

test("the admin routes start, show, pause and give up a scan", async (t) => {
  const rig = await Rig.make(t);
  await rig.start();
  const routes = agentAdminRoutes(new Map([["erp", rig.group]]), () => Promise.resolve([]), systemClock);
  const ask = async (method: "GET" | "POST", pattern: string, body: unknown = {}): Promise<ScanReport> => {
    const route = routes.find((each) => each.method === method && each.pattern === pattern);
    const request = {
      params: { group: "erp" },
      body: () => Promise.resolve(Buffer.from(JSON.stringify(body))),
    };
    const reply = await route?.run(request as unknown as HttpRequest);
    return (reply as { json: ScanReport }).json;
  };
  const all = ":group";
  assert.deepEqual(await ask("GET", adminRoutes.scan(all)), {
    group: "erp",
    scan: null,
    historyCheck: null,
    verifies: [],
  });
  await assert.rejects(
    ask("POST", adminRoutes.scanStart(all), { purpose: "resync" }),
    (error) => errorCode(error) === "ORDER_MALFORMED",
  );
  rig.standby.silent = true;
  const begun = await ask("POST", adminRoutes.scanStart(all), { purpose: "verify" });
  assert.equal(begun.scan?.purpose, "verify");
  assert.equal((await ask("POST", adminRoutes.scanPause(all))).scan?.state, "paused");
  assert.notEqual((await ask("POST", adminRoutes.scanResume(all))).scan?.state, "paused");
  await ask("POST", adminRoutes.scanGiveUp(all));
  await until("the result", async () =>
    (await ask("GET", adminRoutes.scan(all))).verifies[0]?.outcome === "given-up" ? true : undefined,
  );
});

test("a verify under load tells exactly the planted differences, and a repair mends them", async (t) => {
  const rig = await Rig.make(t);
  const random = new SeededRandom(seed, 2);
  await rig.start();
  for (let volume = 0; volume < sizes.length; volume += 1)
    await rig.write(volume, 0, Buffer.alloc(scanChunkBytes / 2, 7 + volume));
  await rig.idle();
  // Writers keep to volume 2; the damage lies in the others.
  let writing = true;
  const writer = (async () => {
    while (writing) {
      await rig.write(2, 512 * random.below(4_000), Buffer.alloc(2048, random.below(256)));
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  })();
  rig.standby.volumes[0]![5 * blockBytes] = 99;
  rig.standby.volumes[0]![6 * blockBytes + 4095] = 99;
  rig.standby.volumes[0]![sizes[0]! - 1] = 99;
  rig.standby.volumes[1]![scanChunkBytes - blockBytes] = 99;
  rig.standby.rowsMax = 1;
  await rig.group.scans.verify();
  await until("the result", () => (rig.group.scans.results.length > 0 ? true : undefined));
  const [result] = rig.group.scans.results;
  assert.deepEqual(result?.differences, [
    { volume: "data", offset: 5 * blockBytes, length: 2 * blockBytes },
    { volume: "data", offset: sizes[0]! - 512, length: 512 },
    { volume: "log", offset: scanChunkBytes - blockBytes, length: blockBytes },
  ]);
  assert.equal(result?.differingBlocks, 4);
  assert.equal(result?.uncheckedBytes, 0);
  assert.equal(result?.outcome, "done");
  assert((result?.end ?? 0) > (result?.begin ?? 0));
  assert(!rig.standby.records.some(({ kind }) => kind === "scanContent"), "a verify changes nothing");
  await rig.group.scans.repair();
  await rig.ended("repair");
  writing = false;
  await writer;
  await rig.idle();
  await rig.assertEqual();
  await rig.group.scans.verify();
  await until("a clean result", () => (rig.group.scans.results.length > 1 ? true : undefined));
  assert.equal(rig.group.scans.results[0]?.differingBlocks, 0);
});

test("a scan goes on after a kill at the first window that was not confirmed, and tells its result afterwards", async (t) => {
  const rig = await Rig.make(t);
  await rig.start();
  await rig.write(0, 0, Buffer.alloc(blockBytes, 1));
  await rig.idle();
  rig.standby.volumes[0]![0] = 99;
  // Saved before the begin, with its number, and behind the first window: there the standby goes silent.
  const confirmed = new Promise<void>((resolve) => {
    rig.scanSaved = (count) => {
      if (count !== 3) return;
      rig.standby.silent = true;
      resolve();
    };
  });
  await rig.group.scans.verify();
  await confirmed;
  await rig.kill();
  rig.standby.silent = false;
  rig.standby.forget();
  await rig.start();
  await until("the result", () => (rig.group.scans.results.length > 0 ? true : undefined));
  await rig.idle();
  const [result] = rig.group.scans.results;
  assert.equal(result?.differingBlocks, 1, "found before the kill, told after it");
  assert.deepEqual(
    rig.marks().map(({ mark }) => mark),
    ["begin", "end"],
  );
  const walked = rig.standby.records.filter(
    (record) => record.kind === "scanDigest" && record.level === "chunk" && record.volume === 0,
  );
  assert.equal(
    walked.reduce((sum, { length }) => sum + length, 0),
    sizes[0],
    "what was confirmed is not walked again",
  );
  // The result outlives the process.
  await rig.kill();
  await rig.start();
  await until("the result", () => (rig.group.scans.results.length > 0 ? true : undefined));
  // The reading of the before-images may have ended meanwhile.
  assert.deepEqual({ ...rig.group.scans.results[0], history: result?.history }, result);
});

test("findings that a standby lost are made again: no difference is missed, none made up", async (t) => {
  const rig = await Rig.make(t);
  await rig.start();
  await rig.write(1, 0, Buffer.alloc(blockBytes, 1));
  await rig.idle();
  rig.standby.volumes[1]![0] = 99;
  rig.standby.silent = true;
  await rig.group.scans.verify();
  await until("digests of the first volume", () =>
    rig.standby.records.some(({ kind }) => kind === "scanDigest") ? true : undefined,
  );
  rig.standby.forget();
  rig.standby.silent = false;
  await until("the result", () => (rig.group.scans.results.length > 0 ? true : undefined));
  assert.deepEqual(rig.group.scans.results[0]?.differences, [
    { volume: "log", offset: 0, length: blockBytes },
  ]);
});

test("a scan goes on when journal and images had to be opened again in its middle", async (t) => {
  const rig = await Rig.make(t);
  await rig.start();
  await rig.write(0, 0, Buffer.alloc(blockBytes, 1));
  await rig.idle();
  rig.standby.volumes[0]![0] = 99;
  rig.standby.silent = true;
  await rig.group.scans.verify();
  await until("digests", () =>
    rig.standby.records.some(({ kind }) => kind === "scanDigest") ? true : undefined,
  );
  const before = rig.group.journal?.log;
  rig.failSync = true;
  await rig.write(2, 0, Buffer.alloc(blockBytes, 2));
  await rig.group.flush();
  await until("another engine", () => (rig.group.journal?.log === before ? undefined : true));
  rig.standby.silent = false;
  await until("the result", () => (rig.group.scans.results.length > 0 ? true : undefined));
  assert.equal(rig.group.scans.results[0]?.differingBlocks, 1);
  assert.deepEqual(
    rig.marks().map(({ mark }) => mark),
    ["begin", "end"],
  );
});

test("a standby that lacks nothing but records of a scan is not behind", async (t) => {
  const rig = await Rig.make(t);
  await rig.start();
  await rig.write(0, 0, Buffer.alloc(blockBytes, 1));
  await rig.idle();
  rig.gateway.faults.batch = () => "hang";
  await rig.group.scans.verify();
  await until("records of the scan", () =>
    rig.group.status().position.written > rig.standby.applied + 1 ? true : undefined,
  );
  assert.deepEqual(rig.group.status().lag, { writes: 0, bytes: 0, ageMs: 0, noProgressMs: 0 });
  await rig.write(0, 0, Buffer.alloc(blockBytes, 2));
  const { writes, bytes } = rig.group.status().lag;
  assert(writes > 0);
  assert.equal(bytes, blockBytes);
});

test("a scan is named in its document only once its begin survives power loss", async (t) => {
  const rig = await Rig.make(t);
  await rig.start();
  const { scan } = agentGroupPaths(rig.dataDir, "erp");
  const named: { begin: number; durable: number }[] = [];
  rig.scanSaved = () => {
    const begin = /"begin": ?(\d+)/.exec(readFileSync(scan, "utf8"))?.[1];
    if (begin !== undefined)
      named.push({ begin: Number(begin), durable: rig.group.status().position.durable });
  };
  await rig.group.scans.verify();
  await rig.ended("verify");
  assert(named.length > 0);
  for (const { begin, durable } of named)
    assert(durable >= begin, `${begin} is named, ${durable} is durable`);
});

test("an owner tells of a client's writes alone as answered, also after a restart on records of a scan", async (t) => {
  const rig = await Rig.make(t);
  await rig.start();
  await rig.write(0, 0, Buffer.alloc(blockBytes, 1));
  await rig.idle();
  rig.gateway.faults.batch = () => "hang";
  await rig.group.scans.verify();
  const told = async (): Promise<void> => {
    await until("records of the scan", () => (rig.group.status().position.written > 3 ? true : undefined));
    const before = rig.gateway.heartbeats;
    await until("heartbeats", () => (rig.gateway.heartbeats > before + 2 ? true : undefined));
    // The gateway states as lost at least what is beyond its own end.
    assert.equal(rig.gateway.heard, 1);
    assert.equal(rig.group.status().lag.writes, 0);
  };
  await told();
  await rig.kill();
  await rig.start();
  await told();
});

test("a scan can be paused, which a kill does not end, and given up, which the order and the result say", async (t) => {
  const rig = await Rig.make(t);
  await rig.start();
  await assert.rejects(rig.group.scans.pause(true), (error) => errorCode(error) === "NO_SCAN");
  await assert.rejects(rig.group.scans.repair(), (error) => errorCode(error) === "NOTHING_TO_REPAIR");
  rig.standby.silent = true;
  await rig.group.scans.verify();
  await rig.group.scans.pause(true);
  assert.equal(rig.group.status().scan?.state, "paused");
  await rig.kill();
  await rig.start();
  await until("the scan", () => (rig.group.status().scan?.state === "paused" ? true : undefined));
  await rig.group.scans.pause(false);
  await until("it goes on", () =>
    rig.standby.records.some(({ kind }) => kind === "scanDigest") ? true : undefined,
  );
  await rig.group.scans.giveUp();
  await until("the result", () => (rig.group.scans.results.length > 0 ? true : undefined));
  const [result] = rig.group.scans.results;
  assert.equal(result?.outcome, "given-up");
  assert.equal(result?.checkedBytes, 0);
  assert.equal(result?.uncheckedBytes, sizes[0]! + sizes[1]! + sizes[2]!);
  await rig.idle();
  assert.equal(rig.marks().at(-1)?.mark, "given-up");
});

/** A group that repairs by policy, in step with its standby. */
async function repairingRig(t: TestContext): Promise<Rig> {
  const rig = await Rig.make(t, "empty");
  await fillImages(rig);
  rig.onMismatch = "repair";
  await rig.start();
  await rig.ended("first-sync");
  await rig.idle();
  return rig;
}

test("by policy what differs is repaired once its point is pinned, and proven; what comes back is an alarm", async (t) => {
  const rig = await repairingRig(t);
  const verifies = () => rig.group.scans.results.length;
  const damage = (at: number) => {
    rig.standby.volumes[0]![at]! ^= 1;
  };
  const verified = async (count: number) => {
    await until("the results", () => (verifies() === count ? true : undefined), 30_000);
    await rig.idle();
  };

  // Without its point pinned nothing is replaced.
  let refusals = 0;
  rig.gateway.faults.pin = () => {
    refusals += 1;
    return { kind: "refused", code: "PINS_FULL", message: "too many" };
  };
  damage(5 * blockBytes);
  await rig.group.scans.verify();
  await verified(1);
  assert.equal(rig.group.scans.results[0]?.differingBlocks, 1);
  await until("the refusal", () => (refusals > 0 ? true : undefined));

  let pinned = 0;
  rig.gateway.faults.pin = () => {
    pinned += 1;
    assert.ok(!rig.marks().some(({ purpose }) => purpose === "repair"), "pinned before anything is sent");
    return { kind: "pinned", id: "repair-1", sequence: 1 };
  };
  // Orders wait for the policy's step, and would be refused if it had begun a repair.
  await rig.group.scans.verify();
  assert.deepEqual([refusals, rig.marks().some(({ purpose }) => purpose === "repair")], [1, false]);
  // The policy's own verify is the proof.
  await verified(3);
  assert.deepEqual(
    rig.group.scans.results.map(({ differingBlocks }) => differingBlocks),
    [0, 1, 1],
  );
  assert.equal(pinned, 1);
  await rig.assertEqual();
  assert.equal(rig.group.status().state, "protected");

  damage(5 * blockBytes);
  await rig.group.scans.verify();
  await verified(4);
  const repairs = () =>
    rig.marks().filter(({ purpose, mark }) => purpose === "repair" && mark === "begin").length;
  const alarmed = () => [rig.group.status().state, rig.group.status().reason?.code];
  assert.deepEqual(alarmed(), ["at-risk", "MISMATCH_RECURRED"]);
  assert.equal(repairs(), 1, "nobody repairs it again by himself");
  await rig.kill();
  await rig.start();
  await until("the alarm after a kill", () =>
    rig.group.status().reason?.code === "MISMATCH_RECURRED" ? true : undefined,
  );
  damage(9 * blockBytes);
  await rig.group.scans.verify();
  await verified(5);
  assert.equal(repairs(), 1, "also elsewhere, until an operator has looked");
  await rig.group.scans.repair();
  await until("another repair", () => (repairs() === 2 ? true : undefined));
  await rig.idle();
  await rig.assertEqual();
  assert.equal(rig.group.status().reason, null, "the operator's order answers the alarm");
});

test("a scan whose end a greeting tells ends once, and the repair behind it is a repair", async (t) => {
  const rig = await Rig.make(t);
  await rig.start();
  await rig.write(0, 0, Buffer.alloc(blockBytes, 1));
  await rig.idle();
  // Behind the last window: the standby takes the end and applies it, and only the greeting that follows says so.
  rig.scanSaved = (count) => {
    if (count !== 2 + sizes.length) return;
    rig.gateway.faults.batch = () => "dropAnswer";
    rig.gateway.faults.heartbeat = () => "hang";
  };
  rig.standby.volumes[0]![0]! ^= 1;
  await rig.group.scans.verify();
  await until("the result", () => (rig.group.scans.results.length > 0 ? true : undefined), 30_000);
  assert.equal(rig.group.scans.results[0]?.differingBlocks, 1);
  assert.ok(rig.gateway.faults.batch !== undefined && rig.gateway.hellos > 1, "a greeting told it");
  delete rig.gateway.faults.batch;
  delete rig.gateway.faults.heartbeat;
  // An order has its turn behind what follows from the end.
  await assert.rejects(rig.group.scans.pause(false), (error) => errorCode(error) === "NO_SCAN");
  await rig.group.scans.repair();
  await rig.ended("repair");
  await rig.idle();
  await rig.assertEqual();
  assert.deepEqual(
    rig.marks().map(({ purpose, mark }) => `${purpose} ${mark}`),
    ["verify begin", "verify end", "repair begin", "repair end"],
  );
  assert.notEqual(rig.group.status().reason?.code, "MISMATCH_RECURRED");
});

test("what a repair did not get to is no difference that came back", async (t) => {
  const rig = await Rig.make(t);
  await rig.start();
  await rig.write(0, 0, Buffer.alloc(blockBytes, 1));
  await rig.idle();
  rig.standby.volumes[0]![0]! ^= 1;
  const verified = async (differingBlocks: number) => {
    const before = rig.group.scans.results.length;
    await rig.group.scans.verify();
    await until("the result", () => (rig.group.scans.results.length > before ? true : undefined));
    await rig.idle();
    assert.equal(rig.group.scans.results[0]?.differingBlocks, differingBlocks);
  };
  await verified(1);
  // Its document cannot be written: nothing is begun, and who ordered it is told.
  rig.failScanSave = true;
  await assert.rejects(rig.group.scans.repair(), (error) => errorCode(error) === "ENOSPC");
  await verified(1);
  assert.equal(rig.group.status().reason, null);
  await rig.group.scans.repair();
  await rig.ended("repair");
  await rig.idle();
  await rig.assertEqual();
  rig.standby.volumes[0]![0]! ^= 1;
  await verified(1);
  assert.equal(rig.group.status().reason?.code, "MISMATCH_RECURRED");
});

test("an answer to the order to pin that names a newer token fences, though nothing else is heard (I4)", async (t) => {
  const rig = await repairingRig(t);
  let asked = false;
  rig.gateway.faults.pin = () => {
    asked = true;
    rig.gateway.faults.heartbeat = () => "hang";
    return { kind: "superseded", token: { epoch: 2, owner: "dr" } };
  };
  rig.standby.volumes[0]![5 * blockBytes]! ^= 1;
  await rig.group.scans.verify();
  await until("the order to pin", () => (asked ? true : undefined), 30_000);
  // The answer is heard within a few turns of the event loop; nothing else would tell.
  for (let turn = 0; turn < 50; turn += 1) await new Promise((resolve) => setImmediate(resolve));
  assert.ok(rig.group.fenced, "the answer is heeded");
});

test("what the standby cannot read is told as that, the verify comes to its end, and a repair writes it anew", async (t) => {
  const rig = await Rig.make(t);
  await rig.start();
  await rig.write(0, 0, Buffer.alloc(scanChunkBytes, 7));
  await rig.idle();
  for (const leaf of [3, 4, 9]) rig.standby.unreadable.add(leaf);
  rig.standby.volumes[0]![20 * blockBytes]! ^= 1;
  await rig.group.scans.verify();
  await until("the result", () => (rig.group.scans.results.length === 1 ? true : undefined));
  const [found] = rig.group.scans.results;
  assert.deepEqual([found?.outcome, found?.differingBlocks, found?.unreadableBlocks], ["done", 4, 3]);
  assert.deepEqual(found?.unreadable, [
    { volume: "data", offset: 3 * blockBytes, length: 2 * blockBytes },
    { volume: "data", offset: 9 * blockBytes, length: blockBytes },
  ]);
  assert.equal(found?.differences.length, 3);
  await rig.idle();
  await rig.group.scans.repair();
  await rig.ended("repair");
  await rig.idle();
  assert.equal(rig.standby.unreadable.size, 0);
  await rig.assertEqual();
});
