/**
 * Where things are, for tests that run from the sources as well as from the build: files of the repository (which the
 * build does not copy), and scripts that are started as processes of their own.
 */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

function findRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, "package.json"))) folder = dirname(folder);
  return folder;
}

/** Folder of the repository. */
export const repositoryRoot = findRoot();

/** Absolute path of a file of the repository, whether or not the tests run from the build. */
export function repositoryPath(path: string): string {
  return join(repositoryRoot, path);
}

/** Arguments for Node that run the script `path` (without its ending) beside the module `from`. */
export function scriptArguments(path: string, from: string): string[] {
  const source = from.endsWith(".ts");
  const script = fileURLToPath(new URL(`${path}.${source ? "ts" : "js"}`, from));
  return source ? ["--import", import.meta.resolve("tsx"), script] : [script];
}
