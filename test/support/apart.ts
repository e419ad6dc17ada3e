/**
 * Calls of functions in a thread of their own. The test runner follows every promise of the thread that a test runs in,
 * which makes work that consists of promises half as dear again; nobody follows those of another thread. Arguments and results
 * cross as copies.
 */
import { Worker } from "node:worker_threads";

export interface ApartCall {
  readonly module: string;
  readonly name: string;
  readonly given: readonly unknown[];
}

/** `module` exports the function as `name`. Rejects with what it throws, or when the thread ends without a result. */
export function apart<F extends (...given: never[]) => Promise<unknown>>(
  module: URL,
  name: string,
  ...given: Parameters<F>
): Promise<Awaited<ReturnType<F>>> {
  const workerData: ApartCall = { module: module.href, name, given };
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL("./apart-thread.js", import.meta.url), { workerData });
    worker.once("message", resolve);
    worker.once("error", reject);
    worker.once("exit", (code) => reject(new Error(`${name} ended with ${code} and gave no result`)));
  });
}
