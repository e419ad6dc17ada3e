/**
 * How planted bugs of the simulation are put in and looked for: replaced methods, documents that say something else, and the
 * first seed of a kind that breaks an invariant.
 */
import assert from "node:assert/strict";
import type { TestContext } from "node:test";
import { test } from "node:test";
import { crc32 } from "node:zlib";
import type { Disk } from "../../runtime/disk.ts";
import type { RunPlan } from "./run/run.ts";
import { drawPlan, simulate } from "./run/run.ts";
import type { RoleName, Sabotage } from "./run/sites.ts";

const seedsMax = 60;

export interface Plant {
  /** What the product is given. */
  readonly sabotage?: () => Sabotage;
  /** Replaces something of the product; the returned function puts it back. */
  readonly replace?: () => () => void;
  readonly breaks: readonly string[];
}

/** One test for each: a seed that `isMeant` breaks one of the invariants, within a bounded number of them. */
export function testPlants(
  plants: Readonly<Record<string, Plant>>,
  isMeant: (plan: RunPlan) => boolean,
): void {
  for (const [name, plant] of Object.entries(plants))
    test(`planted: ${name}`, (context) => mustBreak(context, plant, isMeant));
}

async function mustBreak(
  context: TestContext,
  { sabotage, replace, breaks }: Plant,
  isMeant: (plan: RunPlan) => boolean,
): Promise<void> {
  const restore = replace?.();
  try {
    let left = seedsMax;
    for (let seed = 1; left > 0; seed += 1) {
      if (!isMeant(drawPlan(seed))) continue;
      left -= 1;
      const { violation } = await simulate(seed, sabotage === undefined ? {} : { sabotage: sabotage() });
      if (violation === undefined) continue;
      const { invariant, message } = violation;
      context.diagnostic(`seed ${seed}: ${message.slice(0, 160)}`);
      assert.ok(breaks.includes(invariant), `${invariant} is among ${breaks.join(", ")}: ${message}`);
      return;
    }
    assert.fail(`not caught within ${seedsMax} seeds`);
  } finally {
    restore?.();
  }
}

/** Replaces a method of a class; the returned function puts the old one back. */
export function replaced<T extends object, K extends keyof T>(
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

/** The documents called `name` of a role are written as `change` has them. */
export function changedDocuments<T extends object>(
  role: RoleName,
  name: string,
  change: (document: T) => T,
): Sabotage {
  const changed = (bytes: Uint8Array): Uint8Array => {
    const { document } = JSON.parse(Buffer.from(bytes).toString("utf8")) as { document: T };
    const next = change(document);
    return Buffer.from(JSON.stringify({ crc: crc32(JSON.stringify(next)), document: next }));
  };
  return {
    disk: (disk, _site, of) =>
      of !== role
        ? disk
        : new Proxy(disk, {
            get(target, property) {
              const value: unknown = Reflect.get(target, property);
              if (property !== "open")
                return typeof value === "function"
                  ? (value as (...all: unknown[]) => unknown).bind(target)
                  : value;
              return async (...[path, mode]: Parameters<Disk["open"]>) => {
                const file = await target.open(path, mode);
                if (!path.endsWith(`/${name}.new`)) return file;
                const write = file.write.bind(file);
                file.write = (position, bytes) => write(position, changed(bytes));
                return file;
              };
            },
          }),
  };
}
