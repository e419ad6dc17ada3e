/**
 * An owned group whose journal overflows, against a standby as simple as can be: nobody's write waits for a line that is gone,
 * whatever is killed what was dropped is known, and a resync brings exactly that (OV1 to OV4).
 */
import assert from "node:assert/strict";
import { randomFillSync } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { after, before, test } from "node:test";
import { systemImageFiles } from "../../../block/image-files.ts";
import { levelEngine } from "../../../journal/level-engine.ts";
import { openLevelOrderedStore } from "../../../journal/level-ordered-store.ts";
import { systemClock } from "../../../runtime/clock.ts";
import { systemDisk } from "../../../runtime/disk.ts";
import { errorCode } from "../../../runtime/errors.ts";
import { silentLog } from "../../../runtime/log.ts";
import { agentGroupPaths } from "../../../runtime/paths.ts";
import { systemRandom } from "../../../runtime/random.ts";
import type { SiteSettings, TlsFiles } from "../../../runtime/settings/types.ts";
import { OwnedGroup } from "../../../site-agent/group/owned-group.ts";
import { readNotes } from "../../../site-agent/overflow/overflow.ts";
import { compressAside } from "../../../site-agent/ship/compress-aside.ts";
import { Link } from "../../../site-agent/ship/link.ts";
import { testCa } from "../../gateway/certificates.ts";
import { SeededRandom, seedFromEnvironment } from "../../support/seeded.ts";
import { until } from "../../support/wait.ts";
import { NaiveStandby } from "../scan/naive-standby.ts";
import { FakeGateway } from "../ship/fake-gateway.ts";

const seed = seedFromEnvironment();
const mebibyte = 2 ** 20;
const sizeBytes = 48 * mebibyte;
const journalBytesMax = mebibyte;

let directory: string;
let primary: TlsFiles;
let dr: TlsFiles;

before(async () => {
  directory = await mkdtemp(join(tmpdir(), "splitsite-overflow-"));
  const ca = await testCa();
  primary = await ca.issue(directory, "primary", ["primary"]);
  dr = await ca.issue(directory, "dr", ["dr"]);
});
after(() => rm(directory, { recursive: true, force: true }));

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

/** Paces and intervals come soon; patience with the disk and with the other site stays as it is. */
const hastyClock = {
  ...systemClock,
  after: (delayMs: number, run: () => void) =>
    systemClock.after(delayMs === 2_000 || delayMs === 3_000 ? delayMs : Math.min(delayMs, 20), run),
};

/** Settles with the requests; fails when they wait as if for the line. */
async function answered(requests: readonly Promise<void>[]): Promise<void> {
  let waits: ReturnType<typeof setTimeout> | undefined;
  const tooLong = new Promise<never>((_, reject) => {
    waits = setTimeout(() => reject(new assert.AssertionError({ message: "a write waits" })), 20_000);
  });
  try {
    await Promise.race([Promise.all(requests), tooLong]);
  } finally {
    clearTimeout(waits);
  }
}

class Rig {
  readonly gateway = new FakeGateway();
  readonly standby = new NaiveStandby([sizeBytes]);
  readonly content = Buffer.alloc(sizeBytes);
  readonly random: SeededRandom;
  link!: Link;
  group!: OwnedGroup;
  #dataDir = "";

  constructor(stream: number) {
    this.random = new SeededRandom(seed, stream);
    this.gateway.standby = this.standby;
  }

  static async make(t: TestContext, stream: number): Promise<Rig> {
    const rig = new Rig(stream);
    rig.#dataDir = await mkdtemp(join(directory, "group-"));
    const port = await rig.gateway.listen(dr);
    rig.link = new Link({
      self: site("primary", primary, null),
      peer: site("dr", dr, port),
      settings: {
        between: ["primary", "dr"],
        limitBytesPerSecond: null,
        windows: [],
        connections: 2,
        codec: "none",
        collectMs: 60,
      },
      clock: systemClock,
      random: systemRandom,
      log: silentLog,
    });
    // The product's timers do not keep a process alive; here nothing else may.
    const alive = setInterval(() => {}, 1_000);
    t.after(async () => {
      await rig.group.close("abandon");
      await rig.link.close();
      await rig.gateway.close();
      clearInterval(alive);
    });
    await rig.start();
    return rig;
  }

  async start(): Promise<void> {
    const paths = agentGroupPaths(this.#dataDir, "erp");
    this.group = new OwnedGroup({
      site: "primary",
      settings: {
        name: "erp",
        home: "primary",
        standby: "dr",
        volumes: [{ name: "data", sizeBytes, image: null, standbyImage: null }],
        durability: "flush",
        rpo: { ageMs: null, bytes: null },
        overflow: "track",
        history: { windowMs: 0, bytesMax: 1 << 30 },
        scan: { bytesPerSecond: null, verifyCron: null, onMismatch: "report" },
      },
      paths,
      files: {
        disk: systemDisk,
        images: systemImageFiles,
        stores: levelEngine,
        openIndex: (folder) => openLevelOrderedStore(folder, silentLog),
        history: { windowMs: 0, bytesMax: 1 << 30 },
        clock: hastyClock,
        paths,
        journalBytesMax,
        reserveBytes: 0,
        memoryTailBytes: 2 ** 17,
        writeBufferBytes: 2 ** 17,
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

  /** As a kill would leave it. */
  async kill(): Promise<void> {
    await this.group.close("abandon");
    this.gateway.cutAll();
  }

  lineDown(): void {
    this.gateway.faults.hello = () => ({ kind: "refused", code: "LINE", message: "" });
    this.gateway.faults.batch = () => "drop";
    this.gateway.cutAll();
  }

  lineUp(): void {
    delete this.gateway.faults.hello;
    delete this.gateway.faults.batch;
  }

  /** Random writes into the MiBs from `from` on to before `to`; each is answered. */
  async write(bytes: number, from = 0, to = sizeBytes / mebibyte): Promise<void> {
    for (let left = bytes; left > 0; ) {
      const requests: Promise<void>[] = [];
      for (let depth = 0; depth < 8; depth += 1) {
        const data = randomFillSync(Buffer.alloc(4096 * (1 + this.random.below(8))));
        const offset =
          from * mebibyte + this.random.below(((to - from) * mebibyte - data.length) / 4096) * 4096;
        this.content.set(data, offset);
        const record = { kind: "write", volume: 0, offset, length: data.length, data } as const;
        requests.push(this.group.submit([record], this.random.chance(0.1)));
        left -= data.length;
      }
      await answered(requests);
      assert.equal(this.group.status().io, "serving");
    }
  }

  /** Where the standby differs the journal has what is missing, or a bit. */
  async requireNoted(): Promise<void> {
    const { map, kept } = await this.#notedAndKept();
    const [theirs] = this.standby.volumes;
    for (let at = 0; at < sizeBytes; at += 4096) {
      if (kept.has(at) || this.content.compare(theirs!, at, at + 4096, at, at + 4096) === 0) continue;
      assert.ok(map.has(0, Math.floor(at / mebibyte)), `${at} differs and is nowhere`);
    }
  }

  /** What is noted, and blocks that a kept frame names, of one moment: a drop may still be under way behind the last write. */
  async #notedAndKept(): Promise<{ map: Awaited<ReturnType<typeof readNotes>>["map"]; kept: Set<number> }> {
    const { log } = this.group.journal!;
    for (;;) {
      const head = log.head.sequence;
      const { map } = await readNotes(log);
      const kept = new Set<number>();
      try {
        for (let from = head + 1; from <= log.tail.sequence; ) {
          for (const frame of await log.frames(from, mebibyte)) {
            for (const { offset, length } of frame.records)
              for (let at = offset; at < offset + length; at += 4096) kept.add(at);
            from = frame.last + 1;
          }
        }
      } catch (error) {
        if (errorCode(error) !== "JOURNAL_TRIMMED") throw error;
      }
      if (log.head.sequence === head) return { map, kept };
    }
  }

  async whole(): Promise<void> {
    const protectedNow = () => {
      const { state, overflow, position } = this.group.status();
      if (overflow === null)
        assert.ok(this.begins() === 0 || this.#mended(), "nothing is noted while the standby lacks it");
      return state === "protected" && overflow === null && this.standby.applied === position.written;
    };
    await until("the standby to be whole", () => (protectedNow() ? true : undefined), 60_000).catch(
      (error) => {
        assert.fail(`${String(error)}: ${JSON.stringify(this.group.status())}`);
      },
    );
    assert.ok(this.content.equals(this.standby.volumes[0]!), "the standby has everything");
    assert.deepEqual(await this.group.journal!.log.notes(), [], "and nothing is noted any more");
  }

  /** What the newest gap stood for has come. */
  #mended(): boolean {
    return this.standby.lacks === undefined;
  }

  begins(): number {
    return this.standby.records.filter(
      (record) => record.kind === "scanMark" && record.purpose === "resync" && record.mark === "begin",
    ).length;
  }
}

test(`the line is gone under writes and kills: nothing is refused, and what is dropped is known (SEED=${seed})`, async (t) => {
  const rig = await Rig.make(t, 81);
  await rig.write(2 ** 18);
  await rig.whole();
  rig.lineDown();
  for (let round = 0; round < 4; round += 1) {
    const from = round * 10;
    await rig.write(3 * mebibyte, from, from + 8);
    assert.equal(rig.group.status().overflow?.state, "dropping");
    await rig.requireNoted();
    if (round % 2 === 0) continue;
    await rig.kill();
    await rig.start();
    await rig.requireNoted();
    assert.ok(rig.group.status().lag.bytes >= (round + 1) * 3 * mebibyte, "what was dropped is not safe");
  }
  assert.ok((rig.group.status().overflow?.dirtyChunks ?? 0) >= 24);
  rig.lineUp();
  await rig.whole();
  // One, or two where more was dropped behind the first while it was on its way.
  assert.ok(rig.standby.records.some(({ kind }) => kind === "gap"));
  const sent = rig.standby.records.filter(({ kind }) => kind === "scanContent");
  assert.ok(sent.length > 0);
});

test(`frames are dropped while a resync is under way: it begins anew, and brings those too (SEED=${seed})`, async (t) => {
  const rig = await Rig.make(t, 82);
  await rig.write(2 ** 18);
  await rig.whole();
  rig.lineDown();
  await rig.write(3 * mebibyte, 0, 8);
  rig.standby.silent = true;
  rig.lineUp();
  await until("a resync", () => (rig.begins() > 0 ? true : undefined), 30_000);
  rig.lineDown();
  await rig.write(4 * mebibyte, 30, 46);
  rig.standby.silent = false;
  if (rig.random.chance(0.5)) {
    await rig.kill();
    await rig.start();
  }
  rig.lineUp();
  await rig.whole();
  assert.ok(rig.begins() >= 2);
});
