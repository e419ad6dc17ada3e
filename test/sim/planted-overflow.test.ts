/**
 * Bugs of an overflow, put into the product from outside: each must break an invariant within a bounded number of seeds whose
 * journals overflow. See `planted.test.ts`.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { crc32 } from "node:zlib";
import { ResyncPin } from "../../gateway/apply/resync-pin.ts";
import type { RowChange } from "../../journal/store.ts";
import type { Disk } from "../../runtime/disk.ts";
import type { Violation } from "./model/violation.ts";
import { drawPlan, simulate } from "./run/run.ts";
import type { Sabotage } from "./run/sites.ts";

const seedsMax = 60;

interface Plant {
  readonly sabotage?: () => Sabotage;
  /** Replaces something of the product; the returned function puts it back. */
  readonly replace?: () => () => void;
  readonly breaks: readonly string[];
}

/** The notes of a drop are written with the next one: until then the frames are gone and nothing says so. */
function lateNotes(): Sabotage {
  return {
    stores: (engine, _site, role) =>
      role === "gateway"
        ? engine
        : {
            ...engine,
            open: async (...all) => {
              const store = await engine.open(...all);
              const { putHead } = store;
              let late: RowChange[] = [];
              store.putHead = (value, rows = []) => {
                const now = [...late, ...rows.filter(({ table }) => table !== "note")];
                late = rows.filter(({ table }) => table === "note");
                return putHead.call(store, value, now);
              };
              return store;
            },
          },
  };
}

/** A standby's document never says that a gap made its images incomplete. */
function hiddenGaps(): Sabotage {
  const without = (bytes: Uint8Array): Uint8Array => {
    const { document } = JSON.parse(Buffer.from(bytes).toString("utf8")) as {
      document: { incomplete: { purpose: string } | null };
    };
    if (document.incomplete?.purpose !== "resync") return bytes;
    const hidden = { ...document, incomplete: null };
    return Buffer.from(JSON.stringify({ crc: crc32(JSON.stringify(hidden)), document: hidden }));
  };
  return {
    disk: (disk, _site, role) =>
      role === "agent"
        ? disk
        : new Proxy(disk, {
            get(target, name) {
              const value: unknown = Reflect.get(target, name);
              if (name !== "open")
                return typeof value === "function"
                  ? (value as (...all: unknown[]) => unknown).bind(target)
                  : value;
              return async (...[path, mode]: Parameters<Disk["open"]>) => {
                const file = await target.open(path, mode);
                if (!path.endsWith("state.json.new")) return file;
                const write = file.write.bind(file);
                file.write = (position, bytes) => write(position, without(bytes));
                return file;
              };
            },
          }),
  };
}

/** The point before a gap is given back as soon as it is taken. */
function earlyRelease(): () => void {
  const { take } = ResyncPin.prototype;
  ResyncPin.prototype.take = async function (held) {
    await take.call(this, held);
    await this.giveBack();
  };
  return () => {
    ResyncPin.prototype.take = take;
  };
}

const plants: Readonly<Record<string, Plant>> = {
  "dirty bits are written after the frames are dropped": { sabotage: lateNotes, breaks: ["I2", "I8"] },
  "a gap is hidden": { sabotage: hiddenGaps, breaks: ["I2", "I4"] },
  "the pin of a gap is released early": { replace: earlyRelease, breaks: ["I4"] },
};

/** The first violation of a seed whose journal overflows, from seed 1 on. */
async function firstViolation(
  sabotage: Plant["sabotage"],
): Promise<{ readonly seed: number; readonly violation: Violation } | undefined> {
  let left = seedsMax;
  for (let seed = 1; left > 0; seed += 1) {
    if (drawPlan(seed).overflow === undefined) continue;
    left -= 1;
    const { violation } = await simulate(seed, sabotage === undefined ? {} : { sabotage: sabotage() });
    if (violation !== undefined) return { seed, violation };
  }
  return undefined;
}

for (const [name, { sabotage, replace, breaks }] of Object.entries(plants)) {
  test(`planted: ${name}`, async (context) => {
    const restore = replace?.();
    try {
      const found = await firstViolation(sabotage);
      assert.ok(found !== undefined, `caught within ${seedsMax} seeds`);
      const { invariant, message } = found.violation;
      context.diagnostic(`seed ${found.seed}: ${message.slice(0, 160)}`);
      assert.ok(breaks.includes(invariant), `${invariant} is among ${breaks.join(", ")}: ${message}`);
    } finally {
      restore?.();
    }
  });
}
