/**
 * The configuration file as text: reads YAML into plain values and remembers where each key stands. The only
 * importer of `yaml`. Takes the plain part of the language: no anchors, aliases, merges or tags, no duplicate or
 * prototype keys, bounded size and depth. Knows nothing of what the keys mean.
 */
import { isAlias, isMap, isScalar, isSeq, LineCounter, parseDocument, stringify } from "yaml";
import type { Finding, KeyPath, PlacedFinding } from "./findings.ts";
import { keyText } from "./findings.ts";

/** Largest file, bytes: 256 groups of 256 volumes fit many times over. */
export const configBytesMax = 1024 * 1024;
/** Deepest nesting of maps and lists; the format needs 6. */
export const configDepthMax = 16;
/** Longest key, characters: names have at most 63. The place of each value repeats the keys above it. */
const keyCharactersMax = 256;
/** Longest message or hint, characters: both may quote the file, and there is one for each problem. */
const sentenceCharactersMax = 500;

const forbiddenKeys: ReadonlySet<string> = new Set(["__proto__", "constructor", "prototype"]);

export interface SourceDocument {
  readonly value: unknown;
  /** Findings with their place; the place of a missing key is its nearest parent's. */
  place(finding: Finding): PlacedFinding;
}

export type SourceOutcome =
  | { readonly kind: "document"; readonly document: SourceDocument }
  | { readonly kind: "refused"; readonly findings: readonly PlacedFinding[] };

interface Place {
  readonly line: number;
  readonly column: number;
}

/** Reads `text`; `file` is only named in findings. */
export function parseSource(file: string, text: string): SourceOutcome {
  const places = new Map<string, Place>();
  const placeOf = (path: KeyPath): Place => {
    for (let length = path.length; length >= 0; length -= 1) {
      const place = places.get(JSON.stringify(path.slice(0, length)));
      if (place !== undefined) return place;
    }
    return { line: 1, column: 1 };
  };
  const place = (finding: Finding): PlacedFinding => ({
    code: finding.code,
    file,
    ...placeOf(finding.path),
    key: keyText(finding.path),
    message: shortened(finding.message),
    hint: shortened(finding.hint),
  });
  const refused = (finding: Omit<PlacedFinding, "code" | "file">): SourceOutcome => ({
    kind: "refused",
    findings: [{ code: "CONFIG_INVALID", file, ...finding, message: shortened(finding.message) }],
  });

  if (Buffer.byteLength(text) > configBytesMax) {
    return refused({
      line: 1,
      column: 1,
      key: "",
      message: `is larger than ${configBytesMax} bytes`,
      hint: "Split the sites' groups into several pairs of sites.",
    });
  }
  const walker = new Walker(places);
  let value: unknown;
  try {
    const counter = new LineCounter();
    // Our own walk finds duplicate keys in linear time; the parser's compares every pair.
    const document = parseDocument(text, {
      lineCounter: counter,
      prettyErrors: false,
      uniqueKeys: false,
      schema: "core",
      version: "1.2",
    });
    const [error] = document.errors;
    if (error !== undefined) {
      const { line, col } = counter.linePos(error.pos[0]);
      return refused({
        line,
        column: col,
        key: "",
        message: error.message,
        hint: "Correct the YAML: two spaces a level, a space after each colon.",
      });
    }
    walker.locate = (offset) => {
      const { line, col } = counter.linePos(offset);
      return { line, column: col };
    };
    value = walker.walk(document.contents, [], 0);
  } catch (error) {
    // The parser recurses on nesting; a file made of brackets overflows its stack before our walk can count.
    if (!(error instanceof RangeError)) throw error;
    return refused({
      line: 1,
      column: 1,
      key: "",
      message: `is nested deeper than ${configDepthMax} levels`,
      hint: "Write the file as the samples in config/ are written.",
    });
  }
  if (walker.findings.length > 0) return { kind: "refused", findings: walker.findings.map(place) };
  return { kind: "document", document: { value, place } };
}

function shortened(sentence: string): string {
  return sentence.length <= sentenceCharactersMax
    ? sentence
    : `${sentence.slice(0, sentenceCharactersMax)}...`;
}

/** Plain values as YAML text: for `config show` and `init`. */
export function renderSource(value: unknown): string {
  return stringify(value, { lineWidth: 0 });
}

class Walker {
  readonly findings: Finding[] = [];
  readonly #places: Map<string, Place>;
  locate: (offset: number) => Place = () => ({ line: 1, column: 1 });

  constructor(places: Map<string, Place>) {
    this.#places = places;
  }

  #refuse(path: KeyPath, message: string, hint: string): void {
    this.findings.push({ code: "CONFIG_INVALID", path, message, hint });
  }

  walk(node: unknown, path: KeyPath, depth: number): unknown {
    if (depth > configDepthMax) {
      this.#refuse(
        path,
        `is nested deeper than ${configDepthMax} levels`,
        "Write it as the samples in config/ are written.",
      );
      return null;
    }
    if (node === null || node === undefined) return null;
    if (isAlias(node)) {
      this.#refuse(path, "is an alias", "Write the value out; anchors and aliases are not taken.");
      return null;
    }
    if (
      (isMap(node) || isSeq(node) || isScalar(node)) &&
      (node.anchor !== undefined || node.tag !== undefined)
    ) {
      this.#refuse(
        path,
        "carries an anchor or a tag",
        "Write a plain value; anchors and tags are not taken.",
      );
    }
    if (isScalar(node)) return node.value;
    if (isSeq(node)) {
      return node.items.map((item, index) => {
        const itemPath = [...path, index];
        this.#note(itemPath, item);
        return this.walk(item, itemPath, depth + 1);
      });
    }
    if (isMap(node)) return this.#walkMap(node.items, path, depth);
    this.#refuse(path, "is not a value", "Write a plain value, a list or a map.");
    return null;
  }

  #walkMap(
    items: readonly { readonly key: unknown; readonly value: unknown }[],
    path: KeyPath,
    depth: number,
  ): unknown {
    const result: Record<string, unknown> = {};
    const seen = new Set<string>();
    for (const { key, value } of items) {
      if (!isScalar(key) || (typeof key.value !== "string" && typeof key.value !== "number")) {
        this.#refuse(path, "has a key that is not plain text", "Write keys as plain words.");
        continue;
      }
      // The source text, so that `010` stays the name it looks like.
      const name = key.source ?? String(key.value);
      if (name.length > keyCharactersMax) {
        this.#refuse(
          path,
          `has a key longer than ${keyCharactersMax} characters`,
          "Names have at most 63 characters.",
        );
        continue;
      }
      const keyPath = [...path, name];
      if (seen.has(name)) {
        this.#note(keyPath, key);
        this.#refuse(keyPath, "stands here twice", "Keep one of the two.");
        continue;
      }
      seen.add(name);
      this.#note(keyPath, key);
      if (forbiddenKeys.has(name) || name === "<<") {
        this.#refuse(keyPath, "is not a legal key", "Remove it.");
        continue;
      }
      result[name] = this.walk(value, keyPath, depth + 1);
    }
    return result;
  }

  #note(path: KeyPath, node: unknown): void {
    if (typeof node !== "object" || node === null || !("range" in node) || !Array.isArray(node.range)) return;
    const [offset] = node.range;
    if (typeof offset === "number") this.#places.set(JSON.stringify(path), this.locate(offset));
  }
}
