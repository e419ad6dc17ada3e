/**
 * Waiting for another process to be ready: by events where the system gives any, else by asking again at a short,
 * bounded interval. The only place in the tests that polls.
 */
import { once } from "node:events";
import { connect } from "node:net";
import type { NbdAddress } from "./nbd-client.ts";

const intervalMs = 20;

/** Asks until the answer is not undefined. Fails after `timeoutMs`, with what was waited for. */
export async function until<T>(
  what: string,
  ask: () => Promise<T | undefined> | T | undefined,
  timeoutMs = 20_000,
): Promise<T> {
  const endMs = performance.now() + timeoutMs;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined) return answer;
    if (performance.now() > endMs) throw new Error(`waited ${timeoutMs} ms in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, intervalMs));
  }
}

/** Waits until something listens; fails at once when `gone` settles first. */
export async function waitForSocket(
  address: NbdAddress,
  gone?: Promise<unknown>,
  timeoutMs = 20_000,
): Promise<void> {
  let ended = false;
  void gone?.then(() => {
    ended = true;
  });
  await until(
    `a listener at ${JSON.stringify(address)}`,
    async () => {
      if (ended) throw new Error(`the process ended before it listened at ${JSON.stringify(address)}`);
      const socket = connect(address);
      try {
        await once(socket, "connect");
        return true;
      } catch {
        return undefined;
      } finally {
        socket.destroy();
      }
    },
    timeoutMs,
  );
}
