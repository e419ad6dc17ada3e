/**
 * One process per role and data folder; the only importer of fs-native-extensions. The lock is the kernel's, so it
 * is gone with the process and never has to be cleaned up.
 */
import { mkdir, open } from "node:fs/promises";
import { dirname } from "node:path";
import { tryLock } from "fs-native-extensions";
import { OperationalError } from "./errors.ts";

export interface RoleLock {
  release(): Promise<void>;
}

/** Takes the lock or fails with `ROLE_LOCKED`: another process runs this role on this data folder. */
export async function takeRoleLock(path: string): Promise<RoleLock> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  const file = await open(path, "a", 0o600);
  if (!tryLock(file.fd)) {
    await file.close();
    throw new OperationalError({
      code: "ROLE_LOCKED",
      message: `another process holds ${path}`,
      reaction: "stop",
      hint: "Stop the other splitsite process of this site and role first.",
    });
  }
  return { release: () => file.close() };
}
