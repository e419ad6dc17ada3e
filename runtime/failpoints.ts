/**
 * Failpoints: every step at which a role changes or syncs something durable, or speaks to the other site, has a name,
 * and a process can be told to die at it. The names come from the interfaces the steps go through, so no product code
 * knows of them; without an order the interfaces are handed on untouched. Never changes what a step does.
 *
 * A name is ROLE.FILE.STEP.WHEN, such as `agent.watermark.writeNow.after`; docs/testing.md lists them.
 */
import { OperationalError } from "./errors.ts";
import type { Log } from "./log.ts";
import type { OpenOrderedStore } from "./ordered-store.ts";
import { fileKind } from "./paths.ts";

export type Role = "agent" | "gateway";

/** Told of each step before it begins and after it has succeeded. What it throws, the step throws. */
export type StepHook = (name: string) => void;

/** Steps of files, images, devices, stores and lines that leave a trace; the rest only look. */
const steps: ReadonlySet<string> = new Set([
  ...["write", "writeNow", "syncData", "sync", "rename", "remove", "touch", "makeDirectory"],
  ...["writeChanges", "zero", "trim", "flush", "grow"],
  ...["putFrame", "putFrames", "putHead", "deleteFrames", "compact"],
  ...["settle", "clear"],
  ...["upload", "control"],
]);

type Call = (...args: unknown[]) => unknown;

/** `target` with its steps observed; `opened` says what to do with what its `open` returns. */
function observe<T extends object>(
  target: T,
  nameOf: (step: string, args: readonly unknown[]) => string,
  hook: StepHook,
  opened?: (result: object, args: readonly unknown[]) => object,
): T {
  return new Proxy(target, {
    get(from, property) {
      const real: unknown = Reflect.get(from, property, from);
      if (typeof real !== "function" || typeof property !== "string") return real;
      const call: Call = (...args) => Reflect.apply(real as Call, from, args);
      if (property === "open" && opened !== undefined) {
        return async (...args: unknown[]) => opened((await call(...args)) as object, args);
      }
      if (!steps.has(property)) return call;
      return (...args: unknown[]) => {
        const name = nameOf(property, args);
        if (property === "writeNow") {
          hook(`${name}.before`);
          call(...args);
          hook(`${name}.after`);
          return undefined;
        }
        return observeStep(name, () => call(...args), hook);
      };
    },
  });
}

async function observeStep(name: string, run: () => unknown, hook: StepHook): Promise<unknown> {
  hook(`${name}.before`);
  const result = await run();
  hook(`${name}.after`);
  return result;
}

/** What a role keeps things on: `Disk`, `ImageFiles`, `StoreEngine` and indexes. Untouched without a hook. */
export function observeStorage<
  T extends { disk: object; images: object; stores: object; openIndex: OpenOrderedStore },
>(storage: T, role: Role, hook: StepHook | null): T {
  if (hook === null) return storage;
  return {
    ...storage,
    disk: observeDisk(storage.disk, role, hook),
    images: observeImages(storage.images, role, hook),
    stores: observeStores(storage.stores, role, hook),
    openIndex: observeIndexes(storage.openIndex, role, hook),
  };
}

/** A `Disk`: the file a step is about is the one it names, or the one it was opened for; a rename's is the new name. */
export function observeDisk<T extends object>(disk: T, role: Role, hook: StepHook): T {
  return observe(
    disk,
    (step, args) => `${role}.${fileKind(String(step === "rename" ? args[1] : args[0]))}.${step}`,
    hook,
    (file, args) => observe(file, (step) => `${role}.${fileKind(String(args[0]))}.${step}`, hook),
  );
}

/** `ImageFiles`: the steps of the devices it opens. */
export function observeImages<T extends object>(images: T, role: Role, hook: StepHook): T {
  const named = (step: string): string => `${role}.image.${step}`;
  return observe(images, named, hook, (device) => observe(device, named, hook));
}

/** A `StoreEngine`: the steps of the stores it opens. */
export function observeStores<T extends object>(stores: T, role: Role, hook: StepHook): T {
  const named = (step: string): string => `${role}.store.${step}`;
  return observe(stores, named, hook, (store) => observe(store, named, hook));
}

/** Ordered stores: their steps. */
export function observeIndexes(open: OpenOrderedStore, role: Role, hook: StepHook): OpenOrderedStore {
  return async (directory) => observe(await open(directory), (step) => `${role}.index.${step}`, hook);
}

/** A `Line`: batches leaving, control messages leaving, and their answers. */
export function observeLine<T extends object>(line: T, hook: StepHook): T {
  return observe(line, (step) => `agent.line.${step}`, hook);
}

/** Name of the variable that orders the end of the process: `NAME` or `NAME:HIT`, the HIT-th time, from 1. */
export const failpointVariable = "SPLITSITE_FAILPOINT";

/**
 * The hook that the environment orders for `role`; null without an order for it. The process then ends as by kill -9,
 * in the middle of whatever it does. OperationalError `FAILPOINT_INVALID`.
 */
export function failpointFromEnvironment(role: Role, log: Log): StepHook | null {
  const order = process.env[failpointVariable];
  if (order === undefined || !order.startsWith(`${role}.`)) return null;
  const [wanted, hit = "1"] = order.split(":");
  let left = Number(hit);
  if (!Number.isInteger(left) || left < 1) {
    throw new OperationalError({
      code: "FAILPOINT_INVALID",
      message: `${failpointVariable}=${order}: the part after the colon is how often the step may be reached, from 1`,
      reaction: "stop",
    });
  }
  log.warn("FAILPOINT_ARMED", "this process will kill itself: it runs under a test", { failpoint: order });
  return (name) => {
    if (name !== wanted) return;
    left -= 1;
    if (left === 0) process.kill(process.pid, "SIGKILL");
  };
}
