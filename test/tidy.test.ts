/**
 * The tree keeps the rules of the house, and the checker of the rules catches each offence when it is planted.
 */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { productFolders } from "./support/product.ts";
import type { Finding } from "./support/tidy.ts";
import { checkLinks, checkSources } from "./support/tidy.ts";
import { repositoryRoot } from "./support/tree.ts";

const root = repositoryRoot;

const foreignFolders = new Set(["node_modules", "dist", "build", ".git"]);

/** Files of the tree with one of the endings, by path relative to its root. */
function filesOf(endings: readonly string[], folder = ""): Map<string, string> {
  const files = new Map<string, string>();
  for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
    const path = folder === "" ? entry.name : `${folder}/${entry.name}`;
    if (entry.isDirectory()) {
      if (!foreignFolders.has(entry.name))
        for (const [file, text] of filesOf(endings, path)) files.set(file, text);
    } else if (endings.some((ending) => entry.name.endsWith(ending))) {
      files.set(path, readFileSync(join(root, path), "utf8"));
    }
  }
  return files;
}

function shown(findings: readonly Finding[]): string {
  return findings.map(({ file, code, message }) => `${file}: ${code} ${message}`).join("\n");
}

test("the sources keep the rules of the house", () => {
  const files = filesOf([".ts"]);
  for (const path of files.keys()) if (path.endsWith(".d.ts")) files.delete(path);
  assert.ok(files.size > 20, "the walk found the tree");
  assert.equal(shown(checkSources(files)), "");
});

test("every link in the documents leads somewhere", () => {
  const documents = filesOf([".md"]);
  assert.equal(shown(checkLinks(documents, (path) => existsSync(join(root, path)))), "");
});

test("every file that the program starts beside its own is bundled under its name", () => {
  const { scripts } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
    scripts: { bundle: string };
  };
  const entries = new Set(scripts.bundle.split(" "));
  const started: string[] = [];
  for (const folder of productFolders)
    for (const [path, text] of filesOf([".ts"], folder))
      for (const [, name] of text.matchAll(/new URL\(["`]\.\/([\w-]+)/g))
        started.push(`${name}=${path.slice(0, path.lastIndexOf("/"))}/${name}.ts`);
  assert.ok(started.length > 2, "the search finds them");
  assert.deepEqual(
    started.filter((entry) => !entries.has(entry)),
    [],
  );
});

const opening = "/** Owns a thing; never does another. */\n";
const planted: readonly { readonly code: Finding["code"]; readonly file: string; readonly text: string }[] = [
  {
    code: "IMPORT_FORBIDDEN",
    file: "protocol/a.ts",
    text: `${opening}import { x } from "../runtime/errors.ts";`,
  },
  { code: "IMPORT_FORBIDDEN", file: "protocol/a.ts", text: `${opening}import { x } from "lz4-napi";` },
  {
    code: "IMPORT_FORBIDDEN",
    file: "gateway/a.ts",
    text: `${opening}import type { x } from "../site-agent/b.ts";`,
  },
  {
    code: "IMPORT_FORBIDDEN",
    file: "site-agent/ship/a.ts",
    text: `${opening}import { x } from "../../gateway/b.ts";`,
  },
  {
    code: "IMPORT_FORBIDDEN",
    file: "journal/a.ts",
    text: `${opening}export { x } from "../block/device.ts";`,
  },
  {
    code: "IMPORT_FORBIDDEN",
    file: "block/a.ts",
    text: `${opening}const x = await import("../image/b.ts");`,
  },
  {
    code: "IMPORT_FORBIDDEN",
    file: "runbook/commands/plan.ts",
    text: `${opening}import { x } from "../../gateway/main.ts";`,
  },
  {
    code: "IMPORT_FORBIDDEN",
    file: "runbook/commands/image-export.ts",
    text: `${opening}import { nextData } from "../../block/libc.ts";`,
  },
  {
    code: "IMPORT_FORBIDDEN",
    file: "runtime/a.ts",
    text: `${opening}import { x } from "../test/support/wait.ts";`,
  },
  {
    code: "IMPURE_IMPORT",
    file: "protocol/a.ts",
    text: `${opening}import { open } from "node:fs/promises";`,
  },
  {
    code: "IMPURE_IMPORT",
    file: "gateway/a.ts",
    text: `/** Decides. Pure. */\nimport { connect } from "node:net";`,
  },
  {
    code: "IMPURE_IMPORT",
    file: "gateway/a.ts",
    text: `/** Decides. Pure. */\nimport { systemClock } from "../runtime/clock.ts";`,
  },
  { code: "IMPURE_CALL", file: "protocol/a.ts", text: `${opening}export const x = Date.now();` },
  { code: "IMPURE_CALL", file: "protocol/a.ts", text: `${opening}export const x = Math.random;` },
  { code: "IMPURE_CALL", file: "image/a.ts", text: `/** Plans. Pure. */\nsetTimeout(() => {}, 1);` },
  { code: "IMPURE_CALL", file: "image/a.ts", text: `/** Plans. Pure. */\nexport const x = new Date();` },
  { code: "NO_OPENING_COMMENT", file: "block/a.ts", text: `import { x } from "../runtime/errors.ts";` },
  { code: "NO_OPENING_COMMENT", file: "test/a.test.ts", text: `// nothing\nexport const x = 1;` },
  { code: "OPEN_TASK", file: "bench/a.ts", text: `${opening}// ${"TO"}DO: later` },
  { code: "DEFAULT_EXPORT", file: "runbook/a.ts", text: `${opening}export default function run() {}` },
  { code: "FILE_NAME", file: "runtime/utils.ts", text: `${opening}export const x = 1;` },
];

test("the checker catches every planted offence, and only that", () => {
  for (const { code, file, text } of planted) {
    const findings = checkSources(new Map([[file, text]]));
    assert.deepEqual(
      findings.map((finding) => finding.code),
      [code],
      `${file}: ${text}\n${shown(findings)}`,
    );
  }
  const twoOwners = new Map([
    ["runtime/a.ts", `${opening}import pino from "pino";`],
    ["gateway/b.ts", `${opening}import pino from "pino";`],
  ]);
  assert.deepEqual(
    checkSources(twoOwners).map(({ code }) => code),
    ["PACKAGE_OWNER"],
  );
});

test("the checker lets pass what is allowed", () => {
  const files = new Map([
    ["runbook/commands/run.ts", `${opening}import { startAgent } from "../../site-agent/main.ts";`],
    ["runbook/commands/image-verify.ts", `${opening}import { nextData } from "../../block/libc.ts";`],
    ["protocol/lz4.ts", `${opening}import { compressSync } from "lz4-napi";`],
    [
      "gateway/a.ts",
      `/** Decides. Pure. */\nimport type { Clock } from "../runtime/clock.ts";\nexport const at = (ms: number) => new Date(ms);`,
    ],
    ["bench/a.ts", `#!/usr/bin/env node\n${opening}import { x } from "../test/support/wait.ts";`],
  ]);
  assert.equal(shown(checkSources(files)), "");
});

test("the checker catches a link that leads nowhere", () => {
  const documents = new Map([
    ["docs/a.md", "[one](b.md#part) [two](../c.md) [three](https://example.org) `[four](no.md)`"],
  ]);
  assert.deepEqual(
    checkLinks(documents, (path) => path === "docs/b.md").map(({ message }) => message),
    ["links to ../c.md, which is not there"],
  );
});
