/**
 * Which programs and rights a test needs that a machine may lack. A missing one skips the test with a printed reason,
 * or fails it when SPLITSITE_REQUIRE_PEERS=1, so that a build server cannot pass by having nothing installed.
 */
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";

const extraFolders = ["/usr/sbin", "/sbin", "/usr/lib/postgresql/15/bin"];

/** Path of a program, or undefined. */
export function findTool(name: string): string | undefined {
  for (const folder of [...(process.env["PATH"] ?? "").split(delimiter), ...extraFolders]) {
    const path = join(folder, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not in this folder.
    }
  }
  return undefined;
}

/** For a test's `skip` option: false when all tools are there, else the reason. Throws when skipping is forbidden. */
export function requireTools(...names: string[]): string | false {
  const missing = names.filter((name) => findTool(name) === undefined);
  if (missing.length === 0) return false;
  return refuse(`needs ${missing.join(", ")}`);
}

/** As `requireTools`, for what only root can do (loop devices, mounts). */
export function requireRoot(): string | false {
  return process.getuid?.() === 0 ? false : refuse("needs root");
}

function refuse(reason: string): string {
  if (process.env["SPLITSITE_REQUIRE_PEERS"] === "1")
    throw new Error(`${reason}, and SPLITSITE_REQUIRE_PEERS=1 forbids skipping`);
  return reason;
}
