/** The other end of `apart.ts`: one call, its result, the end. */
import { parentPort, workerData } from "node:worker_threads";
import type { ApartCall } from "./apart.ts";

const { module, name, given } = workerData as ApartCall;
const exported = (await import(module)) as Record<string, (...given: readonly unknown[]) => Promise<unknown>>;
parentPort!.postMessage(await exported[name]!(...given));
