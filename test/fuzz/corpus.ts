/**
 * The kept inputs: captured conversations of real clients and every input that ever broke a rule, one file each under
 * test/fuzz/corpus/TARGET. Read from the source tree, also by the build.
 */
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** Tests and the long run are started in the root of the tree. */
export const corpusFolder = join("test", "fuzz", "corpus");

export interface CorpusInput {
  readonly name: string;
  readonly bytes: Uint8Array;
}

/** Kept inputs of a target, by name; none when it has no folder. */
export function readCorpus(target: string): CorpusInput[] {
  const folder = join(corpusFolder, target);
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return [];
    throw error;
  }
  return names
    .filter((name) => name.endsWith(".bin"))
    .toSorted()
    .map((name) => ({ name, bytes: readFileSync(join(folder, name)) }));
}

/** Keeps an input; returns its path. Equal bytes keep their name. */
export function keepInput(target: string, prefix: string, bytes: Uint8Array): string {
  const folder = join(corpusFolder, target);
  mkdirSync(folder, { recursive: true });
  const hash = createHash("sha256").update(bytes).digest("hex").slice(0, 12);
  const path = join(folder, `${prefix}-${hash}.bin`);
  writeFileSync(path, bytes);
  return path;
}
