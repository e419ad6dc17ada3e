/**
 * The write path on a real journal and real images: what is answered can be read at once, survives an engine that is
 * dropped in mid-work, and a failed put loses nothing that was answered and answers nothing that is not there.
 */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { systemImageFiles } from "../../../block/image-files.ts";
import type { FrameLog } from "../../../journal/frame-log.ts";
import { levelEngine } from "../../../journal/level-engine.ts";
import { openLevelOrderedStore } from "../../../journal/level-ordered-store.ts";
import { genesisChain } from "../../../protocol/chain.ts";
import { bytesToHex, lineageFromText } from "../../../protocol/ids.ts";
import type { BlockRecord } from "../../../protocol/record.ts";
import { systemClock } from "../../../runtime/clock.ts";
import { systemDisk } from "../../../runtime/disk.ts";
import { OperationalError } from "../../../runtime/errors.ts";
import { silentLog } from "../../../runtime/log.ts";
import { agentGroupPaths } from "../../../runtime/paths.ts";
import type { FilesSettings } from "../../../site-agent/group/files.ts";
import { lineageBytes, makeFiles, openFiles } from "../../../site-agent/group/files.ts";
import type { AgentGroupState } from "../../../site-agent/group/state.ts";
import { DurableGate } from "../../../site-agent/write-path/durable-gate.ts";
import { Engine } from "../../../site-agent/write-path/engine.ts";
import { PendingWrites } from "../../../site-agent/write-path/pending-writes.ts";

const lineage = "0b8f3c56-1f2e-4c3a-9d41-5f6a7b8c9d0e";
const volumeBytes = 256 * 1024;
const volumes = [
  { number: 0, name: "data", sizeBytes: volumeBytes },
  { number: 1, name: "log", sizeBytes: volumeBytes },
];

/** One group's files in a scratch folder, and engines opened on them one after another. */
class Bench {
  readonly pending = new PendingWrites();
  readonly gate = new DurableGate();
  readonly failures: unknown[] = [];
  readonly #state: AgentGroupState;
  readonly #settings: FilesSettings;
  readonly #durability: "flush" | "write";
  #engine: Engine | null = null;

  private constructor(dataDir: string, durability: "flush" | "write") {
    const paths = agentGroupPaths(dataDir, "erp");
    this.#settings = {
      disk: systemDisk,
      images: systemImageFiles,
      stores: levelEngine,
      openIndex: (directory) => openLevelOrderedStore(directory, silentLog),
      history: { windowMs: 86_400_000, bytesMax: 1 << 30 },
      clock: systemClock,
      paths,
      journalBytesMax: 2 ** 30,
      reserveBytes: 0,
      memoryTailBytes: 1024 * 1024,
      writeBufferBytes: 4 * 1024 * 1024,
      aheadHalfBytes: 2 ** 18,
      bootId: "11111111-1111-4111-8111-111111111111",
      log: silentLog,
    };
    this.#durability = durability;
    this.#state = {
      role: "creating",
      lineage,
      token: { epoch: 1, owner: "primary" },
      volumes: volumes.map((volume) => ({
        ...volume,
        imagePath: paths.image(volume.name),
        imageIdentity: null,
        foundingBytes: volume.sizeBytes,
        changedAt: 0,
        wholeFrom: 0,
      })),
      changing: null,
      origin: {
        sequence: 0,
        chain: bytesToHex(genesisChain(lineageFromText(lineage)!, volumes)),
        dataBytesTotal: 0,
        timeMs: 0,
      },
      history: null,
      between: [],
      initial: "zeroes",
      standby: null,
      unflushedMayBeLost: false,
      unflushedAcceptedIn: null,
      paused: null,
      retired: null,
      fenced: null,
    };
  }

  static async make(dataDir: string, durability: "flush" | "write"): Promise<Bench> {
    const bench = new Bench(dataDir, durability);
    await makeFiles(bench.#state, bench.#settings);
    return bench;
  }

  get engine(): Engine {
    return this.#engine!;
  }

  /** Opens the next engine; `wrap` may put faults between it and the journal. */
  async open(wrap: (log: FrameLog) => FrameLog = (log) => log): Promise<void> {
    const before = this.#engine?.unsettled ?? null;
    const { log, image } = await openFiles(this.#state, this.#settings, {
      settle: (state) => Promise.resolve(state),
      configuredBytes: () => undefined,
    });
    this.#engine = new Engine({
      log: wrap(log),
      image,
      past: undefined,
      lineage: lineageBytes(this.#state),
      pending: this.pending,
      gate: this.gate,
      clock: systemClock,
      durability: this.#durability,
      unappliedBytesMax: 512 * 1024,
      dropBehind: null,
      releasedByStandby: () => Number.POSITIVE_INFINITY,
      listener: {
        durable: () => {},
        answered: () => {},
        trimmed: () => {},
        held: () => {},
        failed: (error) => this.failures.push(error),
      },
    });
    this.#engine.inherit(before);
  }

  submit(records: readonly BlockRecord[], durable: boolean): Promise<void> {
    return new Promise((resolve, reject) => {
      this.pending.add(records, { durable, resolve, reject }, Date.now());
      this.engine.kick();
    });
  }

  flush(): Promise<void> {
    return new Promise((resolve, reject) => this.engine.flush({ resolve, reject }));
  }
}

async function withBench(durability: "flush" | "write", use: (bench: Bench) => Promise<void>): Promise<void> {
  const dataDir = await mkdtemp(join(tmpdir(), "splitsite-engine-"));
  try {
    await use(await Bench.make(dataDir, durability));
  } finally {
    await rm(dataDir, { recursive: true, force: true });
  }
}

/** A record put in by failing `append` number `failing`, before or after it really happened. */
function failingAppend(log: FrameLog, failing: number, when: "before" | "after"): FrameLog {
  let count = 0;
  const append: FrameLog["append"] = async (frame) => {
    count += 1;
    if (count !== failing) return log.append(frame);
    if (when === "after") await log.append(frame);
    throw new OperationalError({ code: "JOURNAL_POISONED", message: "put failed", reaction: "reopen" });
  };
  return new Proxy(log, {
    get(target, key) {
      if (key === "append") return append;
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

const sectors = volumeBytes / 512;
const step = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      op: fc.constant("write" as const),
      volume: fc.nat(1),
      at: fc.nat(sectors - 1),
      sectors: fc.integer({ min: 1, max: 24 }),
      fill: fc.integer({ min: 1, max: 255 }),
      durable: fc.boolean(),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      op: fc.constantFrom("trim" as const, "zeroes" as const),
      volume: fc.nat(1),
      at: fc.nat(sectors - 1),
      sectors: fc.integer({ min: 1, max: 200 }),
      fill: fc.constant(0),
      durable: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.constant("flush" as const) },
  { weight: 1, arbitrary: fc.constant("read" as const) },
  { weight: 1, arbitrary: fc.constant("drop" as const) },
);

for (const durability of ["flush", "write"] as const) {
  test(`durability ${durability}: reads equal a plain model through drops and reopenings`, async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 40 }), (steps) =>
        withBench(durability, async (bench) => {
          await bench.open();
          const model = volumes.map(() => Buffer.alloc(volumeBytes));
          const compare = async () => {
            for (const { number } of volumes) {
              const found = await bench.engine.read(number, 0, volumeBytes);
              assert.equal(Buffer.compare(Buffer.from(found), model[number]!), 0);
            }
          };
          for (const item of [...steps, "read", "drop", "read"] as const) {
            if (item === "flush") {
              await bench.flush();
            } else if (item === "read") {
              await compare();
            } else if (item === "drop") {
              await bench.engine.close("abandon");
              await bench.open();
            } else {
              const { volume, op, fill, durable } = item;
              const offset = item.at * 512;
              const length = Math.min(item.sectors * 512, volumeBytes - offset);
              const data = Buffer.alloc(length, fill);
              await bench.submit(
                [
                  op === "write"
                    ? { kind: op, volume, offset, length, data }
                    : { kind: op, volume, offset, length },
                ],
                durable,
              );
              model[volume]!.fill(fill, offset, offset + length);
            }
          }
          assert.deepEqual(bench.failures, []);
          await bench.engine.drain();
          await bench.engine.close("clean");
        }),
      ),
      { numRuns: 12 },
    );
  });
}

for (const when of ["before", "after"] as const) {
  test(`a put that fails ${when} it happened: no answered write is lost, no waiting one refused`, async () => {
    await withBench("flush", async (bench) => {
      await bench.open((log) => failingAppend(log, 4, when));
      const model = Buffer.alloc(volumeBytes);
      const answers: Promise<void>[] = [];
      for (let index = 0; index < 12; index += 1) {
        const data = Buffer.alloc(512, index + 1);
        model.fill(index + 1, index * 512, index * 512 + 512);
        const answer = bench.submit(
          [{ kind: "write", volume: 0, offset: index * 512, length: 512, data }],
          index % 3 === 0,
        );
        if (index < 3) await answer;
        else answers.push(answer);
      }
      while (bench.failures.length === 0) await new Promise((resolve) => setImmediate(resolve));
      await bench.engine.close("abandon");
      await bench.open();
      await Promise.all(answers);
      const found = await bench.engine.read(0, 0, volumeBytes);
      assert.equal(Buffer.compare(Buffer.from(found), model), 0);
      // The sequence is dense whichever way the failed put went: one record a write.
      assert.equal(bench.engine.log.tail.sequence, 12);
      await bench.engine.close("abandon");
    });
  });
}

test("after drain the images alone hold everything, and the journal keeps nothing", async () => {
  await withBench("flush", async (bench) => {
    await bench.open();
    const data = Buffer.alloc(1024 * 1024, 7).subarray(0, 64 * 1024);
    await Promise.all(
      [0, 1, 2].map((index) =>
        bench.submit([{ kind: "write", volume: 1, offset: index * 65536, length: 65536, data }], false),
      ),
    );
    assert.equal(await bench.engine.drain(), true);
    assert.equal(bench.engine.image.applied.sequence, 3);
    assert.equal(bench.engine.log.head.sequence, 3);
    await bench.engine.close("clean");
  });
});
