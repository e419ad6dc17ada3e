/**
 * Keys that belong to the format but whose feature is not built yet: refused by name, never taken in silence. Pure.
 * A row leaves this table, and enters schema.ts, with the feature.
 */
import type { Finding } from "./findings.ts";

interface Row {
  /** Path with `*` for any key or index. */
  readonly path: readonly string[];
  /** Values that work already; none: the key itself is not built. */
  readonly built: readonly string[];
  /** All values of the format; others are for the schema to refuse. */
  readonly known: readonly string[];
  readonly hint: string;
}

const key = (path: string, hint: string): Row => ({ path: path.split("."), built: [], known: [], hint });
const value = (path: string, built: readonly string[], later: readonly string[], hint: string): Row => ({
  path: path.split("."),
  built,
  known: [...built, ...later],
  hint,
});

const rows: readonly Row[] = [
  key("pairs", "Remove it; every volume has a single writer for now."),
  key("groups.*.pair", "Remove it; every volume has a single writer for now."),
  key("groups.*.schedule.drill", "Remove it; drills are not built yet."),
  key(
    "groups.*.protection.history.pointEvery",
    "Remove it; every apply step is a point, up to five a second, and one spans more only while the standby catches up.",
  ),
  key("sites.*.metrics", "Remove it; read `splitsite status --json` instead."),
  value("groups.*.protection.level", ["async"], ["sync", "periodic"], "Use `level: async`."),
  value("groups.*.protection.rpo.onBreach", ["alert"], ["throttle", "hold"], "Use `onBreach: alert`."),
  value("groups.*.protection.onLinkLoss", ["continue"], ["hold"], "Use `onLinkLoss: continue`."),
  value("witness.kind", ["none"], ["etcd"], "Use `kind: none`: the operator decides who owns a group."),
];

export interface NotBuiltOutcome {
  readonly findings: readonly Finding[];
  /** The document without the refused keys, so that the rest can still be checked. */
  readonly rest: unknown;
}

/** Takes out every key that is not built; `document` itself stays as it is. */
export function takeNotBuilt(document: unknown): NotBuiltOutcome {
  const findings: Finding[] = [];
  const rest = structuredClone(document);
  for (const row of rows) take(rest, row, 0, [], findings);
  // What else a witness of a later kind carries would only be called unknown.
  if (findings.some((finding) => finding.path.join(".") === "witness.kind") && isMap(rest))
    delete rest["witness"];
  return { findings, rest };
}

function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function take(node: unknown, row: Row, depth: number, path: readonly string[], findings: Finding[]): void {
  const part = row.path[depth];
  if (!isMap(node) || part === undefined) return;
  for (const name of part === "*" ? Object.keys(node) : [part]) {
    if (!Object.hasOwn(node, name)) continue;
    if (depth + 1 < row.path.length) {
      take(node[name], row, depth + 1, [...path, name], findings);
      continue;
    }
    const found = node[name];
    if (
      row.known.length > 0 &&
      (typeof found !== "string" || row.built.includes(found) || !row.known.includes(found))
    )
      continue;
    const message = row.known.length > 0 ? `\`${String(found)}\` is not built yet` : "is not built yet";
    findings.push({ code: "NOT_BUILT", path: [...path, name], message, hint: row.hint });
    delete node[name];
  }
}
