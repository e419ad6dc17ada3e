/**
 * Bugs put into the product from outside, by wrapping what it is given or what it says: each must break an invariant
 * within a bounded number of seeds. A simulation that cannot fail proves nothing.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { altered, withFile } from "./run/altered-disk.ts";
import { simulate } from "./run/run.ts";
import type { Sabotage } from "./run/sites.ts";

const seedsMax = 80;

/** The first seed from `first` on that breaks something, and what. */
async function caught(
  sabotage: () => Sabotage,
): Promise<{ seed: number; invariant: string; message: string }> {
  for (let seed = 1; seed <= seedsMax; seed += 1) {
    const { violation } = await simulate(seed, { sabotage: sabotage() });
    if (violation !== undefined) return { seed, invariant: violation.invariant, message: violation.message };
  }
  return assert.fail(`not caught within ${seedsMax} seeds`);
}

const plants: Readonly<
  Record<string, { readonly plant: () => Sabotage; readonly breaks: readonly string[] }>
> = {
  "logs are not synced": {
    plant: () => ({
      disk: (disk) =>
        withFile(disk, (file, path) =>
          path.endsWith(".log") ? altered(file, { syncData: async () => {} }) : file,
        ),
    }),
    // The product notices by its watermark and stops: the promise is broken all the same.
    breaks: ["I1", "I3", "I8", "I4"],
  },
  "before-images are not synced": {
    plant: () => ({
      disk: (disk) =>
        withFile(disk, (file, path) =>
          /\/segments\/\d{8}$/.test(path)
            ? altered(file, { syncData: async () => {}, sync: async () => {} })
            : file,
        ),
    }),
    // Points that were kept are given up, or read as what the images held later.
    breaks: ["I2", "I4"],
  },
  "FLUSH is answered at once": {
    plant: () => ({
      owned: (group) => {
        group.flush = async () => {};
      },
    }),
    breaks: ["I1"],
  },
  "a frame in twenty is not stored": {
    plant: () => {
      let puts = 0;
      return {
        stores: (engine, _site, role) =>
          role === "gateway"
            ? engine
            : {
                ...engine,
                open: async (...all) => {
                  const store = await engine.open(...all);
                  const put = store.putFrame.bind(store);
                  const putMany = store.putFrames.bind(store);
                  const isStored = (): boolean => {
                    puts += 1;
                    return puts % 20 !== 0;
                  };
                  store.putFrame = async (first, value) => {
                    if (isStored()) await put(first, value);
                  };
                  store.putFrames = (frames) => putMany(frames.filter(isStored));
                  return store;
                },
              },
      };
    },
    breaks: ["I1", "I3", "I8"],
  },
  "batches are acknowledged before they are stored": {
    plant: () => ({
      standby: (group) => {
        const batch = group.batch.bind(group);
        let calls = 0;
        group.batch = async (request, sender) => {
          calls += 1;
          if (calls % 10 !== 0) return batch(request, sender);
          const header = Buffer.from(await request.take(196));
          const durable = Number(header.readBigUInt64BE(104));
          return { status: 200, json: { kind: "acknowledged", durable, applied: 0 }, early: true };
        };
      },
    }),
    breaks: ["I4", "I8"],
  },
  "an old owner is told that all is well": {
    plant: () => ({
      standby: (group) => {
        const heartbeat = group.heartbeat.bind(group);
        group.heartbeat = (message) => {
          const answer = heartbeat(message);
          return answer.kind === "superseded"
            ? { kind: "alive", durable: 0, applied: 0, stopped: null }
            : answer;
        };
      },
    }),
    breaks: ["I6", "I4"],
  },
  "reads see the image and not what is newer": {
    plant: () => ({
      owned: (group) => {
        const read = group.read.bind(group);
        const before = new Map<string, Uint8Array>();
        group.read = async (volume, offset, length) => {
          const key = `${volume} ${offset} ${length}`;
          const found = before.get(key) ?? (await read(volume, offset, length));
          before.set(key, found);
          return found;
        };
      },
    }),
    breaks: ["I1"],
  },
};

for (const [name, { plant, breaks }] of Object.entries(plants)) {
  test(`planted: ${name}`, async (context) => {
    const { seed, invariant, message } = await caught(plant);
    context.diagnostic(`seed ${seed}: ${message.slice(0, 160)}`);
    assert.ok(breaks.includes(invariant), `${invariant} is among ${breaks.join(", ")}: ${message}`);
  });
}
