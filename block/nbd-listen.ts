/**
 * Makes a server listen where the settings say. A Unix socket is private to its owner from the first instant, and a
 * stale socket file of a killed process is cleared away, but never one that somebody listens on, nor any other file.
 */
import { chmodSync } from "node:fs";
import { lstat, unlink } from "node:fs/promises";
import { connect, type Server } from "node:net";
import { errorCode, OperationalError } from "../runtime/errors.ts";
import type { Address } from "../runtime/settings/types.ts";

/** Connections the kernel keeps until they are accepted. */
const backlog = 256;

/** Settles with the address actually bound: the port is the kernel's choice when 0 was asked for. */
export async function listenOn(server: Server, address: Address): Promise<Address> {
  if (address.kind === "unix") await clearStaleSocket(address.path);
  await new Promise<void>((resolve, reject) => {
    const failed = (cause: Error): void => reject(listenFailed(address, cause));
    server.once("error", failed);
    const listening = (): void => {
      server.off("error", failed);
      resolve();
    };
    if (address.kind === "tcp") {
      server.listen({ host: address.host, port: address.port, backlog }, listening);
      return;
    }
    // The file is made inside `listen`; the mask closes the gap until its mode could be set.
    const mask = process.umask(0o177);
    try {
      server.listen({ path: address.path, backlog }, listening);
    } finally {
      process.umask(mask);
    }
  });
  if (address.kind === "unix") {
    chmodSync(address.path, 0o600);
    return address;
  }
  const bound = server.address();
  if (bound === null || typeof bound === "string") throw new Error("a TCP server has no address");
  return { kind: "tcp", host: bound.address, port: bound.port };
}

async function clearStaleSocket(path: string): Promise<void> {
  let isSocket: boolean;
  try {
    isSocket = (await lstat(path)).isSocket();
  } catch (cause) {
    if (errorCode(cause) === "ENOENT") return;
    throw listenFailed({ kind: "unix", path }, cause);
  }
  if (!isSocket) {
    throw new OperationalError({
      code: "NBD_LISTEN_FAILED",
      message: `${path} exists and is not a socket`,
      reaction: "stop",
      hint: "Choose another socket path, or move the file away.",
    });
  }
  if (await answers(path)) {
    throw new OperationalError({
      code: "NBD_ADDRESS_IN_USE",
      message: `another process listens on ${path}`,
      reaction: "stop",
      hint: "Stop the other process, or choose another socket path.",
    });
  }
  await unlink(path);
}

/** True unless the kernel says that nobody listens: in doubt the file stays. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(path);
    probe.once("connect", () => {
      probe.destroy();
      resolve(true);
    });
    probe.once("error", (error) => resolve(errorCode(error) !== "ECONNREFUSED"));
  });
}

function listenFailed(address: Address, cause: unknown): OperationalError {
  const where = address.kind === "tcp" ? `${address.host}:${address.port}` : address.path;
  const inUse = errorCode(cause) === "EADDRINUSE";
  return new OperationalError({
    code: inUse ? "NBD_ADDRESS_IN_USE" : "NBD_LISTEN_FAILED",
    message: `cannot listen on ${where}`,
    reaction: "stop",
    hint: inUse
      ? "Stop the other process, or choose another address."
      : "Check the address and its permissions.",
    cause,
  });
}
