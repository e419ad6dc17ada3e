/**
 * Bugs of scans, put into the product by replacing what one of its pieces does: each must break an invariant within a
 * bounded number of seeds that scan at all. See `planted.test.ts` for those that wrap what the product is given.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Findings } from "../../gateway/scan/findings.ts";
import { GroupImage } from "../../image/group-image.ts";
import type { Sequence } from "../../protocol/ids.ts";
import type { ScanDigestRecord } from "../../protocol/record.ts";
import { ExtentWatches } from "../../site-agent/scan/extent-watch.ts";
import { Engine } from "../../site-agent/write-path/engine.ts";
import { Entrance } from "../../site-agent/write-path/entrance.ts";
import { drawPlan, simulate } from "./run/run.ts";

const seedsMax = 60;

/** Replaces a method of a class; the returned function puts the old one back. */
function replace<T extends object, K extends keyof T>(
  prototype: T,
  name: K,
  with_: (old: T[K]) => T[K],
): () => void {
  const old = prototype[name];
  prototype[name] = with_(old);
  return () => {
    prototype[name] = old;
  };
}

/** Digests of these cover whole chunks, where the volumes are shorter than one. */
const digestBytesMin = 64 * 1024;

/** What a scan reads of a chunk is read in two parts, with time for writes between them. */
function tornReads(): () => void {
  return replace(
    Engine.prototype,
    "read",
    (read) =>
      async function (this: Engine, volume, offset, length) {
        if (length < digestBytesMin) return read.call(this, volume, offset, length);
        const half = length / 2;
        const first = await read.call(this, volume, offset, half);
        await new Promise((resolve) => {
          setImmediate(resolve);
        });
        return Buffer.concat([first, await read.call(this, volume, offset + half, half)]);
      },
  );
}

/** The watch over a whole chunk never says that it was spoiled. */
function unspoiledDigests(): () => void {
  return replace(
    ExtentWatches.prototype,
    "watch",
    (watch) =>
      function (this: ExtentWatches<never>, range, manner) {
        const kept = watch.call(this, range, manner);
        if (manner === "spoil" && range.start === 0 && range.end >= digestBytesMin)
          Object.defineProperty(kept, "spoiled", { get: () => false, set: () => {} });
        return kept;
      },
  );
}

const plants: Readonly<
  Record<string, { readonly plant: () => () => void; readonly breaks: readonly string[] }>
> = {
  "digests are compared with what the images hold after the whole step": {
    plant: () =>
      replace(
        GroupImage.prototype,
        "apply",
        (apply) =>
          async function (this: GroupImage, frames, compare) {
            const late: [ScanDigestRecord, Sequence][] = [];
            await apply.call(this, frames, async (record, sequence) => void late.push([record, sequence]));
            for (const [record, sequence] of late) await compare?.(record, sequence);
          },
      ),
    // A client's write behind the digest is taken for a difference.
    breaks: ["I2"],
  },
  "a digest is of a chunk that was written while it was read": {
    plant: () => {
      const restore = [tornReads(), unspoiledDigests()];
      return () => {
        for (const each of restore) each();
      };
    },
    breaks: ["I2"],
  },
  "content takes a number behind a write that it does not have": {
    plant: () =>
      replace(
        Entrance.prototype,
        "put",
        (put) =>
          function (this: Entrance, record) {
            if (record.kind !== "scanContent") return put.call(this, record);
            return new Promise((resolve, reject) => {
              setImmediate(() => put.call(this, record).then(resolve, reject));
            });
          },
      ),
    // Seen at the standby, or at the owner that it becomes.
    breaks: ["I1", "I2", "I4"],
  },
  "what was not compared counts as equal": {
    plant: () =>
      replace(
        Findings.prototype,
        "compared",
        (compared) =>
          function (this: Findings, sequence) {
            compared.call(this, sequence, undefined);
          },
      ),
    breaks: ["I2", "I8"],
  },
};

for (const [name, { plant, breaks }] of Object.entries(plants)) {
  test(`planted: ${name}`, async (context) => {
    const restore = plant();
    try {
      let left = seedsMax;
      for (let seed = 1; left > 0; seed += 1) {
        if (drawPlan(seed).scans === undefined) continue;
        left -= 1;
        const { violation } = await simulate(seed);
        if (violation === undefined) continue;
        context.diagnostic(`seed ${seed}: ${violation.message.slice(0, 160)}`);
        assert.ok(
          breaks.includes(violation.invariant),
          `${violation.invariant} is among ${breaks.join(", ")}: ${violation.message}`,
        );
        return;
      }
      assert.fail(`not caught within ${seedsMax} seeds`);
    } finally {
      restore();
    }
  });
}

test("a chunk that was written while it was read is read again, and no verify is wrong", async () => {
  const restore = tornReads();
  try {
    let left = 15;
    for (let seed = 1; left > 0; seed += 1) {
      if (drawPlan(seed).scans === undefined) continue;
      left -= 1;
      const { violation } = await simulate(seed);
      assert.equal(violation, undefined, `seed ${seed}: ${violation?.message}`);
    }
  } finally {
    restore();
  }
});
