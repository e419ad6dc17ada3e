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
import { replaced, testPlants } from "./planted-run.ts";
import { drawPlan, simulate } from "./run/run.ts";

/** Digests of these cover whole chunks, where the volumes are shorter than one. */
const digestBytesMin = 64 * 1024;

/** What a scan reads of a chunk is read in two parts, with time for writes between them. */
function tornReads(): () => void {
  return replaced(
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
  return replaced(
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

testPlants(
  {
    "digests are compared with what the images hold after the whole step": {
      replace: () =>
        replaced(
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
      replace: () => {
        const restore = [tornReads(), unspoiledDigests()];
        return () => {
          for (const each of restore) each();
        };
      },
      breaks: ["I1", "I2"],
    },
    "content takes a number behind a write that it does not have": {
      replace: () =>
        replaced(
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
      replace: () =>
        replaced(
          Findings.prototype,
          "compared",
          (compared) =>
            function (this: Findings, sequence) {
              compared.call(this, sequence, undefined);
            },
        ),
      breaks: ["I2", "I8"],
    },
  },
  ({ scans }) => scans !== undefined,
);

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
