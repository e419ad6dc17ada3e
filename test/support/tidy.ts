/**
 * The rules of the house that a compiler does not know: who may import whom, what pure code must not touch, one owner
 * per third-party package, what every file must have. Works on texts, so that the test can plant offences.
 */
import { posix } from "node:path";
import ts from "typescript";

export interface Finding {
  readonly file: string;
  readonly code:
    | "IMPORT_FORBIDDEN"
    | "IMPURE_IMPORT"
    | "IMPURE_CALL"
    | "PACKAGE_OWNER"
    | "NO_OPENING_COMMENT"
    | "OPEN_TASK"
    | "DEFAULT_EXPORT"
    | "FILE_NAME"
    | "LINK_BROKEN";
  readonly message: string;
}

/** Folders of the product and what each may import besides itself. */
const mayImport: Readonly<Record<string, readonly string[]>> = {
  protocol: [],
  runtime: ["protocol"],
  block: ["protocol", "runtime"],
  image: ["protocol", "block", "runtime"],
  journal: ["protocol", "runtime"],
  "site-agent": ["protocol", "block", "image", "journal", "runtime"],
  gateway: ["protocol", "block", "image", "journal", "runtime"],
  runbook: ["protocol", "runtime"],
};
/** The one command that reads an image by itself, without a site. */
const offlineCommand = "runbook/commands/image-verify.ts";
/** The one place that may reach the two composition roots. */
const runCommand = "runbook/commands/run.ts";
const compositionRoots = ["site-agent/main.ts", "gateway/main.ts"];

/** What code that calls itself pure may import from outside the product. */
const pureModules = new Set([
  "node:assert",
  "node:assert/strict",
  "node:buffer",
  "node:crypto",
  "node:path",
  "node:zlib",
]);
const purePackages = new Set(["lz4-napi", "zod", "yaml"]);
/** The product's own hold on the outside world: pure code may know the types only. */
const impureNames = new Set(["systemClock", "systemRandom", "createLog", "silentLog", "takeRoleLock"]);
const impureCalls = new Set([
  "Date.now",
  "Math.random",
  "performance.now",
  "setTimeout",
  "setInterval",
  "setImmediate",
  "process.hrtime",
  "process.nextTick",
  "queueMicrotask",
]);

interface Import {
  readonly module: string;
  readonly typeOnly: boolean;
  /** Names imported as values. */
  readonly names: readonly string[];
}

function valueNames(clause: ts.ImportClause | undefined): string[] {
  const bindings = clause?.namedBindings;
  if (bindings === undefined || !ts.isNamedImports(bindings)) return [];
  return bindings.elements
    .filter(({ isTypeOnly }) => !isTypeOnly)
    .map(({ name, propertyName }) => (propertyName ?? name).text);
}

function importsOf(source: ts.SourceFile): Import[] {
  const imports: Import[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node) && ts.isStringLiteral(node.moduleSpecifier)) {
      imports.push({
        module: node.moduleSpecifier.text,
        typeOnly: node.importClause?.isTypeOnly === true,
        names: valueNames(node.importClause),
      });
    } else if (
      ts.isExportDeclaration(node) &&
      node.moduleSpecifier !== undefined &&
      ts.isStringLiteral(node.moduleSpecifier)
    ) {
      imports.push({ module: node.moduleSpecifier.text, typeOnly: node.isTypeOnly, names: [] });
    } else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
      const [argument] = node.arguments;
      if (argument !== undefined && ts.isStringLiteral(argument))
        imports.push({ module: argument.text, typeOnly: false, names: [] });
    }
    ts.forEachChild(node, visit);
  };
  visit(source);
  return imports;
}

/** `setTimeout`, `Date.now`, ...: every call and every mention that could be called. */
function impureMentions(source: ts.SourceFile): string[] {
  const mentions: string[] = [];
  const visit = (node: ts.Node): void => {
    if (
      ts.isPropertyAccessExpression(node) ||
      (ts.isCallExpression(node) && ts.isIdentifier(node.expression))
    ) {
      const text = ts.isPropertyAccessExpression(node)
        ? node.getText(source)
        : node.expression.getText(source);
      if (impureCalls.has(text)) mentions.push(text);
    } else if (
      ts.isNewExpression(node) &&
      node.expression.getText(source) === "Date" &&
      (node.arguments?.length ?? 0) === 0
    ) {
      mentions.push("new Date()");
    }
    ts.forEachChild(node, visit);
  };
  visit(source);
  return mentions;
}

function packageOf(module: string): string {
  return module
    .split("/")
    .slice(0, module.startsWith("@") ? 2 : 1)
    .join("/");
}

/** Text of the comment that opens a file, or undefined. */
function openingComment(text: string): string | undefined {
  return /^(?:#![^\n]*\n)?\s*\/\*\*([\s\S]*?)\*\//.exec(text)?.[1];
}

/** Checks all TypeScript files of the tree, given by path relative to its root, with `/`. */
export function checkSources(files: ReadonlyMap<string, string>): Finding[] {
  const findings: Finding[] = [];
  const importers = new Map<string, Set<string>>();
  for (const [file, text] of files) {
    const report = (code: Finding["code"], message: string) => findings.push({ file, code, message });
    const source = ts.createSourceFile(file, text, ts.ScriptTarget.ES2023, true);
    const [folder] = file.split("/") as [string];
    const allowed = mayImport[folder];
    const opening = openingComment(text);
    if (opening === undefined) report("NO_OPENING_COMMENT", "does not open with a comment on what it owns");
    // The checker and its test must be able to name what they look for.
    if (!/tidy(\.test)?\.ts$/.test(file) && /\b(TODO|FIXME|XXX|HACK)\b/.test(text))
      report("OPEN_TASK", "has an open task");
    if (/(^|\/)(index|utils?|helpers?|common|misc)\.ts$/.test(file))
      report("FILE_NAME", "has a name that says nothing");
    const exportsDefault = source.statements.some(
      (statement) =>
        ts.isExportAssignment(statement) ||
        (ts.canHaveModifiers(statement) &&
          ts.getModifiers(statement)?.some(({ kind }) => kind === ts.SyntaxKind.DefaultKeyword) === true),
    );
    if (exportsDefault) report("DEFAULT_EXPORT", "has a default export");
    if (allowed === undefined) continue;

    const pure = folder === "protocol" || (opening !== undefined && /\bPure\b/.test(opening));
    for (const { module, typeOnly, names } of importsOf(source)) {
      if (module.startsWith(".")) {
        const target = posix.normalize(posix.join(posix.dirname(file), module));
        const [targetFolder] = target.split("/") as [string];
        const isRoot = compositionRoots.includes(target) && file === runCommand;
        const isOffline = targetFolder === "block" && file === offlineCommand;
        if (targetFolder !== folder && !allowed.includes(targetFolder) && !isRoot && !isOffline) {
          report("IMPORT_FORBIDDEN", `imports ${target}`);
        }
        const impure = names.filter((name) => impureNames.has(name));
        if (pure && !typeOnly && impure.length > 0)
          report("IMPURE_IMPORT", `is pure but imports ${impure.join(", ")}`);
      } else if (module.startsWith("node:")) {
        if (pure && !typeOnly && !pureModules.has(module))
          report("IMPURE_IMPORT", `is pure but imports ${module}`);
      } else {
        const name = packageOf(module);
        importers.set(name, (importers.get(name) ?? new Set()).add(file));
        if (pure && !purePackages.has(name)) report("IMPURE_IMPORT", `is pure but imports ${module}`);
        if (folder === "protocol" && file !== "protocol/lz4.ts")
          report("IMPORT_FORBIDDEN", `imports ${module}`);
      }
    }
    if (pure)
      for (const mention of impureMentions(source)) report("IMPURE_CALL", `is pure but uses ${mention}`);
  }
  for (const [name, owners] of importers) {
    if (owners.size > 1) {
      const [file, ...others] = [...owners].toSorted((a, b) => a.localeCompare(b));
      findings.push({
        file: file!,
        code: "PACKAGE_OWNER",
        message: `${name} is imported by ${others.join(", ")} too`,
      });
    }
  }
  return findings;
}

/** Checks that relative links of Markdown files lead somewhere. `exists` takes a path relative to the root. */
export function checkLinks(
  documents: ReadonlyMap<string, string>,
  exists: (path: string) => boolean,
): Finding[] {
  const findings: Finding[] = [];
  for (const [file, text] of documents) {
    const prose = text.replaceAll(/```[\s\S]*?```/g, "").replaceAll(/`[^`\n]*`/g, "");
    for (const [, link] of prose.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (link === undefined || /^[a-z]+:/.test(link) || link.startsWith("#")) continue;
      const target = posix.normalize(posix.join(posix.dirname(file), decodeURI(link.split("#")[0]!)));
      if (!exists(target))
        findings.push({ file, code: "LINK_BROKEN", message: `links to ${link}, which is not there` });
    }
  }
  return findings;
}
