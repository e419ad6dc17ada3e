/**
 * What is wrong with a configuration file: findings with a place in the file, gathered so that one run names all
 * of them. Owns their shape and the error made of them. Pure.
 */
import { OperationalError } from "../errors.ts";

/** Keys and indexes from the root of the document. */
export type KeyPath = readonly (string | number)[];

/** One problem, before it has a place. */
export interface Finding {
  readonly code: "CONFIG_INVALID" | "NOT_BUILT";
  readonly path: KeyPath;
  /** What is wrong, one sentence without the key's name. */
  readonly message: string;
  /** What to do, one sentence. */
  readonly hint: string;
}

/** One problem as the operator sees it; `line` and `column` count from 1. */
export interface PlacedFinding {
  readonly code: "CONFIG_INVALID" | "NOT_BUILT";
  readonly file: string;
  readonly line: number;
  readonly column: number;
  /** Dotted path; empty for the whole document. */
  readonly key: string;
  readonly message: string;
  readonly hint: string;
}

/** At most this many findings are told; a file that has more has one cause. */
const findingsMax = 100;

/** `groups.erp.volumes.data.size`, `links[0].limit`. */
export function keyText(path: KeyPath): string {
  return path.reduce<string>((text, part) => {
    if (typeof part === "number") return `${text}[${part}]`;
    return text === "" ? part : `${text}.${part}`;
  }, "");
}

/** `file:line:column: key: message`, the form editors jump to. */
export function findingText(finding: PlacedFinding): string {
  const key = finding.key === "" ? "" : `${finding.key}: `;
  return `${finding.file}:${finding.line}:${finding.column}: ${key}${finding.message}`;
}

/**
 * The error of one or more findings: `NOT_BUILT` when nothing else is wrong, else `CONFIG_INVALID`. All findings
 * stand in `details.findings` as PlacedFinding, in file order.
 */
export function configError(found: readonly PlacedFinding[]): OperationalError {
  const findings = [...found].sort((a, b) => a.line - b.line || a.column - b.column).slice(0, findingsMax);
  const [first] = findings;
  if (first === undefined) throw new RangeError("no finding");
  const more = found.length - 1;
  return new OperationalError({
    code: findings.every((finding) => finding.code === "NOT_BUILT") ? "NOT_BUILT" : "CONFIG_INVALID",
    message: more > 0 ? `${findingText(first)} (and ${more} more)` : findingText(first),
    reaction: "stop",
    hint: first.hint,
    details: { findings },
  });
}
