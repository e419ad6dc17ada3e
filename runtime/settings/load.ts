/**
 * Loads the configuration file: the one way from text to Settings. Answers whole settings or one error that names
 * every problem with its place; never half of a file. Reads this one file only: certificates and images are looked
 * at by those who use them, since the file is the same at both sites.
 */
import { readFile, stat } from "node:fs/promises";
import { resolve } from "node:path";
import { errorCode, OperationalError } from "../errors.ts";
import { checkSettings } from "./checks.ts";
import type { Finding } from "./findings.ts";
import { configError } from "./findings.ts";
import { takeNotBuilt } from "./not-built.ts";
import { resolveSettings } from "./resolve.ts";
import { parseShape } from "./schema.ts";
import { configBytesMax, parseSource } from "./source.ts";
import type { Settings } from "./types.ts";

/**
 * Settings of the file. OperationalError `CONFIG_UNREADABLE` when there is none, `CONFIG_INVALID` or `NOT_BUILT`
 * (nothing else is wrong, but a key's feature is not built) with `details.findings`: PlacedFinding[].
 */
export async function loadSettings(file: string): Promise<Settings> {
  const path = resolve(file);
  return parseSettings(path, await readConfig(path));
}

async function readConfig(path: string): Promise<string> {
  try {
    const { size } = await stat(path);
    // Read no more than the parser would take; the parser says what is wrong.
    return size > configBytesMax ? " ".repeat(configBytesMax + 1) : await readFile(path, "utf8");
  } catch (cause) {
    throw new OperationalError({
      code: "CONFIG_UNREADABLE",
      message: `cannot read ${path}${errorCode(cause) === "ENOENT" ? ": there is no such file" : ""}`,
      reaction: "stop",
      hint: "Name the file with --config or SPLITSITE_CONFIG, or make one with `splitsite init DIR`.",
      cause,
    });
  }
}

/** Settings of a text; `path` (absolute) anchors relative paths and is named in findings. Pure. */
export function parseSettings(path: string, text: string): Settings {
  const source = parseSource(path, text);
  if (source.kind === "refused") throw configError(source.findings);
  const { value, place } = source.document;
  const refuse = (findings: readonly Finding[]) => configError(findings.map(place));

  const notBuilt = takeNotBuilt(value);
  const shape = parseShape(notBuilt.rest);
  if (shape.kind === "refused") throw refuse([...notBuilt.findings, ...shape.findings]);
  const resolved = resolveSettings(path, shape.file);
  const findings = [...notBuilt.findings, ...resolved.findings, ...checkSettings(resolved.settings)];
  if (findings.length > 0) throw refuse(findings);
  return resolved.settings;
}
