/** `version`: which program this is, for reports of trouble. */
import { readFile } from "node:fs/promises";
import { ExitCode } from "../../protocol/admin.ts";
import { fileExists } from "../certificates/files.ts";
import type { CommandSpec } from "../command.ts";
import { answer } from "../command.ts";

export const version: CommandSpec = {
  path: ["version"],
  summary: "version of this program and of Node.js",
  examples: ["splitsite version", "splitsite version --json"],
  changes: false,
  async run(call) {
    const facts = {
      version: await ownVersion(),
      node: process.versions.node,
      platform: `${process.platform}-${process.arch}`,
    };
    answer(call, facts, () => `splitsite ${facts.version} (Node.js ${facts.node}, ${facts.platform})\n`);
    return ExitCode.done;
  },
};

/** From package.json: two folders up from the source, three from the build. */
export async function ownVersion(): Promise<string> {
  for (const relative of ["../../package.json", "../../../package.json"]) {
    const url = new URL(relative, import.meta.url);
    if (!(await fileExists(url.pathname))) continue;
    const document: unknown = JSON.parse(await readFile(url, "utf8"));
    if (typeof document === "object" && document !== null && "version" in document)
      return String(document.version);
  }
  return "unknown";
}
